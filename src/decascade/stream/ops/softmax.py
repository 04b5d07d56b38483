"""Softmax over the channels of every pixel, with a table of exponentials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from decascade.stream.fixed import Integers, clamped, divided, exp_on_negative, high_product, one_over_one_plus, scaled, wrapped
from decascade.stream.graph import SAME_ROW, Array, Map, Window

BITS = 5
"""Integer bits of the scaled difference."""


@dataclass(frozen=True, eq=False)
class Softmax:
    """exponentials[d] = exp(−d·scale·beta) in Q0.31, 0 beyond TFLite's range; 256 entries."""

    inputs: tuple[int, ...]
    output: int
    exponentials: Integers

    def windows(self, maps: Sequence[Map]) -> tuple[Window, ...]:
        return (SAME_ROW,)

    def run(self, maps: Sequence[Map], arrays: Sequence[Array]) -> Array:
        x = arrays[0].astype(np.int64)
        raised = self.exponentials[x.max(axis=-1, keepdims=True) - x]
        total = divided(raised, 12).sum(axis=-1, keepdims=True)
        over = 31 - np.frexp(total.astype(np.float64))[1].astype(np.int64) + 1
        shifted = wrapped((total << over) - (1 << 31))
        inverse = one_over_one_plus(shifted)
        return clamped(divided(high_product(inverse, raised), 12 - over + 23) - 128)


def exponentials(scale: float, beta: float) -> Integers:
    """The table for an input scale: PreprocessSoftmaxScaling and exp_on_negative_values."""
    real = min(beta * scale * (1 << (31 - BITS)), (1 << 31) - 1.0)
    fraction, shift = math.frexp(real)
    mantissa = math.floor(fraction * (1 << 31) + 0.5)
    if mantissa == 1 << 31:
        mantissa, shift = mantissa // 2, shift + 1
    radius = math.floor(((1 << BITS) - 1) * float(1 << (31 - BITS)) / float(1 << shift)) if shift >= 0 else 255
    differences = -np.arange(256, dtype=np.int64)
    found = exp_on_negative(scaled(differences, mantissa, shift), BITS)
    return np.where(differences >= -radius, found, 0)
