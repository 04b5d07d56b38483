"""A quantised network as pure data: maps of int8 with one scale and zero point each, and operations on them.

Maps are (rows, columns, channels); the batch is 1 and is not stored.  Every operation knows which rows of its inputs a row of
its output needs (`windows`), and what it computes in TFLite's integer arithmetic (`run`): the oracle of the generated C.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.int8]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Map:
    """rows × columns × channels of int8; real value = scale·(stored − zero)."""

    name: str
    shape: Shape
    scale: float
    zero: int

    @property
    def rows(self) -> int:
        return self.shape[0]

    @property
    def row_size(self) -> int:
        """Values in one row."""
        return self.shape[1] * self.shape[2]


@dataclass(frozen=True)
class Window:
    """Row y needs input rows ⌊(y·mul + low) / div⌋ … ⌊(y·mul + high) / div⌋, as far as the map has them."""

    mul: int
    low: int
    high: int
    div: int = 1

    def rows(self, y: int, height: int) -> range:
        """The input rows that exist among them."""
        return range(max(0, self.first(y)), min(height - 1, self.last(y)) + 1)

    def first(self, y: int) -> int:
        return (y * self.mul + self.low) // self.div

    def last(self, y: int) -> int:
        return (y * self.mul + self.high) // self.div


SAME_ROW = Window(1, 0, 0)


def whole(height: int) -> Window:
    """Every row needs all of a map of so many rows."""
    return Window(0, 0, height - 1)


class Op(Protocol):
    """An operation: it reads maps by index and writes one."""

    @property
    def inputs(self) -> tuple[int, ...]: ...

    @property
    def output(self) -> int: ...

    def windows(self, maps: Sequence[Map]) -> tuple[Window, ...]:
        """One window for each input."""
        ...

    def run(self, maps: Sequence[Map], arrays: Sequence[Array]) -> Array:
        """The output for whole inputs, bit for bit as TensorFlow Lite for Microcontrollers gives it."""
        ...


@dataclass(frozen=True, eq=False)
class Graph:
    """Operations in an order in which they can run.  `input` and `outputs` are indices of maps."""

    maps: tuple[Map, ...]
    ops: tuple[Op, ...]
    input: int
    outputs: tuple[int, ...]


def run(graph: Graph, x: Array) -> dict[int, Array]:
    """All maps for one input of shape (rows, columns, channels)."""
    values = {graph.input: np.asarray(x, np.int8).reshape(graph.maps[graph.input].shape)}
    for op in graph.ops:
        found = op.run(graph.maps, [values[i] for i in op.inputs])
        values[op.output] = found.reshape(graph.maps[op.output].shape)
    return values
