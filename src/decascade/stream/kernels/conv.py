"""Convolutions in C: packed pairs of filters where sums are proved small enough, else a plain kernel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from decascade.stream.fixed import wrapped
from decascade.stream.graph import Map
from decascade.stream.kernels.base import Emitted, joined, numbers, words
from decascade.stream.kernels.requantise import Short, short, sums_of
from decascade.stream.ops.conv import Conv, Depthwise, Geometry, Rescale

PAIR = 1 << 23
"""The second sum of a packed pair must be smaller."""


def conv(op: Conv, source: Map, target: Map, budget: int) -> Emitted:
    """`budget`: bytes of scratch for a tile of pixels, exceeded only where two pixels need more."""
    sums = sums_of(op.weights.reshape(len(op.weights), -1), op.bias, source.zero)
    found = short(sums, op.rescale) if op.groups == 1 else None
    if found is None or not _pairs(found):
        return _plain(op, source, target)
    height, width = op.geometry.kernel
    channels = source.shape[2]
    column = -(-height * channels // 2) * 2
    quads = -(-width * column // 4)
    quads += quads % 2
    tile, columns = _tile(op.geometry, target.shape[1], 2 * column, budget)
    weights = found.filters.reshape(-1, height, width, channels).transpose(0, 2, 1, 3).reshape(len(op.weights), width, -1)
    taps = np.zeros((len(weights) + len(weights) % 2, 4 * quads), np.int64)
    spread = np.zeros((len(weights), width, column), np.int64)
    spread[:, :, : height * channels] = weights
    taps[: len(weights), : width * column] = spread.reshape(len(weights), -1)
    both = taps[0::2] + 256 * taps[1::2]
    packed = words(both[:, 0::2], both[:, 1::2]).reshape(-1)
    g = op.geometry
    fields = ("{name}_weights", "{name}_scales", *numbers(
        quads, len(weights), column, height, width, g.stride[1], channels, source.shape[1], target.shape[1], tile,
        g.dilation[1], g.pad[1], source.zero, op.rescale.low, op.rescale.high))
    arrays = (("weights", "uint32_t", packed), ("scales", "int32_t", _pair_scales(found)))
    slack = 8 * quads - 2 * width * column
    return Emitted("conv_packed", fields, arrays, columns * 2 * column + slack)


def _pairs(found: Short) -> bool:
    """Whether the packed sums are exact: 256·w1 + w0 fits 16 bits, and the second sum 23 bits and its sign."""
    second = found.filters[1::2]
    bound = np.abs(second).sum(1) * 128 + np.abs(found.bias[1::2])
    both = found.filters[0 : 2 * len(second) : 2] + 256 * second
    return bool(np.all(bound < PAIR)) and bool(np.all((both >= -(1 << 15)) & (both < 1 << 15)))


def _pair_scales(found: Short) -> NDArray[np.int64]:
    def padded(values: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.append(values, 0) if len(values) % 2 else values

    bias, m, c, n = (padded(v) for v in (found.bias, found.mantissa, found.offset, found.shift))
    both = wrapped(bias[0::2] + 256 * bias[1::2])
    return joined([bias[0::2], both, m[0::2], c[0::2], n[0::2], m[1::2], c[1::2], n[1::2]])


def _tile(geometry: Geometry, out: int, column: int, budget: int) -> tuple[int, int]:
    """Pixels of a tile and the columns that it needs: an even number that fits, at least two pixels if there are two."""
    def columns(pixels: int) -> int:
        if geometry.dilation[1] > 1 or geometry.stride[1] > geometry.kernel[1]:
            return pixels * geometry.kernel[1]
        return (pixels - 1) * geometry.stride[1] + geometry.kernel[1]

    tile = min(2, out)
    while tile + 2 <= out and columns(tile + 2) * column <= budget:
        tile += 2
    if tile + 1 == out and columns(out) * column <= budget:
        tile = out
    return tile, columns(tile)


def _plain_scales(bias: NDArray[np.int64], rescale: Rescale) -> NDArray[np.int64]:
    return joined([wrapped(bias), rescale.mantissa, rescale.shift])


def _plain(op: Conv, source: Map, target: Map) -> Emitted:
    g, outs = op.geometry, len(op.weights)
    fields = ("{name}_weights", "{name}_scales", *numbers(
        outs, *g.kernel, g.stride[1], source.shape[2], op.weights.shape[3], outs // op.groups, source.shape[1], target.shape[1],
        g.dilation[1], g.pad[1], source.zero, op.rescale.zero, op.rescale.low, op.rescale.high))
    arrays = (("weights", "int8_t", op.weights.reshape(-1).astype(np.int64)),
              ("scales", "int32_t", _plain_scales(op.bias, op.rescale)))
    return Emitted("conv_plain", fields, arrays)


def depthwise(op: Depthwise, source: Map, target: Map) -> Emitted:
    """Four channels at a time where there are whole fours and a proof; else one by one."""
    channels, outs = source.shape[2], target.shape[2]
    height, width = op.geometry.kernel
    filters = op.weights.reshape(-1, outs).T
    found = short(sums_of(filters, op.bias, source.zero), op.rescale)
    g, r = op.geometry, op.rescale
    if found is None or channels % 4 or outs != channels:
        fields = ("{name}_weights", "{name}_scales", *numbers(
            height, width, g.stride[1], channels, outs // channels, source.shape[1], target.shape[1], g.dilation[1], g.pad[1],
            source.zero, r.zero, r.low, r.high))
        arrays = (("weights", "int8_t", op.weights.reshape(-1).astype(np.int64)),
                  ("scales", "int32_t", _plain_scales(op.bias, r)))
        return Emitted("depthwise_plain", fields, arrays)
    fours = found.filters.reshape(channels // 4, 4, height * width)
    packed = np.stack([words(fours[:, 0], fours[:, 2]), words(fours[:, 1], fours[:, 3])], axis=2).reshape(-1)
    fields = ("{name}_weights", "{name}_scales", *numbers(
        height, width, g.stride[1], channels, source.shape[1], target.shape[1], g.dilation[1], g.pad[1], source.zero, r.low,
        r.high))
    scales = joined([found.bias, found.mantissa, found.offset, found.shift])
    return Emitted("depthwise_packed", fields, (("weights", "uint32_t", packed), ("scales", "int32_t", scales)),
                   height * width * channels)
