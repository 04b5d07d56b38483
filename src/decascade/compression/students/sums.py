"""Sums over patches and targets, batch by batch: the arithmetic of `collect`.

Patches are copied, position by position, into a block of rows that stays in the cache; its products are taken in the type of
the activations, which is fast, and added up in float64.  Maps are channels-last here: a row of taps is one run of memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from math import ceil, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.compression.students.least_squares import CONSTANT, Half, Matrix, Patches, Regression, Target
from decascade.compression.students.windows import Request, Window

BLOCK = 2048
"""Rows whose products are taken at a time: few enough to stay in the cache, enough that adding up what comes out is little."""
Array = NDArray[Any]
Index = NDArray[np.int64]
Key = tuple[str, str]


class Sums:
    """What requests on one tensor with one stride and one output size share: one Gram matrix over the union of their windows,
    and one cross matrix with a column for every channel of every target.

    `shapes`: (C, *S) of every tensor that is asked for.
    """

    def __init__(self, requests: Sequence[Request], shapes: Mapping[str, Sequence[int]]) -> None:
        first = requests[0]
        self.tensor, self.window = first.tensor, first.window
        for request in requests[1:]:
            self.window = self.window.union(request.window)
        self.channels, self.out = shapes[first.tensor][0], tuple(shapes[first.target][1:])
        # the whole target stands beside every difference: errors are shares of its variance
        keys = dict.fromkeys(key for r in requests for key in ((r.target, ""), r.key))
        ends = np.cumsum([0, *(shapes[target][0] for target, _ in keys)]).tolist()
        self.columns: dict[Key, slice] = {key: slice(a, b) for key, a, b in zip(keys, ends[:-1], ends[1:], strict=True)}
        self.unknowns, self.width = self.channels * prod(self.window.kernel), int(ends[-1])
        self._means: tuple[Array, Array] | None = None
        self._gram = list[Matrix]()
        self._cross = list[Matrix]()
        self._square = list[Matrix]()

    @property
    def bytes(self) -> int:
        """Memory of the sums."""
        return 2 * 8 * (self.unknowns + 1) * (self.unknowns + 1 + self.width)

    def add(self, values: Mapping[str, Any], wanted: Mapping[str, Any], held: Array, places: Index, scratch: Array) -> None:
        """The rows of one batch: of the samples that are not `held` and of those that are, at `places`, (P, axes) output
        positions.  `scratch`: any numbers of the activations' type; they are overwritten."""
        # those that are held out go last
        order = np.argsort(held, kind="stable")
        x, z = self._padded(values[self.tensor], order), self._targets(values, wanted, places, order)
        if self._means is None:
            self._start(x, z)
        assert self._means is not None
        # near their means, so that products in float32 lose nothing where values are far from zero
        x -= self._means[0]
        z -= self._means[1]
        kept = len(held) - int(held.sum())
        for which, some in enumerate((slice(0, kept), slice(kept, None))):
            if len(x[some]):
                self._accumulate(which, x[some], z[some], places, scratch)

    def _start(self, x: Array, z: Array) -> None:
        size = self.unknowns + 1
        self._means = (x.reshape(-1, x.shape[-1]).mean(0), z.reshape(-1, z.shape[-1]).mean(0))
        self._gram = [np.zeros((size, size)) for _ in range(2)]
        self._cross = [np.zeros((size, self.width)) for _ in range(2)]
        self._square = [np.zeros(self.width) for _ in range(2)]

    def _padded(self, tensor: Any, order: Index) -> Array:
        """(N, *S, C), samples in another order, with the positions that windows see beyond the map, as zeros."""
        torch: Any = import_module("torch")
        pads = self.window.padding(tuple(tensor.shape[2:]), self.out)
        around = [n for pair in reversed(pads) for n in pair]
        chosen = tensor[torch.from_numpy(order)].movedim(1, -1)
        padded = torch.nn.functional.pad(chosen, [0, 0, *around]) if around else chosen
        return padded.contiguous().cpu().numpy()

    def _targets(self, values: Mapping[str, Any], wanted: Mapping[str, Any], places: Index, order: Index) -> Array:
        """(N, P, width), samples in another order."""
        torch: Any = import_module("torch")
        at: Any = np.ravel_multi_index(tuple(places.T), self.out) if self.out else np.zeros(1, np.int64)
        parts = list[Any]()
        for target, minus in self.columns:
            z = wanted[target] - values[minus] if minus else wanted[target]
            z = z.flatten(2) if self.out else z[:, :, None]
            parts.append((z if len(at) == z.shape[2] else z[:, :, torch.from_numpy(at)]).movedim(1, -1))
        return torch.cat(parts, -1)[torch.from_numpy(order)].contiguous().cpu().numpy()

    def _accumulate(self, which: int, x: Array, z: Array, places: Index, scratch: Array) -> None:
        samples, size = len(x), self.unknowns + 1
        together = max(1, BLOCK // samples)
        for first in range(0, len(places), together):
            some = places[first : first + together]
            rows = scratch[: samples * len(some) * size].reshape(samples, len(some), size)
            rows[:, :, -1] = 1
            patches = rows[:, :, :-1].reshape(samples, len(some), *self.window.kernel, self.channels)
            for start, stop, place in _runs(some):
                patches[:, start:stop] = self._windows(x, place, stop - start)
            block, target = rows.reshape(-1, size), z[:, first : first + together].reshape(-1, self.width)
            # numpy takes a matrix times its own transpose as a symmetric product, at half the work
            self._gram[which] += block.T @ block
            self._cross[which] += block.T @ target
            self._square[which] += np.einsum("no,no->o", target, target, dtype=np.float64)

    def _windows(self, x: Array, place: Sequence[int], count: int) -> Array:
        """(N, count, *K, C): the windows at an output position and at those after it along the last axis, without a copy."""
        corner = tuple(slice(s * o, None) for s, o in zip(self.window.stride, place, strict=True))
        rest = x[(slice(None), *corner)]
        near, *axes, channel = rest.strides
        along = self.window.stride[-1] * axes[-1] if axes else 0
        shape = (len(x), count, *self.window.kernel, self.channels)
        return np.lib.stride_tricks.as_strided(rest, shape, (near, along, *axes, channel), writeable=False)

    def patches(self, window: Window) -> Patches:
        """The moments of the patches of a window inside this one."""
        assert self._means is not None
        rows = self.window.rows(window, self.channels)
        fitted, held = (_half(gram, rows) for gram in self._gram)
        return Patches(fitted, held, np.repeat(self._means[0].astype(np.float64), prod(window.kernel)))

    def regression(self, request: Request, patches: Patches) -> Regression:
        """The moments of one request on the patches of its window."""
        assert self._means is not None
        rows = self.window.rows(request.window, self.channels)
        halves = (patches.fitted, patches.held)
        fitted, held = (self._target(which, half, rows, request) for which, half in enumerate(halves))
        return Regression(patches, fitted, held, self._means[1][self.columns[request.key]].astype(np.float64))

    def _target(self, which: int, half: Half, rows: Index, request: Request) -> Target:
        assert self._means is not None
        columns, whole = self.columns[request.key], self.columns[request.target, ""]
        cross, square, count = self._cross[which], self._square[which], max(half.count, 1)
        total = cross[-1, columns]
        apart = float(np.sum(square[columns]) - np.sum(total**2) / count)
        variance = float(np.sum(square[whole]) - np.sum(cross[-1, whole] ** 2) / count)
        size = variance + count * float(np.sum((cross[-1, whole] / count + self._means[1][whole]) ** 2))
        return Target(total, cross[rows, columns] - np.outer(half.total, total / count), apart, max(variance, CONSTANT * size))


def _half(bordered: Matrix, rows: Index) -> Half:
    count, total = float(bordered[-1, -1]), bordered[-1, rows]
    gram = bordered[np.ix_(rows, rows)]
    for first in range(0, len(gram), 256):  # piece by piece: the outer product is as large as the matrix
        gram[first : first + 256] -= np.outer(total[first : first + 256] / max(count, 1), total)
    return Half(count, total, gram)


def _runs(places: Index) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Positions that follow each other along the last axis, as (first, last + 1, position of the first)."""
    steps = np.diff(places, axis=0)
    breaks = np.flatnonzero((steps[:, :-1] != 0).any(1) | (steps[:, -1] != 1)) + 1 if places.shape[1] else np.zeros(0, np.int64)
    starts = [0, *breaks.tolist()]
    for first, last in zip(starts, [*starts[1:], len(places)], strict=True):
        yield first, last, tuple(places[first].tolist())


def places_of(out: Sequence[int], share: float, generator: Any) -> Index:
    """That share of the output positions, at least one, chosen at random: (P, axes)."""
    torch: Any = import_module("torch")
    count = max(1, ceil(share * prod(out)))
    every = np.arange(prod(out))
    chosen = every if count >= len(every) else torch.randperm(len(every), generator=generator)[:count].sort().values.numpy()
    return np.stack(np.unravel_index(chosen, tuple(out)), 1) if out else np.zeros((1, 0), np.int64)
