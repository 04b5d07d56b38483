"""The lowered graph against the interpreter, in float64 to rounding: every operation, random cascades, published models."""

from __future__ import annotations

import copy
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cascades import cascades, random_cascade, random_input
from decascade.algebra.conv import Conv, ConvTranspose
from decascade.errors import CannotInterpret, GraphError, UsageError
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
from decascade.ir.ops.activation import KINDS
from decascade.ir.shapes import infer, infer_graph
from drawn import convs, least_size

torch = pytest.importorskip("torch")
lowered = import_module("decascade.compression.torch_graph.graph")
Lowered = lowered.Lowered
MODELS = Path(__file__).resolve().parents[2].parent / "shared" / "models"
EPS = np.finfo(np.float64).eps


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def same(found, expected: np.ndarray, terms: int = 1) -> None:
    """Equal but for the rounding of sums of `terms` products; infinities in the same places."""
    found = found.detach().double().numpy()
    assert found.shape == expected.shape
    finite = np.isfinite(expected)
    assert np.array_equal(finite, np.isfinite(found))
    if finite.any():
        magnitude = max(1.0, float(np.abs(expected[finite]).max()))
        assert np.abs(found[finite] - expected[finite]).max() <= 16 * terms * EPS * magnitude


def one(op: Op, *shapes: tuple[int, ...]) -> Graph:
    """A graph of this operation alone, from x0, x1, … to y."""
    names = tuple(f"x{i}" for i in range(len(shapes)))
    tensors = {name: Tensor(name, ("N", *shape[1:])) for name, shape in zip(names, shapes, strict=True)}
    return infer_graph(Graph((Node("it", op, names, ("y",)),), names, ("y",), tensors))


def compare(op: Op, *arrays: np.ndarray, terms: int = 1) -> None:
    graph = one(op, *(a.shape for a in arrays))
    given = {f"x{i}": a for i, a in enumerate(arrays)}
    expected = run(graph, given)["y"]
    for layout in (False, True):
        found = Lowered(graph, "float64", layout).run({n: torch.tensor(a) for n, a in given.items()}, ("y",))
        same(found["y"], expected, terms)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_convolutions(data):
    rank, channels = data.draw(st.integers(0, 3)), data.draw(st.integers(1, 4))
    layer = data.draw(convs(rank, channels, least_pad=-2))
    size = [least_size([layer], axis) + data.draw(st.integers(0, 4)) for axis in range(rank)]
    # what the padding crops must be there
    assume(all(n + min(lo, 0) + min(hi, 0) > 0 for n, (lo, hi) in zip(size, layer.padding, strict=True)))
    compare(layer, normal(2, channels, *size), terms=layer.weight[0].size + 1)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_transposed_convolutions(data):
    rank, groups = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    per_axis = lambda lo, hi: [data.draw(st.integers(lo, hi)) for _ in range(rank)]  # noqa: E731
    weight = normal(2 * groups, data.draw(st.integers(1, 2)), *per_axis(1, 3))
    bias = normal(groups * weight.shape[1], seed=1) if data.draw(st.booleans()) else None
    padding = list(zip(per_axis(-2, 2), per_axis(-2, 2), strict=True))
    layer = ConvTranspose(weight, bias, per_axis(1, 3), per_axis(1, 2), padding, groups)
    size = per_axis(2, 4)
    assume(all(n > 0 for n in layer.output_size(size)))
    compare(layer, normal(2, 2 * groups, *size), terms=weight.size + 1)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_pools(data):
    rank = data.draw(st.integers(1, 3))
    per_axis = lambda lo, hi: tuple(data.draw(st.integers(lo, hi)) for _ in range(rank))  # noqa: E731
    pads = tuple(zip(per_axis(-1, 2), per_axis(-1, 2), strict=True))
    dilation = per_axis(1, 2) if data.draw(st.booleans()) else (1,) * rank
    kind, count = data.draw(st.sampled_from(["avg", "max"])), data.draw(st.booleans())
    op = Pool(kind, per_axis(1, 3), per_axis(1, 3), pads, dilation, count)
    shape = (2, 2, *per_axis(3, 6))
    try:
        infer(op, [shape])
    except GraphError:
        assume(False)
    compare(op, normal(*shape) - 3, terms=27)


ACTIVATIONS = {"clip": (-0.5, 0.75), "leaky_relu": (0.1,), "elu": (0.7,), "hard_sigmoid": (0.2, 0.4), "softmax": (1,)}


@pytest.mark.parametrize("kind", KINDS)
def test_activations(kind):
    x = np.concatenate([np.linspace(-60, 60, 90), normal(30), [0.0, -0.0, 1e-300]]).reshape(1, 3, 41)
    slope = np.array([0.5, -2.0, 0.0]) if kind == "prelu" else None
    op = Activation(kind, ACTIVATIONS.get(kind, ()), slope)
    compare(op, np.abs(x) if kind == "sqrt" else np.minimum(x, 20) if kind == "exp" else x, terms=4)


def test_clip_with_one_end():
    compare(Activation("clip", (-np.inf, 0.5)), normal(2, 3))


X = normal(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("op", "arrays"),
    [
        (Dense(Conv(normal(6, 5, seed=1), normal(6, seed=2))), (X,)),
        (Dense(Conv(normal(4, 2, seed=1), normal(4, seed=2), groups=2)), (normal(2, 3, 4),)),
        (Affine(normal(3, seed=1), normal(3, seed=2)), (X,)),
        (BiasMap(normal(3, 4, 5, seed=1)), (X,)),
        (GlobalPool("avg"), (X,)),
        (GlobalPool("max", keepdims=False), (X,)),
        (GlobalPool("avg"), (X[..., 0, 0],)),
        (Flatten(), (X,)),
        (Flatten("channels_last"), (X,)),
        (Pad(((1, 0), (-1, 2)), 7.0), (X,)),
        (Pad(((0, 0), (0, 1)), 0.5, (2, 1)), (X,)),
        (Add(), (X, X + 1, X - 2)),
        (Add((-1, 1)), (X, 2 * X)),
        (Add((1, -1)), (X, 2 * X)),
        (Product(), (X, X - 1)),
        (Product(), (X, X[:, :, :1, :1], X[:, :1])),
        (Concat(), (X, X[:, :1])),
        (Concat(3), (X, X[..., :2])),
        (Select(np.array([2, 0, 0, 1])), (X,)),
        (Slice(3, 1, 4), (X,)),
        (Upsample((2, 3)), (X,)),
        (Identity(), (X,)),
        (Foreign("Sum of squares", lambda arrays: [np.sum(np.square(arrays[0]), 1)]), (X,)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_operations(op, arrays):
    compare(op, *arrays, terms=60)


def test_integers_that_are_only_moved_stay_integers_and_are_computed_with_as_numbers():
    tensors = {"x": Tensor("x", ("N", 2), "uint8")}
    twice = Affine(np.full(1, 2.0), np.ones(1))
    nodes = (Node("pick", Select(np.array([1])), ("x",), ("a",)), Node("twice", twice, ("a",), ("y",)))
    graph = infer_graph(Graph(nodes, ("x",), ("y",), tensors))
    found = Lowered(graph).run({"x": torch.tensor([[1, 200]], dtype=torch.uint8)}, ("a", "y"))
    assert found["a"].dtype == torch.uint8
    assert found["y"].dtype == torch.float32
    assert found["y"].item() == 401
    # where the model says float, integers are numbers from the start
    stated = infer_graph(Graph(nodes, ("x",), ("y",), {"x": Tensor("x", ("N", 2))}))
    assert Lowered(stated).run({"x": torch.tensor([[1, 200]], dtype=torch.uint8)}, ("a",))["a"].dtype == torch.float32


@settings(max_examples=40, deadline=None)
@given(cascades(), st.booleans())
def test_random_cascades(graph, layout):
    given_ = random_input(graph, np.random.default_rng(0))
    kept = [node.output for node in graph.nodes]
    expected = run(graph, given_, kept)
    found = Lowered(graph, "float64", layout).run({n: torch.tensor(a) for n, a in given_.items()}, kept)
    for name, value in found.items():
        same(value, expected[name], 600 * len(kept))


ONNX = ("layerfolding_resnet20", "FastestDet", "st_mobilenet_v2_0.35_128", "espcn_subpixel")
KERAS = ("mlperf_tiny_resnet8_cifar10", "mlperf_tiny_vww_mobilenetv1_96", "mlperf_tiny_streaming_wakeword")


@pytest.mark.parametrize("name", ONNX)
def test_published_onnx_models(name):
    pytest.importorskip("onnxruntime")
    _published(MODELS / f"{name}.onnx", "decascade.formats.onnx.format")


@pytest.mark.parametrize("name", KERAS)
def test_published_keras_models(name):
    pytest.importorskip("keras")
    _published(MODELS / f"{name}.h5", "decascade.formats.keras.format")


def _published(path: Path, module: str) -> None:
    if not path.exists():
        pytest.skip(f"{path.name} is not there")
    graph = import_module(module).FORMAT.read(path).graph
    rng = np.random.default_rng(0)
    given_ = {n: rng.random([d if isinstance(d, int) else 1 for d in graph.shape(n)]).astype(np.float32) for n in graph.inputs}
    expected = run(graph, given_)
    tensors = {n: torch.tensor(a) for n, a in given_.items()}
    found = Lowered(graph, "float64").run(tensors, graph.outputs)
    for name, value in found.items():
        # hundreds of layers' worth of sums of up to ten thousand terms
        same(value, expected[name], 10**5)
    single = Lowered(graph, channels_last=True).module(*(tensors[n] for n in graph.inputs))
    for value, name in zip(single if isinstance(single, tuple) else (single,), graph.outputs, strict=True):
        scale = np.abs(expected[name]).max()
        assert np.abs(value.detach().numpy() - expected[name]).max() <= 1e-4 * scale


def chain(middle: Op, **more) -> Graph:
    """x → first → a → middle → b → last → y."""
    nodes = (
        Node("first.conv", Conv(normal(3, 2, 3), normal(3, seed=1), padding=1), ("x",), ("a",)),
        Node("middle", middle, ("a",), ("b",), **more),
        Node("last", Conv(normal(1, 3, 1, seed=2)), ("b",), ("y",)),
    )
    return infer_graph(Graph(nodes, ("x",), ("y",), {"x": Tensor("x", ("N", 2, 6)), "b": Tensor("b", ("N", 3, 6))}))


def x_of(graph: Graph):
    return {n: torch.tensor(a) for n, a in random_input(graph, np.random.default_rng(3)).items()}


def test_a_part_runs_from_a_tensor_in_the_middle():
    module = Lowered(chain(Activation("relu")), "float64")
    whole = module.run(x_of(module.graph), ("b", "y"))
    assert torch.equal(module.run({"b": whole["b"]}, ("y",))["y"], whole["y"])
    # only what is wanted is run: nothing in the way of a meaningless operation
    blind = Lowered(chain(Foreign("Mystery")), "float64")
    assert blind.run(x_of(blind.graph), ("a",))["a"].shape == (2, 3, 6)
    assert torch.equal(blind.run({"b": whole["b"]}, ("y",))["y"], whole["y"])


def test_tensors_are_let_go_after_their_last_use():
    """At most three of a chain's tensors live at a time."""
    import weakref

    length, alive, most = 12, weakref.WeakSet(), [0]

    def seen(arrays):
        most[0] = max(most[0], len(alive))
        return [arrays[0]]

    nodes = [Node(f"n{i}", Foreign("Watch", seen), (f"t{i}",), (f"t{i + 1}",)) for i in range(length)]
    tensors = {f"t{i}": Tensor(f"t{i}", ("N", 1)) for i in range(length + 1)}
    module = Lowered(Graph(tuple(nodes), ("t0",), (f"t{length}",), tensors))
    for name, step in list(module._steps.items()):

        def watched(*xs, function=step.function):
            results = function(*xs)
            alive.update(results)
            return results

        module._steps[name] = type(step)(watched, several=True)
    module.module.bind(module.graph, module._steps, module.names)
    module.run({"t0": torch.ones(1, 1)}, (f"t{length}",))
    assert 1 <= most[0] <= 2


@pytest.mark.parametrize(
    ("given_", "wanted", "words"),
    [
        (("x",), "z", "no tensor z in the graph: its inputs are x"),
        (("z",), "y", "no tensor z in the graph: its inputs are x"),
        ((), "y", "input x is missing: give an array for it"),
    ],
)
def test_wrong_names(given_, wanted, words):
    module = Lowered(chain(Activation("relu")))
    with pytest.raises(UsageError) as error:
        module.run({name: torch.ones(2, 2, 6) for name in given_}, (wanted,))
    assert str(error.value) == words


@pytest.mark.parametrize(
    ("op", "shape", "words"),
    [
        (
            Conv(np.ones((1,) * 6)), (1,) * 6,
            "a layer over 4 spatial axes cannot be trained: PyTorch has convolutions over 1 to 3 axes",
        ),
        (
            Pool("max", (1,) * 4, (1,) * 4, ((0, 0),) * 4, (1,) * 4), (1,) * 6,
            "a pool over 4 spatial axes cannot be trained: PyTorch has pools over 1 to 3 axes",
        ),
        (
            ConvTranspose(np.ones((1, 1))), (1, 1),
            "a transposed convolution over no axes cannot be trained: make it a dense layer",
        ),
    ],
    ids=["conv", "pool", "transposed"],
)
def test_operations_that_torch_has_not(op, shape, words):
    with pytest.raises(UsageError) as error:
        Lowered(one(op, shape))
    assert str(error.value) == f"it: {words}"


def test_foreign_operations_without_a_meaning():
    blind = Lowered(chain(Foreign("Mystery")))
    with pytest.raises(CannotInterpret) as error:
        blind.run(x_of(blind.graph), ("y",))
    assert str(error.value) == (
        "middle: Mystery has no meaning in NumPy: what depends on it can neither be run nor trained here"
    )
    double = Lowered(chain(Foreign("Double", lambda arrays: [arrays[0]] * 2)))
    with pytest.raises(GraphError, match=r"^middle: 2 results for 1 outputs$"):
        double.run(x_of(double.graph), ("y",))


def test_torch_that_is_missing(monkeypatch):
    ops = import_module("decascade.compression.torch_graph.ops")

    def missing(name):
        raise ImportError("no module named torch")

    ops.load_torch.cache_clear()
    monkeypatch.setattr("decascade.frameworks.import_module", missing)
    try:
        with pytest.raises(UsageError) as error:
            Lowered(chain(Activation("relu")))
        assert str(error.value) == (
            'training needs PyTorch, which cannot be imported (no module named torch): pip install "decascade[torch]"')
    finally:
        ops.load_torch.cache_clear()


def test_gradients_are_those_of_differences():
    module = Lowered(chain(Activation("tanh")), "float64")
    x = x_of(module.graph)
    module.run(x, ("y",))["y"].square().sum().backward()
    weight = module.weights["first.conv"]["weight"]
    at, step = (1, 0, 2), 1e-6
    slopes = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[at] += sign * step
            slopes.append(module.run(x, ("y",))["y"].square().sum().item())
            weight[at] -= sign * step
    assert weight.grad[at].item() == pytest.approx((slopes[0] - slopes[1]) / (2 * step), rel=1e-6)


def test_what_a_gradient_passes():
    graph = chain(Activation("relu"))
    assert Lowered(graph).differentiable("x", "y")
    assert not Lowered(graph).differentiable("y", "x")
    blind = Lowered(chain(Foreign("Mystery")))
    assert blind.computable("a")
    assert not blind.computable("y")
    assert Lowered(graph).computable("y")
    blocked = Lowered(chain(Foreign("Round", lambda arrays: [np.round(arrays[0])])))
    assert not blocked.differentiable("x", "y")
    assert blocked.differentiable("x", "a")
    assert blocked.differentiable("b", "y")
    out = blocked.run(x_of(blocked.graph), ("y",))["y"]
    out.sum().backward()
    assert blocked.weights["first.conv"]["weight"].grad is None
    assert blocked.weights["last"]["weight"].grad is not None


def test_unchanged_weights_give_the_identical_operations():
    graph = random_cascade(np.random.default_rng(5))
    for dtype in ("float32", "float64"):
        assert Lowered(graph, dtype).to_graph() is graph
    # weights that float32 cannot hold come back as they were too, as nothing has trained them
    exact = chain(Activation("prelu", slope=np.array([0.1, 0.2, 0.3])))
    assert Lowered(exact, "float32", True).to_graph() is exact


def test_changed_weights_give_new_operations():
    graph = chain(Activation("prelu", slope=np.array([0.1, 0.2, 0.3])))
    module = Lowered(graph, "float32", channels_last=True)
    with torch.no_grad():
        module.weights["first.conv"]["weight"].mul_(2)
        module.weights["middle"]["slope"].add_(1)
    new = module.to_graph()
    first, middle, last = (node.op for node in new.nodes)
    assert last is graph.nodes[2].op
    assert first.bias is graph.nodes[0].op.bias
    assert np.array_equal(first.weight, 2 * graph.nodes[0].op.weight.astype(np.float32))
    assert np.array_equal(middle.slope, np.float64(np.array([0.1, 0.2, 0.3], np.float32) + np.float32(1)))
    assert first.weight.dtype == np.float64
    x = x_of(graph)
    same(Lowered(new, "float64").run(x, ("y",))["y"], run(new, {"x": x["x"].numpy()})["y"], 20)


ONES = (
    Affine(np.ones(3), np.ones(3)), BiasMap(np.ones((3, 6))), Dense(Conv(np.ones((6, 6)), np.ones(6))),
    ConvTranspose(np.ones((3, 3, 1))),
)


@pytest.mark.parametrize("op", ONES, ids=lambda op: type(op).__name__)
def test_every_kind_of_weights_comes_back(op):
    module = Lowered(chain(op))
    with torch.no_grad():
        for parameter in module.weights["middle"].values():
            parameter.add_(0.5)
    found = module.to_graph().nodes[1].op
    assert type(found) is type(op)
    layer = found.layer if isinstance(found, Dense) else found
    for field in module.weights["middle"]:
        assert np.all(getattr(layer, field) == 1.5)


def test_a_layer_that_is_called_twice_has_one_set_of_weights():
    layer = Conv(normal(2, 2, 1))
    nodes = (Node("a", layer, ("x",), ("u",)), Node("b", layer, ("u",), ("y",)))
    module = Lowered(infer_graph(Graph(nodes, ("x",), ("y",), {"x": Tensor("x", ("N", 2, 4))})), "float64")
    assert len(list(module.module.parameters())) == 1
    with torch.no_grad():
        module.weights["b"]["weight"].mul_(3)
    first, second = (node.op for node in module.to_graph().nodes)
    assert first is second
    assert np.array_equal(first.weight, 3 * layer.weight)


def test_calls_of_one_layer_are_told_by_their_memory():
    """Two calls of a user's layer, read one by one, hold views of the same weights; new layers that do are two layers."""
    weight, bias = normal(2, 2, 1), normal(2, seed=1)
    for origin, sets in (("mine",), 1), ((), 2):
        calls = Conv(weight[:], bias[:]), Conv(weight[:], bias[:], 2)
        nodes = (Node("a", calls[0], ("x",), ("u",), origin), Node("b", calls[1], ("u",), ("y",), origin))
        module = Lowered(infer_graph(Graph(nodes, ("x",), ("y",), {"x": Tensor("x", ("N", 2, 4))})), "float64")
        assert len(list(module.module.parameters())) == 2 * sets
        with torch.no_grad():
            module.weights["a"]["weight"].mul_(3)
        first, second = (node.op for node in module.to_graph().nodes)
        assert np.array_equal(first.weight, 3 * weight)
        assert (second.weight is first.weight) == (sets == 1)
        assert second.stride == (2,)


def test_a_pinned_node_is_not_trained():
    module = Lowered(chain(Affine(np.ones(3), np.zeros(3)), pinned="it has hooks"))
    assert not module.weights["middle"]["scale"].requires_grad
    assert module.weights["last"]["weight"].requires_grad


def test_a_copy_of_the_module_has_weights_of_its_own():
    module = Lowered(chain(Select(np.array([2, 1, 0])))).module
    (x,) = x_of(chain(Identity())).values()
    other = copy.deepcopy(module)
    before = module(x)
    assert torch.equal(other(x), before)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(module(x), before)
    assert not other(x).any()
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(x), before)


def test_weights_of_another_graph_can_be_taken():
    module = Lowered(chain(Activation("relu")), "float64")
    with torch.no_grad():
        module.weights["last"]["weight"].mul_(2)
    other = Lowered(chain(Activation("relu")), "float64")
    other.load_graph(module.to_graph())
    assert torch.equal(other.weights["last"]["weight"], module.weights["last"]["weight"])
    wider = Lowered(chain(Affine(np.ones(3), np.ones(3))))
    with pytest.raises(UsageError, match=r"^middle: no scale of shape \(3,\) in the graph that was given$"):
        wider.load_graph(module.graph)


def test_autocast_keeps_what_it_computed():
    module = Lowered(chain(Activation("relu")), channels_last=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = module.run(x_of(module.graph), ("b", "y"))
        assert found["b"].dtype == torch.bfloat16
        assert module.run({"b": found["b"]}, ("y",))["y"].dtype == torch.bfloat16
    assert module.run({"b": found["b"]}, ("y",))["y"].dtype == torch.float32


class TestPairs:
    """A grouped layer and the 1×1 layer behind it, run as one."""

    @staticmethod
    def pair(groups: int, each: int, times: int, biases: tuple[bool, bool], wanted: bool) -> tuple[Graph, np.ndarray]:
        width, inner = groups * each, groups * times
        first = Conv(
            normal(inner, each, 3, 3), normal(inner, seed=1) if biases[0] else None,
            stride=(2, 1), padding=((1, 1), (0, 1)), groups=groups,
        )
        second = Conv(normal(5, inner, 1, 1, seed=2), normal(5, seed=3) if biases[1] else None)
        nodes = (Node("first", first, ("x",), ("y",)), Node("second", second, ("y",), ("z",)))
        graph = Graph(nodes, ("x",), ("y", "z") if wanted else ("z",), {"x": Tensor("x", ("N", width, 7, 6))})
        return infer_graph(graph), normal(2, width, 7, 6, seed=4)

    @pytest.mark.parametrize("wanted", [False, True])
    @pytest.mark.parametrize("biases", [(a, b) for a in (False, True) for b in (False, True)])
    @pytest.mark.parametrize(("groups", "each", "times"), [(4, 1, 3), (3, 2, 2)])
    def test_they_give_what_both_layers_give(self, groups, each, times, biases, wanted):
        graph, x = self.pair(groups, each, times, biases, wanted)
        assert bool(lowered.pairs(graph.nodes, graph.outputs)) is not wanted
        made = Lowered(graph, "float64")
        found = made.run({"x": torch.tensor(x)}, graph.outputs)
        for name, value in run(graph, {"x": x}).items():
            same(found[name], value, 9 * groups * each * times)

    def test_gradients_reach_the_weights_of_both(self):
        graph, x = self.pair(4, 1, 3, (True, True), False)
        grads = list[list[np.ndarray]]()
        for wanted in (("z",), ("y", "z")):
            made = Lowered(graph, "float64")
            made.run({"x": torch.tensor(x)}, wanted)["z"].square().sum().backward()
            grads.append([p.grad.numpy() for p in made.module.parameters()])
        assert len(grads[0]) == 4
        for joint, apart in zip(*grads, strict=True):
            np.testing.assert_allclose(joint, apart, rtol=1e-10, atol=1e-9)
