from __future__ import annotations

import numpy as np
import pytest

from decascade.algebra.conv import Conv, ConvTranspose
from decascade.errors import GraphError
from decascade.ir.graph import Graph, Node, Tensor
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
from decascade.ir.shapes import infer, infer_graph


def conv(o: int, i: int, *kernel: int, **options: object) -> Conv:
    return Conv(np.ones((o, i, *kernel)), **options)


def affine(c: int) -> Affine:
    return Affine(np.ones(c), np.zeros(c))


def pool(*kernel: int, stride: int = 1, padding: int = 0) -> Pool:
    rank = len(kernel)
    return Pool("avg", kernel, (stride,) * rank, ((padding, padding),) * rank, (1,) * rank)


FITS = [
    (conv(4, 3, 3, 3), [(2, 3, 8, 9)], (2, 4, 6, 7)),
    (conv(4, 3, 3, 3, padding=1), [("N", 3, "H", "W")], ("N", 4, "H", "W")),
    (conv(4, 3, 3, 3, padding=1, stride=2), [("N", 3, "H", 8)], ("N", 4, "(H+1)//2", 4)),
    (conv(4, 3, 3, 3), [("N", 3, "H", "?")], ("N", 4, "(H-2)", "?")),
    (conv(4, 3, 5), [None], ("?", 4, "?")),
    (conv(4, 3, 3, dilation=2, padding=[(0, 3)]), [(1, 3, 7)], (1, 4, 6)),
    (ConvTranspose(np.ones((3, 4, 2, 2)), stride=2), [("N", 3, 4, "W")], ("N", 4, 8, "(2*W)")),
    (Dense(conv(5, 3)), [("N", 7, 3)], ("N", 7, 5)),
    (Dense(conv(5, 3)), [("N", "?")], ("N", 5)),
    (affine(3), [("N", 3, 4)], ("N", 3, 4)),
    (affine(3), [("N", "?", 4)], ("N", 3, 4)),
    (pool(2, 2, stride=2), [("N", 3, 5, "H")], ("N", 3, 2, "(H)//2")),
    (GlobalPool("max"), [("N", 3, "H", 4)], ("N", 3, 1, 1)),
    (GlobalPool("max", keepdims=False), [("N", 3, "H", 4)], ("N", 3)),
    (Flatten(), [("N", 3, 4, 5)], ("N", 60)),
    (Flatten(), [("N", 3, "H", 5)], ("N", "(15*H)")),
    (Flatten(), [("N", 3, "H", "W")], ("N", "?")),
    (Pad(((1, 2), (-1, 0)), channels=(0, 1)), [("N", 3, 4, "W")], ("N", 4, 7, "(W-1)")),
    (Add(), [("N", 3, "?"), ("M", "C", 5)], ("N", 3, 5)),
    (Add((1, -1)), [None, (1, 3, 5)], (1, 3, 5)),
    (Product(), [("N", 3, 4, "W"), ("N", 3, 1, 1)], ("N", 3, 4, "W")),
    (Product(), [("N", 1, "H"), ("N", 3, 5), ("N", 3, 1)], ("N", 3, 5)),
    (Product(), [("N", 3), None], None),
    (Concat(), [("N", 3, 4), ("N", 2, "H")], ("N", 5, 4)),
    (Concat(2), [("N", 3, "H"), ("N", 3, 2)], ("N", 3, "(H+2)")),
    (Concat(), [("N", 3, 4), None], ("N", "?", 4)),
    (Select(np.array([2, 0])), [("N", 3, 4)], ("N", 2, 4)),
    (Slice(3, 1, 4), [("N", 3, 4, "W")], ("N", 3, 4, 3)),
    (Upsample((2, 1)), [("N", 3, 4, "W")], ("N", 3, 8, "W")),
    (Identity(), [("N", 3)], ("N", 3)),
    (BiasMap(np.ones((3, 4))), [("N", "?", "?")], ("N", 3, 4)),
    (BiasMap(np.ones((3, 4))), [None], ("?", 3, 4)),
    (Activation("softmax", (-1,)), [("N", 3)], ("N", 3)),
    (Activation("relu"), [None], None),
    (Foreign("Mystery"), [("N", 3)], None),
]


@pytest.mark.parametrize(("op", "shapes", "expected"), FITS)
def test_infer(op, shapes, expected):
    assert infer(op, shapes) == (expected,)


REFUSED = [
    (conv(4, 3, 3), [(1, 2, 8)], "Conv is made for 3 channels, its input is (1, 2, 8)"),
    (conv(4, 3, 3), [(1, 3, 8, 8)], "Conv needs 1 spatial axes after batch and channels, its input is (1, 3, 8, 8)"),
    (conv(4, 3, 5), [(1, 3, 4)], "Conv on (1, 3, 4) leaves nothing: spatial size (0)"),
    (conv(4, 3, 3), [(1, 3, 8)] * 2, "Conv takes 1 inputs, it has 2"),
    (ConvTranspose(np.ones((3, 4, 2)), padding=3), [(1, 3, 2)], "ConvTranspose on (1, 3, 2) leaves nothing"),
    (Dense(conv(5, 3)), [(1, 4)], "Dense is made for 3 features, its input is (1, 4)"),
    (Dense(conv(5, 3, 1)), [(1, 3)], "Dense has a layer over 1 spatial axes: its weight must be (O, I)"),
    (affine(3), [(1, 1, 4)], "Affine is made for 3 channels, its input is (1, 1, 4)"),
    (Affine(np.ones(3), np.ones(1)), [(1, 3)], "Affine scale (3,) and shift (1,) must both be (C,)"),
    (pool(2), [(1, 3, 4, 4)], "Pool needs 1 spatial axes"),
    (pool(5), [(1, 3, 4)], "Pool on (1, 3, 4) leaves nothing"),
    (Pool("avg", (2,), (1, 1), ((0, 0),), (1,)), [(1, 3, 4)], "Pool stride (1, 1) has 2 entries for 1 axes"),
    (Pool("avg", (2,), (0,), ((0, 0),), (1,)), [(1, 3, 4)], "has an entry below 1"),
    (GlobalPool("avg"), [(4,)], "GlobalPool needs a batch and a channel axis, its input is (4)"),
    (Pad(((-2, -2),)), [(1, 3, 4)], "Pad on (1, 3, 4) leaves nothing"),
    (Add(), [(1, 3)], "Add takes 2 or more inputs, it has 1"),
    (Add(), [(1, 3, 4), (1, 3, 1)], "Add inputs differ in shape: (1, 3, 4), (1, 3, 1)"),
    (Add(), [(1, 3), (1, 3, 1)], "Add inputs differ in shape"),
    (Product(), [(1, 3)], "Product takes 2 or more inputs, it has 1"),
    (Product(), [(1, 3, 4), (1, 3, 2)], "Product inputs differ in shape: (1, 3, 4), (1, 3, 2)"),
    (Product(), [(1, 3), (1, 3, 1)], "Product inputs differ in rank: (1, 3), (1, 3, 1)"),
    (Add((1,)), [(1, 3), (1, 3)], "Add signs (1,) for 2 inputs"),
    (Add((1, 2)), [(1, 3), (1, 3)], "Add signs (1, 2) for 2 inputs"),
    (Concat(), [(1, 3, 4), (1, 3, 5)], "Concat inputs differ off axis 1: (1, 3, 4), (1, 3, 5)"),
    (Concat(2), [(1, 3)], "Concat axis 2 is outside one of its inputs (1, 3)"),
    (Select(np.array([0, 3])), [(1, 3, 4)], "Select picks channels 0 to 3, its input is (1, 3, 4)"),
    (Select(np.array([-1])), [(1, 3, 4)], "Select picks channels -1 to -1"),
    (Select(np.array([], dtype=np.int64)), [(1, 3)], "Select indices of shape (0,) must be a list of at least one channel"),
    (Slice(1, 0, 1), [(1, 3, 4)], "Slice axis 1 is not a spatial axis of (1, 3, 4)"),
    (Slice(2, 1, 5), [(1, 3, 4)], "Slice 1:5 is empty or outside axis 2 of (1, 3, 4)"),
    (Slice(2, 2, 2), [(1, 3, 4)], "Slice 2:2 is empty"),
    (Upsample((2,)), [(1, 3, 4, 4)], "Upsample needs 1 spatial axes"),
    (Upsample((0,)), [(1, 3, 4)], "Upsample factor (0,) has an entry below 1"),
    (BiasMap(np.ones((3, 4))), [(1, 3, 1)], "BiasMap of shape (3, 4) does not fit its input (1, 3, 1)"),
    (Activation("rleu"), [(1, 3)], "unknown activation kind 'rleu': expected one of relu, clip"),
    (Activation("clip", (0,)), [(1, 3)], "clip takes 2 numbers (lo, hi), it has (0,)"),
    (Activation("prelu"), [(1, 3)], "prelu needs a slope"),
    (Activation("relu", slope=np.ones(3)), [(1, 3)], "relu takes no slope"),
    (Activation("prelu", slope=np.ones(2)), [(1, 3)], "prelu slope of shape (2,) for 3 channels: give one number per channel"),
    (Activation("softmax", (2,)), [(1, 3)], "softmax axis 2 is outside the 2 axes of its input"),
]


@pytest.mark.parametrize(("op", "shapes", "words"), REFUSED)
def test_infer_refuses(op, shapes, words):
    with pytest.raises(GraphError) as error:
        infer(op, shapes)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def chain(*ops: object, shape=("N", 3, "H", 8)) -> Graph:
    names = ["x", *(f"t{i}" for i in range(len(ops)))]
    nodes = tuple(Node(f"n{i}", op, (names[i],), (names[i + 1],)) for i, op in enumerate(ops))
    return Graph(nodes, ("x",), (names[-1],), {"x": Tensor("x", shape, "float16")})


def test_infer_graph_fills_shapes_and_entries():
    graph = infer_graph(chain(conv(4, 3, 3, 3, padding=1), Activation("relu"), pool(2, 2, stride=2)))
    assert [graph.shape(n) for n in ("t0", "t1", "t2")] == [("N", 4, "H", 8), ("N", 4, "H", 8), ("N", 4, "(H)//2", 4)]
    assert graph.tensors["t2"].dtype == "float16"


def test_infer_graph_keeps_what_the_format_knows_of_a_foreign_operation():
    graph = chain(Foreign("Mystery"), conv(4, 3, 1, 1))
    stated = {**graph.tensors, "t0": Tensor("t0", ("N", 3, 5, "?"))}
    graph = infer_graph(Graph(graph.nodes, graph.inputs, graph.outputs, stated))
    assert graph.shape("t0") == ("N", 3, 5, "?")
    assert graph.shape("t1") == ("N", 4, 5, "?")


def test_infer_graph_makes_serial_symbols_telling_and_keeps_numbers():
    graph = chain(conv(4, 3, 3, 3, padding=1))
    stated = {**graph.tensors, "t0": Tensor("t0", ("unk__1", 4, 6, "unk__2"))}
    graph = infer_graph(Graph(graph.nodes, graph.inputs, graph.outputs, stated))
    assert graph.shape("t0") == ("N", 4, 6, 8)


def test_infer_graph_names_node_and_shapes():
    with pytest.raises(GraphError, match=r"^n1: Conv is made for 3 channels, its input is \(N, 4, H, 8\)$"):
        infer_graph(chain(conv(4, 3, 1, 1), conv(4, 3, 1, 1)))


def test_infer_graph_refuses_a_stated_shape_that_is_not_the_inferred_one():
    graph = chain(conv(4, 3, 1, 1))
    stated = {**graph.tensors, "t0": Tensor("t0", ("N", 4, "H", 7))}
    with pytest.raises(GraphError, match=r"^n0: writes t0 of shape \(N, 4, H, 8\), stated as \(N, 4, H, 7\)$"):
        infer_graph(Graph(graph.nodes, graph.inputs, graph.outputs, stated))
