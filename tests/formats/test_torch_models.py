"""Published weights in modules of one's own: the same through PyTorch, through ONNX, and merged before or after export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decascade.cost import target_named
from decascade.formats.onnx.format import FORMAT as ONNX
from decascade.formats.torch.format import FORMAT, read
from decascade.ir.graph import Graph
from decascade.ir.interpret import run
from decascade.ir.ops import Conv, Foreign
from decascade.regions.merge import Cascade, Options, merge_graph

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
FOLDED = SHARED / "models" / "layerfolding_resnet20_state_dict.ckpt"
FOLDED_ONNX = SHARED / "models" / "layerfolding_resnet20.onnx"
PLAIN = SHARED / "models" / "akamaster_resnet20_cifar10_state_dict.th"
CIFAR = SHARED / "data" / "cifar10_test_first500.npz"
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def needs(*paths: Path) -> Any:
    missing = [path.name for path in paths if not path.exists()]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not beside the checkout (../shared)")


def _slope(state: dict[str, Any], name: str) -> Any:
    """Layer Folding's activation α·x + (1 − α)·relu(x) with its slope rounded to 0 or 1."""
    return nn.Identity() if float(state[f"{name}.alpha"]) > 0.5 else nn.ReLU()


class FoldedBlock(nn.Module):
    def __init__(self, state: dict[str, Any], name: str, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.act1, self.act2 = _slope(state, f"{name}.alpha1"), _slope(state, f"{name}.alpha2")
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Any) -> Any:
        y = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        return self.act2(y + (x if self.downsample is None else self.downsample(x)))


class Folded(nn.Module):
    """ResNet-20 with Layer Folding's activations."""

    def __init__(self, state: dict[str, Any]) -> None:
        super().__init__()
        self.conv1, self.bn1, self.act = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        widths = {1: (16, 16), 2: (16, 32), 3: (32, 64)}
        for stage, (inside, out) in widths.items():
            sizes = [(inside, out, 1 if stage == 1 else 2), (out, out, 1), (out, out, 1)]
            blocks = [FoldedBlock(state, f"layer{stage}.{i}", *size) for i, size in enumerate(sizes)]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Any) -> Any:
        y = self.layer3(self.layer2(self.layer1(self.act(self.bn1(self.conv1(x))))))
        return self.fc(F.avg_pool2d(y, y.size()[3]).view(y.size(0), -1))


class PlainBlock(nn.Module):
    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.more = out // 4 if stride > 1 else 0

    def forward(self, x: Any) -> Any:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        y += F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more, self.more), "constant", 0) if self.more else x
        return F.relu(y)


class Plain(nn.Module):
    """ResNet-20 with the parameter-free shortcuts of the paper (option A)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        for stage, (inside, out) in {1: (16, 16), 2: (16, 32), 3: (32, 64)}.items():
            first = PlainBlock(inside, out, 1 if stage == 1 else 2)
            setattr(self, f"layer{stage}", nn.Sequential(first, PlainBlock(out, out, 1), PlainBlock(out, out, 1)))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Any) -> Any:
        y = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(F.avg_pool2d(y, y.size()[3]).view(y.size(0), -1))


def images(count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    data = np.load(CIFAR)
    x = data["x"][:count].astype(np.float64) / 255
    x = np.moveaxis(x, -1, 1) if x.shape[-1] == 3 else x
    return ((x - MEAN[:, None, None]) / STD[:, None, None]).astype(np.float32), data["y"][:count]


def folded() -> Any:
    state = torch.load(FOLDED, map_location="cpu", weights_only=True)
    module = Folded(state)
    module.load_state_dict({name: value for name, value in state.items() if not name.endswith(".alpha")})
    return module.eval()


def _facts(cascade: Cascade) -> tuple[Any, ...]:
    """What does not depend on how a format counts layers."""
    costs = [(c.value, c.parameters) if c is not None else () for c in (cascade.before, cascade.after)]
    return cascade.border, *costs


def merge(graph: Graph) -> tuple[Graph, tuple[Cascade, ...]]:
    return merge_graph(graph, Options(target=target_named("macs"), policy="always"))


@needs(FOLDED, FOLDED_ONNX, CIFAR)
def test_layer_folding_through_pytorch_and_through_onnx() -> None:
    x, y = images(200)
    module = folded()
    document, other = read(module, (1, 3, 32, 32)), ONNX.read(FOLDED_ONNX)
    logits = FORMAT.run(module, {"x": x})["output"]
    np.testing.assert_allclose(ONNX.run(other.native, {"input": x})["logits"], logits, atol=1e-4)
    assert np.mean(logits.argmax(1) == y) > 0.88
    (graph, cascades), (same, others) = merge(document.graph), merge(other.graph)
    merged = [c for c in cascades if c.decision == "merged"]
    assert sorted(map(_facts, merged)) == sorted(_facts(c) for c in others if c.decision == "merged")
    new, onnx = FORMAT.write(document, graph), ONNX.write(other, same)
    found, through = FORMAT.run(new, {"x": x})["output"], ONNX.run(onnx, {"input": x})["logits"]
    np.testing.assert_allclose(found, logits, atol=1e-3)
    np.testing.assert_allclose(through, found, atol=1e-4)
    assert np.array_equal(found.argmax(1), logits.argmax(1))
    assert {"layer1.0.conv1", "layer1.2.conv1", "layer2.0.conv1"} <= {layer for c in merged for layer in c.layers}


@needs(PLAIN, CIFAR)
def test_plain_resnet_has_nothing_but_batch_norms_to_fold() -> None:
    x, y = images(100)
    state = torch.load(PLAIN, map_location="cpu", weights_only=True)["state_dict"]
    module = Plain()
    module.load_state_dict({name.removeprefix("module."): value for name, value in state.items()}, strict=False)
    document = read(module.eval(), (1, 3, 32, 32))
    assert not any(isinstance(node.op, Foreign) for node in document.graph.nodes)
    expected = FORMAT.run(module, {"x": x})["output"]
    assert np.mean(expected.argmax(1) == y) > 0.88
    np.testing.assert_allclose(run(document.graph, {"x": x[:4]})["output"], expected[:4], atol=1e-4)
    graph, _ = merge_graph(document.graph, Options(target=target_named("macs")))
    assert sum(isinstance(node.op, Conv) for node in graph.nodes) == 19
    new = FORMAT.write(document, graph)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in new.modules())
    np.testing.assert_allclose(FORMAT.run(new, {"x": x})["output"], expected, atol=1e-4)


@needs(FOLDED, CIFAR)
@pytest.mark.filterwarnings("ignore")
def test_merged_then_exported_equals_exported_then_merged(tmp_path: Path) -> None:
    x, _ = images(20)
    module = folded()
    document = read(module, (1, 3, 32, 32))
    first = _as_onnx(FORMAT.write(document, merge(document.graph)[0]), tmp_path / "merged.onnx")
    plain = ONNX.read(_as_onnx(module, tmp_path / "plain.onnx"))
    second = ONNX.write(plain, merge(plain.graph)[0])
    (entry,), (exit_,) = plain.graph.inputs, plain.graph.outputs
    expected = FORMAT.run(module, {"x": x})["output"]
    a = ONNX.run(ONNX.read(first).native, {entry: x})[exit_]
    b = ONNX.run(second, {entry: x})[exit_]
    np.testing.assert_allclose(a, expected, atol=1e-3)
    np.testing.assert_allclose(a, b, atol=1e-4)


def _as_onnx(module: Any, path: Path) -> Path:
    example, free = (torch.zeros(2, 3, 32, 32),), ({0: torch.export.Dim.DYNAMIC},)
    names = {"input_names": ["x"], "output_names": ["logits"]}
    torch.onnx.export(module, example, str(path), dynamo=True, dynamic_shapes=free, external_data=False, verbose=False, **names)
    return path
