"""The moments of a segment's patches, accumulated in float64 over batches of activations.

A patch is what a convolution multiplies its kernel with, the target the value that it should give there.  Memory does not
grow with the number of samples.  Every fourth batch is held out: the error of a fit is told on it.  All windows on one
tensor share one Gram matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import groupby
from math import ceil, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.fit.least_squares import Half, Matrix, Regression, eliminate, ridge_solve

Run = Callable[[Any, Sequence[str]], Mapping[str, Any]]
"""Runs a batch through the model and gives the wanted tensors, (N, C, *S) torch arrays."""
HELD = 4
"""One batch in so many is held out."""
ROWS = 64
"""Patches per unknown of a fit (per row of G): the fit's excess error is about one part in so many."""


@dataclass(frozen=True, order=True)
class Window:
    """The taps of a convolution per axis: output o reads the positions stride·o + start … stride·o + start + kernel − 1."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    start: tuple[int, ...]

    def padding(self, size: Sequence[int], out: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """(before, after) per axis that makes `out` positions of a map of `size`; negative numbers crop."""
        each = zip(self.kernel, self.stride, self.start, size, out, strict=True)
        return tuple((-first, (o - 1) * s + first + k - n) for k, s, first, n, o in each)

    def union(self, other: Window) -> Window:
        """The smallest window that holds both; their strides are equal."""
        start = tuple(map(min, self.start, other.start))
        stop = tuple(max(a + k, b + m) for a, k, b, m in zip(self.start, self.kernel, other.start, other.kernel, strict=True))
        return Window(tuple(b - a for a, b in zip(start, stop, strict=True)), self.stride, start)

    def rows(self, inner: Window, channels: int) -> NDArray[np.int64]:
        """The rows of a patch (channel, then taps) that belong to a window inside this one."""
        index = np.arange(channels * prod(self.kernel)).reshape(channels, *self.kernel)
        cut = tuple(slice(b - a, b - a + k) for a, b, k in zip(self.start, inner.start, inner.kernel, strict=True))
        return index[(slice(None), *cut)].reshape(-1)


@dataclass(frozen=True, order=True)
class Request:
    """A regression of the tensor `target`, less the tensor `minus` where one is named, on the patches of `tensor`."""

    tensor: str
    window: Window
    target: str
    minus: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.target, self.minus


class Moments:
    """What `collect` gathered, by request."""

    def __init__(self, groups: Sequence[_Group]) -> None:
        self._groups = {(g.tensor, g.window.stride, *key): g for g in groups for key in g.targets}
        self._solved: dict[Request, Matrix] = {}
        self._orders: dict[tuple[Request, bytes], NDArray[np.int64]] = {}

    def regression(self, request: Request) -> Regression:
        """The moments of a request that was collected."""
        group = self._groups[request.tensor, request.window.stride, *request.key]
        rows = group.window.rows(request.window, group.channels)
        return Regression(group.half(0, rows, request.key), group.half(1, rows, request.key), group.shift[rows])

    def solution(self, request: Request) -> Matrix:
        """W of a request, (C·ΠK, O), solved once."""
        if request not in self._solved:
            regression = self.regression(request)
            self._solved[request] = ridge_solve(regression.gram, regression.cross)
        return self._solved[request]

    def order(self, request: Request, owner: NDArray[np.int64]) -> NDArray[np.int64]:
        """The channels of a request in the order in which they should go, cheapest first, found once."""
        key = (request, owner.tobytes())
        if key not in self._orders:
            regression = self.regression(request)
            self._orders[key] = eliminate(regression.gram, regression.cross, owner)
        return self._orders[key]


class _Group:
    """All requests on one tensor with one stride and one output size: one Gram matrix over the union of their windows."""

    def __init__(self, requests: Sequence[Request]) -> None:
        first = requests[0]
        self.tensor, self.window = first.tensor, first.window
        for request in requests[1:]:
            self.window = self.window.union(request.window)
        self.targets = tuple(dict.fromkeys(r.key for r in requests))
        self.channels = 0
        self.shift: Matrix = np.zeros(0)
        self._gram: list[Matrix] = []
        self._cross: list[dict[tuple[str, str], Matrix]] = []
        self._square: list[dict[tuple[str, str], Matrix]] = []

    def half(self, which: int, rows: NDArray[np.int64], target: tuple[str, str]) -> Half:
        rows = np.append(rows, len(self.shift))
        gram = self._gram[which][np.ix_(rows, rows)]
        return Half(gram, self._cross[which][target][rows], self._square[which][target])

    def add(self, which: int, values: Mapping[str, Any], wanted: Mapping[str, Any], share: float, generator: Any) -> None:
        """The rows of one batch; `share` of the output positions, the same in all samples."""
        torch: Any = import_module("torch")
        x, out = values[self.tensor], tuple(wanted[self.targets[0][0]].shape[2:])
        places = _places(out, share, generator)
        patches = patches_of(x, self.window, out, places)
        if not len(self.shift):
            self._start(x.shape[1], patches, wanted)
        patches = torch.cat([patches - torch.from_numpy(self.shift).to(patches), patches.new_ones(len(patches), 1)], 1)
        self._gram[which] += (patches.T @ patches).double().numpy()
        for target in self.targets:
            z = wanted[target[0]] - values[target[1]] if target[1] else wanted[target[0]]
            z = z.movedim(1, -1)
            z = (z if places is None else z[(slice(None), *places)]).reshape(len(patches), -1)
            self._cross[which][target] += (patches.T @ z).double().numpy()
            self._square[which][target] += (z.double() ** 2).sum(0).numpy()

    def _start(self, channels: int, patches: Any, wanted: Mapping[str, Any]) -> None:
        self.channels = channels
        # near the mean, so that float32 products lose nothing where values are far from zero
        self.shift = patches.double().mean(0).float().double().numpy()
        size = len(self.shift) + 1
        self._gram = [np.zeros((size, size)) for _ in range(2)]
        self._cross = [{t: np.zeros((size, wanted[t[0]].shape[1])) for t in self.targets} for _ in range(2)]
        self._square = [{t: np.zeros(wanted[t[0]].shape[1]) for t in self.targets} for _ in range(2)]


def _places(out: tuple[int, ...], share: float, generator: Any) -> tuple[Any, ...] | None:
    """A random subset of the output positions, one index array per axis; None: all."""
    torch: Any = import_module("torch")
    count = ceil(share * prod(out))
    if not out or count >= prod(out):
        return None
    chosen = torch.randperm(prod(out), generator=generator)[:count].sort().values
    return tuple(torch.unravel_index(chosen, out))


def patches_of(x: Any, window: Window, out: tuple[int, ...], places: tuple[Any, ...] | None = None) -> Any:
    """The patches that a convolution with this window multiplies its kernel with: (N·positions, C·ΠK), zeros as padding."""
    torch: Any = import_module("torch")
    rank = len(window.kernel)
    if not rank:
        return x
    pads = window.padding(tuple(x.shape[2:]), out)
    x = torch.nn.functional.pad(x, [p for pair in reversed(pads) for p in pair])
    for axis, (k, s) in enumerate(zip(window.kernel, window.stride, strict=True)):
        x = x.unfold(2 + axis, k, s)
    if places is None:
        order = (0, *range(2, 2 + rank), 1, *range(2 + rank, 2 + 2 * rank))
        return x.permute(order).reshape(-1, x.shape[1] * prod(window.kernel))
    picked = x[(slice(None), slice(None), *places)]  # (N, C, positions, *K)
    return picked.movedim(1, 2).reshape(-1, x.shape[1] * prod(window.kernel))


def collect(
    run: Run, batches: Iterable[Any], requests: Iterable[Request], shapes: Mapping[str, Sequence[int]], samples: int, seed: int,
    original: Run | None = None,
) -> Moments:
    """One pass over the data for all requests.

    `run` gives the tensors whose patches are taken (and those subtracted), `original`, if it is another model, the targets.
    `shapes`: (C, *S) of every tensor that is asked for.  `samples`: how many the batches hold together; where they have more
    patches than a fit needs, a random part is taken.
    """
    torch: Any = import_module("torch")
    groups = _groups(requests, shapes)
    read = tuple(dict.fromkeys(n for g in groups for n in (g.tensor, *(minus for _, minus in g.targets if minus))))
    targets = tuple(dict.fromkeys(target for g in groups for target, _ in g.targets))
    generator = torch.Generator().manual_seed(seed)
    shares = [_share(g, shapes, samples) for g in groups]
    for i, batch in enumerate(batches):
        values = run(batch, read if original else tuple(dict.fromkeys((*read, *targets))))
        wanted = original(batch, targets) if original else values
        for group, share in zip(groups, shares, strict=True):
            group.add(int(i % HELD == HELD - 1), values, wanted, share, generator)
    return Moments(groups)


def _groups(requests: Iterable[Request], shapes: Mapping[str, Sequence[int]]) -> list[_Group]:
    def key(r: Request) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
        return r.tensor, r.window.stride, tuple(shapes[r.target][1:])

    return [_Group(list(some)) for _, some in groupby(sorted(set(requests), key=lambda r: (key(r), r)), key)]


def patches_per_unknown(request: Request, shapes: Mapping[str, Sequence[int]], samples: int) -> float:
    """How many rows there would be for every unknown of a fit."""
    return samples * prod(shapes[request.target][1:]) / (shapes[request.tensor][0] * prod(request.window.kernel) + 1)


def _share(group: _Group, shapes: Mapping[str, Sequence[int]], samples: int) -> float:
    """The part of all output positions that gives every unknown its rows."""
    widest = Request(group.tensor, group.window, group.targets[0][0])
    return min(1.0, ROWS * HELD / (HELD - 1) / patches_per_unknown(widest, shapes, samples))
