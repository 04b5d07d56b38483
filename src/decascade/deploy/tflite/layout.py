"""Channels-last tensors in TensorFlow: how the graph's axes and paddings look there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from decascade.algebra.conv import Pads

Padding = Literal["SAME", "VALID"]


def last(axis: int, rank: int) -> int:
    """Where an axis of the graph's (N, C, *S) lies in (N, *S, C); ranks below 3 have one layout."""
    axis %= rank
    if rank < 3 or axis == 0:
        return axis
    return rank - 1 if axis == 1 else axis - 1


def to_last(tf: Any, x: Any) -> Any:
    """(N, C, *S) → (N, *S, C)."""
    rank = len(x.shape)
    return x if rank < 3 else tf.transpose(x, (0, *range(2, rank), 1))


def to_first(tf: Any, x: Any) -> Any:
    """(N, *S, C) → (N, C, *S)."""
    rank = len(x.shape)
    return x if rank < 3 else tf.transpose(x, (0, rank - 1, *range(1, rank - 1)))


def trimmed(size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], pads: Pads) -> Pads:
    """The padding without what no window reaches: a stride may never come to the last of it."""
    found = list[tuple[int, int]]()
    for n, k, s, d, (lo, hi) in zip(size, kernel, stride, dilation, pads, strict=True):
        reach = (k - 1) * d + 1
        positions = (n + lo + hi - reach) // s + 1
        needed = (positions - 1) * s + reach - n - lo
        found.append((lo, min(hi, max(needed, 0)) if hi > 0 else hi))
    return tuple(found)


def is_same(size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], pads: Pads) -> bool:
    """Whether the padding is what TensorFlow calls SAME: ⌈n/s⌉ positions, the odd sample of padding at the end."""
    for n, k, s, d, (lo, hi) in zip(size, kernel, stride, dilation, pads, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        if (lo, hi) != (total // 2, total - total // 2):
            return False
    return True


def padded(tf: Any, x: Any, pads: Pads, value: float = 0.0) -> Any:
    """Pad and crop the spatial axes of (N, *S, C)."""
    return grown(tf, x, ((0, 0), *pads, (0, 0)), value)


def grown(tf: Any, x: Any, widths: Sequence[tuple[int, int]], value: float = 0.0) -> Any:
    """Pad and crop all axes; negative numbers crop, after the padding."""
    more = [(max(lo, 0), max(hi, 0)) for lo, hi in widths]
    if any(lo or hi for lo, hi in more):
        x = tf.pad(x, more, constant_values=value)
    if any(lo < 0 or hi < 0 for lo, hi in widths):
        begin = [max(-lo, 0) for lo, _ in widths]
        end = [n - max(-hi, 0) for n, (_, hi) in zip(x.shape, widths, strict=True)]
        x = tf.strided_slice(x, begin, end)
    return x


def spatial(x: Any) -> tuple[int, ...]:
    """The spatial sizes of (N, *S, C)."""
    return tuple(int(n) for n in x.shape[1:-1])


def through_2d(tf: Any, x: Any, function: Callable[[Any], Any]) -> Any:
    """A function of (N, 1, L, C) on (N, L, C): the device runtimes have two spatial axes."""
    return tf.squeeze(function(tf.expand_dims(x, 1)), 1)
