"""Sums, differences and products of two maps, and functions of one value as tables of 256 entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from decascade.stream.fixed import Integers, Multiplier, clamped, multiplier_of, scaled
from decascade.stream.graph import SAME_ROW, Array, Map, Window

LEFT_SHIFT = 20
"""By which TFLite's ADD and SUB shift their operands before they are scaled."""


@dataclass(frozen=True)
class Operand:
    """Scaled as scaled((value − zero) << 20)."""

    zero: int
    multiplier: Multiplier


@dataclass(frozen=True, eq=False)
class Sum:
    """a + b, or a − b where `minus`; one row of the other operand for each row, or one row or column for all of them."""

    inputs: tuple[int, ...]
    output: int
    operands: tuple[Operand, Operand]
    multiplier: Multiplier
    zero: int
    low: int = -128
    high: int = 127
    minus: bool = False

    def windows(self, maps: Sequence[Map]) -> tuple[Window, ...]:
        return tuple(broadcast_window(maps[i], maps[self.output]) for i in self.inputs)

    def run(self, maps: Sequence[Map], arrays: Sequence[Array]) -> Array:
        first, second = (_lifted(x, o) for x, o in zip(arrays, self.operands, strict=True))
        total = first - second if self.minus else first + second
        return clamped(scaled(total, self.multiplier.mantissa, self.multiplier.shift) + self.zero, self.low, self.high)


def _lifted(x: Array, operand: Operand) -> Integers:
    shifted = (x.astype(np.int64) - operand.zero) << LEFT_SHIFT
    return scaled(shifted, operand.multiplier.mantissa, operand.multiplier.shift)


def operands_of(a: Map, b: Map, out: float) -> tuple[Operand, Operand, Multiplier]:
    """TFLite's multipliers for ADD and SUB: both operands in units of twice the larger scale."""
    twice = 2.0 * max(a.scale, b.scale)
    first, second = (Operand(m.zero, multiplier_of(m.scale / twice)) for m in (a, b))
    return first, second, multiplier_of(twice / ((1 << LEFT_SHIFT) * out))


@dataclass(frozen=True, eq=False)
class Product:
    """(a − a's zero)·(b − b's zero), rescaled."""

    inputs: tuple[int, ...]
    output: int
    zeros: tuple[int, int]
    multiplier: Multiplier
    zero: int
    low: int = -128
    high: int = 127

    def windows(self, maps: Sequence[Map]) -> tuple[Window, ...]:
        return tuple(broadcast_window(maps[i], maps[self.output]) for i in self.inputs)

    def run(self, maps: Sequence[Map], arrays: Sequence[Array]) -> Array:
        first, second = (x.astype(np.int64) - z for x, z in zip(arrays, self.zeros, strict=True))
        found = scaled(first * second, self.multiplier.mantissa, self.multiplier.shift)
        return clamped(found + self.zero, self.low, self.high)


def broadcast_window(source: Map, target: Map) -> Window:
    """The same row, or the only one."""
    return SAME_ROW if source.rows == target.rows else Window(0, 0, 0)


@dataclass(frozen=True, eq=False)
class Table:
    """table[value + 128] for every value; `table` has 256 entries."""

    inputs: tuple[int, ...]
    output: int
    table: Array

    def windows(self, maps: Sequence[Map]) -> tuple[Window, ...]:
        return (SAME_ROW,)

    def run(self, maps: Sequence[Map], arrays: Sequence[Array]) -> Array:
        return self.table[arrays[0].astype(np.int64) + 128]


@dataclass(frozen=True, eq=False)
class Constant:
    """A map whose rows are stored in the program: (1 or rows, columns, channels)."""

    output: int
    values: Array
    inputs: tuple[int, ...] = ()

    def windows(self, maps: Sequence[Map]) -> tuple[Window, ...]:
        return ()

    def run(self, maps: Sequence[Map], arrays: Sequence[Array]) -> Array:
        return self.values
