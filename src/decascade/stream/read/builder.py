"""What the rules write into: maps in rows, with their scales checked, and operations on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from decascade.errors import UsageError
from decascade.stream.graph import Map, Op, Shape
from decascade.stream.ops.elementwise import Constant
from decascade.stream.read.flat import File, Tensor


@dataclass(eq=False)
class Builder:
    """What the rules write into; `place` gives the map of a tensor, `flat` whether the network is 1-D along columns.

    A network all of whose maps are one row high is turned: [1, 1, n, c] has the bytes of [1, n, 1, c], and streams along n.
    """

    file: File
    flat: bool
    maps: list[Map] = field(default_factory=list[Map])
    ops: list[Op] = field(default_factory=list[Op])
    places: dict[int, int] = field(default_factory=dict[int, int])

    def tensor(self, index: int) -> Tensor:
        return self.file.tensors[index]

    def place(self, index: int) -> int:
        """The map of a tensor, made when it is first asked for; a stored tensor becomes a constant."""
        if index not in self.places:
            tensor = self.tensor(index)
            self.places[index] = self.add(self.map_of(tensor))
            if tensor.data is not None:
                shape = self.maps[self.places[index]].shape
                self.ops.append(Constant(self.places[index], tensor.data.astype(np.int8).reshape(shape)))
        return self.places[index]

    def add(self, new: Map) -> int:
        self.maps.append(new)
        return len(self.maps) - 1

    def map_of(self, tensor: Tensor) -> Map:
        scale, zero = scale_of(tensor)
        return Map(tensor.name, self.shape(tensor), scale, zero)

    def shape(self, tensor: Tensor) -> Shape:
        """Rows, columns, channels.

        Raises:
            UsageError: more than four axes, a batch, an open or empty size.
        """
        rows, columns, channels = _shape(tensor)
        return (columns, 1, channels) if self.flat and rows == 1 else (rows, columns, channels)

    def axes(self, pair: Sequence[int]) -> tuple[int, int]:
        """(rows, columns) of a pair that the file gives for height and width."""
        first, second = pair
        return (second, first) if self.flat else (first, second)


def _shape(tensor: Tensor) -> Shape:
    sizes = tensor.shape
    if len(sizes) > 4 or (len(sizes) > 1 and sizes[0] != 1):
        raise UsageError(f"tensor {tensor.name} has the shape {list(sizes)}: maps of at most height, width and channels, "
                         "and a batch of 1, are streamed; fix the batch at 1")
    if any(n < 1 for n in sizes):
        raise UsageError(f"tensor {tensor.name} has the shape {list(sizes)}: fix all of its sizes")
    inner = sizes[1:] if len(sizes) > 1 else sizes
    if len(inner) == 3:
        return inner[0], inner[1], inner[2]
    return (inner[0] if len(inner) == 2 else 1), 1, (inner[-1] if inner else 1)


def one_row_high(file: File) -> bool:
    """Whether no map is higher than one row and some map is wider than one column."""
    computed = [_shape(t) for t in file.tensors if t.data is None and len(t.shape) == 4]
    return all(rows == 1 for rows, _, _ in computed) and any(columns > 1 for _, columns, _ in computed)


def scale_of(tensor: Tensor) -> tuple[float, int]:
    """The one scale and zero point of a map.

    Raises:
        UsageError: it is not int8, or not quantised as a whole.
    """
    if tensor.kind != "int8":
        raise UsageError(f"tensor {tensor.name} is {tensor.kind}: only int8 files are streamed; quantise the model "
                         "(decascade export MODEL -o net.c --int8 --data D.npz)")
    if len(tensor.scales) != 1:
        raise UsageError(f"tensor {tensor.name} has {len(tensor.scales)} scales: a map needs one")
    scale, zero = float(tensor.scales[0]), int(tensor.zeros[0]) if tensor.zeros else 0
    if not (0 < scale < float("inf")) or not -128 <= zero <= 127:
        raise UsageError(f"tensor {tensor.name} has the scale {scale:g} and zero point {zero}: int8 needs a positive one, and "
                         "-128 … 127")
    return scale, zero
