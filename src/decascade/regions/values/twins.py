"""Channels that are equal to others, or a positive multiple of them, on every input.

Every channel of every tensor gets a label and a scale: channels of one label are equal once divided by their scales.  Labels
are handed on by operations that treat channels alike; two filters of a convolution get the same label if they read the same
labels with weights that are proportional, as far as the dtype can store that (each weight is the other one times the scale,
rounded).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import (
    Activation,
    Add,
    Affine,
    Concat,
    Dense,
    Flatten,
    GlobalPool,
    Identity,
    Pool,
    Select,
    Slice,
    Upsample,
)
from decascade.regions.values.facts import Facts, channels_of, inputs_of, owners

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]
HOMOGENEOUS = {"relu", "leaky_relu", "prelu"}
"""f(s·x) = s·f(x) for s > 0."""
NEAR = 1e-6
"""Distance within which the random projections of two rows are candidates."""


@dataclass(frozen=True, eq=False)
class Labels:
    """Of the channels (C,) of a tensor: which are multiples of each other, and by which factor."""

    label: Ints
    scale: F64

    def take(self, index: Any) -> Labels:
        return Labels(self.label[index], self.scale[index])

    @property
    def first(self) -> Ints:
        """For every channel the first one of its label, (C,)."""
        _, first, inverse = np.unique(self.label, return_index=True, return_inverse=True)
        return first[inverse]

    @property
    def ratio(self) -> F64:
        """Every channel is this times the first one of its label, (C,)."""
        return self.scale / self.scale[self.first]


@dataclass
class Book:
    """Hands out labels: one for every key."""

    keys: dict[Hashable, int] = field(default_factory=dict[Hashable, int])

    def of(self, key: Hashable) -> int:
        return self.keys.setdefault(key, len(self.keys))

    def new(self, channels: int) -> Labels:
        start = len(self.keys)
        for i in range(channels):
            self.keys["new", start + i] = start + i
        return Labels(np.arange(start, start + channels), np.ones(channels))


def twins_of(graph: Graph, facts: Mapping[str, Facts]) -> dict[str, Labels]:
    """The labels of every tensor in `facts`.  Constants other than zero are multiples of each other."""
    book, found = Book(), dict[str, Labels]()
    for name in graph.inputs:
        if (channels := channels_of(graph, name)) is not None:
            found[name] = book.new(channels)
    for node in graph.nodes:
        for output in node.outputs:
            channels = channels_of(graph, output)
            if channels is None:
                continue
            labels = _labelled(book, graph, node, found) if len(node.outputs) == 1 else None
            labels = labels if labels is not None and len(labels.label) == channels else book.new(channels)
            found[output] = _with_constants(book, labels, facts.get(output))
    return found


def _labelled(book: Book, graph: Graph, node: Node, found: Mapping[str, Labels]) -> Labels | None:
    rule = RULES.get(type(node.op))
    if rule is None or any(n not in found for n in node.inputs):
        return None
    return rule(book, node.op, [found[n] for n in node.inputs], graph, node)


def _with_constants(book: Book, labels: Labels, facts: Facts | None) -> Labels:
    if facts is None:
        return labels
    constant = facts.constant & ~facts.zero
    return Labels(np.where(constant, book.of("constant"), labels.label), np.where(constant, facts.value, labels.scale))


def _conv(book: Book, op: Conv, given: Sequence[Labels], graph: Graph, node: Node) -> Labels:
    """Rows over labels: the weights on channels of one label are added, each times its scale."""
    source, weight = given[0], op.weight.astype(np.float64)
    place = (type(op).__name__, op.kernel, op.stride, op.dilation, op.padding)
    reads = inputs_of(op)
    flat = weight.reshape(*weight.shape[:2], -1) * source.scale[reads][:, :, None]
    names, column = np.unique(source.label, return_inverse=True)
    rows = np.zeros((op.out_channels, len(names) if op.groups == 1 else op.weight.shape[1], flat.shape[2]))
    if op.groups == 1:
        for i, at in enumerate(column):
            rows[:, at] += flat[:, i]
        over = np.zeros(op.out_channels, np.int64)
        place = (*place, names.tobytes())
    else:
        rows = flat
        _, over = np.unique(source.label[reads], axis=0, return_inverse=True)
        place = (*place, "groups", source.label[reads].tobytes())
    table = np.concatenate([rows.reshape(len(rows), -1), op.bias64[:, None]], axis=1)
    return proportional(book, place, table, over.reshape(-1), float(np.finfo(op.weight.dtype).eps))


def proportional(book: Book, place: Hashable, rows: F64, over: Ints, eps: float) -> Labels:
    """Labels of rows (O, n), compared among those with the same `over`: proportional up to rounding by `eps`."""
    size = np.abs(rows).max(axis=1, initial=0.0)
    unit = rows / np.where(size > 0, size, 1.0)[:, None]
    weights: F64 = np.random.default_rng(0).standard_normal((rows.shape[1],))
    probe: F64 = (unit * weights).sum(axis=1)
    order = np.lexsort((probe, over))
    label = book.new(len(rows)).label
    for at, i in enumerate(order):
        for j in order[at + 1 :]:
            if over[j] != over[i] or probe[j] - probe[i] > NEAR:
                break
            allowed = eps * np.minimum(np.abs(unit[i]), np.abs(unit[j]))
            if size[i] > 0 and size[j] > 0 and np.all(np.abs(unit[i] - unit[j]) <= allowed):
                label[j] = label[i]
    least = np.array([np.flatnonzero(label == name)[0] for name in label])
    names = [book.of((place, int(over[i]), unit[i].tobytes())) for i in least]
    return Labels(np.array(names, np.int64), np.where(size > 0, size, 1.0))


def _dense(book: Book, op: Dense, given: Sequence[Labels], graph: Graph, node: Node) -> Labels | None:
    return _conv(book, op.layer, given, graph, node) if len(graph.shape(node.inputs[0]) or ()) == 2 else None


def _affine(book: Book, op: Affine, given: Sequence[Labels], graph: Graph, node: Node) -> Labels:
    source = given[0]
    rows = np.stack([source.scale * op.scale, op.shift.astype(np.float64)], axis=1)
    return proportional(book, "affine", rows, source.label, float(np.finfo(op.scale.dtype).eps))


def _activation(book: Book, op: Activation, given: Sequence[Labels], graph: Graph, node: Node) -> Labels | None:
    source = given[0]
    if op.kind == "softmax":
        return None
    free = (source.scale > 0) if op.kind in HOMOGENEOUS else np.zeros(len(source.scale), bool)
    slope = np.broadcast_to(op.slope if op.slope is not None else 0.0, source.label.shape)
    inner = np.where(free, 1.0, source.scale)
    keys = ((op.kind, op.params, int(n), float(a), float(s)) for n, a, s in zip(source.label, slope, inner, strict=True))
    return Labels(np.array([book.of(key) for key in keys], np.int64), np.where(free, source.scale, 1.0))


def _alike(book: Book, op: Any, given: Sequence[Labels], graph: Graph, node: Node) -> Labels:
    """Operations with f(s·x) = s·f(x) for s > 0 that treat all channels alike."""
    source = given[0]
    key = (type(op).__name__, repr(op))
    sign = np.sign(source.scale)
    names = [book.of((key, int(n), float(s))) for n, s in zip(source.label, sign, strict=True)]
    return Labels(np.array(names, np.int64), np.abs(source.scale))


def _same(book: Book, op: Any, given: Sequence[Labels], graph: Graph, node: Node) -> Labels:
    return given[0]


def _select(book: Book, op: Select, given: Sequence[Labels], graph: Graph, node: Node) -> Labels:
    return given[0].take(op.indices)


def _concat(book: Book, op: Concat, given: Sequence[Labels], graph: Graph, node: Node) -> Labels | None:
    if op.axis != 1:
        return None
    return Labels(np.concatenate([g.label for g in given]), np.concatenate([g.scale for g in given]))


def _add(book: Book, op: Add, given: Sequence[Labels], graph: Graph, node: Node) -> Labels | None:
    if len({len(g.label) for g in given}) > 1:
        return None
    signs = np.array(op.signs or (1,) * len(given), float)
    scales = np.stack([g.scale for g in given], axis=1) * signs
    size = np.abs(scales).max(axis=1)
    labels = np.stack([g.label for g in given], axis=1)
    keys = (("add", tuple(n.tolist()), tuple((s / m).tolist())) for n, s, m in zip(labels, scales, size, strict=True))
    return Labels(np.array([book.of(key) for key in keys], np.int64), size)


def _flatten(book: Book, op: Flatten, given: Sequence[Labels], graph: Graph, node: Node) -> Labels | None:
    source = given[0]
    owner = owners(op, len(source.label), graph.spatial(node.inputs[0]))
    if owner is None:
        return None
    index = np.arange(len(owner))
    channels, positions = len(source.label), len(owner) // len(source.label)
    position = index % positions if op.order == "channels_first" else index // channels
    names = [book.of(("flat", node.inputs[0], int(n), int(p))) for n, p in zip(source.label[owner], position, strict=True)]
    return Labels(np.array(names, np.int64), source.scale[owner])


Rule = Callable[[Book, Any, Sequence[Labels], Graph, Node], Labels | None]
RULES: Mapping[type, Rule] = {
    Conv: _conv, Dense: _dense, Affine: _affine, Activation: _activation, Pool: _alike, GlobalPool: _alike, Slice: _alike,
    Upsample: _alike, Identity: _same, Select: _select, Concat: _concat, Add: _add, Flatten: _flatten,
}
"""The rule of each operation; channels of what has none are taken to differ."""
