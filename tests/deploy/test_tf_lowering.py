"""Every operation as TFLite against the interpreter: the converter's file, run in LiteRT's reference kernels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install decascade[device]")
pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install decascade[device]")

from cascades import Options, random_cascade, random_input
from decascade.algebra.conv import Conv, ConvTranspose
from decascade.checking.rounding import run_rounded
from decascade.deploy.tflite.convert import to_float
from decascade.deploy.tflite.deployed import deployed
from decascade.deploy.tflite.graph import trace_graph, with_channels_last_flattens
from decascade.errors import UsageError
from decascade.ir.graph import Graph, Node
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
from deploy.small import graph_of, net, one


def agrees(graph: Graph, rng: np.random.Generator, batch: int = 2, pixels: bool = False) -> list[str]:
    """The kinds of operations in the file, which computes what the graph says up to float32 rounding."""
    inputs = random_input(graph, rng, batch)
    subject = deployed(graph, to_float(trace_graph(graph, pixels=pixels)), reference=True)
    found = subject.framework(inputs)
    expected = run_rounded(graph, inputs, rng)
    for name in graph.outputs:
        gap = np.abs(found[name] - expected.outputs[name]).max()
        assert found[name].shape == expected.outputs[name].shape
        # the converter may write an operation as a few of its own: twice what rounding each operation once explains
        assert gap <= 2 * expected.computed[name] + 1e-7, (name, gap)
    return subject.document.native.operations


def weight(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


W = weight(np.random.default_rng(7), 600)
CONVS: dict[str, tuple[Op, tuple[int, ...], str]] = {
    "valid": (Conv(W[:54].reshape(2, 3, 3, 3), W[:2]), (3, 7, 8), "CONV_2D"),
    "same": (Conv(W[:54].reshape(2, 3, 3, 3), W[:2], 1, 1, 1), (3, 7, 8), "CONV_2D"),
    "same, stride 2, even": (Conv(W[:54].reshape(2, 3, 3, 3), None, 2, 1, [(0, 1), (0, 1)]), (3, 8, 8), "CONV_2D"),
    "stride 2 in the way of torch": (Conv(W[:54].reshape(2, 3, 3, 3), W[:2], 2, 1, 1), (3, 8, 8), "PAD"),
    "asymmetric": (Conv(W[:36].reshape(2, 3, 2, 3), W[:2], 1, 1, [(2, 0), (0, 1)]), (3, 6, 7), "PAD"),
    "crop": (Conv(W[:6].reshape(2, 3, 1, 1), W[:2], 1, 1, [(-1, 0), (0, -2)]), (3, 6, 7), "CONV_2D"),
    "dilated": (Conv(W[:54].reshape(2, 3, 3, 3), W[:2], 1, 2, 2), (3, 9, 9), "CONV_2D"),
    "grouped": (Conv(W[:72].reshape(4, 2, 3, 3), W[:4], 1, 1, 1, 2), (4, 6, 6), "CONV_2D"),
    "depthwise": (Conv(W[:36].reshape(4, 1, 3, 3), W[:4], 1, 1, 1, 4), (4, 6, 6), "DEPTHWISE_CONV_2D"),
    "depthwise, multiplier": (Conv(W[:72].reshape(8, 1, 3, 3), W[:8], 2, 1, 1, 4), (4, 7, 7), "DEPTHWISE_CONV_2D"),
    "depthwise, uneven stride": (Conv(W[:12].reshape(4, 1, 3, 1), W[:4], [2, 1], 1, 0, 4), (4, 9, 3), "DEPTHWISE_CONV_2D"),
    "one axis": (Conv(W[:18].reshape(2, 3, 3), W[:2], 2, 1, 1), (3, 9), "CONV_2D"),
    "three axes": (Conv(W[:144].reshape(2, 3, 2, 3, 4), W[:2], 1, 1, 1), (3, 4, 5, 6), "CONV_3D"),
    "transposed": (ConvTranspose(W[:54].reshape(3, 2, 3, 3), W[:2], 2), (3, 4, 5), "TRANSPOSE_CONV"),
    "transposed, same": (ConvTranspose(W[:96].reshape(3, 2, 4, 4), W[:2], 2, 1, 1), (3, 4, 5), "TRANSPOSE_CONV"),
    "transposed, extended": (ConvTranspose(W[:54].reshape(3, 2, 3, 3), W[:2], 2, 1, [(1, 0), (1, -1)]), (3, 4, 5), "PAD"),
    "transposed, dilated": (ConvTranspose(W[:54].reshape(3, 2, 3, 3), W[:2], 1, 2), (3, 4, 5), "TRANSPOSE_CONV"),
    "transposed, grouped": (ConvTranspose(W[:72].reshape(4, 2, 3, 3), W[:4], 2, 1, 0, 2), (4, 4, 5), "SPLIT"),
    "transposed, one axis": (ConvTranspose(W[:18].reshape(3, 2, 3), W[:2], 2), (3, 5), "TRANSPOSE_CONV"),
    "dense": (Dense(Conv(W[:15].reshape(5, 3), W[:5])), (3,), "FULLY_CONNECTED"),
    "dense, grouped": (Dense(Conv(W[:12].reshape(6, 2), W[:6], groups=2)), (4,), "FULLY_CONNECTED"),
    "dense on a map": (Dense(Conv(W[:15].reshape(5, 3), W[:5])), (2, 4, 3), "FULLY_CONNECTED"),
}


@pytest.mark.parametrize("case", CONVS)
def test_convolutions(case: str, rng: np.random.Generator) -> None:
    op, shape, kind = CONVS[case]
    assert kind in agrees(one(op, shape), rng)


def test_odd_positions_that_no_window_reaches_need_no_padding(rng: np.random.Generator) -> None:
    """Padding 1 on both sides of 8 samples under stride 2 is padding before them alone; of 7 it is SAME."""
    conv = Conv(weight(rng, 2, 3, 3, 3), None, 2, 1, 1)
    assert "PAD" in agrees(one(conv, (3, 8, 8)), rng)
    assert "PAD" not in agrees(one(conv, (3, 7, 7)), rng)


AVERAGE = {"kernel": (3, 3), "stride": (2, 2), "dilation": (1, 1)}
POOLS: dict[str, tuple[Op, tuple[int, ...], str]] = {
    "max": (Pool("max", (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), (3, 6, 6), "MAX_POOL_2D"),
    "max, same": (Pool("max", (3, 3), (2, 2), ((0, 1), (0, 1)), (1, 1)), (3, 6, 6), "MAX_POOL_2D"),
    "max, mirrored": (Pool("max", (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)), (3, 6, 6), "MIRROR_PAD"),
    "max, wide": (Pool("max", (3, 3), (1, 1), ((2, 2), (2, 2)), (1, 1)), (3, 6, 6), "MAXIMUM"),
    "max, dilated": (Pool("max", (2, 2), (1, 1), ((1, 1), (0, 1)), (2, 2)), (3, 6, 6), "MAXIMUM"),
    "max, one axis": (Pool("max", (2,), (2,), ((0, 0),), (1,)), (3, 7), "MAX_POOL_2D"),
    "average": (Pool("avg", **AVERAGE, padding=((0, 0), (0, 0))), (3, 7, 7), "AVERAGE_POOL_2D"),
    "average, same": (Pool("avg", **AVERAGE, padding=((1, 1), (1, 1))), (3, 7, 7), "AVERAGE_POOL_2D"),
    "average, padding counts": (Pool("avg", **AVERAGE, padding=((1, 1), (1, 1)), count_padding=True), (3, 7, 7), "PAD"),
    "average, uneven": (Pool("avg", **AVERAGE, padding=((1, 0), (0, 1))), (3, 7, 7), "MUL"),
    "average, three axes": (Pool("avg", (2, 2, 2), (1, 1, 2), ((0, 1), (0, 0), (0, 0)), (1, 1, 1)), (2, 4, 4, 4), "ADD"),
    "global average": (GlobalPool("avg"), (3, 5, 6), "MEAN"),
    "global maximum": (GlobalPool("max", keepdims=False), (3, 5, 6), "REDUCE_MAX"),
}


@pytest.mark.parametrize("case", POOLS)
def test_pools(case: str, rng: np.random.Generator) -> None:
    op, shape, kind = POOLS[case]
    assert kind in agrees(one(op, shape), rng)


MOVES: dict[str, tuple[Op, tuple[int, ...]]] = {
    "identity": (Identity(), (3, 4, 5)),
    "affine": (Affine(W[:3], W[3:6]), (3, 4, 5)),
    "shift": (Affine(np.ones(3), W[3:6]), (3,)),
    "map": (BiasMap(W[:60].reshape(3, 4, 5)), (3, 4, 5)),
    "flatten": (Flatten(), (3, 4, 5)),
    "flatten, channels last": (Flatten("channels_last"), (3, 4, 5)),
    "pad": (Pad(((1, 0), (0, 2)), 0.5, (0, 1)), (3, 4, 5)),
    "pad and crop": (Pad(((-1, 2), (0, -2))), (3, 4, 5)),
    "concat": (Concat(1), (3, 4, 5)),
    "concat along an axis": (Concat(3), (3, 4, 5)),
    "add": (Add((1, -1, 1)), (3, 4, 5)),
    "subtract first": (Add((-1, 1)), (3, 4, 5)),
    "product": (Product(), (3, 4, 5)),
    "slice of channels": (Select(np.arange(1, 3)), (3, 4, 5)),
    "shuffle": (Select(np.array([0, 2, 1, 1])), (3, 4, 5)),
    "slice": (Slice(3, 1, 4), (3, 4, 5)),
    "upsample": (Upsample((2, 3)), (3, 4, 5)),
    "upsample, one axis": (Upsample((3,)), (3, 4)),
}


@pytest.mark.parametrize("case", MOVES)
def test_moves_and_sums(case: str, rng: np.random.Generator) -> None:
    op, shape = MOVES[case]
    inputs = len(op.signs) if isinstance(op, Add) else 2 if isinstance(op, Concat | Product) else 1
    agrees(one(op, shape, inputs), rng)


NUMBERS = {"clip": (-0.5, 0.75), "leaky_relu": (0.1,), "elu": (0.7,), "hard_sigmoid": (0.2, 0.5), "softmax": (1,)}
NATIVE = {
    "relu": "RELU", "leaky_relu": "LEAKY_RELU", "prelu": "PRELU", "sigmoid": "LOGISTIC", "tanh": "TANH", "softmax": "SOFTMAX",
    "hard_swish": "HARD_SWISH", "gelu": "GELU",
}


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "sqrt"])
def test_activations(kind: str, rng: np.random.Generator) -> None:
    op = Activation(kind, NUMBERS.get(kind, ()), W[:3] if kind == "prelu" else None)
    operations = agrees(one(op, (3, 4, 5)), rng)
    assert NATIVE.get(kind, operations[0]) in operations


@pytest.mark.parametrize(("bounds", "kind"), [((0.0, 6.0), "RELU6"), ((0.0, np.inf), "RELU"), ((-1.0, np.inf), "MAXIMUM")])
def test_clips_that_have_a_name(bounds: tuple[float, float], kind: str, rng: np.random.Generator) -> None:
    assert kind in agrees(one(Activation("clip", bounds), (3, 4, 5)), rng)


def test_square_root(rng: np.random.Generator) -> None:
    """Of what is not negative: behind an absolute value."""
    nodes = [Node("a", Activation("abs"), ("x",), ("t",)), Node("s", Activation("sqrt"), ("t",), ("y",))]
    graph = graph_of(nodes, ("N", 3, 4))
    found = deployed(graph, to_float(trace_graph(graph)), reference=True).framework(random_input(graph, rng))
    assert np.isfinite(found["y"]).all()


def test_whole_network_is_one_operation_a_layer(rng: np.random.Generator) -> None:
    assert agrees(net(rng), rng) == ["CONV_2D", "CONV_2D", "ADD", "MEAN", "FULLY_CONNECTED"]


@pytest.mark.parametrize("seed", range(8))
def test_random_cascades(seed: int) -> None:
    rng = np.random.default_rng(seed)
    agrees(random_cascade(rng, Options(ranks=(2, 1), groups=seed % 2 == 0)), rng)


def test_flatten_before_a_dense_layer_moves_its_columns(rng: np.random.Generator) -> None:
    nodes = [Node("f", Flatten(), ("x",), ("t",)), Node("d", Dense(Conv(weight(rng, 5, 24), None)), ("t",), ("y",))]
    graph = graph_of(nodes, ("N", 2, 3, 4))
    moved = with_channels_last_flattens(graph)
    inputs = random_input(graph, rng)
    np.testing.assert_allclose(run(graph, inputs)["y"], run(moved, inputs)["y"], rtol=1e-12, atol=1e-12)
    assert "TRANSPOSE" not in agrees(graph, rng)


def test_flatten_that_is_an_output_stays(rng: np.random.Generator) -> None:
    nodes = [Node("f", Flatten(), ("x",), ("t",)), Node("d", Dense(Conv(weight(rng, 5, 24), None)), ("t",), ("y",))]
    graph = graph_of(nodes, ("N", 2, 3, 4))
    both = Graph(graph.nodes, graph.inputs, ("t", "y"), graph.tensors)
    assert with_channels_last_flattens(both) is both
    agrees(both, rng)


REFUSALS: Sequence[tuple[Op, tuple[int | str, ...], str]] = [
    (Foreign("Einsum"), ("N", 3, 4), "op: Einsum is not understood, so it cannot be exported to TFLite from here"),
    (Conv(W[:54].reshape(2, 1, 3, 3, 3), None, groups=2), ("N", 2, 5, 5, 5), "op: a grouped convolution over 3 axes has no"),
    (ConvTranspose(W[:54].reshape(1, 2, 3, 3, 3)), ("N", 1, 5, 5, 5), "op: a transposed convolution over 3 axes has no"),
    (Identity(), ("N", 3, "H", 4), r"input x has shape \(N, 3, H, 4\): a device file needs sizes that are fixed"),
]


@pytest.mark.parametrize(("op", "shape", "words"), REFUSALS)
def test_refusals(op: Op, shape: tuple[int | str, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        trace_graph(graph_of([Node("op", op, ("x",), ("y",))], shape))


def test_grouped_dense_layer_behind_a_flatten_is_refused() -> None:
    dense = Dense(Conv(W[:24].reshape(4, 6), None, groups=2))
    nodes = [Node("f", Flatten(), ("x",), ("t",)), Node("d", dense, ("t",), ("y",))]
    with pytest.raises(UsageError, match="a grouped dense layer behind a flatten cannot be exported"):
        trace_graph(graph_of(nodes, ("N", 3, 2, 2)))


@pytest.mark.parametrize(("shape", "groups", "kinds"), [
    (("N", 6), 1, {"RESHAPE", "CONV_2D"}), (("N", 6), 2, {"RESHAPE", "CONV_2D"}),
    (("N", 2, 4, 6), 1, {"FULLY_CONNECTED", "TRANSPOSE"}),
])
def test_dense_layers_as_convolutions_of_one_pixel(
    shape: tuple[int | str, ...], groups: int, kinds: set[str], rng: np.random.Generator
) -> None:
    layer = Conv(weight(rng, 4, 6 // groups), weight(rng, 4), groups=groups)
    graph = graph_of([Node("dense", Dense(layer), ("x",), ("y",))], shape)
    assert set(agrees(graph, rng, batch=1, pixels=True)) - {"DELEGATE"} == kinds
