"""Inputs that may take activations out of their regime: plain colours, corners, patterns."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from decascade.bounds.forward import Values
from decascade.bounds.problem import Inputs, Limits


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
