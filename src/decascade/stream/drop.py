"""Channels that are the same for every int8 input are left out, exactly: their value goes into the next bias.

Trained networks hold many of them (a batch normalisation that a ReLU clamps away); the proof is the range of the integer sum.
A channel that only a depthwise channel reads, which is constant itself, is never needed either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from decascade.stream.fixed import Integers
from decascade.stream.graph import Graph, Map, Op
from decascade.stream.kernels.requantise import constants, sums_of
from decascade.stream.ops.conv import Conv, Depthwise, Rescale

Values = dict[int, int]
"""Channel → the value that it always has."""


@dataclass(frozen=True, eq=False)
class Use:
    """The graph, what reads each map, and the constant channels of each."""

    graph: Graph
    readers: Mapping[int, tuple[Op, ...]]
    values: Mapping[int, Values]


def without_constants(graph: Graph) -> Graph:
    """The same function with fewer channels."""
    use = _use(graph)
    gone = _rounded(use, _removable(use))
    if not any(gone.values()):
        return graph
    maps = tuple(_smaller(m, gone.get(i, set())) for i, m in enumerate(graph.maps))
    return replace(graph, maps=maps, ops=tuple(_rewritten(use, gone, op) for op in graph.ops))


def _use(graph: Graph) -> Use:
    readers: dict[int, tuple[Op, ...]] = {}
    values: dict[int, Values] = {}
    for op in graph.ops:
        for i in set(op.inputs):
            readers[i] = (*readers.get(i, ()), op)
        if isinstance(op, Conv) and op.groups == 1:
            values[op.output] = _of_conv(graph, op, values.get(op.inputs[0], {}))
        elif isinstance(op, Depthwise):
            values[op.output] = _of_depthwise(graph, op, values.get(op.inputs[0], {}))
    return Use(graph, readers, values)


def _of_conv(graph: Graph, op: Conv, known: Values) -> Values:
    source = graph.maps[op.inputs[0]]
    fixed = {c: v for c, v in known.items() if _absorbs(graph, op, v)}
    kept = [c for c in range(source.shape[2]) if c not in fixed]
    weights = op.weights[..., kept].reshape(len(op.weights), -1)
    return _found(weights, op.bias + _share(op, fixed, source.zero), source.zero, op.rescale)


def _of_depthwise(graph: Graph, op: Depthwise, known: Values) -> Values:
    source, outs = graph.maps[op.inputs[0]], op.weights.shape[2]
    each = outs // source.shape[2]
    weights = op.weights.reshape(-1, outs).T.copy()
    bias = op.bias.copy()
    for c, v in known.items():
        if _absorbs(graph, op, v):
            part = slice(c * each, (c + 1) * each)
            bias[part] += weights[part].astype(np.int64).sum(1) * (v - source.zero)
            weights[part] = 0
    return _found(weights, bias, source.zero, op.rescale)


def _found(weights: NDArray[np.int8], bias: Integers, zero: int, rescale: Rescale) -> Values:
    sums = sums_of(weights, bias, zero)
    values = rescale(sums.low)
    return {int(c): int(values[c]) for c in np.flatnonzero(constants(sums, rescale))}


def _absorbs(graph: Graph, op: Conv | Depthwise, value: int) -> bool:
    """Whether a constant input adds the same to every output: it is the zero point, or no window meets padding."""
    source, target = graph.maps[op.inputs[0]], graph.maps[op.output]
    g = op.geometry
    inside = all((o - 1) * s + (k - 1) * d + 1 <= n
                 for o, s, k, d, n in zip(target.shape, g.stride, g.kernel, g.dilation, source.shape, strict=False))
    return value == source.zero or (g.pad == (0, 0) and inside)


def _share(op: Conv, fixed: Values, zero: int) -> Integers:
    """What constant inputs add to every sum."""
    total = np.zeros(len(op.weights), np.int64)
    for c, v in fixed.items():
        total += op.weights[..., c].astype(np.int64).sum(axis=(1, 2)) * (v - zero)
    return total


def _removable(use: Use) -> dict[int, set[int]]:
    """Channels that no reader needs; a depthwise convolution loses the same channels on both sides or none."""
    graph = use.graph
    gone = {op.output: set(range(graph.maps[op.output].shape[2])) for op in graph.ops
            if isinstance(op, Conv | Depthwise) and op.output not in graph.outputs and getattr(op, "groups", 1) == 1}
    changed = True
    while changed:
        changed = False
        for output in gone:
            kept = {c for c in gone[output] if all(_spares(use, gone, r, output, c) for r in use.readers.get(output, ()))}
            changed, gone[output] = changed or kept != gone[output], kept
        for op in graph.ops:
            if isinstance(op, Depthwise) and op.output in gone:
                same = gone[op.output] & gone.get(op.inputs[0], set()) if _single(graph, op) else set[int]()
                changed, gone[op.output] = changed or same != gone[op.output], same
    return gone


def _single(graph: Graph, op: Depthwise) -> bool:
    return graph.maps[op.inputs[0]].shape[2] == op.weights.shape[2]


def _spares(use: Use, gone: Mapping[int, set[int]], reader: Op, source: int, channel: int) -> bool:
    """Whether a reader can do without a channel."""
    value = use.values.get(source, {}).get(channel)
    if isinstance(reader, Conv):
        return value is not None and reader.groups == 1 and _absorbs(use.graph, reader, value)
    if isinstance(reader, Depthwise):
        return channel in gone.get(reader.output, set()) and channel in use.values.get(reader.output, {})
    return False


def _rounded(use: Use, gone: dict[int, set[int]]) -> dict[int, set[int]]:
    """Whole fours are kept where there were whole fours, and at least one channel; tied maps keep the same ones."""
    done: dict[int, set[int]] = {}
    for op in use.graph.ops:
        if op.output not in gone:
            continue
        if isinstance(op, Depthwise):
            done[op.output] = done.get(op.inputs[0], set())
            continue
        channels, out = use.graph.maps[op.output].shape[2], sorted(gone[op.output])
        unit = 4 if channels % 4 == 0 else 1
        spare = max(0, min(len(out), channels - unit) // unit * unit) if unit > 1 else min(len(out), channels - 1)
        done[op.output] = set(out[:spare])
    return done


def _smaller(m: Map, gone: set[int]) -> Map:
    return replace(m, shape=(m.shape[0], m.shape[1], m.shape[2] - len(gone)))


def _kept(count: int, gone: set[int]) -> list[int]:
    return [c for c in range(count) if c not in gone]


def _rewritten(use: Use, gone: Mapping[int, set[int]], op: Op) -> Op:
    if not isinstance(op, Conv | Depthwise):
        return op
    source = use.graph.maps[op.inputs[0]]
    taken, given = gone.get(op.inputs[0], set()), gone.get(op.output, set())
    outs = _kept(use.graph.maps[op.output].shape[2], given)
    rescale = replace(op.rescale, mantissa=op.rescale.mantissa[outs], shift=op.rescale.shift[outs])
    if isinstance(op, Depthwise):
        return replace(op, weights=op.weights[..., outs], bias=op.bias[outs], rescale=rescale)
    known = use.values.get(op.inputs[0], {})
    bias = op.bias + _share(op, {c: known[c] for c in taken}, source.zero)
    ins = _kept(source.shape[2], taken) if taken else list(range(op.weights.shape[3]))
    return replace(op, weights=op.weights[outs][..., ins], bias=bias[outs], rescale=rescale)
