"""The guard: 0 on the box and its ends, above 0 just outside, whatever the inputs' ranks and ranges; when there is none."""

from __future__ import annotations

import numpy as np
import pytest

from bounds.nets import chain, conv
from decascade.bounds import Box
from decascade.errors import UsageError
from decascade.ir.check import check
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.interpret import run
from decascade.ir.ops import Activation, Add, GlobalPool
from decascade.ir.shapes import infer_graph
from decascade.regions.guard import GUARD, guarded, unguarded

LO, HI = np.full((2, 5, 6), -0.25), np.full((2, 5, 6), 1.5)
LO[1, 2], HI[0, :, 1] = 0.5, -0.125


@pytest.mark.parametrize("box", [(0, 1), (-3, -2), ([-1, 0.5], [0.25, 7]), (LO, HI), (LO, 2.0)], ids=range(5))
def test_the_guard_tells_inside_from_outside(box, rng):
    graph = chain(conv(rng, 2, 3), Activation("relu"), shape=(2, 5, 6))
    found, limits = guarded(graph, Box.of(graph, box)), Box.of(graph, box)
    check(found)
    assert found.outputs == (*graph.outputs, GUARD)
    assert found.shape(GUARD) == ("N", 1)
    lo, hi = (np.broadcast_to(end, (2, 5, 6)) for end in (limits.intervals["x"].lo, limits.intervals["x"].hi))
    inside = np.stack([lo, hi, *rng.uniform(lo, hi, (6, 2, 5, 6)), *np.where(rng.random((4, 2, 5, 6)) < 0.5, lo, hi)])
    results = run(found, {"x": inside})
    assert not results[GUARD].any()
    assert np.array_equal(results[graph.outputs[0]], run(graph, {"x": inside})[graph.outputs[0]])
    for _ in range(40):
        x, at = inside[rng.integers(len(inside))].copy(), tuple(rng.integers(0, (2, 5, 6)))
        x[at] = np.nextafter(hi[at], np.inf) if rng.random() < 0.5 else np.nextafter(lo[at], -np.inf)
        assert run(found, {"x": x[None]})[GUARD][0, 0] > 0


def test_the_guard_says_by_how_much(rng):
    graph = chain(Activation("relu"), shape=(2, 5, 6))
    x = np.zeros((1, 2, 5, 6))
    x[0, 0, 1, 2], x[0, 1, 3, 3] = 1.5, -0.25
    assert run(guarded(graph, Box.of(graph, (0, 1))), {"x": x})[GUARD].tolist() == [[0.75]]


def test_a_name_that_is_taken_and_back_again(rng):
    graph = chain(conv(rng, 2, 3), shape=(2, 5, 6))
    once = guarded(graph, Box.of(graph, (0, 1)))
    twice = guarded(once, Box.of(once, (0, 2)))
    check(twice)
    assert twice.outputs[1:] == (GUARD, f"{GUARD}_2")
    again = unguarded(once, GUARD)
    assert [n.name for n in again.nodes] == [n.name for n in graph.nodes]
    assert again.outputs == graph.outputs


def test_several_inputs_of_other_ranks(rng):
    tensors = {"a": Tensor("a", ("N", 3, "H", 4)), "b": Tensor("b", ("N", 3)), "m": Tensor("m", None), "y": Tensor("y", None)}
    nodes = (Node("pool", GlobalPool("avg", keepdims=False), ("a",), ("m",)), Node("add", Add(), ("m", "b"), ("y",)))
    graph = infer_graph(Graph(nodes, ("a", "b"), ("y",), tensors))
    found = guarded(graph, Box.of(graph, {"a": (0, 1), "b": ([0, 0, 0], [1, 2, 3])}))
    check(found)
    a, b = rng.random((4, 3, 7, 4)), rng.random((4, 3))
    b[1, 2], b[2, 1], a[3, 0, 6, 3] = 3.5, -1, 2
    assert (run(found, {"a": a, "b": b})[GUARD] > 0).ravel().tolist() == [False, True, True, True]


def test_inputs_without_a_guard(rng):
    graph = chain(Activation("relu"), shape=(2, 5, 6))
    whole = Graph(graph.nodes, graph.inputs, graph.outputs, {**graph.tensors, "x": Tensor("x", ("N", 2, 5, 6), "uint8")})
    with pytest.raises(UsageError, match="a guard needs inputs of floating-point numbers, and input x is of type uint8"):
        guarded(whole, Box.of(whole, (0, 255)))
    open_ = Graph(graph.nodes, graph.inputs, graph.outputs, {**graph.tensors, "x": Tensor("x", ("N", "C", 5, 6))})
    with pytest.raises(UsageError, match="a guard needs the number of channels of input x, which is not known"):
        guarded(open_, Box.of(open_, (0, 1)))
