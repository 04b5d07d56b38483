"""Boxes of inputs: for every graph input the lowest and the highest value, per sample entry.

Given as two numbers for all inputs, two sequences of one number per channel, two full arrays, or an `.npz` file with
`lo` and `hi`.  With several inputs a mapping from input name to one of these, or an `.npz` with `NAME.lo` and `NAME.hi`.
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
from decascade.reading.arrays import load_arrays
from decascade.typing import F64


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
        return Box({n: _interval(graph, n, low, high) for n, (low, high) in per_input(graph.inputs, given).items()})

    def facts(self) -> dict[str, Any]:
        """The box as JSON values: numbers where all entries are equal."""
        return {n: {"lo": _plain(i.lo), "hi": _plain(i.hi)} for n, i in self.intervals.items()}

    def contains(self, name: str, x: ArrayLike) -> NDArray[np.bool_]:
        """Per sample of x (N, C, *S) whether it lies in the box."""
        array, interval = np.asarray(x), self.intervals[name]
        inside = (array >= interval.lo) & (array <= interval.hi)
        return np.asarray(inside.reshape(len(array), -1).all(axis=1))


def per_input(inputs: Sequence[str], given: object) -> dict[str, tuple[ArrayLike, ArrayLike]]:
    """The lowest and the highest values for each input, as a user gives them; shapes are not looked at.

    Raises:
        UsageError: a file that cannot be read, an input that is left out, something that is not a pair.
    """
    if isinstance(given, str | Path):
        given = _file(Path(given), inputs)
    if isinstance(given, Mapping) and not set(table := cast(Mapping[str, object], given)) <= {"lo", "hi"}:
        missing, unknown = [n for n in inputs if n not in table], [n for n in table if n not in inputs]
        if missing or unknown:
            wrong = f"an entry for input {missing[0]}" if missing else f"an input {unknown[0]}: the model has none"
            what = f"input range without {wrong}" if missing else f"input range for {wrong}"
            raise UsageError(f"{what}: give one for each of {', '.join(inputs)}")
        return {n: _pair(table[n]) for n in inputs}
    return dict.fromkeys(inputs, _pair(cast(object, given)))


def _file(path: Path, inputs: Sequence[str]) -> dict[str, Any]:
    """`lo` and `hi` of an .npz file, or a pair per input."""
    arrays = load_arrays(path, "input range")
    if {"lo", "hi"} <= arrays.keys():
        return {"lo": arrays["lo"], "hi": arrays["hi"]}
    if all(f"{n}.{end}" in arrays for n in inputs for end in ("lo", "hi")):
        return {n: (arrays[f"{n}.lo"], arrays[f"{n}.hi"]) for n in inputs}
    several = f", or for each input, such as {inputs[0]}.lo and {inputs[0]}.hi" if len(inputs) > 1 else ""
    raise UsageError(f"input range {path}: arrays {', '.join(arrays) or 'none'}: it needs lo and hi{several}")


def _pair(given: object) -> tuple[ArrayLike, ArrayLike]:
    if isinstance(given, Mapping):
        table = cast(Mapping[str, Any], given)
        if set(table) == {"lo", "hi"}:
            return table["lo"], table["hi"]
    if isinstance(given, Sequence | np.ndarray) and not isinstance(given, str):
        pair = cast(Sequence[Any], given)
        if len(pair) == 2:
            return pair[0], pair[1]
    raise UsageError(f"input range {given!r}: give the lowest and the highest value, two arrays, or an .npz with lo and hi")


def _interval(graph: Graph, name: str, lo: ArrayLike, hi: ArrayLike) -> Interval:
    shape = graph.shape(name)
    if shape is None or len(shape) < 2:
        raise UsageError(f"input {name} has no known shape: no range can be declared for it")
    low, high = (_shaped(name, _numbers(name, a), shape[1:]) for a in (lo, hi))
    for a in (low, high):
        if not np.isfinite(a).all():
            wrong = float(a[~np.isfinite(a)].flat[0])
            count = f" ({int((~np.isfinite(a)).sum())} of {a.size} values are not)" if a.size > 1 else f", not {wrong:g}"
            raise UsageError(f"input range of {name} is not finite: give finite numbers{count}")
    if np.any(low > high):
        a, b = np.broadcast_arrays(low, high)
        at = tuple(int(i) for i in np.argwhere(a > b)[0])
        where = "" if a.size == 1 else f" channel {at[0]}" + (f" at {list(at[1:])}" if a.size > a.shape[0] else "")
        raise UsageError(f"input range of {name}{where}: lowest value {a[at]:g} above highest {b[at]:g}: swap them")
    return Interval(low, high)


def _numbers(name: str, given: ArrayLike) -> F64:
    try:
        return np.asarray(given, np.float64)
    except (TypeError, ValueError):
        raise UsageError(f"input range of {name}: values of type {np.asarray(given).dtype}: give numbers") from None


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
    """A number where all are equal, a list where they differ by channel alone, else all in their shape: `Box.of` takes it."""
    if np.ptp(values) == 0:
        return float(values.flat[0])
    return values.ravel().tolist() if values.size == values.shape[0] else values.tolist()
