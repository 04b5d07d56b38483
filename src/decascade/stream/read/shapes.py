"""That the shapes of a file fit its operations: a damaged or hostile file must not reach the generator."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from decascade.errors import FormatError
from decascade.stream.graph import Graph, Map, Op, Shape
from decascade.stream.ops.conv import Conv, Depthwise, Geometry
from decascade.stream.ops.elementwise import Constant, Product, Sum, Table
from decascade.stream.ops.pool import Mean, Pool
from decascade.stream.ops.shape import Concat, Pad, Reshape
from decascade.stream.ops.softmax import Softmax

MOST_VALUES = 1 << 26
"""Values of one map."""
MOST_SIZE = (1 << 15) - 1
"""Rows, columns, channels, kernel sizes, strides: 15 bits in the C."""


def check_shapes(graph: Graph) -> None:
    """Every operation reads maps that are there, and writes a map of the shape that it makes.

    Raises:
        FormatError: something does not fit; says which map.
    """
    ready = {graph.input}
    for m in graph.maps:
        if prod(m.shape) > MOST_VALUES or max(m.shape) > MOST_SIZE:
            raise FormatError(f"map {m.name} of shape {list(m.shape)} is too large to be streamed: at most {MOST_SIZE} rows, "
                              f"columns and channels, and {MOST_VALUES} values")
    for op in graph.ops:
        late = [graph.maps[i].name for i in op.inputs if i not in ready]
        if late or op.output in ready:
            raise FormatError(f"map {(late or [graph.maps[op.output].name])[0]} is read before it is made, or made twice")
        if not _fits(op, graph.maps):
            shapes = [list(graph.maps[i].shape) for i in op.inputs]
            raise FormatError(f"map {graph.maps[op.output].name} of shape {list(graph.maps[op.output].shape)} is not what "
                              f"{type(op).__name__.lower()} makes of {shapes}")
        ready.add(op.output)
    missing = [graph.maps[o].name for o in graph.outputs if o not in ready]
    if missing:
        raise FormatError(f"output {missing[0]} is never made")


def _fits(op: Op, maps: Sequence[Map]) -> bool:
    out, given = maps[op.output].shape, [maps[i].shape for i in op.inputs]
    match op:
        case Conv():
            outs, *_, width = op.weights.shape
            channels = out[2] == outs == len(op.bias) and width * op.groups == given[0][2] and outs % op.groups == 0
            return channels and _windows(op.geometry, given[0], out)
        case Depthwise():
            outs = op.weights.shape[2]
            return out[2] == outs == len(op.bias) and outs % given[0][2] == 0 and _windows(op.geometry, given[0], out)
        case Pool():
            return out[2] == given[0][2] and _windows(op.geometry, given[0], out)
        case Sum() | Product():
            return len(given) == 2 and all(all(n in (1, o) for n, o in zip(s[:2], out[:2], strict=True)) and s[2] == out[2]
                                           for s in given)
        case Mean():
            return prod(out) == out[2] == given[0][2]
        case Table() | Softmax():
            return out == given[0]
        case Constant():
            return op.values.shape == out
        case Pad():
            return all(n + a + b == o and min(a, b) >= 0 for n, o, (a, b) in zip(given[0], out, op.widths, strict=True))
        case Reshape():
            return prod(out) == prod(given[0])
        case Concat():
            rest = [i for i in range(3) if i != op.axis]
            return sum(s[op.axis] for s in given) == out[op.axis] and all(s[i] == out[i] for s in given for i in rest)
        case _:
            return True


def _windows(geometry: Geometry, source: Shape, target: Shape) -> bool:
    """Every window touches the map, and all sizes fit their fields."""
    fields = (*geometry.kernel, *geometry.stride, *geometry.dilation)
    if min(fields) < 1 or max(fields) > MOST_SIZE or min(geometry.pad) < 0 or max(geometry.pad) > MOST_SIZE:
        return False
    return all(
        (o - 1) * s - p < n and (k - 1) * d >= p
        for o, s, p, n, k, d in zip(target, geometry.stride, geometry.pad, source, geometry.kernel, geometry.dilation,
                                    strict=False)
    )
