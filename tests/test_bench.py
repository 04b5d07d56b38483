"""bench, table and --limit from end to end, in Python and on the command line."""

from __future__ import annotations

import csv
import json
from importlib import import_module
from pathlib import Path
from shutil import which

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install decascade[run]")

import decascade as dc
from decascade.algebra.conv import Conv
from decascade.api.tables import table_template
from decascade.cli import run
from decascade.deploy.benchmark import Effort, in_turn, ratio_of
from decascade.deploy.onnx.model import onnx_of
from decascade.deploy.tools import version_of
from decascade.errors import LimitError, OutputError, UsageError
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import Activation, Pad
from decascade.report.facts.bench import BenchFacts
from decascade.report.facts.load import load_report
from decascade.report.files import write_report
from decascade.report.html.page import page
from deploy.small import graph_of, net
from report_examples import check_against


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's measurements."""
    monkeypatch.setenv("DECASCADE_CACHE", str(tmp_path / "measurements.json"))


def save(graph: Graph, path: Path) -> Path:
    import_module("onnx").save_model(onnx_of(graph, None).proto(), str(path))
    return path


def cascade(rng: np.random.Generator, middle: int = 24) -> Graph:
    """pad, 1×1 to a wide middle, 1×1 back, relu: one 1×1 is `middle`/2 times cheaper."""
    def weight(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / np.sqrt(shape[1])).astype(np.float32)

    return graph_of([
        Node("p", Pad(((0, 1), (1, 0))), ("x",), ("t0",)),
        Node("a", Conv(weight(middle, 4, 1, 1)), ("t0",), ("t1",)),
        Node("b", Conv(weight(4, middle, 1, 1)), ("t1",), ("t2",)),
        Node("r", Activation("relu"), ("t2",), ("y",)),
    ], ("N", 4, 12, 12))


@pytest.fixture
def models(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, Path]:
    first = save(cascade(rng), tmp_path / "first.onnx")
    dc.merge(first).save(tmp_path / "second.onnx")
    return first, tmp_path / "second.onnx"


def test_two_models_side_by_side(models: tuple[Path, Path]) -> None:
    facts = dc.bench(*models, rounds=2)
    timed, counted, peak = facts.targets
    assert [t.target for t in facts.targets] == ["onnxruntime", "macs", "memory"]
    assert timed.unit == "µs"
    assert timed.interval is not None
    assert timed.ratio is not None
    assert timed.interval[0] <= timed.ratio <= timed.interval[1] * 1.001
    spread = timed.models[0].spread
    assert spread is not None
    assert spread.least <= spread.p25 <= spread.median <= spread.p75 <= spread.p95
    assert spread.runs in (30, 60)
    assert [layer.name for layer in timed.models[0].layers] == ["p", "b"]  # the padding goes with what reads it
    assert timed.models[0].layers[0].layer.endswith("+ pad")
    assert timed.models[0].together == pytest.approx(sum(layer.cost for layer in timed.models[0].layers))
    assert timed.predicted is not None
    assert counted.ratio == 24 / 2
    assert peak.models[0].layers == ()
    assert facts.models == ("first.onnx", "second.onnx")


def test_one_model(models: tuple[Path, Path]) -> None:
    facts = dc.bench(models[0], target="flash")
    assert facts.targets[0].models[0].total == 4 * 24 * 2 + 4 * (24 + 4)
    assert facts.targets[0].ratio is None
    assert "flash, bytes" in str(facts)


@pytest.mark.skipif(which("qemu-system-arm") is None or which("arm-none-eabi-gcc") is None,
                    reason="run scripts/install-device-tools.sh")
def test_single_layers_add_up_to_the_whole_in_instructions(models: tuple[Path, Path]) -> None:
    pytest.importorskip("emx_onnx_cgen", reason="emx-onnx-cgen is not installed: pip install decascade[device]")
    (chip, *_) = dc.bench(*models, target="cortex-m").targets
    for model in chip.models:
        assert model.together == pytest.approx(model.total, rel=0.15)
    assert chip.predicted == pytest.approx(chip.ratio, rel=0.15)
    assert chip.ratio is not None
    assert chip.ratio > 3


def test_tflite_targets(models: tuple[Path, Path]) -> None:
    for name in ("tensorflow", "ai_edge_litert", "tflite_micro"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install decascade[device]")
    litert, floating, arena, *_ = dc.bench(*models, target=["litert", "litert:float", "tflm"], rounds=1).targets
    assert litert.models[0].spread is not None
    assert floating.models[1].total > 0
    assert arena.models[0].layers == ()
    assert arena.models[0].total > arena.models[1].total > 4 * 13 * 13


def test_ratio_of_runs_in_turn() -> None:
    calls = list[str]()
    times = in_turn([lambda: calls.append("a"), lambda: calls.append("b")], Effort(runs=4, rounds=2, width=0.0))
    assert calls[6:10] == ["a", "b", "a", "b"]
    assert [len(t) for t in times] == [8, 8]
    ratio, (low, high) = ratio_of([np.full(40, 30.0), np.full(40, 20.0)])
    assert ratio == low == high == 1.5


def test_command(models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("plotly", reason="plotly is not installed: pip install decascade[device]")
    plot, report = tmp_path / "p.html", tmp_path / "r.json"
    given = ["bench", *map(str, models), "--rounds", "1", "--plot", str(plot), "--report", str(report)]
    assert run(given) == 0
    told = capsys.readouterr().out
    assert "12 × less" in told
    assert "Layers under onnxruntime, the dearest first" in told
    assert "layers by themselves" in " ".join(told.split())
    assert json.loads(report.read_text())["targets"][1]["ratio"] == 12
    page = plot.read_text()
    assert "first.onnx" in page
    assert "Plotly.newPlot" in page
    assert "<script src=" not in page


def test_bad_usage(models: tuple[Path, Path], tmp_path: Path, rng: np.random.Generator,
                   capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="rounds = 0: give a number from 1 on"):
        dc.bench(*models, rounds=0)
    other = save(net(rng), tmp_path / "other.onnx")
    with pytest.raises(UsageError, match=r"the models take inputs of .* numbers: they do not do the same job"):
        dc.bench(models[0], other, target="macs")
    assert run(["bench", str(models[0]), "--plot", "x.svg"]) == 2
    assert "--plot x.svg: give a name that ends in .html" in capsys.readouterr().err
    assert run(["bench", str(models[0]), "--report", "x.pdf"]) == 2
    assert "give a name that ends in .json or .html" in capsys.readouterr().err


def test_the_page_is_a_function_of_the_json(
    models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "b.html", tmp_path / "again.html"
    report = tmp_path / "b.json"
    given = ["bench", *map(str, models), "--rounds", "1", "--target", "onnxruntime,macs", "--report"]
    assert run([*given, str(report), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(report.read_text())
    check_against("bench", json.loads(report.read_text()))
    facts = load_report(report)
    assert isinstance(facts, BenchFacts)
    write_report(facts, first)
    assert run(["report", str(report), "-o", str(second)]) == 0
    text = first.read_text(encoding="utf-8")
    assert second.read_text(encoding="utf-8") == text
    assert "second.onnx takes" in text
    assert "<h1 class=\"name\">first.onnx and second.onnx</h1>" in text
    assert run([*given, str(tmp_path / "told.html")]) == 0
    capsys.readouterr()
    assert run(["report", str(report)]) == 0
    assert capsys.readouterr().out.rstrip() == str(facts)


def test_facts_read_as_json(models: tuple[Path, Path]) -> None:
    facts = dc.bench(models[0], target="macs")
    assert isinstance(facts, BenchFacts)
    assert json.loads(facts.to_json())["models"] == ["first.onnx"]
    page_of_one = page(facts)
    assert "first.onnx takes 32,448 MACs on macs." in page_of_one


def test_template_lists_what_decides(models: tuple[Path, Path], tmp_path: Path) -> None:
    place = table_template(models[0], tmp_path / "board")
    with place.open() as file:
        rows = list(csv.DictReader(file))
    layers = {row["layer"]: row for row in rows}
    own = "conv 4x13x13 -> 24x13x13 kernel 1x1"
    assert layers[own]["of_the_model"] == "yes"
    merged = "conv 4x12x12 -> 4x13x13 kernel 1x1 padding 0,1;1,0"
    assert layers[merged]["of_the_model"] == "no"
    assert layers[merged]["multiply_accumulates"] == str(16 * 169)
    assert all((tmp_path / "board" / f"{row['file']}.onnx").exists() for row in rows)
    assert not any(row["cost"] for row in rows)


def test_table_that_was_filled_in_decides(models: tuple[Path, Path], tmp_path: Path) -> None:
    place = table_template(models[0], tmp_path / "board")
    for dear, layers in ((10.0, 2), (0.1, 1)):
        with place.open() as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            row["cost"] = "1" if row["of_the_model"] == "yes" else str(dear)
        filled = tmp_path / f"{dear}.csv"
        with filled.open("w") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
        report = dc.merge(models[0], target=f"table:{filled}").report
        assert report.layers.after == layers
        assert report.cost.unit == "us"


def test_template_goes_into_a_new_folder(models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OutputError, match=r"exists and is not empty: give a new folder"):
        table_template(models[0], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot be made: Not a directory"):
        table_template(models[0], tmp_path / "file" / "board")
    assert run(["table", str(models[0]), "--template", str(tmp_path / "new")]) == 0
    assert "fill in its column cost" in capsys.readouterr().out


def test_limit_that_the_cheapest_breaks_is_kept_by_another(tmp_path: Path, rng: np.random.Generator) -> None:
    """By multiply-accumulates the two layers stay (one kernel is 11/9 as dear); flash only one of the ways can keep."""
    def weight(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    nodes = [Node("a", Conv(weight(8, 2, 1, 1)), ("x",), ("t",)), Node("b", Conv(weight(2, 8, 1, 1)), ("t",), ("y",))]
    path = save(graph_of(nodes, ("N", 2, 6, 6)), tmp_path / "m.onnx")
    slow = dc.merge(path, limit={"macs": 36 * 4}).report
    assert slow.cost.after == 36 * 4
    dear = tmp_path / "dear.csv"
    dear.write_text("layer,cost\nconv 2x6x6 -> 8x6x6 kernel 1x1,1\nconv 8x6x6 -> 2x6x6 kernel 1x1,1\n"
                    "conv 2x6x6 -> 2x6x6 kernel 1x1,5\n")
    free = dc.merge(path, target=f"table:{dear}").report
    assert (free.layers.after, free.cost.after) == (2, 2.0)
    kept = dc.merge(path, target=f"table:{dear}", limit=["macs=0.2k"]).report
    assert (kept.layers.after, kept.cost.after) == (1, 5.0)
    assert [c.cost.after for c in kept.cascades] == [5.0]


def test_limit_that_nothing_keeps(models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LimitError, match=r"the nearest takes flash 32 of 10 bytes of weights, scales and biases alone"):
        dc.merge(models[0], limit={"flash": 10})
    out = tmp_path / "o.onnx"
    assert run(["merge", str(models[0]), "-o", str(out), "--limit", "memory=2.8k", "--limit", "flash=1MiB"]) == 3
    told = capsys.readouterr().err
    assert "the nearest takes memory" in told
    assert "of 2,800 bytes" in told
    assert "flash" not in told
    assert not out.exists()


@pytest.mark.skipif(not version_of("tensorflow"), reason="TensorFlow is not installed")
def test_flash_is_the_size_of_the_file(models: tuple[Path, Path], tmp_path: Path) -> None:
    """Of a wide and a narrow form; the limit lies between what is counted and what the file takes."""
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).normal(size=(16, *input_shape(models[0]))).astype(np.float32))

    def exported(model: Path) -> int:
        facts = dc.export(model, tmp_path / "f.tflite", int8=True, data=tmp_path / "d.npz", force=True)
        return facts.flash

    result = dc.merge(models[0], limit={"flash": 10**6})
    result.save(tmp_path / "merged.onnx")
    (note,) = [n for n in result.report.notes if n.startswith("limit kept, measured: flash ")]
    told = int(note.split()[4].replace(",", ""))
    assert 0.9 * told <= exported(tmp_path / "merged.onnx") <= told
    assert note.endswith(f"flash {told:,} of 1,000,000 bytes of the int8 TFLite file")
    assert dc.merge(models[0], limit={"flash": told}).report.notes
    with pytest.raises(LimitError, match=rf"the nearest takes flash {told:,} of {told - 1:,} bytes of the int8 TFLite file"):
        dc.merge(models[0], limit={"flash": told - 1})


def input_shape(path: Path) -> tuple[int, ...]:
    from decascade.formats.registry import format_of

    graph = format_of(path).read(path).graph
    return tuple(n if isinstance(n, int) else 1 for n in (graph.shape(graph.inputs[0]) or ())[1:])


def test_where_no_file_can_be_made_the_limit_says_so(
    models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> int:
        raise UsageError("TFLite needs tensorflow-cpu, which cannot be imported")

    monkeypatch.setattr("decascade.deploy.tflite.size.file_bytes", missing)
    notes = dc.merge(models[0], limit={"flash": 10**6, "memory": 10**9}).report.notes
    assert any(n.startswith("limit kept, not measured: flash ") and "which can be larger: TFLite needs" in n for n in notes)
    assert any(n.startswith("limit kept: memory ") and "no device's RAM (--limit tflm=SIZE" in n for n in notes)


def test_a_limit_below_the_inputs_is_refused_at_once(models: tuple[Path, Path]) -> None:
    with pytest.raises(LimitError, match=r"no model keeps the limit memory = 8 bytes: its inputs or outputs alone take [\d,]+"):
        dc.merge(models[0], limit={"memory": 8}, input_range=(0, 1), prove_seconds=9999)


def test_proofs_are_made_once_for_all_attempts(models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from decascade.api import finding

    real, calls = finding.prove, list[float]()

    def counted(*arguments: object, **named: object) -> object:
        calls.append(1.0)
        return real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(finding, "prove", counted)
    with pytest.raises(LimitError):
        dc.merge(models[0], limit={"macs": 1.0}, input_range=(0, 1), prove_seconds=1.0)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (["memory"], r"--limit memory: give NAME=SIZE, as in memory=64KiB"),
        (["memory=64GB"], r"--limit memory=64GB: give NAME=SIZE"),
        (["memory=-3"], r"--limit memory=-3: give NAME=SIZE"),
        ({"memory": 0.0}, "limit memory = 0: give a number above 0"),
        (["ram=3"], "unknown target 'ram'"),
    ],
)
def test_limits_that_are_none(limit: object, words: str, models: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match=words):
        dc.merge(models[0], limit=limit)  # type: ignore[arg-type]


def test_measured_merge_tells_how_well_its_layers_add_up(models: tuple[Path, Path]) -> None:
    report = dc.merge(models[0], target="onnxruntime").report
    assert report.target == "onnxruntime"
    assert report.cost.unit == "µs"
    if report.layers.after == 1:  # a machine where the wide middle is free has nothing to tell
        assert any(note.startswith("single layers predict") and note.endswith("apart)") for note in report.notes)
