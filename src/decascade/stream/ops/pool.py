"""Pools over windows, and sums over whole maps that are kept as one row of running totals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from decascade.stream.fixed import Integers, Multiplier, clamped, scaled
from decascade.stream.graph import Array, Map, Window, whole
from decascade.stream.ops.conv import Geometry


def _truncated(total: Integers, count: Integers | int) -> Integers:
    """total / count, halves away from zero: TFLite adds half of the count and lets C's division drop the rest."""
    size = (np.abs(total) + np.asarray(count) // 2) // count
    return np.where(total > 0, size, -size)


@dataclass(frozen=True, eq=False)
class Pool:
    """Largest or mean value of each channel over a window, padding left out."""

    inputs: tuple[int, ...]
    output: int
    geometry: Geometry
    average: bool
    low: int = -128
    high: int = 127

    def windows(self, maps: Sequence[Map]) -> tuple[Window, ...]:
        return (self.geometry.window,)

    def run(self, maps: Sequence[Map], arrays: Sequence[Array]) -> Array:
        out = maps[self.output].shape[:2]
        x = arrays[0].astype(np.int64)
        if not self.average:
            found = self.geometry.patches(x, out, -128).max(axis=(2, 3))
        else:
            count = self.geometry.patches(np.ones_like(x), out, 0).sum(axis=(2, 3))
            found = _truncated(self.geometry.patches(x, out, 0).sum(axis=(2, 3)), count)
        return clamped(found, self.low, self.high)


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean of each channel over the whole map, (1, 1, channels).

    `multiplier` is None for an average pool, which divides with halves away from zero; a mean rescales its sum with a
    multiplier that holds the division.
    """

    inputs: tuple[int, ...]
    output: int
    multiplier: Multiplier | None = None
    zeros: tuple[int, int] = (0, 0)
    low: int = -128
    high: int = 127

    def windows(self, maps: Sequence[Map]) -> tuple[Window, ...]:
        return (whole(maps[self.inputs[0]].rows),)

    def run(self, maps: Sequence[Map], arrays: Sequence[Array]) -> Array:
        x = arrays[0].astype(np.int64)
        count = x.shape[0] * x.shape[1]
        total = x.sum(axis=(0, 1), keepdims=True)
        if self.multiplier is None:
            return clamped(_truncated(total, count), self.low, self.high)
        moved = total - self.zeros[0] * count
        return clamped(scaled(moved, self.multiplier.mantissa, self.multiplier.shift) + self.zeros[1], self.low, self.high)
