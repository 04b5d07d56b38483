"""Which positions of a map are alike, and the smallest picture that has all kinds of them.

Two positions of an axis are in one *class* if their receptive fields meet the edges in the same way: with a box that is
constant per channel they then have equal bounds and equal witnesses, up to a shift of the picture.  Classes are numbered
by what they are made of, so that those of two picture sizes can be compared; a graph is analysed at the smallest size
that has the classes of its own (the cost of a proof does not grow with the picture).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

import numpy as np

from decascade.algebra.conv import Conv, ConvTranspose
from decascade.bounds.box import Box
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
    Op,
    Pad,
    Pool,
    Product,
    Select,
    Slice,
    Upsample,
)
from decascade.ir.ops.table import Table
from decascade.ir.ops.traits import axes, is_any_size, is_pointwise
from decascade.ir.shapes import infer_graph
from decascade.typing import Ints

Axes = tuple[Ints, ...]
Rule = Callable[[int, int, list[Ints]], tuple[int, ...]]
"""From an axis, a position of the output on it and the classes of the inputs along it to what the position sees there."""



class Classes:
    """Numbers for what a class is made of; shared between graphs of one structure."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], int] = {}

    def number(self, *made_of: object) -> int:
        return self._known.setdefault(made_of, len(self._known))

    def of(self, graph: Graph, box: Box) -> dict[str, Axes]:
        """Per tensor and spatial axis the class of every position."""
        found = dict[str, Axes]()
        for name in graph.inputs:
            size = spatial(graph, name)
            same = box.intervals[name].uniform
            found[name] = tuple(
                np.array([self.number("input", name, a, 0 if same else p) for p in range(n)], np.int64)
                for a, n in enumerate(size)
            )
        for node in graph.nodes:
            for output in node.outputs:
                found[output] = self._step(graph, node, output, [found[n] for n in node.inputs])
        return found

    def _step(self, graph: Graph, node: Node, output: str, sources: list[Axes]) -> Axes:
        size, op = spatial(graph, output), node.op
        if is_pointwise(op):
            return sources[0]
        if not size:
            return ()
        alike = len(node.inputs) > 0 and all(len(s) == len(size) for s in sources)
        rule = _rule(op, len(size)) if alike else None
        if rule is None:
            return tuple(np.array([self.number(output, a, p) for p in range(n)], np.int64) for a, n in enumerate(size))
        return tuple(
            np.array([self.number(output, a, *rule(a, p, [s[a] for s in sources])) for p in range(n)], np.int64)
            for a, n in enumerate(size)
        )


def _rule(op: Op, rank: int) -> Rule | None:
    """What a position of the output sees; None where each position is a class of its own."""
    made = SEEN.get(op)
    return None if made is None else made(op, rank)


def _windowed(op: Op, rank: int) -> Rule | None:
    """The classes in the window of the operation, −1 for padding."""
    window = axes(op, rank)
    if window is None:
        return None

    def rule(axis: int, p: int, sources: list[Ints]) -> tuple[int, ...]:
        along = window[axis]
        return tuple(_at(s, along.first(p) + t * along.step) for s in sources for t in range(along.taps))

    return rule


def _transposed(op: ConvTranspose, _: int) -> Rule:
    def rule(axis: int, p: int, sources: list[Ints]) -> tuple[int, ...]:
        reach = ((p + op.padding[axis][0] - t * op.dilation[axis], op.stride[axis]) for t in range(op.kernel[axis]))
        return tuple(_at(sources[0], q // s) if q % s == 0 else -2 for q, s in reach)

    return rule


def _repeated(op: Upsample, _: int) -> Rule:
    def rule(axis: int, p: int, sources: list[Ints]) -> tuple[int, ...]:
        return int(sources[0][p // op.factor[axis]]), p % op.factor[axis]

    return rule


def _joined(op: Concat, rank: int) -> Rule | None:
    plain = _windowed(Concat(), rank)

    def rule(axis: int, p: int, sources: list[Ints]) -> tuple[int, ...]:
        if op.axis - 2 != axis:
            return () if plain is None else plain(axis, p, sources)
        for i, source in enumerate(sources):
            if p < len(source):
                return i, int(source[p])
            p -= len(source)
        return ()

    return rule


SEEN: Table[Callable[[Any, int], Rule | None]] = Table(
    "classes of positions",
    {
        **dict.fromkeys((Conv, Pool, Pad, Slice, Add), _windowed), ConvTranspose: _transposed, Upsample: _repeated,
        Concat: _joined,
    },
    {
        **dict.fromkeys((Identity, Affine, Select), "pointwise: the classes are those of the input"),
        Activation: "pointwise, or a softmax, of which each position is a class of its own",
        BiasMap: "another number at each position", Product: "repeats what is of size 1",
        **dict.fromkeys((Dense, Flatten, GlobalPool), "its output has no positions, or each sees all"),
        Foreign: "nothing is known of it",
    },
)
"""Where there is no rule each position is a class of its own, which is always right."""


def _at(classes: Ints, p: int) -> int:
    return int(classes[p]) if 0 <= p < len(classes) else -1


def spatial(graph: Graph, name: str) -> tuple[int, ...]:
    """The spatial size of a tensor, all of it numbers."""
    shape = graph.shape(name)
    return tuple(int(n) for n in shape[2:]) if shape is not None else ()


def representatives(axes: Axes) -> list[tuple[tuple[int, ...], tuple[Ints, ...]]]:
    """Per product of classes one position of it, and per axis all its positions; the largest classes first."""
    per_axis = [[(int(at[len(at) // 2]), at) for c in dict.fromkeys(axis.tolist()) if len(at := np.flatnonzero(axis == c))]
                for axis in axes]
    found = [(tuple(p for p, _ in pick), tuple(at for _, at in pick)) for pick in product(*per_axis)]
    return sorted(found, key=lambda item: -prod(len(at) for at in item[1]))


def part(graph: Graph, targets: Iterable[str]) -> Graph:
    """The nodes that lead to some tensors, as a graph with these as outputs."""
    wanted = set(targets)
    outputs, kept = tuple(dict.fromkeys(targets)), list[Node]()
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs):
            kept.append(node)
            wanted.update(node.inputs)
    inputs = tuple(n for n in graph.inputs if n in wanted)
    return replace(graph, inputs=inputs, outputs=outputs).with_nodes(kept[::-1])


def smallest(graph: Graph, box: Box, classes: Classes) -> tuple[Graph, Mapping[str, Axes]]:
    """The graph at the smallest input size that has the same classes of every tensor; itself where there is none."""
    own = classes.of(graph, box)
    if not all(is_any_size(n.op) for n in graph.nodes) or not all(i.uniform for i in box.intervals.values()):
        return graph, own
    sizes = [spatial(graph, name) for name in graph.inputs]
    if len(set(sizes)) != 1 or not sizes[0]:
        return graph, own
    chosen = list(sizes[0])
    for axis, n in enumerate(sizes[0]):
        step = _stride(graph, axis)
        for small in range((n - 1) % step + 1, int(0.9 * n), step):
            tried = _resized(graph, [small if a == axis else m for a, m in enumerate(sizes[0])])
            if tried is not None and _same(own, classes.of(tried, box), axis):
                chosen[axis] = small
                break
    if tuple(chosen) == sizes[0]:
        return graph, own
    found = _resized(graph, chosen)
    return (graph, own) if found is None else (found, classes.of(found, box))


def _same(a: Mapping[str, Axes], b: Mapping[str, Axes], axis: int) -> bool:
    return all(set(a[n][axis].tolist()) == set(b[n][axis].tolist()) for n in a if len(a[n]) > axis)


def _stride(graph: Graph, axis: int) -> int:
    seen = [axes(n.op, len(spatial(graph, n.output))) for n in graph.nodes if n.outputs]
    return prod(found[axis].stride for found in seen if found is not None and len(found) > axis)


def _resized(graph: Graph, size: list[int]) -> Graph | None:
    tensors = dict[str, Tensor]()
    for name, tensor in graph.tensors.items():
        shape = tensor.shape
        kept = (*shape[:2], *size) if name in graph.inputs and shape is not None else None
        tensors[name] = replace(tensor, shape=kept)
    try:
        found = infer_graph(replace(graph, tensors=tensors))
    except GraphError:
        return None
    whole = all(isinstance(n, int) and n > 0 for t in found.tensors.values() for n in (t.shape or ("?",))[1:])
    return found if whole else None


__all__ = ["Axes", "Classes", "part", "representatives", "smallest", "spatial"]
