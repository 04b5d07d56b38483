"""One rule for each kind of node: its layer in C."""

from __future__ import annotations

import numpy as np

from decascade.stream.fixed import Multiplier
from decascade.stream.graph import Graph, Map
from decascade.stream.kernels.base import Emitted, numbers
from decascade.stream.kernels.conv import conv, depthwise
from decascade.stream.kernels.requantise import MOST_SHIFT
from decascade.stream.ops.conv import Conv, Depthwise
from decascade.stream.ops.elementwise import Constant, Product, Sum, Table
from decascade.stream.ops.pool import Pool
from decascade.stream.ops.shape import Concat, Pad, Reshape
from decascade.stream.ops.softmax import Softmax
from decascade.stream.program import Divided, Node, Totals


def emitted(graph: Graph, node: Node, budget: int) -> Emitted:
    """The layer of a node other than the input."""
    work, target = node.work, graph.maps[node.map]
    match work:
        case Conv():
            return conv(work, graph.maps[work.inputs[0]], target, budget)
        case Depthwise():
            return depthwise(work, graph.maps[work.inputs[0]], target)
        case Sum() | Product():
            return _binary(work, graph, target)
        case Table():
            values = work.table.astype(np.int64)
            return Emitted("table", ("{name}_values", *numbers(target.row_size)), (("values", "int8_t", values),))
        case Constant():
            rows = work.values.reshape(work.values.shape[0], -1).astype(np.int64)
            fields = ("{name}_values", *numbers(rows.shape[1], len(rows)))
            return Emitted("constant", fields, (("values", "int8_t", rows.reshape(-1)),), by_row=True, reads=False)
        case Pool():
            return _pool(work, graph.maps[work.inputs[0]], target)
        case Totals():
            return Emitted("totals", numbers(work.map.shape[1], work.map.shape[2]), by_row=True)
        case Divided():
            return _divided(work)
        case Softmax():
            fields = ("{name}_exponentials", *numbers(target.shape[1], target.shape[2]))
            return Emitted("softmax", fields, (("exponentials", "int32_t", work.exponentials),))
        case Pad():
            source = graph.maps[work.inputs[0]]
            fields = numbers(source.shape[1], source.shape[2], target.shape[1], target.shape[2], work.widths[1][0],
                             work.widths[2][0], work.fill)
            return Emitted("pad", fields)
        case Reshape():
            return Emitted("regroup", numbers(graph.maps[work.inputs[0]].row_size, target.row_size), by_row=True)
        case Concat():
            return _concat(work, graph, target)
        case _:
            raise AssertionError(f"no kernel for {type(work).__name__}")


def _steps(graph: Graph, inputs: tuple[int, ...], target: Map) -> list[int]:
    """Channels from one column to the next, 0 for an operand that is one column wide."""
    return [graph.maps[i].shape[2] if graph.maps[i].shape[1] == target.shape[1] else 0 for i in inputs]


def _binary(work: Sum | Product, graph: Graph, target: Map) -> Emitted:
    sizes = (target.shape[1], target.shape[2], *_steps(graph, work.inputs, target))
    m = work.multiplier
    if isinstance(work, Product):
        return Emitted("product", numbers(m.mantissa, m.shift, *sizes, *work.zeros, work.zero, work.low, work.high))
    a, b = work.operands
    if (found := _short_sum(work, sizes, target)) is not None:
        return found
    multipliers = (a.multiplier.mantissa, a.multiplier.shift, b.multiplier.mantissa, b.multiplier.shift, m.mantissa, m.shift)
    return Emitted("sum", numbers(*multipliers, *sizes, a.zero, b.zero, work.zero, work.low, work.high, work.minus))


HALF = Multiplier(1 << 30, 0)
"""The factor of the operand that has the larger scale."""


def _short_sum(work: Sum, sizes: tuple[int, ...], target: Map) -> Emitted | None:
    """Where one operand is only shifted, the other and the result take the short way; no operand is broadcast."""
    _, channels, *steps = sizes
    m, factors = work.multiplier, [o.multiplier for o in work.operands]
    whole = 1 if factors[0] != HALF else 0
    other = factors[1 - whole]
    ranges = (1 <= -other.shift <= 30, 1 <= -m.shift <= MOST_SHIFT, steps == [channels, channels])
    if factors[whole] != HALF or not all(ranges):
        return None
    zeros = [o.zero for o in work.operands]
    minus = [0, int(work.minus)]
    offset = (1 << (-m.shift - 1)) + (work.zero << -m.shift)
    return Emitted("sum_short", numbers(
        other.mantissa, 1 << (-other.shift - 1), -other.shift, m.mantissa, offset, -m.shift, target.row_size, whole,
        zeros[whole], zeros[1 - whole], minus[whole], minus[1 - whole], work.low, work.high))


def _pool(work: Pool, source: Map, target: Map) -> Emitted:
    g = work.geometry
    return Emitted("pool", numbers(*g.kernel, g.stride[1], source.shape[2], source.shape[1], target.shape[1], g.dilation[1],
                                   work.average, g.pad[1], work.low, work.high))


def _divided(work: Divided) -> Emitted:
    mean, (rows, columns, channels) = work.mean, work.map.shape
    count, m = rows * columns, mean.multiplier
    rescales = int(m is not None)
    mantissa, shift = (0, 0) if m is None else (m.mantissa, m.shift)
    return Emitted("divided", numbers(count, mean.zeros[0] * count, mantissa, shift, channels, mean.zeros[1], mean.low,
                                      mean.high, rescales))


def _concat(work: Concat, graph: Graph, target: Map) -> Emitted:
    maps = [graph.maps[i] for i in work.inputs]
    chunks = target.shape[1] if work.axis == 2 else 1
    sizes = np.array([m.row_size // chunks for m in maps], np.int64)
    return Emitted("concat", ("{name}_sizes", *numbers(len(maps), chunks)), (("sizes", "uint32_t", sizes),))
