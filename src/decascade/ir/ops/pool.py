"""Averages and maxima over windows and over whole maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Literal

import numpy as np

from decascade.algebra.axis import Axis
from decascade.algebra.conv import Pads, crop_or_pad
from decascade.errors import GraphError
from decascade.ir.dims import UNKNOWN, Shape
from decascade.ir.ops.definition import F64, AnyArray, Definition
from decascade.ir.ops.rules import also, geometry_text, need, positive, times, unary, window_axes, windows


@dataclass(frozen=True)
class Pool:
    """Average or maximum over a window.

    `count_padding`: an average divides by the whole window also where it hangs over the edge.
    An average reads zeros there, a maximum minus infinity.
    """

    kind: Literal["avg", "max"]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Pads
    dilation: tuple[int, ...]
    count_padding: bool = False


@dataclass(frozen=True)
class GlobalPool:
    """Average or maximum over all spatial axes, which stay with size 1 (`keepdims`) or go."""

    kind: Literal["avg", "max"]
    keepdims: bool = True


def _pool_shape(op: Pool, x: Shape) -> Shape:
    need(op, x, len(op.kernel))
    fields = {"stride": op.stride, "padding": op.padding, "dilation": op.dilation}
    for name, values in fields.items():
        if len(values) != len(op.kernel):
            raise GraphError(f"Pool {name} {values} has {len(values)} entries for {len(op.kernel)} axes")
    if any(v < 1 for v in (*op.kernel, *op.stride, *op.dilation)):
        raise GraphError(f"Pool kernel {op.kernel}, stride {op.stride} or dilation {op.dilation} has an entry below 1")
    return (*x[:2], *positive(op, x, windows(x[2:], op.kernel, op.stride, op.dilation, op.padding)))


def _least(op: Pool) -> Shape:
    return (UNKNOWN, UNKNOWN, *(UNKNOWN,) * len(op.kernel))


def _global_pool_shape(op: GlobalPool, x: Shape) -> Shape:
    need(op, x, None)
    return (*x[:2], *((1,) * (len(x) - 2) if op.keepdims else ()))


def _pool_meaning(op: Pool, arrays: Sequence[AnyArray]) -> AnyArray:
    """Sum, maximum and count of a window are those of its axes, one after the other."""
    x = arrays[0]
    if op.kind == "max":
        return _sweep(op, crop_or_pad(x, op.padding, -np.inf), np.maximum)
    summed = _sweep(op, crop_or_pad(x, op.padding), np.add)
    if op.count_padding:
        return summed / prod(op.kernel)
    inside = crop_or_pad(np.ones((1, 1, *x.shape[2:])), op.padding)
    # a window that lies wholly in the padding averages nothing: 0
    return summed / np.maximum(_sweep(op, inside, np.add), 1)


def _sweep(op: Pool, x: F64, join: Callable[[F64, F64], F64]) -> F64:
    for axis, (k, s, d) in enumerate(zip(op.kernel, op.stride, op.dilation, strict=True), start=2):
        count = (x.shape[axis] - (k - 1) * d - 1) // s + 1
        lead = (slice(None),) * axis
        parts = [x[(*lead, slice(t * d, t * d + (count - 1) * s + 1, s))] for t in range(k)]
        x = reduce(join, parts)
    return x


def _global_pool_meaning(op: GlobalPool, arrays: Sequence[AnyArray]) -> AnyArray:
    x = arrays[0]
    axes = tuple(range(2, x.ndim))
    return x.mean(axes, keepdims=op.keepdims) if op.kind == "avg" else x.max(axes, keepdims=op.keepdims)


def _pool_text(op: Pool) -> list[str]:
    geometry = geometry_text(op.stride, op.dilation, op.padding)
    return [op.kind, times(op.kernel), *geometry, *(["count padding"] if op.count_padding else [])]


def _global_pool_text(op: GlobalPool) -> list[str]:
    return [op.kind, *([] if op.keepdims else ["no keepdims"])]


def _pool_words(op: Pool) -> str:
    return f"{_word(op)} pool {times(op.kernel)}{also('stride', op.stride)}"


def _global_pool_words(op: GlobalPool) -> str:
    return f"global {_word(op)} pool"


def _word(op: Pool | GlobalPool) -> str:
    return "average" if op.kind == "avg" else "max"


def _average(op: Pool | GlobalPool) -> bool:
    return op.kind == "avg"


def _pool_axes(op: Pool, rank: int) -> tuple[Axis, ...]:
    del rank
    return window_axes(op.kernel, op.stride, op.dilation, op.padding)


POOL = Definition(
    unary(_pool_shape, _least), _pool_meaning, _pool_words, text=_pool_text, linear=_average, any_size=True, per_channel=True,
    layer=True, axes=_pool_axes,
)
GLOBAL_POOL = Definition(
    unary(_global_pool_shape), _global_pool_meaning, _global_pool_words, text=_global_pool_text, linear=_average,
    per_channel=True, layer=True,
)
