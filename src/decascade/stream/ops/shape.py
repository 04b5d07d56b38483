"""Operations that only move values: padding, reshaping, concatenation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from decascade.stream.graph import SAME_ROW, Array, Map, Window


@dataclass(frozen=True, eq=False)
class Pad:
    """`fill` around the map: (before, after) for rows, columns and channels."""

    inputs: tuple[int, ...]
    output: int
    widths: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    fill: int

    def windows(self, maps: Sequence[Map]) -> tuple[Window, ...]:
        return (Window(1, -self.widths[0][0], -self.widths[0][0]),)

    def run(self, maps: Sequence[Map], arrays: Sequence[Array]) -> Array:
        return np.pad(arrays[0], self.widths, constant_values=self.fill)


@dataclass(frozen=True, eq=False)
class Reshape:
    """The same values in the same order, cut into other rows."""

    inputs: tuple[int, ...]
    output: int

    def windows(self, maps: Sequence[Map]) -> tuple[Window, ...]:
        old, new = maps[self.inputs[0]].row_size, maps[self.output].row_size
        return (Window(new, 0, new - 1, old),)

    def run(self, maps: Sequence[Map], arrays: Sequence[Array]) -> Array:
        return arrays[0].reshape(maps[self.output].shape)


@dataclass(frozen=True, eq=False)
class Concat:
    """Maps one after the other along rows (0), columns (1) or channels (2)."""

    inputs: tuple[int, ...]
    output: int
    axis: int

    def windows(self, maps: Sequence[Map]) -> tuple[Window, ...]:
        if self.axis:
            return tuple(SAME_ROW for _ in self.inputs)
        starts = np.cumsum([0, *(maps[i].rows for i in self.inputs)]).tolist()
        return tuple(Window(1, -start, -start) for start in starts[:-1])

    def run(self, maps: Sequence[Map], arrays: Sequence[Array]) -> Array:
        return np.concatenate(arrays, axis=self.axis)
