"""Rewrites of the quantised graph that change no value: padding into windows, relabelling away, dense layers onto maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from decascade.stream.graph import Graph, Map, Op
from decascade.stream.ops.conv import Conv, Depthwise
from decascade.stream.ops.shape import Pad, Reshape


def simplified(graph: Graph) -> Graph:
    """The same function of the same input, with fewer operations."""
    return _without_dead(_flattened(_padded(graph)))


def _makers(graph: Graph) -> dict[int, Op]:
    return {op.output: op for op in graph.ops}


def _padded(graph: Graph) -> Graph:
    """A pad with the zero point in front of a convolution is that convolution's padding."""
    makers = _makers(graph)
    ops = list[Op]()
    for op in graph.ops:
        pad = makers.get(op.inputs[0]) if op.inputs else None
        if isinstance(op, Conv | Depthwise) and isinstance(pad, Pad) and _is_zero(graph.maps, pad):
            before = op.geometry.pad
            (top, _), (left, _), _ = pad.widths
            geometry = replace(op.geometry, pad=(before[0] + top, before[1] + left))
            ops.append(replace(op, inputs=pad.inputs, geometry=geometry))
        else:
            ops.append(op)
    return replace(graph, ops=tuple(ops))


def _is_zero(maps: Sequence[Map], pad: Pad) -> bool:
    source, target = maps[pad.inputs[0]], maps[pad.output]
    same = (source.scale, source.zero) == (target.scale, target.zero)
    return same and pad.fill == source.zero and pad.widths[2] == (0, 0) and min(*pad.widths[0], *pad.widths[1]) >= 0


def _flattened(graph: Graph) -> Graph:
    """A dense layer behind a reshape reads the map itself; a reshape that keeps rows is no operation."""
    makers, ops = _makers(graph), list[Op]()
    alias: dict[int, int] = {}
    for old in graph.ops:
        op = _redirected(old, alias)
        if isinstance(op, Reshape) and op.output not in graph.outputs and _same_rows(graph.maps, op):
            alias[op.output] = op.inputs[0]
            continue
        shaped = makers.get(old.inputs[0]) if old.inputs else None
        if isinstance(op, Conv) and isinstance(shaped, Reshape) and op.groups == 1:
            op = _onto(graph.maps, op, alias.get(shaped.inputs[0], shaped.inputs[0]))
        ops.append(op)
    return replace(graph, ops=tuple(ops))


def _redirected(op: Op, alias: Mapping[int, int]) -> Op:
    if not any(i in alias for i in op.inputs):
        return op
    return replace(op, inputs=tuple(alias.get(i, i) for i in op.inputs))  # type: ignore[type-var]


def _same_rows(maps: Sequence[Map], op: Reshape) -> bool:
    """Also channels must stay, as what reads the map knows it by its shape."""
    return maps[op.inputs[0]].shape == maps[op.output].shape


def _onto(maps: Sequence[Map], op: Conv, source: int) -> Conv:
    outs, rows, columns, channels = op.weights.shape
    taken, given = maps[source].shape, maps[op.inputs[0]].shape
    if given[:2] != (1, 1) or (rows, columns, channels) != given:
        return op
    geometry = replace(op.geometry, kernel=taken[:2])
    return replace(op, inputs=(source,), weights=op.weights.reshape(outs, *taken), geometry=geometry)


def _without_dead(graph: Graph) -> Graph:
    live, ops = set(graph.outputs), list[Op]()
    for op in reversed(graph.ops):
        if op.output in live:
            live |= set(op.inputs)
            ops.append(op)
    return replace(graph, ops=tuple(reversed(ops)))
