"""What is known of every channel of every tensor on all inputs: a constant, a sign.

The rules are those of exact arithmetic on finite inputs, and hold for floating point too: a sum of terms that are not negative
is not negative in any order of summation, and zero times a finite number is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import (
    Activation,
    Add,
    Affine,
    BiasMap,
    Concat,
    Dense,
    Flatten,
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
from decascade.ir.ops.activation import activate

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Facts:
    """Of the channels (C,) of a tensor: `value` is the constant at every position, NaN where it is none; `low` is whether it
    is never below zero, `high` whether it is never above."""

    value: F64
    low: Bools
    high: Bools

    @staticmethod
    def nothing(channels: int) -> Facts:
        return Facts(np.full(channels, np.nan), np.zeros(channels, bool), np.zeros(channels, bool))

    @staticmethod
    def of(value: F64, low: Bools, high: Bools) -> Facts:
        """Signs that the constants have are added."""
        known = ~np.isnan(value)
        return Facts(value, low | (known & (value >= 0)), high | (known & (value <= 0)))

    @property
    def constant(self) -> Bools:
        return ~np.isnan(self.value)

    @property
    def zero(self) -> Bools:
        return self.value == 0

    def take(self, index: Any) -> Facts:
        return Facts(self.value[index], self.low[index], self.high[index])

    @property
    def flipped(self) -> Facts:
        """Of the negated tensor."""
        return Facts(-self.value, self.high, self.low)


def facts_of(graph: Graph) -> dict[str, Facts]:
    """Of every tensor whose number of channels is known."""
    found = dict[str, Facts]()
    for name, tensor in graph.tensors.items():
        channels = channels_of(graph, name)
        if channels is not None and np.dtype(_numpy(tensor.dtype)).kind == "f":
            found[name] = Facts.nothing(channels)
    for node in graph.nodes:
        known = [found.get(n) for n in node.inputs]
        rule = RULES.get(type(node.op))
        if rule is None or len(node.outputs) != 1 or node.output not in found:
            continue
        given = [f for f in known if f is not None]
        facts = rule(node.op, given, graph, node) if len(given) == len(known) else None
        if facts is not None and len(facts.value) == len(found[node.output].value):
            found[node.output] = facts
    return found


def _numpy(dtype: str) -> str:
    return "float32" if dtype == "bfloat16" else dtype


def channels_of(graph: Graph, name: str) -> int | None:
    """The number of channels of a tensor (N, C, *S), None where there is no such axis or its size is open."""
    shape = graph.shape(name)
    return shape[1] if shape is not None and len(shape) > 1 and isinstance(shape[1], int) else None


def _conv(op: Conv, given: Sequence[Facts], graph: Graph, node: Node) -> Facts:
    return _layer(op, given[0])


def _layer(op: Conv, source: Facts) -> Facts:
    """A sum over the channels of a group.  A constant that is not zero stays one only where nothing is padded."""
    padded = any(p > 0 for pair in op.padding for p in pair)
    weight = op.weight.astype(np.float64)
    taps = tuple(range(2, weight.ndim))
    total = weight.sum(axis=taps)                                       # (O, I/g)
    empty = ~np.any(weight != 0, axis=taps)
    positive, negative = np.all(weight >= 0, axis=taps), np.all(weight <= 0, axis=taps)
    parts = source.take(inputs_of(op))                                  # facts of (O, I/g)
    fixed = empty | parts.zero | (parts.constant & (not padded))
    with np.errstate(invalid="ignore"):
        each = np.where(empty | parts.zero, 0.0, total * np.where(parts.constant, parts.value, 0.0))
    value = np.where(fixed.all(axis=1), each.sum(axis=1) + op.bias64, np.nan)
    above = empty | parts.zero | (parts.low & positive) | (parts.high & negative)
    below = empty | parts.zero | (parts.low & negative) | (parts.high & positive)
    return Facts.of(value, above.all(axis=1) & (op.bias64 >= 0), below.all(axis=1) & (op.bias64 <= 0))


def inputs_of(op: Conv) -> NDArray[np.int64]:
    """For every output channel the input channels that it reads, (O, I/groups)."""
    rows, width = op.out_channels // op.groups, op.weight.shape[1]
    return np.array([range(i // rows * width, (i // rows + 1) * width) for i in range(op.out_channels)], np.int64)


def _dense(op: Dense, given: Sequence[Facts], graph: Graph, node: Node) -> Facts | None:
    return _layer(op.layer, given[0]) if len(graph.shape(node.inputs[0]) or ()) == 2 else None


def _affine(op: Affine, given: Sequence[Facts], graph: Graph, node: Node) -> Facts:
    source, scale, shift = given[0], op.scale.astype(np.float64), op.shift.astype(np.float64)
    value = np.where(scale == 0, shift, scale * source.value + shift)
    up = (source.low & (scale >= 0)) | (source.high & (scale <= 0)) | (scale == 0)
    down = (source.high & (scale >= 0)) | (source.low & (scale <= 0)) | (scale == 0)
    return Facts.of(value, up & (shift >= 0), down & (shift <= 0))


POSITIVE = {"relu", "sigmoid", "hard_sigmoid", "softplus", "exp", "abs", "sqrt", "softmax"}
SIGNED = {"leaky_relu", "prelu", "elu", "selu", "tanh", "softsign", "silu", "gelu", "gelu_tanh", "hard_swish"}
"""Those of the sign of their argument, as far as that is not negative."""


def _activation(op: Activation, given: Sequence[Facts], graph: Graph, node: Node) -> Facts:
    source = given[0]
    value = np.full_like(source.value, np.nan)
    at = np.flatnonzero(source.constant)
    if op.kind != "softmax" and len(at):
        part = replace(op, slope=op.slope[at]) if op.slope is not None and op.slope.size > 1 else op
        value[at] = activate(part, source.value[at][None])[0]
    low = np.full(len(value), op.kind in POSITIVE) | (source.low & (op.kind in SIGNED))
    high = np.zeros(len(value), bool)
    if op.kind == "clip":
        low, high = np.full(len(value), op.params[0] >= 0), np.full(len(value), op.params[1] <= 0)
        low, high = low | (source.low & (op.params[1] >= 0)), high | (source.high & (op.params[0] <= 0))
    elif op.kind == "relu":
        value = np.where(source.high, 0.0, value)
    elif op.kind == "neg":
        low, high = source.high, source.low
    return Facts.of(value, low, high)


def _pool(op: Pool, given: Sequence[Facts], graph: Graph, node: Node) -> Facts:
    """What hangs over the edge is left out, but in an average that counts it as zeros."""
    source, padded = given[0], any(p > 0 for pair in op.padding for p in pair)
    shrinks = op.kind == "avg" and op.count_padding and padded
    return Facts(np.where(source.zero | (not shrinks), source.value, np.nan), source.low, source.high)


def _same(op: Op, given: Sequence[Facts], graph: Graph, node: Node) -> Facts:
    return given[0]


def _pad(op: Pad, given: Sequence[Facts], graph: Graph, node: Node) -> Facts:
    before, after = op.channels
    inside = given[0].take(slice(max(-before, 0), len(given[0].value) - max(-after, 0)))
    if any(p > 0 for pair in op.pads for p in pair):
        same = inside.value == op.value
        inside = Facts(np.where(same, inside.value, np.nan), inside.low & (op.value >= 0), inside.high & (op.value <= 0))
    edges = [Facts.of(np.full(max(n, 0), op.value), np.zeros(max(n, 0), bool), np.zeros(max(n, 0), bool))
             for n in (before, after)]
    return _joined([edges[0], inside, edges[1]])


def _joined(parts: Sequence[Facts]) -> Facts:
    return Facts(*(np.concatenate([getattr(p, field) for p in parts]) for field in ("value", "low", "high")))


def _add(op: Add, given: Sequence[Facts], graph: Graph, node: Node) -> Facts | None:
    signs = op.signs or (1,) * len(given)
    if len({len(f.value) for f in given}) > 1:
        return None
    parts = [f if s > 0 else f.flipped for f, s in zip(given, signs, strict=True)]
    value = np.asarray(np.sum([p.value for p in parts], axis=0))
    net: dict[str, int] = {}
    for name, sign in zip(node.inputs, signs, strict=True):
        net[name] = net.get(name, 0) + sign
    if not any(net.values()):                                           # x − x
        value = np.zeros_like(value)
    return Facts.of(value, np.all([p.low for p in parts], axis=0), np.all([p.high for p in parts], axis=0))


def _product(op: Product, given: Sequence[Facts], graph: Graph, node: Node) -> Facts | None:
    channels = channels_of(graph, node.output)
    if channels is None or any(len(f.value) not in (1, channels) for f in given):
        return None
    parts = [f.take(np.zeros(channels, np.int64)) if len(f.value) == 1 else f for f in given]
    value = np.where(np.any([p.zero for p in parts], axis=0), 0.0, np.prod([p.value for p in parts], axis=0))
    return Facts.of(value, np.all([p.low for p in parts], axis=0), np.zeros(channels, bool))


def _concat(op: Concat, given: Sequence[Facts], graph: Graph, node: Node) -> Facts | None:
    if op.axis == 1:
        return _joined(given)
    first = given[0]
    if any(len(f.value) != len(first.value) for f in given):
        return None
    same = np.all([f.value == first.value for f in given], axis=0)
    return Facts(np.where(same, first.value, np.nan), np.all([f.low for f in given], axis=0),
                 np.all([f.high for f in given], axis=0))


def _select(op: Select, given: Sequence[Facts], graph: Graph, node: Node) -> Facts:
    return given[0].take(op.indices)


def _bias_map(op: BiasMap, given: Sequence[Facts], graph: Graph, node: Node) -> Facts:
    flat = op.values.astype(np.float64).reshape(len(op.values), -1)
    low, high = flat.min(axis=1), flat.max(axis=1)
    value = np.where(low == high, given[0].value + low, np.nan)
    return Facts.of(value, given[0].low & (low >= 0), given[0].high & (high <= 0))


def _flatten(op: Flatten, given: Sequence[Facts], graph: Graph, node: Node) -> Facts | None:
    owner = owners(op, len(given[0].value), graph.spatial(node.inputs[0]))
    return None if owner is None else given[0].take(owner)


def owners(op: Flatten, channels: int, size: tuple[int, ...] | None) -> NDArray[np.int64] | None:
    """The channel that every entry of the flattened vector comes from; None where the size is open."""
    if size is None:
        return None
    positions = int(np.prod(size))
    index = np.arange(channels * positions)
    return index // positions if op.order == "channels_first" else index % channels


Rule = Callable[[Any, Sequence[Facts], Graph, Node], Facts | None]
RULES: Mapping[type, Rule] = {
    Conv: _conv, Dense: _dense, Affine: _affine, Activation: _activation, Pool: _pool, GlobalPool: _same, Identity: _same,
    Slice: _same, Upsample: _same, Pad: _pad, Add: _add, Product: _product, Concat: _concat, Select: _select,
    BiasMap: _bias_map, Flatten: _flatten,
}
"""The rule of each operation; of one without a rule nothing is known."""
