from __future__ import annotations

import numpy as np
import pytest

from decascade.algebra.conv import Conv, ConvTranspose
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
from decascade.ir.shapes import infer_graph
from decascade.ir.text import op_text, to_text

GOLDEN = """\
net (x: float32 [N, 2, H, 8])
a = Conv(4x2x3x3 rms 0.5, bias rms 1, stride 2x1, pad 1:0x1) x : [N, 4, (H)//2, 8]  @stem
b = Activation(relu) a : [N, 4, (H)//2, 8]  @act  pinned: called twice
p, q = Foreign(Split, no meaning) b : ?, [N, 2, 4, 8]  @split
y = Add(+-) a, b : [N, 4, (H)//2, 8]  @join
return y, q"""


def test_golden():
    stem = Conv(np.full((4, 2, 3, 3), -0.5), np.ones(4), stride=(2, 1), padding=[(1, 0), (1, 1)])
    nodes = (
        Node("stem", stem, ("x",), ("a",)),
        Node("act", Activation("relu"), ("a",), ("b",), pinned="called twice"),
        Node("split", Foreign("Split"), ("b",), ("p", "q")),
        Node("join", Add((1, -1)), ("a", "b"), ("y",)),
    )
    tensors = {"x": Tensor("x", ("N", 2, "H", 8)), "q": Tensor("q", ("N", 2, 4, 8))}
    assert to_text(infer_graph(Graph(nodes, ("x",), ("y", "q"), tensors, "net"))) == GOLDEN


OPS = [
    (Conv(np.ones((6, 1, 3)), groups=6, dilation=2), "Conv(6x1x3 rms 1, dilation 2, groups 6)"),
    (ConvTranspose(np.full((2, 3, 2, 2), 2.0), stride=2), "ConvTranspose(2x3x2x2 rms 2, stride 2)"),
    (Dense(Conv(np.ones((5, 3)), np.zeros(5))), "Dense(5x3 rms 1, bias rms 0)"),
    (Affine(np.ones(3), np.full(3, 0.1)), "Affine(3 scale rms 1, shift rms 0.1)"),
    (Pool("avg", (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), "Pool(avg, 2x2, stride 2)"),
    (Pool("avg", (3,), (1,), ((1, 1),), (2,), True), "Pool(avg, 3, dilation 2, pad 1, count padding)"),
    (GlobalPool("avg"), "GlobalPool(avg)"),
    (GlobalPool("max", keepdims=False), "GlobalPool(max, no keepdims)"),
    (Flatten(), "Flatten()"),
    (Flatten("channels_last"), "Flatten(channels_last)"),
    (Pad(((1, 2), (0, 0)), 0.5, (0, 1)), "Pad(1:2x0, channels 0:1, value 0.5)"),
    (Add(), "Add()"),
    (Add((1, 1)), "Add()"),
    (Product(), "Product()"),
    (Concat(), "Concat(axis 1)"),
    (Select(np.arange(3, 7)), "Select(3:7)"),
    (Select(np.array([2, 0, 1])), "Select(2 0 1)"),
    (Select(np.arange(20)[::-1]), "Select(19 18 17 16 15 14 13 12 11 10 ... 0 (20))"),
    (Slice(2, 1, 5), "Slice(axis 2, 1:5)"),
    (Upsample((2, 3)), "Upsample(2x3)"),
    (Identity(), "Identity()"),
    (BiasMap(np.ones((2, 3, 3))), "BiasMap(2x3x3 rms 1)"),
    (Activation("clip", (0, 6)), "Activation(clip 0 6)"),
    (Activation("prelu", slope=np.full(4, 0.25)), "Activation(prelu, slope 4 rms 0.25)"),
    (Foreign("Shape", lambda arrays: arrays), "Foreign(Shape)"),
]


@pytest.mark.parametrize(("op", "text"), OPS, ids=[text for _, text in OPS])
def test_op_text(op, text):
    assert op_text(op) == text


def test_a_changed_weight_changes_the_text():
    assert op_text(Conv(np.full((1, 1, 1), 0.123))) != op_text(Conv(np.full((1, 1, 1), 0.124)))
