"""Pools in TensorFlow, with the padding that the device runtimes can express, or the same result without it."""

from __future__ import annotations

from functools import reduce
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import crop_or_pad
from decascade.deploy.tflite.layout import is_same, padded, spatial, through_2d, trimmed
from decascade.ir.interpret import evaluate
from decascade.ir.ops import GlobalPool, Pool


def global_pool(tf: Any, op: GlobalPool, x: Any) -> Any:
    """Over all spatial axes of (N, *S, C)."""
    axes = list(range(1, len(x.shape) - 1))
    if not axes:
        return x
    return (tf.reduce_mean if op.kind == "avg" else tf.reduce_max)(x, axis=axes, keepdims=op.keepdims)


def pool(tf: Any, op: Pool, x: Any) -> Any:
    """A window over one to three axes on (N, *S, C)."""
    if len(op.kernel) == 1 and op.dilation == (1,):
        wide = Pool(op.kind, (1, *op.kernel), (1, *op.stride), ((0, 0), *op.padding), (1, 1), op.count_padding)
        return through_2d(tf, x, lambda y: pool(tf, wide, y))
    if len(op.kernel) != 2 or op.dilation != (1, 1):
        return _swept(tf, op, x)
    return _max_2d(tf, op, x) if op.kind == "max" else _average_2d(tf, op, x)


def _max_2d(tf: Any, op: Pool, x: Any) -> Any:
    fields = (spatial(x), op.kernel, op.stride, op.dilation)
    pads = trimmed(*fields, op.padding)
    if not any(lo or hi for lo, hi in pads):
        return tf.nn.max_pool2d(x, op.kernel, op.stride, "VALID")
    if is_same(*fields, pads):
        return tf.nn.max_pool2d(x, op.kernel, op.stride, "SAME")
    grown = [(max(lo, 0), max(hi, 0)) for lo, hi in pads]
    if all(2 * max(p) <= k for p, k in zip(grown, op.kernel, strict=True)):
        # mirrored samples are ones that the window sees anyway: no value of minus infinity, which int8 could not hold
        x = tf.pad(x, [(0, 0), *grown, (0, 0)], mode="SYMMETRIC")
        x = padded(tf, x, tuple((min(lo, 0), min(hi, 0)) for lo, hi in pads))
        return tf.nn.max_pool2d(x, op.kernel, op.stride, "VALID")
    return _swept(tf, op, x)


def _average_2d(tf: Any, op: Pool, x: Any) -> Any:
    fields = (spatial(x), op.kernel, op.stride, op.dilation)
    pads = trimmed(*fields, op.padding)
    free = not any(lo or hi for lo, hi in pads)
    if free or (is_same(*fields, pads) and not op.count_padding):
        return tf.nn.avg_pool2d(x, op.kernel, op.stride, "VALID" if free else "SAME")
    y = tf.nn.avg_pool2d(padded(tf, x, pads), op.kernel, op.stride, "VALID")
    return y if op.count_padding else y * _share(op, spatial(x))


def _share(op: Pool, size: tuple[int, ...]) -> NDArray[np.float32]:
    """What the mean over a whole window has to be multiplied with, position by position, to leave out the padding."""
    whole = Pool("avg", op.kernel, op.stride, op.padding, op.dilation, count_padding=True)
    (inside,) = evaluate(whole, [np.ones((1, 1, *size))])
    found = np.divide(1.0, inside, out=np.zeros_like(inside), where=inside > 0)
    return np.ascontiguousarray(np.moveaxis(found, 1, -1), np.float32)


def _swept(tf: Any, op: Pool, x: Any) -> Any:
    """Any window: the sum or maximum of shifted slices, one axis after the other."""
    size = spatial(x)
    if op.kind == "max":
        return _sweep(tf, op, _edged(tf, x, op), tf.maximum)
    y = _sweep(tf, op, padded(tf, x, op.padding), tf.add) * np.float32(1 / prod(op.kernel))
    return y if op.count_padding else y * _share(op, size)


def _edged(tf: Any, x: Any, op: Pool) -> Any:
    """Padded with the tensor's own minimum, which no maximum over a window with a sample in it can notice."""
    if not any(lo or hi for lo, hi in op.padding):
        return x
    inside = crop_or_pad(np.ones((1, *spatial(x))), op.padding)[0, ..., None].astype(np.float32)
    floor = tf.reduce_min(x, axis=list(range(1, len(x.shape))), keepdims=True)
    return padded(tf, x - floor, op.padding) * inside + floor


def _sweep(tf: Any, op: Pool, x: Any, join: Any) -> Any:
    for axis, (k, s, d) in enumerate(zip(op.kernel, op.stride, op.dilation, strict=True), start=1):
        count = (x.shape[axis] - (k - 1) * d - 1) // s + 1
        parts = list[Any]()
        for tap in range(k):
            cut = [slice(None)] * len(x.shape)
            cut[axis] = slice(tap * d, tap * d + (count - 1) * s + 1, s)
            parts.append(x[tuple(cut)])
        x = reduce(join, parts)
    return x
