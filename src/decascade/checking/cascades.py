"""Each replacement against what it replaces, in float64, within the error that storing its weights can cause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.factor import NEGLIGIBLE
from decascade.algebra.floats import float_type, rounded
from decascade.checking.rounding import U64, at_least, floor, spread, unit_of
from decascade.checking.samples import sample_shape
from decascade.errors import CannotInterpret, VerificationError
from decascade.ir.graph import Graph, Node
from decascade.ir.interpret import run
from decascade.ir.ops import Op
from decascade.ir.ops.traits import is_linear, weights, with_weights
from decascade.report.facts.parts import ErrorMap
from decascade.report.facts.report import ErrorFacts

OPEN = 23
"""What stands for an open size at the entry of a segment."""
CELLS, RINGS = 16, 4
"""Of the map of errors: cells a side, and the distance from the edge from which on all is interior."""


def check_replacement(
    before: Graph, after: Graph, entry: str, exit_: str, name: str, seed: int = 0, samples: int = 4
) -> ErrorFacts | None:
    """The segment entry → exit of both graphs on the same random inputs, zeros and single border pixels.

    The new weights are rounded to the dtype that they are stored in.  With L rounded operations in series and N terms
    in all, rounding explains at most ((1 + u)^L − 1)·Σ|w'||x| for the stored weights, subnormal ones counted as the
    floor of their dtype (`rounding`); N·2⁻⁵³·(Σ|w||x| + Σ|w'||x|) for composing and evaluating in float64; and what
    `algebra.factor` takes for zero.

    Returns None where an operation between the two tensors has no meaning in NumPy.

    Raises:
        VerificationError: the difference is larger than that somewhere.
    """
    old, new = _segment(before, entry, exit_), stored(_segment(after, entry, exit_))
    x = _inputs(before, entry, np.random.default_rng(seed), samples)
    try:
        y, z = run(old, {entry: x})[exit_], run(new, {entry: x})[exit_]
        if y.shape != z.shape:
            raise VerificationError(f"the replacement of {name} has output shape {z.shape} instead of {y.shape}")
        allowed = _allowed(old, new, entry, exit_, x)
    except CannotInterpret:
        return None
    difference = np.abs(y - z)
    wrong = ~(difference <= allowed)
    if wrong.any():
        at = tuple(int(i) for i in np.unravel_index(int(np.argmax(np.where(wrong, difference, -1.0))), y.shape))
        raise VerificationError(
            f"the replacement of {name} is off by {difference[at]:.3g} at {exit_}{list(at)}, where rounding explains"
            f" {allowed[at]:.3g}: {int(wrong.sum())} of {wrong.size} values are wrong (please report this)"
        )
    return _facts(y, difference, allowed, len(x))


def _facts(y: NDArray[Any], difference: NDArray[Any], allowed: NDArray[Any], samples: int) -> ErrorFacts:
    at = int(np.argmax(difference))
    worst, largest = float(difference.flat[at]), float(np.abs(y).max(initial=0.0))
    relative = worst / largest if largest else 0.0
    return ErrorFacts(worst, relative, float(allowed.flat[at]), samples, error_map(difference))


def error_map(difference: NDArray[Any]) -> ErrorMap | None:
    """Where the largest errors (N, C, *S) are, in at most `CELLS` cells a side; None where there is no space."""
    size = difference.shape[2:]
    if not size or 0 in difference.shape:
        return None
    picture = difference.max(axis=(0, 1))
    edge = _by_distance(picture)
    while picture.ndim > 2:
        picture = picture.max(axis=0)
    picture = np.atleast_2d(picture)
    for axis, n in enumerate(picture.shape):
        cells = min(n, CELLS)
        picture = np.maximum.reduceat(picture, [i * n // cells for i in range(cells)], axis=axis)
    return ErrorMap(tuple(map(_short, picture)), tuple(map(int, size)), _short(edge))


def _by_distance(picture: NDArray[Any]) -> list[float]:
    """The largest value at distance 0, 1, … from the nearest edge; the last stands for all further in."""
    near = [np.minimum(i, n - 1 - i) for i, n in zip(np.indices(picture.shape), picture.shape, strict=True)]
    distance = np.minimum(np.minimum.reduce(near), RINGS)
    return [float(picture[distance == d].max()) for d in range(int(distance.max()) + 1)]


def _short(values: Any) -> tuple[float, ...]:
    return tuple(float(f"{v:.2e}") for v in values)


def _segment(graph: Graph, entry: str, exit_: str) -> Graph:
    """The nodes between two tensors, in order."""
    needed, nodes = {exit_}, list[Node]()
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs) and entry not in node.outputs:
            nodes.insert(0, node)
            needed.update(node.inputs)
    return replace(graph, nodes=tuple(nodes), inputs=(entry,), outputs=(exit_,))


def _inputs(graph: Graph, entry: str, rng: np.random.Generator, samples: int) -> NDArray[Any]:
    """Random values in every position, zeros, and a single one in the first and in the last corner."""
    shape = sample_shape(graph, entry, OPEN)
    x = rng.standard_normal((samples, *shape))
    for row, corner in zip(range(1, samples), (None, 0, -1), strict=False):
        x[row] = 0.0
        if corner is not None:
            x[(row, slice(None), *(corner,) * (len(shape) - 1))] = 1.0
    # what a model of this dtype can hold
    return x.astype(np.float32).astype(np.float64)


def _allowed(old: Graph, new: Graph, entry: str, exit_: str, x: NDArray[Any]) -> NDArray[np.float64]:
    before, n = spread(old.nodes, entry, exit_, x)
    after, m = spread(_floored(new).nodes, entry, exit_, x)
    neglected = NEGLIGIBLE * np.abs(x).sum(axis=tuple(range(1, x.ndim))).reshape(-1, *(1,) * (before.ndim - 1))
    u = max((unit_of(new, node.output) for node in new.nodes), default=0.0)
    layers = sum(1 for node in new.nodes if is_linear(node.op) and weights(node.op))
    return ((1 + u) ** layers - 1) * after + (n + m) * U64 * (before + after) + neglected


def stored(graph: Graph) -> Graph:
    """The graph with the weights of the nodes that decascade made rounded to the dtype that they are stored in."""
    return _with_ops(graph, _stored)


def _floored(graph: Graph) -> Graph:
    """Bounds on the weights whose rounding, relative as it is to them, bounds that of subnormal ones too."""
    return _with_ops(graph, lambda op, dtype: at_least(op, floor(dtype)))


def _with_ops(graph: Graph, change: Callable[[Op, str], Op]) -> Graph:
    """The graph with other operations in the nodes that decascade made, given the dtype that each stores its weights in."""
    def one(node: Node) -> Node:
        known = not node.origin and float_type(graph.tensors[node.output].dtype) is not None
        return replace(node, op=change(node.op, graph.tensors[node.output].dtype)) if known else node

    return replace(graph, nodes=tuple(map(one, graph.nodes)))


def _stored(op: Op, dtype: str) -> Op:
    # the slopes of an activation stay as they are: decascade makes none
    if not is_linear(op):
        return op
    return with_weights(op, {name: rounded(array, dtype) for name, array in weights(op).items()})
