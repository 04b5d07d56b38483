"""Written models: every new operation equals the interpreter, and the result is a model like any other."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decascade.algebra.conv import Conv, ConvTranspose
from decascade.cost import target_named
from decascade.errors import FormatError, GraphError, UsageError
from decascade.formats.torch.format import FORMAT, read
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.interpret import run
from decascade.ir.ops import (
    Activation,
    Add,
    Affine,
    BiasMap,
    Concat,
    Dense,
    Flatten,
    Foreign,
    GlobalPool,
    Identity,
    Op,
    Pad,
    Pool,
    Product,
    Select,
    Slice,
    Upsample,
)
from decascade.ir.shapes import infer_graph
from decascade.regions.merge import Options, merge_graph

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")

R = np.random.default_rng(0)


def _w(*shape: int) -> np.ndarray[Any, Any]:
    return R.standard_normal(shape)


class Carrier(nn.Module):
    """A model with one node to be replaced."""

    def forward(self, x: Any) -> Any:
        return torch.relu(x)


def _one(op: Op, shape: tuple[int, ...], count: int = 1) -> tuple[Any, Graph]:
    """A document and a graph in which one new node stands for the model's only operation."""
    document = read(Carrier(), (None, *shape[1:]))
    node = Node("layer1.conv_merged", op, ("x",) * count, ("output",))
    tensors = {"x": document.graph.tensors["x"], "output": Tensor("output", None)}
    return document, infer_graph(Graph((node,), ("x",), ("output",), tensors))


LINE, IMAGE, CUBE, FLAT = (2, 4, 9), (2, 4, 7, 8), (2, 4, 5, 4, 6), (2, 4)
NEW: dict[str, tuple[Op, tuple[int, ...]]] = {
    "conv1d": (Conv(_w(6, 4, 3), _w(6), 2, 2, [(1, 2)]), LINE),
    "conv2d": (Conv(_w(6, 2, 3, 2), _w(6), (1, 2), 1, 1, 2), IMAGE),
    "conv2d without bias": (Conv(_w(6, 4, 1, 1)), IMAGE),
    "conv2d uneven": (Conv(_w(6, 4, 3, 3), _w(6), padding=[(0, 2), (1, 0)]), IMAGE),
    "conv2d cropping": (Conv(_w(6, 4, 3, 3), None, padding=[(-1, 2), (0, -2)]), IMAGE),
    "conv3d": (Conv(_w(2, 4, 3, 1, 2), _w(2), padding=[(1, 1), (0, 0), (1, 0)]), CUBE),
    "transposed": (ConvTranspose(_w(4, 3, 3, 3), _w(6), 2, 1, [(1, 0), (1, 1)], 2), IMAGE),
    "transposed extended": (ConvTranspose(_w(4, 3, 2, 2), _w(3), 2, 1, [(-1, -1), (0, -3)]), IMAGE),
    "transposed cropped at the end": (ConvTranspose(_w(4, 3, 3), None, 1, 2, [(0, 3)]), LINE),
    "dense": (Dense(Conv(_w(5, 4), _w(5))), FLAT),
    "dense on the last axis": (Dense(Conv(_w(5, 9))), LINE),
    "affine": (Affine(_w(4), _w(4)), IMAGE),
    "shift": (Affine(np.ones(4), _w(4)), CUBE),
    "scale": (Affine(_w(4), np.zeros(4)), FLAT),
    "avg pool": (Pool("avg", (3, 2), (2, 1), ((1, 1), (0, 0)), (1, 1), False), IMAGE),
    "avg pool uneven": (Pool("avg", (3, 2), (2, 1), ((1, 2), (0, 1)), (1, 1), False), IMAGE),
    "avg pool uneven, padding counted": (Pool("avg", (3,), (1,), ((2, 0),), (1,), True), LINE),
    "avg pool cropping": (Pool("avg", (2, 2), (2, 2), ((-1, 0), (0, 0)), (1, 1)), IMAGE),
    "max pool": (Pool("max", (3, 2), (2, 2), ((1, 1), (0, 0)), (1, 2)), IMAGE),
    "max pool uneven": (Pool("max", (2, 2, 2), (1, 2, 2), ((0, 1), (1, 1), (1, 0)), (1, 1, 1)), CUBE),
    "global mean": (GlobalPool("avg"), IMAGE),
    "global max": (GlobalPool("max", keepdims=False), CUBE),
    "flatten": (Flatten(), IMAGE),
    "flatten channels last": (Flatten("channels_last"), CUBE),
    "pad": (Pad(((1, 0), (-2, 3)), 0.5), IMAGE),
    "ones channel": (Pad(((0, 0), (0, 0)), 1.0, (0, 1)), IMAGE),
    "add": (Add(), IMAGE),
    "subtract": (Add((-1, 1, -1)), IMAGE),
    "product": (Product(), IMAGE),
    "concat": (Concat(1), IMAGE),
    "concat of rows": (Concat(2), LINE),
    "select range": (Select(np.array([1, 2, 3])), IMAGE),
    "select steps": (Select(np.array([0, 2])), FLAT),
    "select one": (Select(np.array([2])), IMAGE),
    "select any": (Select(np.array([3, 0, 0, 2])), CUBE),
    "slice": (Slice(3, 2, 5), IMAGE),
    "upsample": (Upsample((2, 3)), IMAGE),
    "identity": (Identity(), IMAGE),
    "bias map": (BiasMap(_w(4, 7, 8)), IMAGE),
    "relu": (Activation("relu"), IMAGE),
    "relu6": (Activation("clip", (0.0, 6.0)), IMAGE),
    "clip below": (Activation("clip", (-0.5, float("inf"))), IMAGE),
    "leaky": (Activation("leaky_relu", (0.1,)), IMAGE),
    "prelu": (Activation("prelu", slope=_w(4)), CUBE),
    "elu": (Activation("elu", (0.5,)), IMAGE),
    "selu": (Activation("selu"), IMAGE),
    "sigmoid": (Activation("sigmoid"), IMAGE),
    "tanh": (Activation("tanh"), IMAGE),
    "hard sigmoid": (Activation("hard_sigmoid", (0.2, 0.5)), IMAGE),
    "hard swish": (Activation("hard_swish"), IMAGE),
    "silu": (Activation("silu"), IMAGE),
    "gelu": (Activation("gelu"), IMAGE),
    "gelu tanh": (Activation("gelu_tanh"), IMAGE),
    "softplus": (Activation("softplus"), IMAGE),
    "softsign": (Activation("softsign"), IMAGE),
    "exp": (Activation("exp"), IMAGE),
    "abs": (Activation("abs"), IMAGE),
    "neg": (Activation("neg"), IMAGE),
    "sqrt": (Activation("sqrt"), IMAGE),
    "softmax": (Activation("softmax", (1.0,)), IMAGE),
}


@pytest.mark.parametrize("name", NEW)
def test_new_operation_equals_the_interpreter(name: str) -> None:
    op, shape = NEW[name]
    several = 3 if isinstance(op, Concat | Product) else 1
    document, graph = _one(op, shape, len(op.signs) or 2 if isinstance(op, Add) else several)
    x = np.random.default_rng(1).standard_normal(shape)
    x = np.abs(x) if name == "sqrt" else x
    expected = run(graph, {"x": x})["output"]
    found = FORMAT.run(FORMAT.write(document, graph), {"x": x.astype(np.float32)})["output"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * max(1.0, float(np.abs(expected).max())))


def test_new_operation_that_torch_lacks() -> None:
    document, graph = _one(Pool("avg", (2,), (1,), ((0, 0),), (2,)), LINE)
    with pytest.raises(GraphError, match=r"PyTorch has no average pool with dilation \(2,\)"):
        FORMAT.write(document, graph)
    document, graph = _one(Foreign("thing"), LINE)
    with pytest.raises(GraphError, match=r"PyTorch has no form for a new Foreign"):
        FORMAT.write(document, graph)


class Block(nn.Module):
    """Wide linear block with a skip: one 3×3 convolution (padded before, so no border ring)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d(1)
        self.conv1 = nn.Conv2d(channels, 32, 1, bias=False)
        self.conv2 = nn.Conv2d(32, channels, 3)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Any) -> Any:
        return x + self.bn(self.conv2(self.conv1(self.pad(x))))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layer1 = nn.Sequential(Block(8), nn.ReLU(inplace=True), Block(8), nn.ReLU(inplace=True))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        y = self.layer1(F.relu(self.stem(x)))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(y, 1), 1))


X = np.random.default_rng(2).standard_normal((4, 3, 10, 10)).astype(np.float32)


def _net() -> Any:
    torch.manual_seed(0)
    module = Net()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return module.eval()


def _merge(module: Any, shape: Any = (1, 3, 10, 10)) -> Any:
    document = read(module, shape)
    graph, _ = merge_graph(document.graph, Options(target=target_named("macs"), policy="always"))
    return FORMAT.write(document, graph)


def _close(a: Any, b: Any, scale: float = 1.0) -> None:
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=scale * 4e-6 * max(1.0, float(np.abs(b).max())))


@pytest.fixture(scope="module")
def net() -> Any:
    return _net()


@pytest.fixture(scope="module")
def small(net: Any) -> Any:
    return _merge(net)


@pytest.fixture(scope="module")
def expected(net: Any) -> Any:
    return FORMAT.run(net, {"x": X})["output"]


def test_names_of_what_is_kept_and_what_is_new(net: Any, small: Any, expected: Any) -> None:
    names = set(small.state_dict())
    assert {"stem.weight", "stem.bias", "head.weight", "head.bias"} <= names
    new = [name for name, part in small.named_children() if isinstance(part, nn.Conv2d) and name != "stem"]
    assert len(new) == 2
    assert all(name.startswith("layer1_") and "merged" in name for name in new)
    assert [type(part) for part in small.modules()].count(nn.Conv2d) == 3
    assert type(small).__name__ == "Net"
    _close(FORMAT.run(small, {"x": X})["output"], expected)


def test_trained_modules_keep_their_names(net: Any) -> None:
    """As the user's code knows them, so that the state dict goes on fitting."""
    document = read(net, (1, 3, 10, 10))

    def trained(node: Node) -> Node:
        op = node.op
        if isinstance(op, Conv):
            return replace(node, op=replace(op, weight=op.weight.astype(np.float64) * 0.5))
        return replace(node, op=Dense(replace(op.layer, weight=-op.layer.weight))) if isinstance(op, Dense) else node

    graph = replace(document.graph, nodes=tuple(map(trained, document.graph.nodes)))
    made = FORMAT.write(document, graph)
    before = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    after = made.state_dict()
    assert {k: v.shape for k, v in before.items()} == {k: after[k].shape for k in before}
    assert torch.equal(after["layer1.0.conv2.weight"], before["layer1.0.conv2.weight"] * 0.5)
    assert isinstance(made.get_submodule("layer1.0.conv2"), nn.Conv2d)
    _close(FORMAT.run(made, {"x": X})["output"], run(graph, {"x": X})["output"])


def test_trained_module_beside_a_call_that_stays() -> None:
    """A module that is called twice: the call that was changed cannot have its place."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Any) -> Any:
            return self.conv(torch.relu(self.conv(x)))

    document = read(Twice().eval(), (1, 3, 10, 10))
    first, *rest = document.graph.nodes
    assert isinstance(first.op, Conv)
    graph = replace(document.graph, nodes=(replace(first, op=replace(first.op, weight=3 * first.op.weight)), *rest))
    made = FORMAT.write(document, graph)
    assert set(made.state_dict()) == {"conv.weight", "conv.bias", "conv_2.weight", "conv_2.bias"}
    output = graph.outputs[0]
    _close(FORMAT.run(made, {"x": X})[output], run(graph, {"x": X})[output])


def test_state_dict_round_trip(net: Any, small: Any, expected: Any, tmp_path: Path) -> None:
    torch.save(small.state_dict(), tmp_path / "state.pt")
    other = _merge(_net())
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    _close(FORMAT.run(other, {"x": X})["output"], expected)


def test_export(small: Any, expected: Any) -> None:
    program = torch.export.export(small, (torch.tensor(X),))
    _close(program.module()(torch.tensor(X)).detach(), expected)
    document = read(program)
    assert sum(isinstance(node.op, Conv) for node in document.graph.nodes) == 3
    assert {node.name for node in document.graph.nodes} >= {"stem", "head"}


@pytest.mark.filterwarnings("ignore")
def test_onnx_export_equals_onnx_export_then_run(small: Any, expected: Any, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "net.onnx"
    torch.onnx.export(small, (torch.tensor(X),), str(path), dynamo=True, external_data=False, verbose=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: X})
    _close(found, expected)


@pytest.mark.filterwarnings("ignore")
def test_compile(small: Any, expected: Any) -> None:
    compiled = torch.compile(small, backend="aot_eager")
    with torch.no_grad():
        _close(compiled(torch.tensor(X)), expected)


@pytest.mark.parametrize(("dtype", "unit"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_half(dtype: str, unit: float, expected: Any) -> None:
    halved = _merge(_net()).to(getattr(torch, dtype))
    assert {p.dtype for p in halved.parameters()} == {getattr(torch, dtype)}
    found = FORMAT.run(halved, {"x": X})["output"]
    np.testing.assert_allclose(found, expected, atol=16 * unit * float(np.abs(expected).max()))


def test_device_move() -> None:
    moved = _merge(_net()).to("meta")
    assert all(tensor.is_meta for tensor in (*moved.parameters(), *moved.buffers()))
    assert moved(torch.empty(2, 3, 10, 10, device="meta")).shape == (2, 5)


def test_training_goes_on() -> None:
    small = _merge(_net()).train()
    assert all(parameter.requires_grad for parameter in small.parameters())
    x, y = torch.tensor(X), torch.tensor([0, 1, 2, 3])
    optimiser = torch.optim.SGD(small.parameters(), lr=0.05)
    losses = list[float]()
    for _ in range(8):
        loss = F.cross_entropy(small(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_frozen_model_stays_frozen() -> None:
    small = _merge(_net().requires_grad_(False))
    assert not any(parameter.requires_grad for parameter in small.parameters())


def test_written_model_can_be_read_again(small: Any, expected: Any) -> None:
    again = _merge(small)
    assert [name for name, _ in again.named_parameters()] == [name for name, _ in small.named_parameters()]
    _close(FORMAT.run(again, {"x": X})["output"], expected)


def test_copy(small: Any, expected: Any) -> None:
    import copy

    _close(FORMAT.run(copy.deepcopy(small), {"x": X})["output"], expected)


def test_saved_file(net: Any, small: Any, expected: Any, tmp_path: Path) -> None:
    FORMAT.save(small, tmp_path / "net.pt2")
    program = torch.export.load(tmp_path / "net.pt2")
    _close(program.module()(torch.tensor(X)).detach(), expected)
    _close(FORMAT.run(program, {"x": X[:3]})["output"], expected[:3])


def test_saving_needs_a_shape(net: Any, tmp_path: Path) -> None:
    written = _merge(net, None)
    words = r"needs the size of input x, which is \(N, 3, H, W\): read the model with an input shape"
    with pytest.raises(FormatError, match=words):
        FORMAT.save(written, tmp_path / "net.pt2")
    with pytest.raises(FormatError, match=r"only a model that decascade wrote knows its input shapes"):
        FORMAT.save(net, tmp_path / "net.pt2")
    assert not list(tmp_path.iterdir())


def test_saving_into_nowhere(small: Any, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        FORMAT.save(small, tmp_path / "missing" / "net.pt2")


def test_merging_works_at_unknown_sizes(net: Any, expected: Any) -> None:
    written = _merge(net, None)
    _close(FORMAT.run(written, {"x": X})["output"], expected)


def test_wrong_input_name(small: Any) -> None:
    with pytest.raises(UsageError, match=r"the model cannot be called with image"):
        FORMAT.run(small, {"image": X})


def test_run_leaves_the_mode_alone(net: Any) -> None:
    module = _net().train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    np.testing.assert_array_equal(FORMAT.run(module, {"x": X})["output"], FORMAT.run(net, {"x": X})["output"])
    assert module.training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert not any(p.grad is not None for p in module.parameters())


def test_a_wrong_kernel_is_noticed(net: Any, expected: Any) -> None:
    written = _merge(_net())
    name = next(n for n, _ in written.named_children() if "merged" in n)
    with torch.no_grad():
        written.get_submodule(name).weight[0, 0, 0, 0] += 0.05
    with pytest.raises(AssertionError):
        _close(FORMAT.run(written, {"x": X})["output"], expected)


def test_order_of_in_place_operations() -> None:
    """relu_ on a tensor that a replaced segment reads later in the new order."""

    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.relu = nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True)
            self.a, self.b = nn.Conv2d(4, 16, 1), nn.Conv2d(16, 4, 1)

        def forward(self, x: Any) -> Any:
            y = self.stem(x)
            side = self.b(self.a(y))
            return self.relu(y), side

    torch.manual_seed(1)
    module = Late().eval()
    document = read(module, (1, 3, 10, 10))
    graph, _ = merge_graph(document.graph, Options(target=target_named("macs"), policy="always"))
    for nodes in (graph.nodes, graph.nodes[::-1]):
        written = FORMAT.write(document, graph.with_nodes(nodes))
        before, after = FORMAT.run(module, {"x": X}), FORMAT.run(written, {"x": X})
        for key in before:
            _close(after[key], before[key])


class Ring(nn.Module):
    """Two padded layers: what replaces them has positions in it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(2, 4, 3, padding=1)

    def forward(self, x: Any) -> Any:
        return self.second(self.first(x))


def always(module: Any, shape: Any) -> Any:
    document = read(module.eval(), shape)
    return FORMAT.write(document, merge_graph(document.graph, Options(target=target_named("macs"), policy="always"))[0])


WORDS = r"right only for inputs of size 9 along axis 2, as it was read: read it with input_shape=\(None, 3, None, None\)"


def test_what_is_right_at_one_size_refuses_others() -> None:
    torch.manual_seed(0)
    net, small = Ring(), torch.randn(2, 3, 9, 8)
    new = always(net, (1, 3, 9, 8))
    torch.testing.assert_close(new(small), net(small), atol=1e-5, rtol=0)
    large = torch.randn(2, 3, 12, 8)
    for model in (new, copy.deepcopy(new), always(new, None)):  # written again, also if nobody says the size again
        with pytest.raises(AssertionError, match=WORDS):
            model(large)
    kept = FORMAT.write(read(new), read(new).graph)
    with pytest.raises(AssertionError, match=WORDS):
        kept(large)


@pytest.mark.filterwarnings("ignore")
def test_the_check_of_sizes_compiles_and_exports() -> None:
    torch.manual_seed(0)
    new, x = always(Ring(), (1, 3, 9, 8)), torch.randn(2, 3, 9, 8)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(new)(x), new(x), atol=1e-5, rtol=0)
    program = torch.export.export(new, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    torch.testing.assert_close(program.module()(x[:1]), new(x[:1]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [nn.Conv2d(3, 8, 3, 2, padding=1), nn.BatchNorm2d(8)],
        lambda: [nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 8, 3, 2, padding=1), nn.AvgPool2d(2)],
        lambda: [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3, 2), nn.Conv2d(4, 4, 1)],
        lambda: [nn.Conv2d(3, 16, (5, 1), padding=(2, 0)), nn.Conv2d(16, 4, (1, 5), padding=(0, 2))],
    ],
)
def test_what_is_right_at_every_size_takes_every_size(layers: Any) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*layers()).eval()
    new = always(net, (1, 3, 40, 40))
    assert sum(isinstance(part, nn.Conv2d) for part in new.modules()) == 1
    for size in (39, 41, 42, 43, 58):
        x = torch.randn(1, 3, size, size)
        torch.testing.assert_close(new(x), net(x), atol=1e-5, rtol=0)


def test_sizes_that_the_reading_depended_on_are_checked() -> None:
    """ceil_mode is a padding that depends on the size; taps that only met padding on a small map are gone."""
    for layers, size in (([nn.Conv2d(3, 4, 1), nn.AvgPool2d(2, ceil_mode=True)], 8), ([nn.Conv2d(3, 4, 3, padding=1)], 1)):
        new = always(nn.Sequential(*layers, nn.BatchNorm2d(4)), (1, 3, size, size))
        with pytest.raises(AssertionError, match=f"right only for inputs of size {size} along axis 2"):
            new(torch.randn(1, 3, size + 1, size + 1))


def test_a_model_that_torch_export_followed_on_an_example_keeps_its_sizes() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 3)

        def forward(self, x: Any) -> Any:
            return self.layer(x) if x.shape[2] > 8 else x

    new = always(Branches(), (None, 3, 9, 9))
    assert new(torch.zeros(5, 3, 9, 9)).shape == (5, 4, 7, 7)
    with pytest.raises(AssertionError, match="right only for inputs of size 9 along axis 2"):
        new(torch.zeros(5, 3, 5, 5))
