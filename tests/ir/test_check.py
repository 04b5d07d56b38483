from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from decascade.algebra.conv import Conv
from decascade.errors import GraphError
from decascade.ir.check import check
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.ops import Activation, Add, Foreign, Select
from decascade.ir.shapes import infer_graph

CONV = Conv(np.ones((3, 3, 1)))


def graph(*nodes: Node, outputs: tuple[str, ...] = ("y",), inputs: tuple[str, ...] = ("x",), **shapes: object) -> Graph:
    known = {"x": ("N", 3, 4), "a": ("N", 3, 4), "b": ("N", 3, 4), "y": ("N", 3, 4), **shapes}
    return Graph(nodes, inputs, outputs, {name: Tensor(name, shape) for name, shape in known.items() if shape != "absent"})


FIRST = Node("first", CONV, ("x",), ("a",))
RELU = Node("relu", Activation("relu"), ("a",), ("b",))
JOIN = Node("join", Add(), ("a", "b"), ("y",))


def test_a_good_graph_passes():
    check(graph(FIRST, RELU, JOIN))
    check(infer_graph(graph(FIRST, RELU, JOIN)))


def test_an_input_may_be_an_output_and_a_foreign_node_may_write_much():
    check(graph(Node("split", Foreign("Split"), ("x",), ("a", "b")), outputs=("x", "a", "b")))


BAD = [
    (graph(FIRST, replace(RELU, name="first"), JOIN), "node name first occurs more than once"),
    (graph(FIRST, RELU, JOIN, inputs=("x", "x")), "graph input x occurs more than once"),
    (graph(FIRST, RELU, JOIN, outputs=("y", "y")), "graph output y occurs more than once"),
    (graph(RELU, FIRST, JOIN), "relu reads a before first writes it"),
    (graph(RELU, JOIN), "relu reads a, which nothing writes"),
    (graph(FIRST, RELU, replace(JOIN, outputs=("b",))), "tensor b is written by both relu and join"),
    (graph(replace(FIRST, outputs=("x",))), "tensor x is written by both the graph's inputs and first"),
    (graph(FIRST, RELU), "graph output y is written by no node"),
    (graph(FIRST, RELU, JOIN, b="absent"), "relu has b, which has no tensor entry"),
    (graph(outputs=("z",)), "graph input or output z has no tensor entry"),
    (graph(replace(FIRST, outputs=()), outputs=("x",)), "first writes nothing"),
    (graph(replace(FIRST, outputs=("a", "b")), JOIN), "first: Conv has one output, the node writes 2"),
    (graph(replace(FIRST, inputs=("x", "x")), RELU, JOIN), "first: Conv takes 1 inputs, it has 2"),
    (graph(replace(FIRST, inputs=()), RELU, JOIN), "first: Conv takes 1 inputs, it has 0"),
    (graph(FIRST, RELU, replace(JOIN, inputs=("a",))), "join: Add takes 2 or more inputs, it has 1"),
    (graph(FIRST, RELU, JOIN, x=("N", 5, 4)), "first: Conv is made for 3 channels, its input is (N, 5, 4)"),
    (graph(FIRST, RELU, JOIN, y=("N", 3, 5)), "join: writes y of shape (N, 3, 4), stated as (N, 3, 5)"),
    (
        graph(FIRST, replace(RELU, op=Select(np.array([0, 1, 3]))), JOIN),
        "relu: Select picks channels 0 to 3, its input is (N, 3, 4)",
    ),
]


@pytest.mark.parametrize(("bad", "words"), BAD, ids=[words for _, words in BAD])
def test_a_bad_graph_is_refused_in_one_line(bad, words):
    with pytest.raises(GraphError) as error:
        check(bad)
    assert str(error.value) == words


def test_a_tensor_entry_must_carry_its_own_name():
    good = graph(FIRST, RELU, JOIN)
    with pytest.raises(GraphError, match=r"^tensor entry a describes a tensor called b$"):
        check(replace(good, tensors={**good.tensors, "a": good.tensors["b"]}))
