"""Operations that move values, and pools, as Keras layers."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv, crop_or_pad
from decascade.errors import GraphError
from decascade.formats.keras import emit_conv as conv
from decascade.formats.keras.base import copies_the_edge, to_native
from decascade.formats.keras.emitter import Emitter, as_width
from decascade.ir.ops import Flatten, Pad, Pool, Slice

_LEAST = {"float16": -65504.0}


def _known(to: Emitter, x: Any, what: str) -> tuple[int, ...]:
    size = tuple(n for n in to.size(x) if n is not None)
    if len(size) < len(x.shape) - 2:
        raise GraphError(f"{to.name}: {what} a map of a size that is only known when the model runs has no form in Keras")
    return size


def flatten(to: Emitter, op: Flatten, x: Any) -> Any:
    """Keras flattens a channels-last map as it lies; "channels_first" in its Flatten moves the channels to the end."""
    rank = len(x.shape)
    if rank < 3:
        return x
    if to.layout == "channels_first":
        return to.put("Flatten", x, data_format="channels_last" if op.order == "channels_first" else "channels_first")
    if op.order == "channels_first" and prod(to.size(x)[i] or 0 for i in range(rank - 2)) != 1:
        x = to.put("Permute", x, name="channels_first", dims=(rank - 1, *range(1, rank - 1)))
    return to.put("Flatten", x, data_format="channels_last")


def pad(to: Emitter, op: Pad, x: Any) -> Any:
    """Crops and pads of the map, then of the channels."""
    lo, hi = op.channels
    if lo < 0 or hi < 0:
        x = select(to, np.arange(max(-lo, 0), to.channels(x) - max(-hi, 0)), x, "crop_channels")
        lo, hi = max(lo, 0), max(hi, 0)
    wide = any(a or b for a, b in op.pads)
    if wide:
        framed = op.value != 0 and any(a > 0 or b > 0 for a, b in op.pads)
        last = "" if not (lo or hi) else "frame"
        x = frame(to, op, x, last) if framed else to.zeros(x, op.pads, last)
    parts = [constant(to, x, n, op.value, name) if n else None for n, name in ((lo, "before"), (hi, "after"))]
    joined = [p for p in (parts[0], x, parts[1]) if p is not None]
    return to.put("Concatenate", joined, axis=1 if to.layout == "channels_first" else -1) if len(joined) > 1 else x


def constant(to: Emitter, x: Any, channels: int, value: float, name: str) -> Any:
    """Channels of one value on the map of x."""
    rank = len(x.shape) - 2
    weights = [np.zeros((*(1,) * rank, to.channels(x), channels)), np.full(channels, value)]
    x = to.floating(x)
    if rank == 0:
        return to.put("Dense", x, weights, name=name, units=channels, trainable=False)
    return to.put(f"Conv{rank}D", x, weights, name=name, filters=channels, kernel_size=1, ordered=True, trainable=False)


def frame(to: Emitter, op: Pad, x: Any, name: str) -> Any:
    """Padding with another constant than zero: zeros, and a map that has the constant in the frame."""
    if not np.isfinite(op.value):
        raise GraphError(f"{to.name}: padding with {op.value} cannot be written in Keras")
    x = to.floating(x)
    padded, size = to.zeros(x, op.pads, "zeros"), to.size(x)
    if all(n is not None for n in size):
        inside = crop_or_pad(np.ones((1, *(n or 1 for n in size))), op.pads)
        return to.shift(padded, op.value * (1 - inside), name)
    # of a map of unknown size: a channel of ones, padded the same, turned into the constant outside and 0 inside
    channels, rank = to.channels(x), len(size)
    ones = to.zeros(constant(to, x, 1, 1.0, "ones"), op.pads, "ones_zeros")
    weights = [np.full((*(1,) * rank, 1, channels), -op.value), np.full(channels, op.value)]
    outside = to.put(
        f"Conv{rank}D", ones, weights, name="outside", filters=channels, kernel_size=1, ordered=True, trainable=False
    )
    return to.put("Add", [padded, outside], name=name)


def select(to: Emitter, indices: NDArray[np.integer[Any]], x: Any, name: str = "") -> Any:
    """Channels by index."""
    total, rank = to.channels(x), len(x.shape)
    size = to.size(x)
    first, count = int(indices[0]), len(indices)
    if count == total and np.array_equal(indices, np.arange(total)):
        return x
    if np.array_equal(indices, np.arange(first, first + count)) and sum(n is None for n in size) <= 1:
        return _neighbours(to, first, count, x, name)
    weight = np.zeros((count, total, *(1,) * (rank - 2)), np.float32)
    weight[np.arange(count), indices] = 1
    return conv.convolution(to, Conv(weight), x)


def _neighbours(to: Emitter, first: int, count: int, x: Any, name: str) -> Any:
    """Cropping on a view in which the channels are a spatial axis; the reshapes cost nothing."""
    total, size = to.channels(x), to.size(x)
    crop, back = (first, total - first - count), [-1 if n is None else n for n in size]
    if not size:
        x = to.put("Reshape", x, name="view", target_shape=(total, 1))
        x = to.put("Cropping1D", x, name="crop", cropping=crop)
        return to.put("Reshape", x, name=name, target_shape=(count,))
    first_order = to.layout == "channels_first"
    view = (total, -1, 1) if first_order else (-1, total, 1)
    x = to.put("Reshape", x, name="view", target_shape=view)
    sides = (crop, (0, 0)) if first_order else ((0, 0), crop)
    x = to.put("Cropping2D", x, name="crop", cropping=sides, data_format="channels_last")
    return to.put("Reshape", x, name=name, target_shape=(count, *back) if first_order else (*back, count))


def cut(to: Emitter, op: Slice, x: Any) -> Any:
    """A slice of one spatial axis: cropped."""
    axis, size = op.axis - 2, to.size(x)
    n = size[axis]
    if n is None:
        raise GraphError(f"{to.name}: a slice of a map of a size that is only known when the model runs has no form in Keras")
    pads = tuple((-op.start, op.stop - n) if i == axis else (0, 0) for i in range(len(size)))
    return to.zeros(x, pads, "")


def repeat(to: Emitter, factor: tuple[int, ...], x: Any) -> Any:
    """Every sample several times along each axis."""
    if len(factor) > 1:
        return to.put(f"UpSampling{len(factor)}D", x, size=factor, ordered=True)
    times = prod(factor)
    if to.layout == "channels_last":
        return to.put("UpSampling1D", x, size=times)
    return as_width(to, x, "", lambda y: to.put("UpSampling2D", y, name="repeat", size=(1, times), ordered=True))


def pool(to: Emitter, op: Pool, x: Any) -> Any:
    """A pool; one whose padding Keras has no word for is padded before, and an average divided anew where that matters."""
    rank, size = len(op.kernel), to.size(x)
    if max(op.dilation) > 1:
        return _dilated_average(to, op, x)
    pads = conv.trimmed(size, op.padding, op.kernel, op.stride, op.dilation)
    padding = conv.same_or_valid(size, pads, op.kernel, op.stride, op.dilation)
    kind = "Average" if op.kind == "avg" else "Max"
    options: dict[str, Any] = {"pool_size": op.kernel, "strides": op.stride, "ordered": True}
    if rank == 1:
        options |= {"pool_size": op.kernel[0], "strides": op.stride[0]}
    fits = op.kind == "max" or not (op.count_padding or copies_the_edge(pads))
    if padding == "valid" or (padding == "same" and fits):
        return to.put(f"{kind}Pooling{rank}D", x, padding=padding, **options)
    if op.kind == "max":
        least = _LEAST.get(str(x.dtype), float(np.finfo(np.float32).min))
        x = frame(to, Pad(pads, least), x, "padded")
        return to.put(f"MaxPooling{rank}D", x, padding="valid", **options)
    x = to.zeros(x, pads, "padded")
    if op.count_padding:
        return to.put(f"AveragePooling{rank}D", x, padding="valid", **options)
    x = to.put(f"AveragePooling{rank}D", x, name="whole", padding="valid", **options)
    share = _shares(op, _known(to, x, "averaging"), size)
    return to.put("Rescaling", x, scale=to_native(share[None, None], to.layout)[0].tolist())


def _shares(op: Pool, out: tuple[int, ...], size: tuple[int | None, ...]) -> NDArray[np.float64]:
    """Per output position: the window's length over the number of its samples on the map."""
    share = np.ones(())
    for n, m, k, s, (lo, _) in zip(out, size, op.kernel, op.stride, op.padding, strict=True):
        at = s * np.arange(n)[:, None] - lo + np.arange(k)[None, :]
        share = np.multiply.outer(share, k / np.maximum(((at >= 0) & (at < (m or 0))).sum(axis=1), 1))
    return share


def _dilated_average(to: Emitter, op: Pool, x: Any) -> Any:
    if op.kind == "max" or (not op.count_padding and any(lo or hi for lo, hi in op.padding)):
        raise GraphError(f"{to.name}: a pool with dilation {op.dilation} cannot be written in Keras")
    channels = to.channels(x)
    weight = np.full((channels, 1, *op.kernel), 1 / prod(op.kernel), np.float32)
    return conv.convolution(to, Conv(weight, None, op.stride, op.dilation, op.padding, channels), x)
