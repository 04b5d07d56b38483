"""Convolutions, depthwise ones and dense layers: integer sums, each channel with its own multiplier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from decascade.stream.fixed import Integers, clamped, scaled, wrapped
from decascade.stream.graph import Array, Map, Window


@dataclass(frozen=True, eq=False)
class Rescale:
    """From an int32 sum to int8, per channel: sum·mantissa·2^(shift−31) + zero, clamped to [low, high]."""

    mantissa: Integers
    shift: Integers
    zero: int
    low: int = -128
    high: int = 127

    def __call__(self, sums: Integers) -> Array:
        return clamped(scaled(wrapped(sums), self.mantissa, self.shift) + self.zero, self.low, self.high)


@dataclass(frozen=True)
class Geometry:
    """Per axis (rows, columns): kernel, stride, dilation, and the padding before the first row and column."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)

    @property
    def window(self) -> Window:
        return Window(self.stride[0], -self.pad[0], (self.kernel[0] - 1) * self.dilation[0] - self.pad[0])

    def patches(self, x: NDArray[np.int64], out: tuple[int, int], fill: int) -> NDArray[np.int64]:
        """(out rows, out columns, kernel rows, kernel columns, channels) of x, `fill` outside of it."""
        spans = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        ends = [(n - 1) * s + k for n, s, k in zip(out, self.stride, spans, strict=True)]
        after = [max(0, e - p - n) for e, p, n in zip(ends, self.pad, x.shape, strict=False)]
        padded = np.pad(x, ((self.pad[0], after[0]), (self.pad[1], after[1]), (0, 0)), constant_values=fill)
        views = sliding_window_view(padded[: ends[0], : ends[1]], spans, axis=(0, 1))
        views = views[:: self.stride[0], :: self.stride[1], :, :: self.dilation[0], :: self.dilation[1]]
        return np.moveaxis(views, 2, -1)


@dataclass(frozen=True, eq=False)
class Conv:
    """weights (out, kernel rows, kernel columns, in / groups), bias (out,)."""

    inputs: tuple[int, ...]
    output: int
    weights: NDArray[np.int8]
    bias: Integers
    geometry: Geometry
    rescale: Rescale
    groups: int = 1

    def windows(self, maps: Sequence[Map]) -> tuple[Window, ...]:
        return (self.geometry.window,)

    def run(self, maps: Sequence[Map], arrays: Sequence[Array]) -> Array:
        source, target = maps[self.inputs[0]], maps[self.output]
        patches = self.geometry.patches(arrays[0].astype(np.int64) - source.zero, target.shape[:2], 0)
        weights = self.weights.astype(np.int64)
        width, each = weights.shape[3], len(weights) // self.groups
        sums = [
            np.tensordot(patches[..., g * width : (g + 1) * width], weights[g * each : (g + 1) * each], ((2, 3, 4), (1, 2, 3)))
            for g in range(self.groups)
        ]
        return self.rescale(np.concatenate(sums, axis=-1) + self.bias)


@dataclass(frozen=True, eq=False)
class Depthwise:
    """weights (kernel rows, kernel columns, out): output channel c reads input channel c // multiplier."""

    inputs: tuple[int, ...]
    output: int
    weights: NDArray[np.int8]
    bias: Integers
    geometry: Geometry
    rescale: Rescale

    def windows(self, maps: Sequence[Map]) -> tuple[Window, ...]:
        return (self.geometry.window,)

    def run(self, maps: Sequence[Map], arrays: Sequence[Array]) -> Array:
        source, target = maps[self.inputs[0]], maps[self.output]
        patches = self.geometry.patches(arrays[0].astype(np.int64) - source.zero, target.shape[:2], 0)
        patches = np.repeat(patches, target.shape[2] // source.shape[2], axis=-1)
        return self.rescale((patches * self.weights.astype(np.int64)).sum(axis=(2, 3)) + self.bias)
