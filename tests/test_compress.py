"""compress from model to model: within its budget, in the model's own format, repeatable, resumable; every refusal."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import decascade as dc
from decascade.algebra.conv import Conv
from decascade.api import attempts, tables
from decascade.api.compress_report import memory_note
from decascade.checking.models import Subject
from decascade.cli import run
from decascade.cli.quantities import numbers, seconds, value
from decascade.compression.deadline import Deadline
from decascade.compression.distill.train import DistillOptions
from decascade.compression.plan.choice import Plan
from decascade.cost.layers import layer_text
from decascade.errors import LimitError, UsageError
from decascade.formats.registry import format_of
from decascade.ir.graph import Node
from decascade.ir.interpret import run as interpret
from decascade.ir.shapes import infer_graph

UNTRAINED = pytest.mark.filterwarnings("ignore:the model says the same of all samples:decascade.errors.DataWarning")
QUICK = DistillOptions(epochs=1, precision="float32")
CLASSES = 4


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A small net as an ONNX and as a Keras file, of a size at which everything here takes a second."""
    global ONNX, KERAS
    folder = tmp_path_factory.mktemp("models")
    ONNX, KERAS = folder / "net.onnx", folder / "net.keras"
    onnx.save(onnx_net(), ONNX)
    keras_net().save(KERAS)


ONNX, KERAS = Path("net.onnx"), Path("net.keras")


def onnx_net() -> Any:
    rng, make = np.random.default_rng(0), onnx.helper.make_node
    shapes = {"a": (16, 3, 3, 3), "b": (16, 16, 3, 3), "c": (12, 16, 3, 3), "d": (CLASSES, 12)}
    weights = {name: (rng.standard_normal(s) * (2 / np.prod(s[1:])) ** 0.5).astype("f4") for name, s in shapes.items()}
    same = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    nodes = [
        make("Conv", ["x", "a"], ["t1"], "conv1", **same), make("Relu", ["t1"], ["t2"], "relu1"),
        make("Conv", ["t2", "b"], ["t3"], "conv2", **same), make("Add", ["t3", "t2"], ["t4"], "add"),
        make("Relu", ["t4"], ["t5"], "relu2"), make("Conv", ["t5", "c"], ["t6"], "conv3", **same),
        make("Relu", ["t6"], ["t7"], "relu3"), make("GlobalAveragePool", ["t7"], ["t8"], "pool"),
        make("Flatten", ["t8"], ["t9"], "flatten"), make("Gemm", ["t9", "d"], ["t10"], "dense", transB=1),
        make("Softmax", ["t10"], ["y"], "softmax", axis=1),
    ]
    entry, end = (onnx.helper.make_tensor_value_info(n, 1, s) for n, s in (("x", ("N", 3, 12, 12)), ("y", ("N", CLASSES))))
    stored = [onnx.numpy_helper.from_array(a, n) for n, a in weights.items()]
    graph = onnx.helper.make_graph(nodes, "net", [entry], [end], stored)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def keras_net() -> Any:
    import keras

    keras.utils.set_random_seed(0)
    x = keras.Input((12, 12, 3))
    y = keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="conv1")(x)
    z = keras.layers.Conv2D(16, 3, padding="same", name="conv2")(y)
    z = keras.layers.ReLU()(keras.layers.Add()([y, keras.layers.BatchNormalization()(z)]))
    z = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(12, 3, padding="same", activation="relu", name="conv3")(z))
    return keras.Model(x, keras.layers.Dense(CLASSES, activation="softmax")(z))


def subject(path: Path) -> Subject:
    form = format_of(path)
    return Subject(form, form.read(path))


def pictures(path: Path, count: int) -> np.ndarray:
    """Smooth random pictures in the model's own layout."""
    model = subject(path)
    shape = [int(n) for n in model.graph.shape(model.graph.inputs[0])[1:]]
    noise = np.random.default_rng(5).standard_normal((count, *shape)).astype(np.float32)
    smooth = (noise + np.roll(noise, 1, 2) + np.roll(noise, 1, 3)) / 2
    return smooth if path.suffix == ".onnx" else np.moveaxis(smooth, 1, -1)


def labelled(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures with the classes that the model itself gives."""
    model, x = subject(path), pictures(path, count)
    name = model.graph.inputs[0]
    scores = model.framework({name: model.from_native(name, x)})[model.graph.outputs[0]]
    return x, scores.argmax(1)


@pytest.fixture(scope="module")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "d.npz"
    x, y = labelled(ONNX, 160)
    np.savez(path, x=x, y=y)
    return path


@UNTRAINED
@pytest.mark.parametrize("kind", ["onnx", "keras"])
def test_the_written_model_is_the_student_within_its_budget(kind: str, tmp_path: Path) -> None:
    path = ONNX if kind == "onnx" else KERAS
    x = pictures(path, 128)
    result = dc.compress(path, x, speedup=1.5, distilled=False)
    assert result.report.cost.after * 1.5 <= result.report.cost.before
    out = tmp_path / f"small{path.suffix}"
    result.save(out)
    written = subject(out)
    name = written.graph.inputs[0]
    batch = {name: written.from_native(name, x[:5])}
    student = interpret(result.attempt.graph, batch)[result.attempt.graph.outputs[0]]
    got = written.framework(batch)[written.graph.outputs[0]]
    assert np.abs(got - student).max() < 1e-4 * np.abs(student).max()
    tiers = {row.tier for row in result.report.cascades if row.decision == "merged"}
    assert tiers <= {"exact", "fitted"}
    assert "fitted" in tiers
    assert result.report.compression is not None
    assert {m.name for m in result.report.measures} >= {"divergence"}


def test_a_plan_that_breaks_a_limit_gives_way_to_a_cheaper_one(tmp_path: Path, data_file: Path) -> None:
    """Flash of int8 is what the file takes, not what is counted: a byte a weight, and four an output channel (no layer has a
    bias).  Nothing else asks for a student."""
    pytest.importorskip("tensorflow")
    counted = dc.inspect(ONNX, target="flash").cost.before
    assert counted == 16 * 27 + 16 * 144 + 12 * 144 + 4 * 12 + 4 * (16 + 16 + 12 + 4)

    def size(model: Path) -> int:
        return dc.export(model, tmp_path / "f.tflite", int8=True, data=data_file, force=True).flash

    most = int(0.9 * size(ONNX))
    assert most > counted  # by count alone the model would do as it is
    result = dc.compress(ONNX, data_file, speedup=1, limit={"flash": most, "memory": 1 << 20}, distilled=False)
    result.save(tmp_path / "small.onnx")
    assert size(tmp_path / "small.onnx") <= most
    assert any(n.startswith("limit kept, measured: flash ") for n in result.report.notes)
    assert result.plan.speedup > 1
    out = tmp_path / "cli.onnx"
    limits = ["--limit", f"flash={most:.0f}", "--limit", "memory=1MiB"]
    command = ["compress", str(ONNX), "-o", str(out), "--data", str(data_file), "--speedup", "1", "--no-distil", "-q"]
    assert run([*command, *limits]) == 0
    assert size(out) <= most


def test_a_table_with_students_decides_what_compress_puts_in(
    tmp_path: Path, data_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Costs by a rule of the board's own: a microsecond per thousand multiply-accumulates, layers of 1x1 dearer than anything.
    Layers that were not measured are never put in."""
    def no_file(*_: object) -> bytes:
        raise UsageError("not wanted here")

    monkeypatch.setattr(tables, "tflite_of", no_file)  # a second per layer
    assert run(["table", str(ONNX), "--template", str(tmp_path / "board"), "--students", "-q"]) == 0
    with (tmp_path / "board" / "layers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 40
    for row in rows:
        row["cost"] = str(1e9 if "kernel 1x1" in row["layer"] else float(row["multiply_accumulates"]) / 1000)
    unmeasured = {row["layer"] for row in rows if row["of_the_model"] == "no" and "groups" in row["layer"]}
    table = tmp_path / "filled.csv"
    with table.open("w") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(row for row in rows if row["layer"] not in unmeasured)
    assert unmeasured
    result = dc.compress(ONNX, data_file, target=f"table:{table}", speedup=1.2, span=1, distilled=False)
    cost = result.report.cost
    assert cost.unit == "us"
    assert cost.after * 1.2 <= cost.before < 1000
    made = {layer_text(n, result.attempt.graph.tensors) for n in result.attempt.graph.nodes}
    known = {row["layer"] for row in rows} - unmeasured
    assert {text for text in made if text.startswith("conv")} <= known
    assert not any("kernel 1x1" in text for text in made)


def test_limits_that_no_plan_keeps(tmp_path: Path, data_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "small.onnx"
    command = ["compress", str(ONNX), "-o", str(out), "--data", str(data_file), "--speedup", "1", "--no-distil", "-q"]
    assert run([*command, "--limit", "flash=100", "--limit", "memory=1MiB"]) == 3
    told = " ".join(capsys.readouterr().err.split())
    assert "no plan for this model keeps the limit flash = 100 bytes: the cheapest students would take" in told
    assert "; nothing was written" in told
    assert "memory" not in told
    assert not out.exists()
    plan = dc.plan(ONNX, data_file, speedup=1.2)
    with pytest.raises(LimitError, match="no result of this plan keeps the limits: the nearest takes macs"):
        dc.compress(ONNX, data_file, plan=plan, limit={"macs": 0.9 * plan.after}, distilled=False)
    with pytest.raises(UsageError, match="limits and max-drop do not go together: give a speedup"):
        dc.compress(ONNX, data_file, max_drop=1.0, limit=["flash=100"])


def test_a_torch_model_stays_one_and_can_be_trained_on(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    nn = torch.nn
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4), nn.Softmax(1),
    ).eval()
    x = np.random.default_rng(0).standard_normal((96, 3, 8, 8)).astype(np.float32)
    result = dc.compress(model, x, speedup=1.4, training=QUICK, input_shape=(1, 3, 8, 8))
    assert isinstance(result.model, nn.Module)
    assert result.report.cost.after * 1.4 <= result.report.cost.before
    out = result.model(torch.from_numpy(x[:4]))
    out.sum().backward()
    assert any(p.grad is not None for p in result.model.parameters())
    assert result.distilled is not None
    loss = result.distilled.loss(torch.from_numpy(x[:4]))
    loss.backward()
    assert float(loss.detach()) >= 0
    stages = [m for m in result.report.measures if m.name == "divergence"]
    assert stages[-1].after <= stages[0].after * (1 + 1e-6)


def test_the_same_seed_gives_the_same_plan_and_the_same_student() -> None:
    x = pictures(ONNX, 96)
    first, second = (dc.compress(ONNX, x, speedup=1.6, distilled=False, seed=3) for _ in range(2))
    assert first.plan == second.plan
    for a, b in zip(first.attempt.graph.nodes, second.attempt.graph.nodes, strict=True):
        assert a.name == b.name
        if hasattr(a.op, "weight"):
            assert np.array_equal(a.op.weight, b.op.weight)
    assert dc.plan(ONNX, x, speedup=1.6, seed=3) == first.plan


def test_a_plan_can_be_saved_and_carried_out(tmp_path: Path) -> None:
    x = pictures(ONNX, 96)
    made = dc.plan(ONNX, x, budget=4.0e5)
    assert made.after <= 4.0e5
    (tmp_path / "p.json").write_text(made.to_json())
    result = dc.compress(ONNX, x, plan=tmp_path / "p.json", distilled=False)
    assert result.report.cost.after == pytest.approx(made.after)
    other = made.to_json().replace(made.choices[0].student, "conv 11x11")
    (tmp_path / "q.json").write_text(other)
    with pytest.raises(UsageError, match=r"the plan has 'conv 11x11' from .* which this model has not: make the plan anew"):
        dc.compress(ONNX, x, plan=tmp_path / "q.json")


def test_the_largest_drop_is_kept() -> None:
    x, y = labelled(ONNX, 200)
    result = dc.compress(ONNX, (x, y), max_drop=10.0, distilled=False)
    drop = result.attempt.closeness.drop
    assert drop is not None
    assert drop <= 10.0
    assert result.report.cost.after < result.report.cost.before
    accuracy = next(m for m in result.report.measures if m.name == "accuracy")
    assert accuracy.before == 100.0
    assert accuracy.after == pytest.approx(100.0 - drop)


@pytest.mark.filterwarnings("ignore:the model gets 0.0 % of the labels right:decascade.errors.DataWarning")
def test_where_no_attempt_keeps_the_drop_the_exact_merge_is_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "ROUNDS", 1)
    x, y = labelled(ONNX, 96)
    monkeypatch.setattr("decascade.api.attempts.MOST", 3.0)
    result = dc.compress(ONNX, (x, (y + 1) % CLASSES), max_drop=0.0, distilled=False)
    assert result.attempt.closeness.drop is not None
    assert result.attempt.closeness.drop <= 0.0


def test_a_sweep_reports_plans_of_all_budgets() -> None:
    result = dc.compress(ONNX, pictures(ONNX, 96), speedup=1.5, distilled=False, sweep=True)
    assert result.report.compression is not None
    front = result.report.compression.front
    costs = [point.cost for point in front if not point.chosen]
    assert costs == sorted(costs, reverse=True)
    assert len(costs) >= 4
    assert [point.cost for point in front if point.chosen] == [result.plan.after]
    assert "times cheaper" in str(result.report)


GOALS = [
    ({}, "give one of speedup, budget, max-drop and plan: none is given"),
    ({"speedup": 2, "max_drop": 1}, "give one of speedup, budget, max-drop and plan: speedup and max-drop are given"),
    ({"speedup": 0.5}, "speedup = 0.5: give how many times cheaper, from 1 on"),
    ({"budget": 0}, "budget = 0: give a cost above 0 in the target's unit"),
    ({"max_drop": -1}, "max-drop = -1: give points of accuracy, from 0 to 100"),
    ({"speedup": 2, "time_limit": 0}, "time_limit = 0: give a number of seconds above 0"),
    ({"speedup": 2, "seed": -1}, "seed = -1: give a whole number from 0 on"),
    ({"speedup": 2, "span": 0}, "span = 0: give how many layers a student may replace, from 1 on"),
    ({"speedup": 2, "loss": "l1"}, "loss = 'l1': give one of auto, kl, mse"),
    ({"speedup": 2, "target": "memory"}, "target memory is a peak, not a sum over layers: a budget needs one that adds up"),
    ({"max_drop": 1}, "max-drop is measured on labels: give data with y, or a speedup instead"),
    ({"speedup": 1e6}, r"budget .* MACs is out of reach: the cheapest plan costs .*: ask for less"),
]


@pytest.mark.parametrize(("options", "words"), GOALS, ids=[words[:40] for _, words in GOALS])
def test_what_cannot_be_asked_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        dc.compress(ONNX, pictures(ONNX, 64), **options)


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(UsageError, match="8 samples are too few: give at least 16"):
        dc.compress(ONNX, pictures(ONNX, 8), speedup=1.5)


def test_stages_by_themselves() -> None:
    x = pictures(ONNX, 96)
    choice = dc.plan(ONNX, x, speedup=1.5).choices[0]
    fits = dc.fit_segment(ONNX, x, choice.entry, choice.exit)
    # the survey shares patches among segments: other positions are drawn
    assert any(fit.student == choice.student and fit.error == pytest.approx(choice.error, rel=0.3) for fit in fits)
    assert [fit.cost for fit in fits] == sorted(fit.cost for fit in fits)
    with pytest.raises(UsageError, match=r"no cheaper student for a segment from nowhere to there; segments are .* to "):
        dc.fit_segment(ONNX, x, "nowhere", "there")
    small = dc.compress(ONNX, x, speedup=1.5, distilled=False).model
    trained = dc.distill(small, ONNX, x, training=QUICK)
    assert trained.distilled.best.held <= trained.distilled.start.held
    assert type(trained.model) is type(small)


# -- the run folder


def test_a_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, folder = pictures(ONNX, 96), tmp_path / "run"

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(attempts, "distill", stop)
        with pytest.raises(KeyboardInterrupt):
            dc.compress(ONNX, x, speedup=1.5, training=QUICK, run=folder)
    assert (folder / "plan.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr("decascade.compression.pipeline.survey", stop)  # the survey is not made again
        result = dc.compress(ONNX, x, speedup=1.5, training=QUICK, run=folder)
    assert json.loads((folder / "plan.json").read_text())["choices"]
    with pytest.raises(UsageError, match=r"run folder .*run is of another run \(speedup = 1.5 there, 2 here\): give the same"):
        dc.compress(ONNX, x, speedup=2, run=folder)
    result.done()
    assert not folder.exists()


def test_a_folder_with_other_things_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(UsageError, match="has other things in it: give an empty one, or a name that is free"):
        dc.compress(ONNX, pictures(ONNX, 64), speedup=1.5, run=tmp_path)
    (tmp_path / "asked.json").write_text("{")
    with pytest.raises(UsageError, match=r"holds no run of decascade \(asked.json is broken\): remove it"):
        dc.compress(ONNX, pictures(ONNX, 64), speedup=1.5, run=tmp_path)
    assert (tmp_path / "thesis.tex").exists()


# -- the command line


def test_the_command_writes_model_and_report(tmp_path: Path, data_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, report = tmp_path / "small.onnx", tmp_path / "r.json"
    code = run(["compress", str(ONNX), "-o", str(out), "--data", str(data_file), "--speedup", "1.5", "--no-distil",
                "--report", str(report)])
    text = capsys.readouterr().out
    assert code == 0
    assert out.exists()
    assert not (tmp_path / "small.onnx.run").exists()
    assert "fitted" in text
    assert "agreement" in text
    assert max(map(len, text.splitlines())) <= 80
    found = json.loads(report.read_text())
    assert found["action"] == "compress"
    assert found["compression"]["students"]


def test_interrupted_the_command_says_how_to_go_on(
    tmp_path: Path, data_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "small.onnx"

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(attempts, "distill", stop)
        assert run(["compress", str(ONNX), "-o", str(out), "--data", str(data_file), "--speedup", "1.5"]) == 130
    assert f"go on with: decascade compress --resume {out}.run" in capsys.readouterr().err
    assert not out.exists()
    asked = tmp_path / "small.onnx.run" / "command.json"
    asked.write_text(json.dumps({**json.loads(asked.read_text()), "distil": False}))
    assert run(["compress", "--resume", f"{out}.run"]) == 0
    assert out.exists()


BAD = [
    ([], "MODEL is missing: decascade compress MODEL -o OUT --data D.npz --speedup 1.5"),
    (["net.onnx"], "--output is missing"),
    (["net.onnx", "-o", "out.onnx"], "--data is missing"),
    (["--resume", "nowhere"], "--resume nowhere: there is no run there that could go on (command.json is missing)"),
    (["net.onnx", "--resume", "run"], "--resume run knows its model and its options: leave net.onnx out"),
    (["net.onnx", "-o", "o.onnx", "--data", "d", "--speedup", "2", "--time-limit", "soon"], "--time-limit soon: give a time"),
    (["net.onnx", "-o", "o.onnx", "--data", "d", "--speedup", "2", "--scale", "1/0"], "--scale 1/0: give a number, or"),
    (["net.onnx", "-o", "o.onnx", "--data", "d.npz", "--speedup", "2"], "data d.npz"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[words[:30] for _, words in BAD])
def test_bad_commands_end_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ONNX.parent)
    assert run(["compress", *arguments]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_quantities() -> None:
    assert [seconds(t, "") for t in ("90s", "20m", "1.5h", "90", None)] == [90.0, 1200.0, 5400.0, 90.0, None]
    assert value("1/255", "") == 1 / 255
    assert numbers("0.485, 0.456,2", "") == (0.485, 0.456, 2.0)


@UNTRAINED
def test_what_is_proved_linear_is_merged_before_anything_is_fitted() -> None:
    """Non-negative weights on pictures from 0 to 1: the first activation does nothing there."""
    model = onnx_net()
    for stored in model.graph.initializer:
        if stored.name == "a":
            stored.CopyFrom(onnx.numpy_helper.from_array(np.abs(onnx.numpy_helper.to_array(stored)), "a"))
    data = np.random.default_rng(0).random((64, 3, 12, 12)).astype("f4")
    plain, ranged = (
        dc.compress(model, data, plan=Plan("macs", "MACs", 1.0, 1.0, (), 4), distilled=False, input_range=box)
        for box in (None, (0.0, 1.0))
    )
    assert {c.tier for c in ranged.report.cascades} > {c.tier for c in plain.report.cascades}
    proven = [c for c in ranged.report.cascades if c.tier == "proven"]
    assert proven
    first, second = (onnx.load_from_string(r.model.SerializeToString()) for r in (plain, ranged))
    assert sum(n.op_type == "Relu" for n in second.graph.node) < sum(n.op_type == "Relu" for n in first.graph.node)
    with pytest.raises(UsageError, match=r"^input range of x: lowest value 1 above highest 0: swap them$"):
        dc.compress(model, data, speedup=1.2, input_range=(1.0, 0.0))


def test_a_student_that_needs_more_memory_is_told_of() -> None:
    one = subject(ONNX).graph
    assert memory_note(one, one) == ()
    conv = next(n for n in one.nodes if isinstance(n.op, Conv))
    name = f"{conv.output}/wide"
    wide = Conv(np.zeros((64, conv.op.out_channels, 1, 1)), None)
    narrow = Conv(np.zeros((conv.op.out_channels, 64, 1, 1)), None)
    first = replace(conv, outputs=(f"{name}/first",))
    added = (first, Node("up", wide, first.outputs, (name,)), Node("down", narrow, (name,), conv.outputs))
    nodes = [n for node in one.nodes for n in (added if node is conv else (node,))]
    (note,) = memory_note(one, infer_graph(replace(one, nodes=tuple(nodes))))
    # at the peak two maps at 12x12, one of them of 64 channels
    assert note.startswith(f"activations take {4 * 144 * (16 + 64):,} bytes at their peak instead of ")
    assert "--limit memory=" in note


def test_the_report_has_every_student_and_the_curve_of_hidden_layers() -> None:
    result = dc.compress(ONNX, pictures(ONNX, 96), speedup=1.4, distilled=False)
    assert result.report.compression is not None
    students = result.report.compression.students
    assert [s.student for s in students if s.chosen] == [c.student for c in result.plan.choices]
    assert sum(not s.chosen for s in students) > len(result.plan.choices)
    curves = [s.widths for s in students if s.widths]
    assert curves
    for curve in curves:
        widths = [point.width for point in curve]
        assert widths == sorted(set(widths))
        # wider is never worse on what was fitted
        assert all(b.error <= a.error + 1e-6 for a, b in pairwise(curve))
    again = dc.compress(ONNX, pictures(ONNX, 96), plan=result.plan, distilled=False).report.compression
    assert again is not None
    assert all(s.chosen for s in again.students)


def test_data_of_another_scale_are_told_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pictures a thousand times too small for the biases: a warning on standard error and in the report."""
    net, rng = onnx_net(), np.random.default_rng(0)
    for node in net.graph.node:
        if node.op_type == "Conv":
            wide = next(len(onnx.numpy_helper.to_array(t)) for t in net.graph.initializer if t.name == node.input[1])
            net.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal(wide).astype("f4"), f"{node.name}.b"))
            node.input.append(f"{node.name}.b")
    onnx.save(net, tmp_path / "net.onnx")
    x = pictures(tmp_path / "net.onnx", 64)
    for name, scale in (("right", 1), ("wrong", 1e-3)):
        np.savez(tmp_path / f"{name}.npz", x=np.float32(scale) * x)
        out, report = tmp_path / f"{name}.onnx", tmp_path / f"{name}.json"
        told = ("compress", tmp_path / "net.onnx", "-o", out, "--data", tmp_path / f"{name}.npz", "--report", report)
        assert run([str(a) for a in (*told, "--speedup", 1.2, "--no-distil", "--quiet")]) == 0
        err = capsys.readouterr().err
        words = "look too small for this model: what they contribute is"
        assert err.count("\n") == (name == "wrong"), err
        assert (words in err) == err.startswith("decascade: warning: the data (") == (name == "wrong")
        assert any(words in note for note in json.loads(report.read_text())["notes"]) == (name == "wrong")


def test_a_time_limit_keeps_time_for_what_comes_after_the_fits() -> None:
    now = [110.0]
    whole = Deadline(160.0, lambda: now[0])  # 60 s, of which 10 are over
    last = attempts.end_of_work(60.0, whole)
    assert last.end == 160.0 - attempts.AFTER * 10 - attempts.LAST
    now[0] = 157.0
    words = ("the time limit is too short: 57 s went into starting and reading on this machine, as busy as it is, and to check"
             " and write a result takes about 16 s more: give at least 147 s")
    with pytest.raises(UsageError, match=f"^{words}$"):
        attempts.end_of_work(60.0, whole)
    assert attempts.end_of_work(1.0, Deadline(101.0, lambda: 100.0)).end == 101.0 - attempts.SMALL


def test_a_command_without_time_for_a_result_ends_at_once_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = list[str]()
    monkeypatch.setattr("decascade.api.compressing.prepared", lambda *_, **__: begun.append("prepared"))
    folder = tmp_path / "run"
    with pytest.raises(UsageError, match=r"^the time limit is too short: 0 s went into starting and reading"):
        dc.compress(ONNX, pictures(ONNX, 64), speedup=1.5, time_limit=1e-6, run=folder)
    assert begun == []
    assert not folder.exists()
