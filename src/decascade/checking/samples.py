"""Inputs to test a model on: the declared range, its corners and edges, single pixels at the border, several batch sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, cycle, islice
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.errors import UsageError
from decascade.ir.graph import Dim, Graph, Shape

Batch = dict[str, NDArray[Any]]
BATCHES = (1, 2, 5)
SIZES = (32, 64, 224)
"""Tried in turn for sizes that the model leaves open; the first that it accepts is taken."""
ODD = 37
"""An odd size that is tried as well: strides and windows end differently on it."""


@dataclass(frozen=True, eq=False)
class Range:
    """The interval that inputs are drawn from: two numbers, or two arrays that broadcast against a sample (C, *S)."""

    lo: float | NDArray[np.float64] = -1.0
    hi: float | NDArray[np.float64] = 1.0

    def __post_init__(self) -> None:
        a, b = self.lo, self.hi
        if isinstance(a, float | int) and isinstance(b, float | int) and not (isfinite(a) and isfinite(b) and a < b):
            raise UsageError(f"input range {a:g} {b:g}: give two finite numbers, the smaller one first")

    @property
    def rest(self) -> NDArray[np.float64]:
        """Zero, or what is nearest to it."""
        return np.clip(np.zeros(()), self.lo, self.hi)


DEFAULT = Range()
"""What inputs are drawn from where no range is declared."""
Ranges = Range | Mapping[str, Range]
"""One range for all inputs, or one for each."""


def batches(graph: Graph, count: int, limits: Ranges, rng: np.random.Generator, size: int = SIZES[0]) -> list[Batch]:
    """About `count` samples for the inputs of `graph`, in batches of 1, 2 and 5 where the batch is free.

    `size` stands for every open spatial size.  Arrays are in the graph's layout and the inputs' own dtypes.

    Raises:
        UsageError: an input whose rank is not known.
    """
    shapes = {name: sample_shape(graph, name, size) for name in graph.inputs}
    fixed = [graph.shape(name) for name in graph.inputs]
    first = next((s[0] for s in fixed if s and isinstance(s[0], int)), None)
    sizes = _batch_sizes(count, first)
    own = {name: limits if isinstance(limits, Range) else limits[name] for name in shapes}
    rows = {name: _rows(shape, own[name], rng) for name, shape in shapes.items()}
    return [{name: _stack(islice(rows[name], n), graph.tensors[name].dtype) for name in shapes} for n in sizes]


def sample_shape(graph: Graph, name: str, size: int) -> tuple[int, ...]:
    """Shape of one sample of a tensor, `size` for each size that is open.

    Raises:
        UsageError: not even the rank is known.
    """
    shape = graph.shape(name)
    if shape is None:
        raise UsageError(f"input {name} has no known shape: give one (input_shape, --input-shape)")
    return tuple(_concrete(shape[1:], size))


def open_sizes(graph: Graph) -> bool:
    """Whether some input has a size, other than the batch, that is only known when the model runs."""
    return any(isinstance(d, str) for name in graph.inputs for d in (graph.shape(name) or ())[1:])


def pinned(graph: Graph, limits: Ranges) -> Graph:
    """The graph with the sizes of its inputs that ranges of every entry tell."""
    if isinstance(limits, Range):
        return graph
    tensors = dict(graph.tensors)
    for name in graph.inputs:
        shape, given = tensors[name].shape, np.shape(limits[name].lo)
        if shape is not None and given:
            told = (d if isinstance(d, int) or n == 1 else n for d, n in zip(shape[1:], given, strict=True))
            tensors[name] = replace(tensors[name], shape=(shape[0], *told))
    return replace(graph, tensors=tensors)


def _concrete(shape: Shape, size: int) -> Iterator[int]:
    known: dict[Dim, int] = {}
    for dim in shape:
        # a second open size gets another value, so that height and width cannot be mistaken for each other
        yield dim if isinstance(dim, int) else known.setdefault(dim, size * (len(known) + 1))


def _batch_sizes(count: int, fixed: int | None) -> list[int]:
    if fixed is not None:
        return [fixed] * max(1, -(-count // max(fixed, 1)))
    sizes = list[int]()
    for n in chain(BATCHES, cycle(BATCHES[-1:])):
        if sizes and sum(sizes) + n > count:
            return sizes
        sizes.append(n)
    return sizes


def _rows(shape: Sequence[int], limits: Range, rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    """Without end: random, all low, all high, all at rest, single pixels in two corners, then random ones."""
    lo, hi, rest = (np.broadcast_to(a, shape).astype(np.float64) for a in (limits.lo, limits.hi, limits.rest))
    middle, half = (lo + hi) / 2, (hi - lo) / 2

    def uniform() -> NDArray[np.float64]:
        return rng.uniform(lo, hi)

    def pixel(corner: int) -> NDArray[np.float64]:
        row, at = rest.copy(), (..., *(corner,) * (len(shape) - 1))
        row[at] = np.where(hi != rest, hi, lo)[at]
        return row

    yield uniform()
    yield lo
    yield hi
    yield rest
    yield pixel(0)
    yield pixel(-1)
    while True:
        yield np.clip(rng.normal(middle, half / 2), lo, hi)
        yield uniform()


def _stack(rows: Iterator[NDArray[np.float64]], dtype: str) -> NDArray[Any]:
    stacked = np.stack(list(rows))
    kind = np.dtype(dtype) if dtype != "bfloat16" else np.dtype(np.float32)
    return stacked.astype(kind) if kind.kind == "f" else np.rint(np.abs(stacked)).astype(kind)


def from_data(graph: Graph, arrays: Mapping[str, NDArray[Any]], batch: int = 32) -> list[Batch]:
    """The user's own arrays, one per input in the graph's layout, cut into batches.

    Raises:
        UsageError: another number of samples per input, or a shape that does not fit.
    """
    counts = {len(a) for a in arrays.values()}
    if len(counts) != 1 or not min(counts):
        raise UsageError(f"data with {sorted(counts)} samples per input: give the same number, at least one, for each")
    for name, array in arrays.items():
        shape = graph.shape(name)
        if shape is not None and not _fits(array.shape[1:], shape[1:]):
            raise UsageError(f"data of shape {array.shape[1:]} per sample for input {name} of shape {shape[1:]}")
    total = counts.pop()
    fixed = next((s[0] for s in map(graph.shape, graph.inputs) if s and isinstance(s[0], int)), None)
    step = fixed or batch
    starts = range(0, total - total % step if fixed else total, step)
    if not starts:
        raise UsageError(f"{total} samples for a model of fixed batch {step}: give at least {step}")
    stated = {name: graph.tensors[name].dtype for name in arrays}
    dtypes = {name: np.dtype(np.float32 if dtype == "bfloat16" else dtype) for name, dtype in stated.items()}
    return [{name: a[i : i + step].astype(dtypes[name]) for name, a in arrays.items()} for i in starts]


def _fits(given: Sequence[int], stated: Sequence[Dim]) -> bool:
    return len(given) == len(stated) and all(isinstance(d, str) or d == n for n, d in zip(given, stated, strict=True))
