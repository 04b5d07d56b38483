"""A move before a flatten is one flatten; what is none is left alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from decascade.errors import CannotInterpret
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.interpret import run
from decascade.ir.moves import joined_moves
from decascade.ir.ops import Flatten, Foreign, Identity
from decascade.ir.shapes import infer_graph

Array = NDArray[np.float64]
X = np.random.default_rng(0).random((2, 3, 4, 5))


def net(
    move: Callable[[Array], Array] | None, flat: Flatten, shape: tuple[int | str, ...] = ("N", 3, 4, 5), *, read: bool = False
) -> Graph:
    """x → move → flatten; `read`: the move is an output, too."""
    evaluate = None if move is None else lambda arrays: [move(arrays[0])]
    nodes = (Node("move", Foreign("Move", evaluate), ("x",), ("m",)), Node("flat", flat, ("m",), ("y",)))
    moved = None if move is None else ("N", *move(np.zeros((1, *X.shape[1:]))).shape[1:])
    tensors = {"x": Tensor("x", shape), "m": Tensor("m", moved), "y": Tensor("y", ("N", 60))}
    return infer_graph(Graph(nodes, ("x",), ("y", "m") if read else ("y",), tensors))


def to_front(x: Array) -> Array:
    """What Keras' Permute (3, 1, 2) of a channels-last map is to channels-first eyes: the last axis first, twice."""
    return np.moveaxis(x, -1, 1)


@pytest.mark.parametrize(("move", "flat", "order"), [
    (to_front, Flatten("channels_last"), "channels_first"),
    (lambda x: x, Flatten("channels_last"), "channels_last"),
    (lambda x: np.moveaxis(x, 1, -1), Flatten("channels_first"), "channels_last"),
    (lambda x: x.reshape(len(x), 12, 5), Flatten("channels_first"), "channels_first"),
])
def test_moves_that_are_a_flatten(move: Callable[[Array], Array], flat: Flatten, order: str) -> None:
    graph = net(move, flat)
    found = joined_moves(graph)
    assert [n.op for n in found.nodes] == [Flatten(order)]  # type: ignore[arg-type]
    assert np.array_equal(run(found, {"x": X})["y"], run(graph, {"x": X})["y"])


def refused(_: Array) -> Array:
    raise CannotInterpret("no such thing")


@pytest.mark.parametrize("graph", [
    net(to_front, Flatten("channels_first")), net(lambda x: 2 * x, Flatten()), net(lambda x: x[:, ::-1], Flatten()),
    net(to_front, Flatten("channels_last"), read=True), net(None, Flatten()),
    net(to_front, Flatten("channels_last"), ("N", 3, "H", 5)),
], ids=["another order", "scaled", "reversed", "read elsewhere", "unknown", "open size"])
def test_what_is_left_alone(graph: Graph) -> None:
    assert joined_moves(graph) is graph


def test_what_cannot_be_run_is_left_alone() -> None:
    nodes = (Node("move", Foreign("Move", lambda arrays: [refused(arrays[0])]), ("x",), ("m",)),
             Node("id", Identity(), ("m",), ("i",)), Node("flat", Flatten(), ("m",), ("y",)))
    tensors = {"x": Tensor("x", ("N", 3, 4)), **{n: Tensor(n, None) for n in "miy"}}
    both = Graph(nodes, ("x",), ("y", "i"), tensors)
    assert joined_moves(both) is both
    alone = Graph((nodes[0], nodes[2]), ("x",), ("y",), {n: tensors[n] for n in "xmy"})
    assert joined_moves(alone) is alone
