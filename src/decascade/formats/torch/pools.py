"""Readers for pools, and for sums and products with constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from decascade.formats.torch.ops import Context, Reading, per_axis, plus, spread
from decascade.formats.torch.values import trials
from decascade.ir.graph import Shape
from decascade.ir.ops import Add, Affine, BiasMap, GlobalPool, Identity, Pool, Product
from decascade.ir.shapes import multiplies


def _window(ctx: Context, x: Any, kernel: Any, stride: Any) -> tuple[int, tuple[int, ...], tuple[int, ...]] | None:
    rank = ctx.rank(x)
    if rank is None or rank < 3:
        return None
    size = per_axis(kernel, rank - 2)
    steps = [] if stride is None else spread(stride, rank - 2)
    return rank - 2, size, per_axis(steps, rank - 2) if steps else size


def _covers(ctx: Context, x: Any, kernel: Any, padding: Any) -> bool:
    """Whether a window that is computed from sizes is as large as the map: avg_pool2d(x, x.shape[2:])."""
    items = spread(kernel, 1)
    if any(spread(padding, 1)) or not any(hasattr(item, "op") for item in items):
        return False
    for sizes in trials():
        whole = sizes.concrete(ctx.shape(x))[2:]
        found = [ctx.at(item, sizes) if hasattr(item, "op") else item for item in items]
        flat = spread(found[0], len(whole)) if len(found) == 1 else found
        if tuple(flat) != whole:
            return False
    return True


def _ceiling(
    shape: Shape | None, size: Sequence[int], step: Sequence[int], pads: Sequence[int], dilation: Sequence[int]
) -> list[int] | None:
    """How much more padding at the end makes floor give what torch's ceil_mode gives; None where that is not known."""
    more = list[int]()
    assert shape is not None
    for n, k, s, p, d in zip(shape[2:], size, step, pads, dilation, strict=True):
        if not isinstance(n, int):
            return None
        rest = n + 2 * p - d * (k - 1) - 1
        count = -(-rest // s) + 1
        if (count - 1) * s >= n + p:  # torch: the last window must start inside the input or its left padding
            count -= 1
        more.append(max((count - 1) * s - rest, 0))
    return more


def avg_pool(
    ctx: Context,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Reading | None:
    if _covers(ctx, x, kernel_size, padding) and divisor_override is None:
        return GlobalPool("avg"), (x,)
    window = _window(ctx, x, kernel_size, stride)
    if window is None or divisor_override is not None:
        return None
    rank, size, step = window
    pads = per_axis(padding, rank)
    # a window that hangs over the end is divided by a count of its own: only where ceil_mode changes nothing
    if ceil_mode and _ceiling(ctx.shape(x), size, step, pads, (1,) * rank) != [0] * rank:
        return None
    return Pool("avg", size, step, tuple((p, p) for p in pads), (1,) * rank, count_include_pad), (x,)


def max_pool(
    ctx: Context,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Reading | None:
    if _covers(ctx, x, kernel_size, padding) and not return_indices:
        return GlobalPool("max"), (x,)
    window = _window(ctx, x, kernel_size, stride)
    if window is None or return_indices:
        return None
    rank, size, step = window
    pads, spread = per_axis(padding, rank), per_axis(dilation, rank)
    more = _ceiling(ctx.shape(x), size, step, pads, spread) if ceil_mode else [0] * rank
    if more is None:
        return None
    return Pool("max", size, step, tuple((p, p + extra) for p, extra in zip(pads, more, strict=True)), spread), (x,)


def _adaptive(ctx: Context, x: Any, output_size: Any, kind: Literal["avg", "max"]) -> Reading | None:
    shape = ctx.shape(x)
    if all(n == 1 for n in spread(output_size, 1)):
        return GlobalPool(kind), (x,)
    if shape is None or len(shape) < 3:
        return None
    sizes = [n for n in shape[2:] if isinstance(n, int)]
    goals = [n if goal is None else int(goal) for goal, n in zip(spread(output_size, len(sizes)), sizes, strict=True)]
    if len(sizes) < len(shape) - 2 or any(n % goal for n, goal in zip(sizes, goals, strict=True)):
        return None
    step = tuple(n // goal for n, goal in zip(sizes, goals, strict=True))
    if all(s == 1 for s in step):
        return Identity(), (x,)
    return Pool(kind, step, step, ((0, 0),) * len(step), (1,) * len(step)), (x,)


def adaptive_avg_pool(ctx: Context, x: Any, output_size: Any) -> Reading | None:
    return _adaptive(ctx, x, output_size, "avg")


def adaptive_max_pool(ctx: Context, x: Any, output_size: Any, return_indices: bool = False) -> Reading | None:
    return None if return_indices else _adaptive(ctx, x, output_size, "max")


def _over_space(ctx: Context, x: Any, dim: Any) -> bool:
    rank = ctx.rank(x)
    if rank is None or rank < 3 or dim is None:
        return False
    axes = sorted(int(d) % rank for d in spread(dim, 1))
    return axes == list(range(2, rank))


def mean(ctx: Context, x: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Reading | None:
    return (GlobalPool("avg", keepdim), (x,)) if dtype is None and _over_space(ctx, x, dim) else None


def amax(ctx: Context, x: Any, dim: Any = None, keepdim: bool = False) -> Reading | None:
    return (GlobalPool("max", keepdim), (x,)) if _over_space(ctx, x, dim) else None


def add(ctx: Context, x: Any, other: Any, alpha: float = 1) -> Reading | None:
    if ctx.values.is_tensor(x) and ctx.values.is_tensor(other):
        found = plus(ctx, x, other)
        if alpha == 1 or found is None:
            return found
        return (Add((1, -1)), found[1]) if alpha == -1 else None
    if not ctx.values.is_tensor(x):
        return None if alpha != 1 else _shifted(ctx, other, ctx.array(x), 1)
    return _shifted(ctx, x, ctx.array(other), alpha)


def sub(ctx: Context, x: Any, other: Any, alpha: float = 1) -> Reading | None:
    if ctx.values.is_tensor(x) and ctx.values.is_tensor(other):
        found = plus(ctx, x, other)
        return None if found is None or alpha != 1 else (Add((1, -1)), found[1])
    if not ctx.values.is_tensor(x):
        return None if alpha != 1 else _scaled(ctx, other, np.float64(-1), ctx.array(x))
    return _shifted(ctx, x, ctx.array(other), -alpha)


def rsub(ctx: Context, x: Any, other: Any, alpha: float = 1) -> Reading | None:
    return sub(ctx, other, x, alpha)


def mul(ctx: Context, x: Any, other: Any) -> Reading | None:
    if ctx.values.is_tensor(x) and ctx.values.is_tensor(other):
        return (Product(), (x, other)) if multiplies([ctx.shape(x), ctx.shape(other)]) else None
    if not ctx.values.is_tensor(x):
        x, other = other, x
    return None if ctx.values.is_tensor(other) else _scaled(ctx, x, ctx.array(other), None)


def div(ctx: Context, x: Any, other: Any, rounding_mode: Any = None) -> Reading | None:
    constant = None if rounding_mode is not None or not ctx.values.is_tensor(x) else ctx.array(other)
    return None if constant is None else _scaled(ctx, x, 1 / constant.astype(np.float64), None)


def neg(ctx: Context, x: Any) -> Reading | None:
    return _scaled(ctx, x, np.float64(-1), None)


def _shifted(ctx: Context, x: Any, constant: NDArray[Any] | None, factor: float) -> Reading | None:
    if constant is None:
        return None
    values = constant.astype(np.float64) * factor
    if not np.any(values) and values.size == 1:
        return Identity(), (x,)
    column = _per_channel(ctx, x, values)
    if column is not None:
        return Affine(np.ones(len(column)), column), (x,)
    rank, shape = ctx.rank(x), ctx.shape(x)
    if rank is None or shape is None or rank < 3 or values.ndim > rank or (values.ndim == rank and values.shape[0] != 1):
        return None
    whole = values.reshape((1,) * (rank - values.ndim) + values.shape)[0]
    # an axis that is 1 in the constant stretches over one of known size only
    if not all(isinstance(n, int) or m > 1 for n, m in zip(shape[1:], whole.shape, strict=True)):
        return None
    target = tuple(n if isinstance(n, int) else m for n, m in zip(shape[1:], whole.shape, strict=True))
    if any(m not in (1, n) for n, m in zip(target, whole.shape, strict=True)):
        return None
    return BiasMap(np.broadcast_to(whole, target)), (x,)


def _scaled(ctx: Context, x: Any, scale: NDArray[Any] | np.float64 | None, shift: NDArray[Any] | None) -> Reading | None:
    factors = None if scale is None else _per_channel(ctx, x, np.asarray(scale, dtype=np.float64))
    added = None if shift is None else _per_channel(ctx, x, shift.astype(np.float64))
    if factors is None or (shift is not None and added is None):
        return None
    if added is None and np.all(factors == 1):
        return Identity(), (x,)
    return Affine(factors, np.zeros(len(factors)) if added is None else added), (x,)


def _per_channel(ctx: Context, x: Any, values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """A constant that is the same at every position, as one number per channel."""
    rank, channels = ctx.rank(x), ctx.channels(x)
    if rank is None or channels is None or values.ndim > rank:
        return None
    shape = (1,) * (rank - values.ndim) + values.shape
    if any(n != 1 for axis, n in enumerate(shape) if axis != 1) or shape[1] not in (1, channels):
        return None
    return np.array(np.broadcast_to(values.ravel(), (channels,)))
