"""Convolutions, dense layers and scales as Keras layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from decascade.algebra.conv import Array, Conv, ConvTranspose, Pads
from decascade.errors import GraphError
from decascade.formats.keras.base import same_pads
from decascade.formats.keras.emitter import Emitter
from decascade.ir.ops import Affine


def dilated(weight: Array, dilation: Sequence[int]) -> Array:
    """The kernel with its taps spread out over zeros, for a layer without dilation."""
    if all(d == 1 for d in dilation):
        return weight
    kernel = tuple((k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True))
    out = np.zeros((*weight.shape[:2], *kernel), weight.dtype)
    out[(..., *(slice(None, None, d) for d in dilation))] = weight
    return out


def ungrouped(weight: Array, groups: int) -> Array:
    """A grouped weight (rows in groups, columns of one) as a full one, zeros off its blocks."""
    if groups == 1:
        return weight
    rows, columns = weight.shape[0] // groups, weight.shape[1]
    out = np.zeros((weight.shape[0], columns * groups, *weight.shape[2:]), weight.dtype)
    for g in range(groups):
        out[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] = weight[g * rows : (g + 1) * rows]
    return out


def trimmed(
    size: Sequence[int | None], before: Pads, kernel: Sequence[int], stride: Sequence[int], step: Sequence[int]
) -> Pads:
    """The same windows with no more padding after than they reach: what lies past the last window is never read."""
    pads = list[tuple[int, int]]()
    for n, (lo, hi), k, s, d in zip(size, before, kernel, stride, step, strict=True):
        if n is not None and s > 1:
            reach = (k - 1) * d + 1
            least = ((n + lo + hi - reach) // s) * s + reach - n - lo
            hi = min(max(least, 0), least + s - 1)
        pads.append((lo, hi))
    return tuple(pads)


def same_or_valid(
    size: Sequence[int | None], pads: Pads, kernel: Sequence[int], stride: Sequence[int], step: Sequence[int]
) -> str | None:
    """Keras' word for these pads; None where it has none."""
    if not any(lo or hi for lo, hi in pads):
        return "valid"
    fields = list(zip(size, kernel, stride, step, strict=True))
    wanted = tuple(same_pads(n, k, s, d) for n, k, s, d in fields)
    return "same" if wanted == pads else None


def convolution(to: Emitter, op: Conv, x: Any) -> Any:
    """A Conv layer, depthwise where every input channel has a kernel of its own."""
    if op.rank == 0:
        return dense(to, op, x)
    if op.rank > 3:
        raise GraphError(f"Keras has no convolution over {op.rank} axes")
    weight, step = op.weight, op.dilation
    if max(op.stride) > 1 and max(step) > 1:
        weight, step = dilated(weight, step), (1,) * op.rank
    x, kernel, size = to.floating(x), weight.shape[2:], to.size(x)
    pads = trimmed(size, op.padding, kernel, op.stride, step)
    padding = same_or_valid(size, pads, kernel, op.stride, step)
    if padding is None:
        x, padding = to.zeros(x, pads, "pad"), "valid"
    options: dict[str, Any] = {
        "kernel_size": kernel, "strides": op.stride, "dilation_rate": step, "padding": padding,
        "use_bias": op.bias is not None, "ordered": True,
    }
    bias = [] if op.bias is None else [op.bias]
    last = range(2, weight.ndim)
    if op.groups == op.in_channels > 1 and op.rank < 3:
        # (I·M, 1, *K) → (*K, I, M)
        multiple = op.out_channels // op.groups
        own = weight.reshape(op.groups, multiple, *kernel).transpose(*last, 0, 1)
        return to.put(f"DepthwiseConv{op.rank}D", x, [own, *bias], depth_multiplier=multiple, **options)
    own = weight.transpose(*last, 1, 0)
    return to.put(f"Conv{op.rank}D", x, [own, *bias], filters=op.out_channels, groups=op.groups, **options)


def transposed(to: Emitter, op: ConvTranspose, x: Any) -> Any:
    """A transposed convolution, cropped where its padding is neither Keras' valid nor same."""
    if not 1 <= op.rank <= 3:
        raise GraphError(f"Keras has no transposed convolution over {op.rank} axes")
    # (I, O/g, *K): the rows of a group are its inputs
    weight = ungrouped(dilated(op.weight, op.dilation), op.groups)
    # a negative crop: the bias alone, as past the end of a kernel with zeros there
    room = [(max(-lo, 0), max(-hi, 0)) for lo, hi in op.padding]
    natural = [max(s - k, 0) for k, s in zip(weight.shape[2:], op.stride, strict=True)]
    room = [(lo, 0 if not lo and hi <= free else hi) for (lo, hi), free in zip(room, natural, strict=True)]
    weight = np.pad(weight, [(0, 0), (0, 0), *room])
    crop = [(lo + a, hi + b) for (lo, hi), (a, b) in zip(op.padding, room, strict=True)]
    kernel, padding = weight.shape[2:], "same"
    for (lo, hi), k, s in zip(crop, kernel, op.stride, strict=True):
        before = max(k - s, 0) // 2
        padding = padding if (lo, hi) == (before, k - s - before) else "valid"
    bias = [] if op.bias is None else [op.bias]
    rest = tuple((-lo, min(k - s, 0) - hi) for (lo, hi), k, s in zip(crop, kernel, op.stride, strict=True))
    cropped = padding == "valid" and any(lo or hi for lo, hi in rest)
    x = to.put(
        f"Conv{op.rank}DTranspose", to.floating(x), [weight.transpose(*range(2, weight.ndim), 1, 0), *bias],
        name="full" if cropped else "", filters=op.out_channels, kernel_size=kernel, strides=op.stride, padding=padding,
        use_bias=op.bias is not None, ordered=True,
    )
    return to.zeros(x, rest, "") if cropped else x


def dense(to: Emitter, layer: Conv, x: Any) -> Any:
    """A dense layer on the graph's last axis."""
    weight = ungrouped(layer.weight, layer.groups).T
    weights = [weight] if layer.bias is None else [weight, layer.bias]
    options: dict[str, Any] = {"units": layer.out_channels, "use_bias": layer.bias is not None}
    x, rank = to.floating(x), len(x.shape)
    if rank < 3 or to.layout == "channels_first":
        return to.put("Dense", x, weights, **options)
    # the graph's last axis is the last but one here
    swap = (*range(1, rank - 2), rank - 1, rank - 2)
    x = to.put("Dense", to.put("Permute", x, name="to_last", dims=swap), weights, name="dense", **options)
    return to.put("Permute", x, dims=swap)


def affine(to: Emitter, op: Affine, x: Any) -> Any:
    """scale·x + shift per channel."""
    x, rank = to.floating(x), len(x.shape)
    if np.ptp(op.scale) == 0 and np.ptp(op.shift) == 0:
        return to.put("Rescaling", x, scale=float(op.scale[0]), offset=float(op.shift[0]))
    if rank in (3, 4) and op.scale.size > 1 and not np.all(op.scale == 1):
        spatial = rank - 2
        weight = op.scale.reshape(-1, 1, *(1,) * spatial)
        bias = op.shift if np.any(op.shift) else None
        return convolution(to, Conv(weight, bias, groups=op.scale.size), x)
    scale = 1.0 if np.all(op.scale == 1) else to.spread(op.scale, rank)
    return to.put("Rescaling", x, scale=scale, offset=to.spread(op.shift, rank))
