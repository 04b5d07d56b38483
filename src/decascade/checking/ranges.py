"""Input ranges in the model's own layout as boxes in the graph's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from decascade.bounds.box import Box, Interval, per_input
from decascade.checking.models import Subject, native_order
from decascade.checking.samples import Batch, Range
from decascade.errors import UsageError

F64 = NDArray[np.float64]
BFLOAT16_SPACING = 2.0**-7
"""Relative distance of two neighbouring bfloat16 numbers, at most."""


def box_of(subject: Subject, given: object) -> Box:
    """The box that a user's range stands for (see `bounds.box`); arrays of every entry are in the model's own layout.

    The ends are moved outward to numbers of the input's own type, so that 0.1 in float32 lies in a box that ends at 0.1.

    Raises:
        UsageError: a range that does not fit the model.
    """
    graph = subject.graph
    pairs = per_input(graph.inputs, given)
    moved = {name: tuple(_to_graph(subject, name, end) for end in ends) for name, ends in pairs.items()}
    box = Box.of(graph, moved)
    return Box({name: _outward(i, graph.tensors[name].dtype) for name, i in box.intervals.items()})


def _to_graph(subject: Subject, name: str, given: object) -> object:
    """An array of every entry in the graph's layout; anything else as it is."""
    shape = subject.graph.shape(name)
    array = np.asarray(given)
    if shape is None or array.ndim < 2:
        return given
    order = native_order(subject, name, len(shape))
    native = tuple(shape[i] for i in order[1:])
    fits = array.ndim == len(native) and all(
        n == 1 or isinstance(d, str) or n == d for n, d in zip(array.shape, native, strict=True)
    )
    if not fits:
        channels = f" ({shape[1]})" if isinstance(shape[1], int) else ""
        raise UsageError(
            f"input range of shape {array.shape} for input {name}: give one number, one per channel{channels}, or one per"
            f" entry ({', '.join(map(str, native))})"
        )
    return subject.from_native(name, array[None])[0]


def _outward(interval: Interval, dtype: str) -> Interval:
    if dtype == "bfloat16":
        spread = BFLOAT16_SPACING
        return Interval(interval.lo - spread * np.abs(interval.lo), interval.hi + spread * np.abs(interval.hi))
    kind = np.dtype(dtype)
    if kind.kind != "f":
        return interval
    return Interval(_rounded(interval.lo, kind, -np.inf), _rounded(interval.hi, kind, np.inf))


def _rounded(values: F64, kind: np.dtype[np.generic], towards: float) -> F64:
    """The next number of a type that is not on the inner side."""
    with np.errstate(over="ignore"):
        near = values.astype(kind)
        inside = near.astype(np.float64) > values if towards < 0 else near.astype(np.float64) < values
        return np.where(inside, np.nextafter(near, kind.type(towards)), near).astype(np.float64)


def ranges(box: Box) -> dict[str, Range]:
    """What to draw inputs from, per input."""
    return {name: Range(_end(i.lo), _end(i.hi)) for name, i in box.intervals.items()}


def _end(values: F64) -> float | F64:
    return float(values.flat[0]) if values.size == 1 else values


def check_inside(batches: list[Batch], box: Box) -> None:
    """That the user's samples lie in the box that he declared.

    Raises:
        UsageError: one does not; says which, and by how much.
    """
    start = 0
    for batch in batches:
        for name, x in batch.items():
            outside = np.flatnonzero(~box.contains(name, x))
            if len(outside):
                row, interval = x[outside[0]].astype(np.float64), box.intervals[name]
                excess = np.maximum(interval.lo - row, row - interval.hi)
                value = float(row.flat[int(np.nan_to_num(excess, nan=np.inf).argmax())])
                raise UsageError(
                    f"sample {start + int(outside[0])} of the data has the value {value:g} in input {name}, outside of the"
                    " input range: give a range that holds the data, or other data"
                )
        start += max(len(x) for x in batch.values())
