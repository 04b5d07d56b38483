"""inspect, merge, verify from Python, on the shipped models and live objects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import decascade as dc
from decascade.api import common, finding
from decascade.cost import target_named
from decascade.formats.registry import format_of
from decascade.ir.ops import Dense

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
MODELS = Path(__file__).resolve().parents[1].parent / "shared" / "models"
FORMATS = (".onnx", ".keras")


@pytest.fixture(scope="module", params=FORMATS)
def result(request: pytest.FixtureRequest) -> dc.MergeResult:
    if request.param == ".keras":
        pytest.importorskip("keras")
    return dc.merge(EXAMPLES / f"digits{request.param}", input_range=(0, 1))


def test_inspect_says_what_merge_then_does(result: dc.MergeResult) -> None:
    assert result.source is not None
    planned, done = dc.inspect(str(result.source)), result.report
    assert planned.verification is None
    assert [(c.layers, c.decision, c.reason, c.cost) for c in planned.cascades] == [
        (c.layers, c.decision, c.reason, c.cost) for c in done.cascades
    ]
    assert planned.cost == done.cost
    assert planned.layers == done.layers


def test_merge_merges_what_pays_and_says_why_not(result: dc.MergeResult) -> None:
    report = result.report
    merged = {c.layers: c for c in report.cascades if c.decision == "merged"}
    left = {c.layers: c for c in report.cascades if c.decision == "left"}
    assert ("stem_expand", "stem_project") in merged
    assert merged["block2_expand", "block2_conv"].border == "bias"
    assert ("block3_conv", "block3_pool") in merged
    assert "would cost" in left["block4_project", "block4_expand"].reason
    assert report.cost.after is not None
    assert report.cost.after < report.cost.before / 4
    assert report.layers.before == 14
    assert report.layers.after <= 9
    assert not report.layers.corrections


def test_every_merge_was_checked(result: dc.MergeResult) -> None:
    for row in result.report.cascades:
        assert (row.error is not None) == (row.decision == "merged")
        if row.error is not None:
            assert row.error.max_abs <= row.error.allowed
            assert row.error.max_rel < 1e-6
    found = result.report.verification
    assert found is not None
    assert found.same
    assert found.by == "framework"
    assert found.samples > 10
    assert found.max_rel < 1e-5


def test_saved_file_is_the_same_function(result: dc.MergeResult, tmp_path: Path) -> None:
    assert result.source is not None
    path = tmp_path / f"small{result.source.suffix}"
    before = result.source.read_bytes()
    result.save(path, report=tmp_path / "r.json")
    assert result.report.output == str(path)
    assert (tmp_path / "r.json").read_text(encoding="utf-8") == result.report.to_json()
    assert result.source.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.json", path.name]
    assert dc.verify(result.source, path).same
    assert dc.verify(EXAMPLES / "digits.onnx", path, input_range=(0, 1)).same
    again = dc.inspect(path)
    assert not [c for c in again.cascades if c.decision == "merged"]
    with pytest.raises(dc.OutputError, match="force"):
        result.save(path)
    result.save(path, force=True)


def test_data_of_the_user(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((40, 1, 8, 8))
    np.savez(tmp_path / "d.npz", x=x)
    for given in (x, tmp_path / "d.npz", {"image": x}):
        found = dc.verify(EXAMPLES / "digits.onnx", EXAMPLES / "digits.onnx", data=given)
        assert found.same
        assert found.samples == 40
        assert found.max_abs == 0
    with pytest.raises(dc.UsageError, match=r"data of shape \(8, 8, 1\) per sample for input image"):
        dc.verify(EXAMPLES / "digits.onnx", EXAMPLES / "digits.onnx", data=x.reshape(40, 8, 8, 1))


def test_two_formats_of_one_network() -> None:
    pytest.importorskip("keras")
    x = np.random.default_rng(0).random((5, 8, 8, 1))
    found = dc.verify(EXAMPLES / "digits.keras", EXAMPLES / "digits.onnx", data=x)
    assert found.same
    assert 0 < found.max_rel < 1e-5


def spoiled(scale: float) -> Any:
    onnx: Any = pytest.importorskip("onnx")
    model = onnx.load(EXAMPLES / "digits.onnx")
    tensor = next(t for t in model.graph.initializer if t.name == "block5_second.weight")
    weight = onnx.numpy_helper.to_array(tensor).copy()
    weight[7] *= scale
    tensor.CopyFrom(onnx.numpy_helper.from_array(weight, tensor.name))
    return model


@pytest.mark.parametrize("scale", [0.9, 1.001])
def test_verify_finds_a_small_difference(scale: float) -> None:
    found = dc.verify(EXAMPLES / "digits.onnx", spoiled(scale))
    assert not found.same
    assert found.worst is not None
    assert found.worst.output == "logits"
    assert found.complaint


def test_live_model_is_not_changed() -> None:
    model = spoiled(1.0)
    before = model.SerializeToString()
    result = dc.merge(model)
    assert model.SerializeToString() == before
    assert result.report.model == "live onnx model"
    assert type(result.model) is type(model)
    assert result.source is None


def test_live_pytorch_module(tmp_path: Path) -> None:
    torch: Any = pytest.importorskip("torch")
    torch.manual_seed(0)
    conv = torch.nn.Conv2d
    model = torch.nn.Sequential(conv(3, 64, 3, padding=1), conv(64, 8, 1), torch.nn.ReLU(), conv(8, 8, 3)).eval()
    result = dc.merge(model, input_shape=(1, 3, 16, 16))
    assert result.report.cascades[0].layers == ("0", "1")
    assert not result.report.notes
    assert isinstance(result.model, torch.nn.Module)
    result.save(tmp_path / "small.pt2")
    assert dc.verify(model, tmp_path / "small.pt2", input_shape=(1, 3, 16, 16)).same
    assert dc.inspect(model).notes == ("sizes that the model leaves open are costed as 64",)


def test_wrong_merge_is_never_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer is broken on purpose: one weight of the last layer is off by a thousandth."""
    form = format_of("m.onnx")

    class Broken:
        def __getattr__(self, name: str) -> Any:
            return getattr(form, name)

        def write(self, document: Any, graph: Any) -> Any:
            def spoil(node: Any) -> Any:
                if node.origin or not isinstance(node.op, Dense):
                    return node
                weight = node.op.layer.weight.copy()
                weight.flat[3] *= 1.01
                return replace(node, op=Dense(dc.Conv(weight, node.op.layer.bias)))

            return form.write(document, replace(graph, nodes=tuple(map(spoil, graph.nodes))))

    monkeypatch.setattr(common, "format_of", lambda _model: Broken())
    with pytest.raises(dc.VerificationError, match=r"the merged model is off by .* rounding .* nothing was written"):
        dc.merge(EXAMPLES / "digits.onnx")
    assert dc.merge(EXAMPLES / "digits.onnx", verify=False).report.verification is None


def test_wrong_algebra_is_never_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The merge is broken on purpose: a bias is forgotten."""

    def broken(graph: Any, options: Any, progress: Any = None) -> Any:
        new, rows = api_merge(graph, options, progress)

        def forget(node: Any) -> Any:
            if node.origin or not isinstance(node.op, dc.Conv):
                return node
            op = node.op
            return replace(node, op=dc.Conv(op.weight, None, op.stride, op.dilation, op.padding, op.groups))

        return replace(new, nodes=tuple(map(forget, new.nodes))), rows

    api_merge = finding.merge_graph
    monkeypatch.setattr(finding, "merge_graph", broken)
    with pytest.raises(dc.VerificationError, match=r"stem_expand → stem_project is off by .*; nothing was written"):
        dc.merge(EXAMPLES / "digits.onnx")


def test_target_may_be_an_object() -> None:
    assert dc.inspect(EXAMPLES / "digits.onnx", target=target_named("memory")).cost.unit == "bytes"


def test_border_refused_is_left_alone() -> None:
    rows = dc.inspect(EXAMPLES / "digits.onnx", border="refuse").cascades
    assert not [c for c in rows if c.decision == "merged" and c.border in ("bias", "ring")]
    assert [c for c in rows if "block2_conv" in c.layers and c.decision == "left"]


def test_progress_is_told() -> None:
    told: list[tuple[str, float]] = []
    dc.merge(EXAMPLES / "digits.onnx", progress=lambda stage, share: told.append((stage, share)))
    stages = dict(told)
    assert stages["verifying"] == 1.0
    assert len(stages) >= 2
    assert all(0 <= share <= 1 for _, share in told)


@pytest.mark.parametrize(
    "name", ["layerfolding_resnet20.onnx", "st_mobilenet_v2_0.35_128.onnx", "mlperf_tiny_streaming_wakeword.h5"]
)
@pytest.mark.parametrize("policy", ["profitable", "always"])
def test_published_models(name: str, policy: Any) -> None:
    if not (MODELS / name).exists():
        pytest.skip(f"{name} is not at hand")
    if name.endswith(".h5"):
        pytest.importorskip("keras")
    report = dc.merge(MODELS / name, policy=policy).report
    assert report.verification is not None
    assert report.verification.same
    assert report.verification.max_rel < 1e-4
    assert [c for c in report.cascades if c.decision == "merged"]
    assert report.cost.after is not None
    if policy == "profitable":
        assert report.cost.after <= report.cost.before
