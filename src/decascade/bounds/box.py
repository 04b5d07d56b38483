"""Boxes of inputs: for every graph input the lowest and the highest value, per sample entry.

Given as two numbers for all inputs, two sequences of one number per channel, two full arrays, or an `.npz` file with
`lo` and `hi`.  With several inputs a mapping from input name to one of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from decascade.errors import UsageError
from decascade.ir.graph import Graph

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Interval:
    """lo ≤ x ≤ hi for one input; arrays that broadcast against a sample (C, *S)."""

    lo: F64
    hi: F64

    @property
    def uniform(self) -> bool:
        """Whether the bounds do not depend on the position."""
        return all(n == 1 for a in (self.lo, self.hi) for n in a.shape[1:])


@dataclass(frozen=True, eq=False)
class Box:
    """One interval per graph input."""

    intervals: Mapping[str, Interval]

    @staticmethod
    def of(graph: Graph, given: object) -> Box:
        """The box that a user's value stands for (see the module).

        Raises:
            UsageError: bounds that are not finite, in the wrong order, or of a shape that does not fit the input.
        """
        if isinstance(given, Box):
            return given
        if isinstance(given, Mapping):
            table = cast(Mapping[str, object], given)
            if not set(table) <= {"lo", "hi"}:
                missing = [n for n in graph.inputs if n not in table]
                if missing:
                    raise UsageError(f"input range without an entry for input {missing[0]}: give one for each input")
                return Box({n: _interval(graph, n, *_pair(table[n])) for n in graph.inputs})
        low, high = _pair(cast(object, given))
        return Box({n: _interval(graph, n, low, high) for n in graph.inputs})

    def facts(self) -> dict[str, Any]:
        """The box as JSON values: numbers where all entries are equal."""
        return {n: {"lo": _plain(i.lo), "hi": _plain(i.hi)} for n, i in self.intervals.items()}

    def contains(self, name: str, x: ArrayLike) -> NDArray[np.bool_]:
        """Per sample of x (N, C, *S) whether it lies in the box."""
        array, interval = np.asarray(x), self.intervals[name]
        inside = (array >= interval.lo) & (array <= interval.hi)
        return np.asarray(inside.reshape(len(array), -1).all(axis=1))


def _pair(given: object) -> tuple[ArrayLike, ArrayLike]:
    if isinstance(given, str | Path):
        try:
            with np.load(given, allow_pickle=False) as stored:
                if not {"lo", "hi"} <= set(stored.files):
                    raise UsageError(f"{given}: arrays {', '.join(stored.files) or 'none'}: it needs lo and hi")
                return stored["lo"], stored["hi"]
        except (OSError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"{given}: cannot be read as an .npz file of an input range: {error}") from None
    if isinstance(given, Mapping):
        table = cast(Mapping[str, Any], given)
        return table["lo"], table["hi"]
    if isinstance(given, Sequence):
        pair = cast(Sequence[Any], given)
        if len(pair) == 2:
            return pair[0], pair[1]
    raise UsageError(f"input range {given!r}: give the lowest and the highest value, two arrays, or an .npz with lo and hi")


def _interval(graph: Graph, name: str, lo: ArrayLike, hi: ArrayLike) -> Interval:
    shape = graph.shape(name)
    if shape is None or len(shape) < 2:
        raise UsageError(f"input {name} has no known shape: no range can be declared for it")
    low, high = (_shaped(name, np.asarray(a, np.float64), shape[1:]) for a in (lo, hi))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise UsageError(f"input range of {name} is not finite: give finite numbers")
    if np.any(low > high):
        raise UsageError(f"input range of {name}: lowest value {low.max():g} above highest {high.min():g}: swap them")
    return Interval(low, high)


def _shaped(name: str, given: F64, shape: Sequence[int | str]) -> F64:
    rank = len(shape)
    if given.ndim == 0:
        return given.reshape((1,) * rank)
    if given.ndim == 1 and given.shape[0] in (1, shape[0]):
        return given.reshape(-1, *(1,) * (rank - 1))
    fits = given.ndim == rank and all(n == 1 or isinstance(d, str) or n == d for n, d in zip(given.shape, shape, strict=True))
    if not fits:
        raise UsageError(
            f"input range of shape {given.shape} for input {name} of shape {tuple(shape)}:"
            " give one number, one per channel, or one per entry"
        )
    return given


def _plain(values: F64) -> Any:
    return float(values.flat[0]) if np.ptp(values) == 0 else np.squeeze(values).tolist()
