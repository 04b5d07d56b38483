"""The oracle against torch in float64, and against definitions written out position by position."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from decascade.algebra.conv import Conv, ConvTranspose
from decascade.errors import CannotInterpret, GraphError, UsageError
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.interpret import evaluate, run
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
    Pad,
    Pool,
    Product,
    Select,
    Slice,
    Upsample,
)
from decascade.ir.ops.activation import KINDS
from decascade.ir.shapes import infer, infer_graph

EPS = np.finfo(np.float64).eps


def array(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def one(op, *arrays: np.ndarray) -> np.ndarray:
    """The single output; its shape must be the inferred one."""
    (result,) = evaluate(op, arrays)
    assert infer(op, [a.shape for a in arrays]) == (result.shape,)
    return result


def close(a: np.ndarray, b: np.ndarray, terms: int, magnitude: float = 1.0) -> None:
    """Equal up to the rounding of sums of `terms` products of this size."""
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= 4 * terms * EPS * max(magnitude, 1.0)


@st.composite
def layers(draw) -> tuple[dict, tuple[int, ...]]:
    """Options of a random (transposed) convolution, and an input size; pads are symmetric (torch knows no others)."""
    rank = draw(st.integers(1, 3))
    per_axis = lambda lo, hi: tuple(draw(st.integers(lo, hi)) for _ in range(rank))  # noqa: E731
    options = {"stride": per_axis(1, 3), "dilation": per_axis(1, 2), "padding": per_axis(0, 2), "kernel": per_axis(1, 3)}
    more = {"groups": draw(st.integers(1, 3)), "rows": draw(st.integers(1, 2)), "bias": draw(st.booleans())}
    return options | more, per_axis(4, 7)


@settings(max_examples=60, deadline=None)
@given(layers(), st.booleans())
def test_layers_are_those_of_torch(drawn, transposed):
    torch = pytest.importorskip("torch")
    options, size = drawn
    groups, rank = options["groups"], len(size)
    shape = (2 * groups, options["rows"]) if transposed else (options["rows"] * groups, 2)
    weight = array((*shape, *options["kernel"]), 1)
    bias = array((options["rows"] * groups,), 2) if options["bias"] else None
    layer = (ConvTranspose if transposed else Conv)(
        weight, bias, options["stride"], options["dilation"], options["padding"], groups
    )
    assume(all(n > 0 for n in layer.output_size(size)))
    x = array((2, 2 * groups, *size))
    function = getattr(torch.nn.functional, f"conv{'_transpose' if transposed else ''}{rank}d")
    keys = {k: options[k] for k in ("stride", "dilation", "padding")} | {"groups": groups}
    expected = function(torch.tensor(x), torch.tensor(weight), None if bias is None else torch.tensor(bias), **keys).numpy()
    terms = int(np.prod(weight.shape)) + 1
    close(one(layer, x), expected, terms, np.abs(weight).max() * np.abs(x).max())


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=3), st.integers(1, 2))
@settings(max_examples=30, deadline=None)
def test_asymmetric_padding_of_a_layer_is_a_pad_before_it(pads, stride):
    rank = len(pads)
    x, weight = array((1, 2, *(5,) * rank)), array((3, 2, *(2,) * rank), 1)
    padded = np.pad(x, [(0, 0), (0, 0), *pads])
    assert np.array_equal(one(Conv(weight, stride=stride, padding=pads), x), one(Conv(weight, stride=stride), padded))


def naive_pool(op: Pool, x: np.ndarray) -> np.ndarray:
    """Position by position, straight from the words of `Pool`."""
    size = infer(op, [x.shape])[0][2:]
    out = np.empty((*x.shape[:2], *size))
    for position in product(*map(range, size)):
        inside, count = [], 0
        for tap in product(*map(range, op.kernel)):
            fields = zip(position, op.stride, tap, op.dilation, op.padding, strict=True)
            at = [p * s + t * d - lo for p, s, t, d, (lo, _) in fields]
            count += 1
            if all(0 <= i < n for i, n in zip(at, x.shape[2:], strict=True)):
                inside.append(x[(..., *at)])
        if op.kind == "max":
            out[(..., *position)] = np.max(inside, axis=0) if inside else -np.inf
        else:
            divisor = count if op.count_padding else max(len(inside), 1)
            out[(..., *position)] = np.sum(inside, axis=0) / divisor if inside else 0
    return out


@st.composite
def pools(draw) -> tuple[Pool, tuple[int, ...]]:
    rank = draw(st.integers(1, 3))
    per_axis = lambda lo, hi: tuple(draw(st.integers(lo, hi)) for _ in range(rank))  # noqa: E731
    pads = tuple(zip(per_axis(-1, 2), per_axis(-1, 2), strict=True))
    kind = draw(st.sampled_from(["avg", "max"]))
    return Pool(kind, per_axis(1, 3), per_axis(1, 3), pads, per_axis(1, 2), draw(st.booleans())), per_axis(3, 6)


@settings(max_examples=80, deadline=None)
@given(pools())
def test_pools_are_what_their_definition_says(drawn):
    op, size = drawn
    x = array((2, 2, *size)) - 3  # all negative mostly: a maximum that reads zeros in the padding is seen
    try:
        infer(op, [x.shape])
    except GraphError:
        assume(False)
    # a negative pad crops: what is cropped is not there for the naive loop either
    cut = tuple(slice(max(-lo, 0), n - max(-hi, 0)) for n, (lo, hi) in zip(size, op.padding, strict=True))
    rest = replace(op, padding=tuple((max(lo, 0), max(hi, 0)) for lo, hi in op.padding))
    ours, expected = one(op, x), naive_pool(rest, x[(..., *cut)])
    assert np.array_equal(np.isinf(ours), np.isinf(expected))
    assert np.allclose(np.where(np.isinf(ours), 0, ours), np.where(np.isinf(expected), 0, expected), rtol=0, atol=1e-13)


@pytest.mark.parametrize("count", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_average_pools_are_those_of_torch(rank, count):
    torch = pytest.importorskip("torch")
    x = array((2, 3, *(7,) * rank))
    op = Pool("avg", (3,) * rank, (2,) * rank, ((1, 1),) * rank, (1,) * rank, count)
    function = getattr(torch.nn.functional, f"avg_pool{rank}d")
    close(one(op, x), function(torch.tensor(x), 3, 2, 1, count_include_pad=count).numpy(), 3**rank)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_max_pools_are_those_of_torch(rank):
    torch = pytest.importorskip("torch")
    x = array((2, 3, *(9,) * rank)) - 5
    op = Pool("max", (3,) * rank, (2,) * rank, ((1, 1),) * rank, (2,) * rank)
    function = getattr(torch.nn.functional, f"max_pool{rank}d")
    assert np.array_equal(one(op, x), function(torch.tensor(x), 3, 2, 1, dilation=2).numpy())


TORCH_NAMES = {
    "relu": ("relu", (), {}),
    "clip": ("hardtanh", (-0.5, 0.75), {"min_val": -0.5, "max_val": 0.75}),
    "leaky_relu": ("leaky_relu", (0.1,), {"negative_slope": 0.1}),
    "elu": ("elu", (0.7,), {"alpha": 0.7}),
    "selu": ("selu", (), {}),
    "sigmoid": ("sigmoid", (), {}),
    "tanh": ("tanh", (), {}),
    "hard_sigmoid": ("hardsigmoid", (1 / 6, 0.5), {}),
    "hard_swish": ("hardswish", (), {}),
    "silu": ("silu", (), {}),
    "gelu": ("gelu", (), {}),
    "gelu_tanh": ("gelu", (), {"approximate": "tanh"}),
    "softplus": ("softplus", (), {}),
    "softsign": ("softsign", (), {}),
    "softmax": ("softmax", (1,), {"dim": 1}),
}
NUMPY_NAMES = {"exp": np.exp, "abs": np.abs, "neg": np.negative, "sqrt": np.sqrt}


@pytest.mark.parametrize("kind", TORCH_NAMES)
def test_activations_are_those_of_torch(kind):
    torch = pytest.importorskip("torch")
    name, params, keys = TORCH_NAMES[kind]
    # torch's softplus turns linear above 20, so stay below
    x = np.concatenate([np.linspace(-19, 19, 77), array((83,)), [0.0, -0.0, 1e-300]]).reshape(1, 163)
    function = getattr(torch.nn.functional, name)
    close(one(Activation(kind, params), x), function(torch.tensor(x), **keys).numpy(), 4, 20)


@pytest.mark.parametrize("kind", NUMPY_NAMES)
def test_activations_that_are_plain_functions(kind):
    x = np.array([[0.25, 0.0, 9.0]])
    assert np.array_equal(one(Activation(kind), x), NUMPY_NAMES[kind](x))


def test_every_activation_kind_is_compared_with_something():
    assert set(KINDS) == {*TORCH_NAMES, *NUMPY_NAMES, "prelu"}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["sigmoid", "silu", "softplus", "softmax", "gelu", "elu", "selu", "tanh"])
def test_activations_neither_overflow_nor_lose_their_tails(kind):
    params = {"softmax": (1,), "elu": (1,)}.get(kind, ())
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        result = one(Activation(kind, params), np.array([[-900.0, -700.0, -30.0, 0.0, 30.0, 900.0]]))
    assert np.all(np.isfinite(result))
    if kind == "sigmoid":
        assert result[0, 1] == pytest.approx(np.exp(-700.0), rel=1e-12)


def test_prelu_has_a_slope_per_channel():
    x = np.array([[[-1.0, 2.0], [-3.0, 4.0]]])
    op = Activation("prelu", slope=np.array([0.5, 2.0], np.float32))
    assert np.array_equal(one(op, x), [[[-0.5, 2.0], [-6.0, 4.0]]])


def test_clip_with_infinite_bounds():
    x = np.array([[-9.0, 9.0]])
    assert np.array_equal(one(Activation("clip", (-np.inf, 6.0)), x), [[-9.0, 6.0]])


X = np.arange(2 * 3 * 2 * 4, dtype=np.float64).reshape(2, 3, 2, 4)


def test_dense_acts_on_the_last_axis():
    weight, bias, x = array((5, 4), 1), array((5,), 2), array((2, 3, 4))
    close(one(Dense(Conv(weight, bias)), x), np.einsum("oi,nci->nco", weight, x) + bias, 5, 20)


def test_affine_acts_on_channels():
    result = one(Affine(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, -1.0])), X)
    assert np.array_equal(result, np.stack([X[:, 0], 2 * X[:, 1] + 1, 3 * X[:, 2] - 1], axis=1))


@pytest.mark.parametrize("keepdims", [True, False])
def test_global_pools(keepdims):
    assert np.array_equal(one(GlobalPool("avg", keepdims), X), X.mean((2, 3), keepdims=keepdims))
    assert np.array_equal(one(GlobalPool("max", keepdims), X), X.max((2, 3), keepdims=keepdims))


def test_flatten_orders():
    assert np.array_equal(one(Flatten(), X), X.reshape(2, 24))
    assert np.array_equal(one(Flatten("channels_last"), X), X.transpose(0, 2, 3, 1).reshape(2, 24))


def test_pad_and_crop_with_a_value_and_channels():
    result = one(Pad(((1, 0), (-1, 2)), value=7.0, channels=(0, 1)), X)
    assert result.shape == (2, 4, 3, 5)
    assert np.array_equal(result[:, :3, 1:, :3], X[:, :, :, 1:])
    result[:, :3, 1:, :3] = 7.0
    assert np.all(result == 7.0)


def test_add_with_signs():
    assert np.array_equal(one(Add(), X, X, X), 3 * X)
    assert np.array_equal(one(Add((-1, 1)), X, 3 * X), 2 * X)
    assert np.array_equal(one(Product(), X, X, X[:, :, :1, :1]), X * X * X[:, :, :1, :1].astype(np.float64))


def test_concat_on_channels_and_on_a_spatial_axis():
    assert np.array_equal(one(Concat(), X, X[:, :1]), np.concatenate([X, X[:, :1]], 1))
    assert np.array_equal(one(Concat(3), X, X[..., :1]), np.concatenate([X, X[..., :1]], 3))


def test_select_slice_upsample_identity_bias_map():
    assert np.array_equal(one(Select(np.array([2, 0, 2])), X), X[:, [2, 0, 2]])
    assert np.array_equal(one(Slice(3, 1, 3), X), X[..., 1:3])
    assert np.array_equal(one(Upsample((2, 3)), X), np.kron(X, np.ones((1, 1, 2, 3))))
    assert one(Identity(), X) is X
    values = array((3, 2, 4)).astype(np.float32)
    assert np.array_equal(one(BiasMap(values), X), X + values.astype(np.float64))


def test_operations_that_only_move_values_keep_integers():
    x = X.astype(np.int64)
    for op in (Identity(), Flatten(), Concat(), Select(np.array([0])), Slice(2, 0, 1), Upsample((1, 2))):
        assert one(op, x).dtype == np.int64
    assert one(Affine(np.ones(3), np.zeros(3)), x).dtype == np.float64


def test_evaluate_refuses_arrays_that_numpy_would_broadcast():
    with pytest.raises(GraphError, match="Add inputs differ in shape"):
        evaluate(Add(), [X, X[:, :1]])
    with pytest.raises(GraphError, match="Affine is made for 1 channels"):
        evaluate(Affine(np.ones(1), np.ones(1)), [X])


def small_graph(middle=Activation("relu")) -> Graph:  # noqa: B008
    """x → conv → a → middle → b → join(a, b) → y, and a dead node nobody reads."""
    nodes = (
        Node("conv", Conv(np.full((3, 3, 1, 1), 0.5, np.float32), np.ones(3, np.float32)), ("x",), ("a",)),
        Node("middle", middle, ("a",), ("b",)),
        Node("dead", Foreign("Mystery"), ("a",), ("unread",)),
        Node("join", Add((1, -1)), ("a", "b"), ("y",)),
    )
    named = {"x": Tensor("x", ("N", 3, "H", "W")), "b": Tensor("b", ("N", 3, "H", "W")), "unread": Tensor("unread", None)}
    return infer_graph(Graph(nodes, ("x",), ("y",), named))


def test_run_gives_the_outputs_and_what_is_kept():
    x = array((2, 3, 2, 4)).astype(np.float32)
    result = run(small_graph(), {"x": x}, keep=["b"])
    a = 0.5 * x.astype(np.float64).sum(1, keepdims=True).repeat(3, 1) + 1
    assert set(result) == {"y", "b"}
    close(result["b"], np.maximum(a, 0), 4, 9)
    close(result["y"], a - np.maximum(a, 0), 4, 9)
    assert result["y"].dtype == np.float64


def test_run_takes_a_tensor_in_the_middle_as_given():
    a = array((1, 3, 2, 2))
    assert np.array_equal(run(small_graph(), {"a": a})["y"], np.minimum(a, 0))


def test_run_interprets_a_foreign_operation_that_says_what_it_means():
    twice = Foreign("Twice", lambda arrays: [2 * arrays[0].astype(np.float32)])
    a = np.ones((1, 3, 1, 1))
    result = run(small_graph(twice), {"a": a}, keep=["b"])
    assert np.array_equal(result["b"], 2 * a)
    assert result["b"].dtype == np.float64


def test_run_names_the_foreign_node_that_has_no_meaning():
    with pytest.raises(CannotInterpret, match=r"^middle: Mystery has no meaning in NumPy"):
        run(small_graph(Foreign("Mystery")), {"x": X})


def test_run_counts_the_results_of_a_foreign_node():
    with pytest.raises(GraphError, match=r"^middle: 2 results for 1 outputs$"):
        run(small_graph(Foreign("Twice", lambda arrays: [arrays[0]] * 2)), {"x": X})


@pytest.mark.parametrize(
    ("inputs", "keep", "words"),
    [
        ({}, (), "input x is missing: give an array for it"),
        ({"z": X}, (), "no tensor z in the graph: its inputs are x"),
        ({"x": X}, ("z",), "no tensor z in the graph to keep"),
        ({"x": X[:, :2]}, (), "input x of shape (2, 2, 2, 4) does not fit its stated shape (N, 3, H, W)"),
        ({"x": X[..., 0]}, (), "input x of shape (2, 3, 2) does not fit its stated shape (N, 3, H, W)"),
    ],
)
def test_run_refuses_wrong_inputs(inputs, keep, words):
    with pytest.raises(UsageError) as error:
        run(small_graph(), inputs, keep=keep)
    assert str(error.value) == words


def test_run_names_the_node_whose_input_does_not_fit():
    graph = small_graph(Pool("max", (3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1)))
    with pytest.raises(GraphError, match=r"^middle: Pool on \(2, 3, 2, 4\) leaves nothing"):
        run(graph, {"x": X})


def test_run_frees_what_is_not_read_again():
    """Peak memory of a long chain stays at a few tensors."""
    import tracemalloc

    length, size = 50, 100_000
    nodes = tuple(Node(f"n{i}", Activation("neg"), (f"t{i}",), (f"t{i + 1}",)) for i in range(length))
    graph = infer_graph(Graph(nodes, ("t0",), (f"t{length}",), {"t0": Tensor("t0", (1, size))}))
    x = array((1, size))
    tracemalloc.start()
    try:
        run(graph, {"t0": x})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * x.nbytes
