"""Certificates and guards on files of every format: written, read by the framework, checked again, refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import decascade as dc
from decascade import api
from decascade.checking.models import Subject
from decascade.checking.seals import from_text, to_text
from decascade.formats.registry import format_of
from proven_models import FORMATS, NETWORKS, live_keras, live_torch, saved

GUARD = "outside_input_range"


def subject(path: Path) -> Subject:
    form = format_of(path)
    return Subject(form, form.read(path))


def made(extension: str, folder: Path) -> tuple[Path, Path]:
    """The seed case, and what it becomes on [0, 1]."""
    path = saved("seed_case", extension, folder)
    merged = folder / f"small{extension}"
    dc.merge(path, input_range=(0, 1)).save(merged)
    return path, merged


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return made(".onnx", tmp_path)


@pytest.mark.parametrize("extension", FORMATS)
def test_the_merged_file_carries_a_certificate_that_is_checked_again(extension: str, tmp_path: Path) -> None:
    original, merged = made(extension, tmp_path)
    before, after = subject(original), subject(merged)
    (seal,) = api.finding.seals_of(after)
    assert seal.model == original.name
    assert len(seal.digest) == 64
    assert list(seal.box.values()) == [{"lo": 0.0, "hi": 1.0}]
    (claim,) = seal.claims
    assert (claim.kind, claim.tier, claim.channels) == ("relu", "proven", tuple(range(12)))
    assert api.finding.seals_of(before) == ()
    found = dc.verify(merged)
    assert found.same, "inputs are drawn from the certificate's range"
    assert found.proofs is not None
    assert found.proofs.held
    assert [(r.channels, r.confirmed) for r in found.proofs.rows] == [(12, 12)]
    again = after.format.read(after.format.write(after.document, after.graph))
    assert after.format.annotation(again) == after.format.annotation(after.document), "it outlives the next merge"


def test_the_two_models_in_either_order_and_on_another_range(pair: tuple[Path, Path]) -> None:
    original, merged = pair
    for found in (dc.verify(original, merged), dc.verify(merged, original)):
        assert found.same
        assert found.proofs is not None
        assert found.proofs.held
    wider = dc.verify(original, merged, input_range=(-1, 1))
    assert not wider.same
    assert wider.proofs is not None
    assert not wider.proofs.held
    assert dc.verify(original, original).proofs is None


def test_a_false_certificate_is_found_out(pair: tuple[Path, Path]) -> None:
    """Its box is widened by hand: neither the proofs nor the function hold there."""
    original, merged = pair
    form = format_of(merged)
    document = form.read(merged)
    text = form.annotation(document).replace('"lo": 0.0', '"lo": -1.0')
    forged = merged.with_stem("forged")
    form.save(form.annotated(form.write(document, document.graph), text), forged)
    found = dc.verify(original, forged)
    assert found.proofs is not None
    assert not found.proofs.held
    assert found.proofs.rows[0].refuted == 12
    assert not found.same


def test_merged_once_more(pair: tuple[Path, Path]) -> None:
    original, merged = pair
    again = merged.with_stem("again")
    result = dc.merge(merged)
    result.save(again)
    assert api.finding.seals_of(subject(again)) == api.finding.seals_of(subject(merged))
    assert dc.verify(original, again).same
    assert any(f"the model was itself made of {original.name} and equals that only for" in n for n in result.report.notes)
    assert dc.verify(merged, again).proofs is None, "they share their certificate"


def test_data_for_a_certified_model_must_lie_in_its_range(pair: tuple[Path, Path]) -> None:
    original, merged = pair
    x = np.random.default_rng(0).random((6, 2, 10, 11)).astype(np.float32)
    assert dc.verify(original, merged, data=x).same
    with pytest.raises(dc.UsageError, match=r"sample 2 of the data has the value -0.5 in input .*, outside of the input range"):
        dc.verify(original, merged, data=np.where(np.arange(6).reshape(6, 1, 1, 1) == 2, -0.5, x))


def test_one_model_alone(pair: tuple[Path, Path], tmp_path: Path) -> None:
    original, merged = pair
    away = tmp_path / "away"
    away.mkdir()
    shutil.copy(merged, away)
    with pytest.raises(dc.UsageError, match=r"was made of seed_case\.onnx \(SHA-256 [0-9a-f]{12}…\), which does not lie"):
        dc.verify(away / merged.name)
    original.write_bytes(saved("one_negative", original.suffix, tmp_path).read_bytes())
    with pytest.raises(dc.UsageError, match="does not lie beside it: give that model too"):
        dc.verify(merged)
    with pytest.raises(dc.UsageError, match="one model alone can only be checked where it is a file that carries"):
        dc.verify(original)


def test_another_file_than_the_certificate_names(tmp_path: Path) -> None:
    """The same network from another framework has other names; one of the same names is looked at all the same."""
    original = saved("seed_case", ".onnx", tmp_path)
    merged = dc.merge(original, input_range=(0, 1))
    other = tmp_path / "other.onnx"
    rename_nodes(original, other, "")
    found = dc.verify(other, merged.model).proofs
    assert found is not None
    assert found.held
    told = "other.onnx is not the file that the certificate names; its claims were looked at there all the same"
    assert told in found.notes
    pytest.importorskip("keras")
    keras_path = saved("seed_case", ".keras", tmp_path)
    renamed = tmp_path / "renamed.onnx"
    rename_nodes(original, renamed, "other/")
    facts = dc.verify(keras_path, dc.merge(renamed, input_range=(0, 1)).model)
    assert facts.same
    assert facts.proofs is not None
    assert facts.proofs.rows == ()
    assert "has none of its activations: nothing was proved" in facts.proofs.notes[0]


def rename_nodes(path: Path, new: Path, prefix: str) -> None:
    onnx: Any = pytest.importorskip("onnx")
    model = onnx.load(path)
    for node in model.graph.node:
        node.name = prefix + node.name
    model.producer_name = "somebody else"
    onnx.save(model, new)


def test_two_certified_models(tmp_path: Path) -> None:
    original = saved("seed_case", ".onnx", tmp_path)
    a, b = (dc.merge(original, input_range=r).model for r in ((0, 1), (0.25, 2)))
    found = dc.verify(a, b)
    assert found.same, "inputs are drawn from where both hold"
    assert found.proofs is not None
    assert found.proofs.notes == ("both models carry certificates of their own, about other models: nothing was proved again",)
    far = dc.merge(original, input_range=(3, 4)).model
    with pytest.raises(dc.UsageError, match="the ranges for input image do not meet"):
        dc.verify(a, far)


def test_live_models_carry_it_too(tmp_path: Path) -> None:
    shape, steps = NETWORKS["seed_case"]()
    for live, shape_of in ((live_keras(shape, steps), None), (live_torch(shape, steps), (1, *shape))):
        result = dc.merge(live, input_range=(0, 1), input_shape=shape_of)
        found = dc.verify(live, result.model, input_shape=shape_of)
        assert found.same
        assert found.proofs is not None
        assert found.proofs.held
        with pytest.raises(dc.UsageError, match="one model alone"):
            dc.verify(result.model)


def test_damaged_metadata_is_one_line(tmp_path: Path) -> None:
    original = saved("seed_case", ".onnx", tmp_path)
    form = format_of(original)
    document = form.read(original)
    path = tmp_path / "odd.onnx"
    form.save(form.annotated(form.write(document, document.graph), "{"), path)
    for command in (lambda: dc.inspect(path), lambda: dc.verify(original, path)):
        with pytest.raises(dc.FormatError, match=r"odd.onnx: its certificate is damaged \(JSONDecodeError"):
            command()


def test_a_report_is_checked_again(tmp_path: Path) -> None:
    path = saved("half_stable", ".onnx", tmp_path)
    report = dc.inspect(path, input_range=(0, 1))
    report.to_json(tmp_path / "r.json")
    for given in (tmp_path / "r.json", str(tmp_path / "r.json"), report.to_dict()):
        found = api.recheck_certificate(path, given)
        assert found.held
        assert [(r.node, r.channels, r.confirmed) for r in found.rows] == [("relu_1", 8, 8)]
    wider = api.recheck_certificate(path, tmp_path / "r.json", input_range=(-1, 1))
    assert not wider.held
    with pytest.raises(dc.UsageError, match="the report claims nothing of any activation: give one of inspect"):
        api.recheck_certificate(path, dc.inspect(path).to_dict())
    spoiled = report.to_dict()
    spoiled["certificates"][0]["activations"][0].pop("status")
    with pytest.raises(dc.UsageError, match=r"the report's certificate is damaged \(KeyError: 'status'\): inspect the"):
        api.recheck_certificate(path, spoiled)
    with pytest.raises(dc.UsageError, match="prove_seconds = 0: give a number of seconds above 0"):
        api.recheck_certificate(path, report.to_dict(), prove_seconds=0)


def run_natively(path: Path, x: np.ndarray) -> list[np.ndarray]:
    """All outputs of a file, by its own framework; x is channels-first."""
    match path.suffix:
        case ".onnx":
            onnxruntime: Any = pytest.importorskip("onnxruntime")
            session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
            assert [o.name for o in session.get_outputs()][-1] == GUARD
            return session.run(None, {"image": x})
        case ".pt2":
            torch: Any = pytest.importorskip("torch")
            return [y.detach().numpy() for y in torch.export.load(path).module()(torch.tensor(x))]
        case _:
            keras: Any = pytest.importorskip("keras")
            model = keras.saving.load_model(path, compile=False)
            assert model.output_names[-1] == GUARD
            return [np.asarray(y) for y in model(np.moveaxis(x, 1, -1))]


@pytest.mark.parametrize("extension", FORMATS)
def test_a_guard_is_part_of_the_file(extension: str, tmp_path: Path) -> None:
    path, out = saved("seed_case", extension, tmp_path), tmp_path / f"guarded{extension}"
    dc.merge(path, input_range=([0, 0.1], [1, 0.3]), guard=True).save(out)
    rng = np.random.default_rng(0)
    lo, hi = (np.float32(e).reshape(1, 2, 1, 1) for e in ([0, 0.1], [1, 0.3]))
    x = (lo + rng.random((6, 2, 10, 11), np.float32) * (hi - lo)).clip(lo, hi)
    x[0], x[1] = lo, hi
    # 0.1 is no number of float32: its two neighbours there count as within
    x[2, 1, 3, 3], x[3, 0, 9, 10], x[4, 1, 0, 3], x[5, 0, 2, 2] = 0.099999994, 1.5, 0.09999998, -1e-30
    *outputs, guard = run_natively(out, x)
    assert guard.shape == (6, 1)
    assert (guard > 0).ravel().tolist() == [False, False, False, True, True, True]
    assert guard[3, 0] == pytest.approx(0.5)
    assert len(outputs) == 1
    found = dc.verify(path, out)
    assert found.same, "the guard is no output of the network's own"
    assert found.proofs is not None
    assert found.proofs.held
    (seal,) = api.finding.seals_of(subject(out))
    assert seal.guard == GUARD
    with pytest.raises(dc.UsageError, match="the model has a guard output, which proofs over a range would find"):
        dc.merge(out, input_range=(0, 1))
    assert dc.merge(out).report.verification is not None


def test_a_guard_where_nothing_was_proved(tmp_path: Path) -> None:
    """Whether a script asks for a guard decides on the outputs, not what was found."""
    path = saved("seed_case", ".onnx", tmp_path)
    result = dc.merge(path, input_range=(-1, 1), guard=True)
    assert len(result.format.read(result.model).graph.outputs) == 2
    assert dc.verify(path, result.model).proofs is None
    assert dc.verify(path, result.model).same


def test_a_guard_keeps_the_structure_of_outputs(tmp_path: Path) -> None:
    keras: Any = pytest.importorskip("keras")
    x = keras.Input((6, 6, 2), name="image")
    y = keras.layers.Conv2D(2, 3, name="a")(x)
    model = keras.Model(x, {"first": y, "second": keras.layers.ReLU(name="b")(y)})
    result = dc.merge(model, input_range=(0, 1), guard=True)
    assert set(result.model.output) == {"first", "second", GUARD}
    assert dc.verify(model, result.model, input_range=(0, 1)).same
    torch: Any = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(2, 2, 3)

        def forward(self, x: Any) -> Any:
            y = self.conv(x)
            return {"first": y, "second": y.relu()}

    made = dc.merge(Net().eval(), input_range=(0, 1), guard=True, input_shape=(1, 2, 6, 6)).model
    found = made(torch.full((3, 2, 6, 6), 1.25))
    assert list(found) == ["first", "second", GUARD]
    assert found[GUARD].ravel().tolist() == [0.5, 0.5, 0.5]


def test_a_broken_guard_is_never_handed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its box is moved on purpose: once it misses inputs, once it flags those that are within."""
    from decascade.api import merging

    path = saved("seed_case", ".onnx", tmp_path)
    right = merging.guarded
    for shift, words in ((0.5, "the guard is 0 for an input outside of the range"),
                         (-0.5, r"the guard is [\d.]+ for an input within the range")):
        def moved(graph: Any, box: Any, shift: float = shift) -> Any:
            wide = {n: (i.lo - shift, i.hi + shift) for n, i in box.intervals.items()}
            return right(graph, type(box).of(graph, wide))

        monkeypatch.setattr(merging, "guarded", moved)
        with pytest.raises(dc.VerificationError, match=words):
            dc.merge(path, input_range=(0, 1.5), guard=True)


@pytest.mark.parametrize("extension", [".onnx", ".keras"])
def test_the_observed_tier_on_files(extension: str, tmp_path: Path) -> None:
    """On quiet pictures all of the first layer is linear or dead, which no proof over [-1, 1] can say."""
    path, out = saved("half_stable", extension, tmp_path), tmp_path / f"seen{extension}"
    x = np.random.default_rng(0).uniform(0, 0.04, (300, 2, 8, 8)).astype(np.float32)
    x[:, 1] = x[:, 0]
    native = x if extension in (".onnx", ".pt2") else np.moveaxis(x, 1, -1)
    np.savez(tmp_path / "d.npz", x=native)
    result = dc.merge(path, tier="observed", data=tmp_path / "d.npz", input_range=(-1, 1))
    report = result.report
    assert report.validity is not None
    assert (report.validity.tier, report.validity.samples, report.validity.bound) == ("observed", 300, 0.01)
    assert report.validity.proven == ()
    assert {c.tier for c in report.cascades if c.decision == "merged"} == {"observed"}
    assert report.verification is not None
    assert report.verification.samples == 300
    assert report.outside is not None
    assert not report.outside.same
    assert "Beside the data, on" in str(report)
    assert "it is off by up to" in str(report)
    assert [c["tier"] for c in report.certificates] == ["proven", "observed"]
    result.save(out)
    again = dc.verify(path, out, data=native)
    assert again.same
    assert again.proofs is not None
    assert again.proofs.held
    assert {r.tier for r in again.proofs.rows} == {"observed"}
    blind = dc.verify(path, out)
    assert blind.proofs is not None
    assert not any(r.looked_at for r in blind.proofs.rows)


def test_what_a_tier_needs(tmp_path: Path) -> None:
    path = saved("seed_case", ".onnx", tmp_path)
    x = np.zeros((4, 2, 10, 11), np.float32)
    rows: list[tuple[dict[str, Any], str]] = [
        ({"tier": "proven"}, "tier proven needs an input range"),
        ({"tier": "observed"}, "tier observed needs data"),
        ({"tier": "fitted"}, "tier = 'fitted': give one of exact, proven, observed"),
        ({"guard": True}, "a guard needs an input range to tell what lies outside of it"),
        ({"input_range": (0.5, 1), "data": x}, "sample 0 of the data has the value 0 in input image, outside of the input"),
    ]
    for options, words in rows:
        with pytest.raises(dc.UsageError, match=words):
            dc.merge(path, **options)
    exact = dc.merge(path, tier="exact", input_range=(0, 1))
    assert exact.report.validity is None
    assert exact.report.certificates == ()
    assert not [c for c in exact.report.cascades if c.decision == "merged"]


def test_the_text_in_a_file_is_plain_json(pair: tuple[Path, Path]) -> None:
    _, merged = pair
    text = subject(merged).format.annotation(subject(merged).document)
    assert json.loads(text)["certificates"][0]["tier"] == "proven"
    assert to_text(from_text(text, "m")) == text
