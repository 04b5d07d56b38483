"""Inputs that may take activations out of their regime: plain colours, corners, patterns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from decascade.bounds.box import Box
from decascade.bounds.forward import Values
from decascade.ir.graph import Graph

Inputs = dict[str, Values]


@dataclass(frozen=True, eq=False)
class Limits:
    """The box at the size analysed: per input lo and hi (C, *S, 1) as float32 numbers within the box."""

    lo: Mapping[str, Values]
    hi: Mapping[str, Values]

    @staticmethod
    def of(graph: Graph, box: Box) -> Limits:
        lo, hi = dict[str, Values](), dict[str, Values]()
        for name in graph.inputs:
            shape = tuple(int(n) for n in (graph.shape(name) or ())[1:])
            interval = box.intervals[name]
            a, b = (np.broadcast_to(v, shape)[..., None] for v in (interval.lo, interval.hi))
            x, y = a.astype(np.float32), b.astype(np.float32)
            lo[name] = np.where(x < a, np.nextafter(x, np.float32(np.inf)), x)
            hi[name] = np.maximum(np.where(y > b, np.nextafter(y, np.float32(-np.inf)), y), lo[name])
        return Limits(lo, hi)

    def at(self, shares: Callable[[tuple[int, ...]], Values]) -> Inputs:
        """lo + share·(hi − lo), kept within; `shares` gives numbers in [0, 1] for a sample shape (C, *S)."""
        found: Inputs = {}
        for name, lo in self.lo.items():
            hi = self.hi[name]
            x = (lo + shares(lo.shape[:-1]) * (hi - lo)).astype(np.float32)
            found[name] = np.minimum(np.maximum(x, lo), hi)
        return found

    def keep(self, inputs: Mapping[str, Values]) -> Inputs:
        return {k: np.clip(v.astype(np.float32), self.lo[k], self.hi[k]) for k, v in inputs.items()}


def patterns(limits: Limits, rng: np.random.Generator, batch: int) -> Iterator[Inputs]:
    """Batches without end: plain colours, noise, corners of several densities, coarse blocks, half pictures."""
    def noise(shape: tuple[int, ...]) -> Values:
        return rng.random((*shape, batch))

    def corners(shape: tuple[int, ...]) -> Values:
        return (rng.random((*shape, batch)) < rng.choice([0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97], batch)).astype(np.float64)

    def colours(shape: tuple[int, ...]) -> Values:
        plain = rng.random((shape[0], *(1,) * (len(shape) - 1), batch))
        sharp = rng.random(batch) < 0.7
        return np.broadcast_to(np.where(sharp, np.round(plain), plain), (*shape, batch)).copy()

    def blocks(shape: tuple[int, ...]) -> Values:
        found = np.empty((*shape, batch))
        for n in range(batch):
            grid = int(rng.integers(2, 2 + max(2, max(shape[1:], default=2) // 2)))
            coarse = rng.random((shape[0], *(min(grid, s) for s in shape[1:])))
            if rng.random() < 0.7:
                coarse = np.round(coarse)
            # every entry of the picture takes that of its block
            index = np.ix_(np.arange(shape[0]), *(np.arange(s) * min(grid, s) // s for s in shape[1:]))
            found[..., n] = coarse[index]
        return found

    def halves(shape: tuple[int, ...]) -> Values:
        found = colours(shape)
        other = colours(shape)
        for n in range(batch):
            axis = int(rng.integers(1, len(shape))) if len(shape) > 1 else 0
            cut = int(rng.integers(0, shape[axis] + 1))
            at = (*(slice(None),) * axis, slice(cut, None))
            found[..., n][at] = other[..., n][at]
        return found + 0.2 * (rng.random(found.shape) - 0.5) * (rng.random(batch) < 0.3)

    while True:
        for make in (colours, corners, halves, blocks, noise):
            yield limits.at(make)
