"""One operation on many samples, in float32 or float64, fast: channels first, the sample axis last (C, *S, N).

With the samples last a convolution is one matrix product over all of them, and per-channel numbers broadcast from the
left.  `ir.interpret` is the oracle that this is tested against; it is several times slower.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv, ConvTranspose, Pads
from decascade.errors import CannotInterpret
from decascade.ir.graph import Graph
from decascade.ir.interpret import evaluate
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
from decascade.ir.ops.activation import activate
from decascade.ir.ops.table import Table
from decascade.ir.ops.traits import is_element_wise
from decascade.typing import Reals

Values = Reals

def column(values: Values, rank: int) -> Values:
    """One number per channel against an array of `rank` axes."""
    return values.reshape(-1, *(1,) * (rank - 1))


def run(
    graph: Graph, inputs: Mapping[str, Values], see: Callable[[str, Values], None], stop_after: str | None = None
) -> None:
    """Run the graph on inputs (C, *S, N) in their own precision; `see` is shown every tensor once, in order.

    Raises:
        CannotInterpret: an operation without a meaning in NumPy.
    """
    values = dict(inputs)
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    for name, array in values.items():
        see(name, array)
    for node in graph.nodes:
        for name, result in zip(node.outputs, apply(node.op, [values[n] for n in node.inputs]), strict=True):
            values[name] = result
            see(name, result)
        if stop_after in node.outputs:
            return
        uses.subtract(node.inputs)
        for name in node.inputs:
            if not uses[name]:
                values.pop(name, None)


def apply(op: Op, arrays: Sequence[Values]) -> list[Values]:
    """The outputs of one operation on arrays (C, *S, N), in their own precision; by the oracle where no rule is faster.

    Raises:
        CannotInterpret: a `Foreign` without a meaning in NumPy.
    """
    rule = FAST.get(op)
    return _by_oracle(op, arrays) if rule is None else [rule(op, arrays)]


def _convolution(op: Conv, arrays: Sequence[Values]) -> Values:
    return convolve(op, arrays[0])


def _dense(op: Dense, arrays: Sequence[Values]) -> Values:
    return dense(op.layer, arrays[0])


def _affine(op: Affine, arrays: Sequence[Values]) -> Values:
    x = arrays[0]
    return column(op.scale.astype(x.dtype), x.ndim) * x + column(op.shift.astype(x.dtype), x.ndim)


def _activation(op: Activation, arrays: Sequence[Values]) -> Values:
    x = arrays[0]
    if op.kind == "relu":
        return np.maximum(x, 0)
    if op.kind == "clip":
        return np.minimum(np.maximum(x, x.dtype.type(op.params[0])), x.dtype.type(op.params[1]))
    if not is_element_wise(op):
        return _by_oracle(op, arrays)[0]
    return activate(op, x[None].astype(np.float64))[0].astype(x.dtype)


def _add(op: Add, arrays: Sequence[Values]) -> Values:
    total = arrays[0] if not op.signs or op.signs[0] > 0 else -arrays[0]
    for sign, other in zip((op.signs or (1,) * len(arrays))[1:], arrays[1:], strict=True):
        total = total + other if sign > 0 else total - other
    return total


def _product(_: Product, arrays: Sequence[Values]) -> Values:
    return reduce(np.multiply, arrays)


def _identity(_: Identity, arrays: Sequence[Values]) -> Values:
    return arrays[0]


def _flatten(op: Flatten, arrays: Sequence[Values]) -> Values:
    x = arrays[0]
    ordered = x if op.order == "channels_first" else np.moveaxis(x, 0, -2)
    return ordered.reshape(-1, x.shape[-1])


def _concat(op: Concat, arrays: Sequence[Values]) -> Values:
    return np.concatenate(arrays, axis=op.axis - 1)


def _select(op: Select, arrays: Sequence[Values]) -> Values:
    return arrays[0][op.indices]


def _slice(op: Slice, arrays: Sequence[Values]) -> Values:
    return arrays[0][(*(slice(None),) * (op.axis - 1), slice(op.start, op.stop))]


def _upsample(op: Upsample, arrays: Sequence[Values]) -> Values:
    x = arrays[0]
    for axis, factor in enumerate(op.factor, start=1):
        x = np.repeat(x, factor, axis)
    return x


def _by_oracle(op: Op, arrays: Sequence[Values]) -> list[Values]:
    if isinstance(op, Foreign) and op.evaluate is None:
        raise CannotInterpret(f"{op.kind} has no meaning in NumPy")
    results = evaluate(op, [np.moveaxis(a, -1, 0) for a in arrays])
    return [np.moveaxis(r, 0, -1).astype(arrays[0].dtype) for r in results]


def fit(x: Values, pads: Pads, value: float = 0.0) -> Values:
    """Pad the spatial axes of (C, *S, N) by (before, after); negative numbers crop."""
    if not any(lo or hi for lo, hi in pads):
        return x
    cut = (slice(None), *(slice(max(-lo, 0), n - max(-hi, 0)) for n, (lo, hi) in zip(x.shape[1:-1], pads, strict=True)))
    width = [(0, 0), *((max(lo, 0), max(hi, 0)) for lo, hi in pads), (0, 0)]
    return np.pad(x[cut], width, constant_values=value)


def taps(kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], count: Sequence[int]
         ) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Every tap of a kernel with the samples per axis that it meets."""
    for tap in product(*map(range, kernel)):
        yield tap, tuple(slice(t * d, t * d + (n - 1) * s + 1, s)
                         for t, s, d, n in zip(tap, stride, dilation, count, strict=True))


def convolve(op: Conv, x: Values, weight: Values | None = None, bias: bool = True) -> Values:
    """A convolution of x (C, *S, N); `weight` stands in for the layer's own."""
    w = (op.weight if weight is None else weight).astype(x.dtype)
    size, count = op.output_size(x.shape[1:-1]), x.shape[-1]
    padded = fit(x, op.padding)
    if op.groups == 1:
        out = _blocked(op, padded, w, size)
    else:
        grouped = padded.reshape(op.groups, -1, *padded.shape[1:])
        split = w.reshape(op.groups, -1, w.shape[1], *op.kernel)
        out = np.zeros((op.groups, split.shape[1], prod(size) * count), x.dtype)
        for tap, window in taps(op.kernel, op.stride, op.dilation, size):
            seen = grouped[(slice(None), slice(None), *window)].reshape(op.groups, grouped.shape[1], -1)
            factor = split[(..., *tap)]
            out += factor * seen if seen.shape[1] == 1 else factor @ seen
    out = out.reshape(-1, *size, count)
    return out + column(op.bias64.astype(x.dtype), out.ndim) if bias and op.has_bias else out


BLOCK = 2**18
"""Entries of the column matrix that are made at a time: about what a second-level cache holds."""


def _blocked(op: Conv, padded: Values, w: Values, size: Sequence[int]) -> Values:
    """Σ w·x as matrix products over blocks of rows of the picture, so that the columns stay in the cache."""
    count = padded.shape[-1]
    flat, width = w.reshape(w.shape[0], -1), prod(size[1:]) * count
    rows = size[0] if size else 1
    step = max(1, BLOCK // max(flat.shape[1] * width, 1))
    out = np.empty((w.shape[0], rows, width), padded.dtype)
    for first in range(0, rows, step):
        part = (min(step, rows - first), *size[1:]) if size else ()
        columns = np.empty((op.in_channels, *op.kernel, *part, count), padded.dtype)
        for tap, window in taps(op.kernel, op.stride, op.dilation, part):
            if window:
                start = first * op.stride[0]
                window = (slice(window[0].start + start, window[0].stop + start, op.stride[0]), *window[1:])
            columns[(slice(None), *tap)] = padded[(slice(None), *window)]
        out[:, first : first + step] = (flat @ columns.reshape(flat.shape[1], -1)).reshape(w.shape[0], -1, width)
    return out


def dense(layer: Conv, x: Values, weight: Values | None = None, bias: bool = True) -> Values:
    """A dense layer on the last axis before the samples of x (..., I, N)."""
    w = (layer.weight if weight is None else weight).astype(x.dtype)
    out = w @ x
    return out + layer.bias64.astype(x.dtype)[:, None] if bias and layer.has_bias else out


def _pool(op: Pool, arrays: Sequence[Values]) -> Values:
    x = arrays[0]
    if op.kind == "max":
        return swept(op, fit(x, op.padding, -np.inf), np.maximum)
    summed = swept(op, fit(x, op.padding), np.add)
    return (summed / pool_count(op, x.shape[1:-1])[None, ..., None]).astype(x.dtype)


def pool_count(op: Pool, size: Sequence[int]) -> NDArray[np.float64]:
    """What an average divides by, per output position."""
    inside = fit(np.ones((1, *size, 1)), op.padding)
    counts = swept(op, inside, np.add)[0, ..., 0]
    return np.full(counts.shape, float(prod(op.kernel))) if op.count_padding else np.maximum(counts, 1.0)


def swept(op: Pool, x: Values, join: Callable[[Values, Values], Values]) -> Values:
    """Sum or maximum over the windows of padded x, one axis after the other."""
    for axis, (k, s, d) in enumerate(zip(op.kernel, op.stride, op.dilation, strict=True), start=1):
        count = (x.shape[axis] - (k - 1) * d - 1) // s + 1
        lead = (slice(None),) * axis
        total = x[(*lead, slice(0, (count - 1) * s + 1, s))]
        for t in range(1, k):
            total = join(total, x[(*lead, slice(t * d, t * d + (count - 1) * s + 1, s))])
        x = total
    return x


FAST: Table[Callable[[Any, Sequence[Values]], Values]] = Table(
    "the evaluation of many samples",
    {
        Conv: _convolution, Dense: _dense, Affine: _affine, Activation: _activation, Add: _add, Product: _product, Pool: _pool,
        Identity: _identity, Flatten: _flatten, Concat: _concat, Select: _select, Slice: _slice, Upsample: _upsample,
    },
    dict.fromkeys((ConvTranspose, GlobalPool, Pad, BiasMap, Foreign), "evaluated by the oracle, one sample after the other"),
)
"""Of the operations that have a rule here, one that is faster than the oracle's."""
