"""What inputs have been seen to do to the activations: the regimes that each channel and neuron was taken to.

Seen counts only beyond a margin, eight times the largest difference between float32 and float64 on the first batch: that of
the channel, as some are far smaller than their neighbours, but no less than a fiftieth of the whole tensor's.
The inputs that stand for a channel are kept and, at the end, run again in both precisions (`Observations.confirm`).  Where
keeping them would take more than `MOST_KEPT`, nothing more is noted of channels that none stands for yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, reduce
from itertools import product
from math import inf
from threading import RLock
from time import perf_counter

import numpy as np

from decascade.bounds.certificate import Witness
from decascade.bounds.forward import Values, column, run
from decascade.bounds.geometry import Axes
from decascade.bounds.problem import Problem
from decascade.bounds.regimes import Regime, regimes
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import Activation
from decascade.typing import F64, Bools, Clock, Ints

AT_ONCE = 32
"""Inputs that are run together when they are confirmed."""
MOST_KEPT = 2**29
"""Bytes of inputs that are kept."""


@dataclass(eq=False)
class ActivationState:
    """One activation: `regimes` × channels × position classes, and per regime and channel the input that showed it.

    `order` and `starts` sort the positions of each axis by class, `labels` numbers their classes; `weight` counts the
    positions of a class in the user's own picture; `spots` are the representatives, in the order of the classes' flat index.
    """

    node: Node
    pieces: tuple[Regime, ...]
    order: tuple[Ints, ...]
    starts: tuple[Ints, ...]
    labels: tuple[Ints, ...]
    weight: Ints
    spots: tuple[tuple[int, ...], ...]
    seen: Bools
    sample: Ints
    position: Ints
    margin: F64

    @property
    def tensor(self) -> str:
        return self.node.inputs[0]

    @property
    def channels(self) -> int:
        return self.seen.shape[1]

    @property
    def unstable(self) -> Bools:
        """Channels × classes that were seen in two regimes or in a curved one."""
        curved = [i for i, p in enumerate(self.pieces) if not p.linear]
        found = self.seen.sum(axis=0) > 1
        return np.asarray(found | self.seen[curved].any(axis=0))

    @property
    def unstable_channels(self) -> Bools:
        return np.asarray(self.unstable.reshape(self.unstable.shape[0], -1).any(axis=1))

    def inside(self, x: Values, i: int) -> Bools:
        """Entries of x beyond the margin inside regime i; any over the last axis."""
        piece, m = self.pieces[i], column(self.margin, x.ndim - 1)
        if piece.lo == -inf:
            return np.asarray(x.min(axis=-1) < piece.hi - m)
        if piece.hi == inf:
            return np.asarray(x.max(axis=-1) > piece.lo + m)
        return np.asarray(((x > piece.lo + m[..., None]) & (x < piece.hi - m[..., None])).any(axis=-1))

    def by_class(self, flags: Bools) -> Bools:
        """(C, *S) → (C, *classes): whether any position of the class."""
        for axis, (order, starts) in enumerate(zip(self.order, self.starts, strict=True), start=1):
            flags = np.logical_or.reduceat(flags.take(order, axis), starts, axis)
        return flags


@dataclass(eq=False)
class Observations:
    """All activations of a graph, and the inputs that are kept as witnesses; inputs are (C, *S, N) per name.

    `pace`: seconds that one input takes through the whole graph in float32, in a batch that makes good use of the machine.
    `lock`: held while something is noted, as two threads may watch at once.
    """

    graph: Graph
    activations: dict[str, ActivationState]
    clock: Clock = perf_counter
    kept: list[dict[str, Values]] = field(default_factory=list[dict[str, Values]])
    runs: int = 0
    pace: float = inf
    lock: RLock = field(default_factory=RLock)

    @staticmethod
    def of(problem: Problem, clock: Clock) -> Observations:
        """Nothing observed yet of a problem's activations."""
        found = dict[str, ActivationState]()
        for node in problem.nodes:
            tensor = node.inputs[0]
            channels = int((problem.graph.shape(tensor) or (0, 0))[1])
            found[node.name] = unseen(node, channels, problem.axes[tensor], problem.own[tensor])
        return Observations(problem.graph, found, clock)

    def observe(self, inputs: Mapping[str, Values]) -> None:
        """Run a batch in float32 and note what it shows."""
        batch = {k: v.astype(np.float32) for k, v in inputs.items()}
        see, start = self.watcher(batch), self.clock()
        run(self.graph, batch, see)
        self.pace = min(self.pace, (self.clock() - start) / next(iter(batch.values())).shape[-1])

    def to_confirm(self) -> float:
        """Seconds that `confirm` will take: float64 is twice the work, and then some."""
        return 3.5 * self.pace * len(self.kept) if self.kept else 0.0

    def watcher(self, batch: Mapping[str, Values]) -> Callable[[str, Values], None]:
        """Notes what a run of this float32 batch shows, tensor by tensor."""
        if not self.runs:
            self._calibrate(batch)
        self.runs += next(iter(batch.values())).shape[-1]
        ids = dict[int, int]()

        def see(name: str, x: Values) -> None:
            for s in self.by_tensor.get(name, ()):
                with self.lock:
                    self._note(s, x, batch, ids)

        return see

    @cached_property
    def by_tensor(self) -> dict[str, list[ActivationState]]:
        found = dict[str, list[ActivationState]]()
        for s in self.activations.values():
            found.setdefault(s.tensor, []).append(s)
        return found

    def _calibrate(self, batch: Mapping[str, Values]) -> None:
        single: dict[str, Values] = {}
        wanted = {s.tensor for s in self.activations.values()}
        worst = dict[str, F64]()

        def keep(name: str, x: Values) -> None:
            if name in wanted:
                single[name] = x

        def compare(name: str, x: Values) -> None:
            if name in wanted:
                flat, difference = (np.abs(a).reshape(len(x), -1) for a in (x, x - single[name].astype(np.float64)))
                each = 8 * difference.max(axis=1, initial=0.0) + 1e-6 * flat.max(axis=1, initial=0.0)
                worst[name] = np.maximum(each, each.max(initial=0.0) / 50) + 1e-30

        run(self.graph, batch, keep)
        run(self.graph, {k: v.astype(np.float64) for k, v in batch.items()}, compare)
        for s in self.activations.values():
            s.margin = worst[s.tensor]

    def _note(self, s: ActivationState, x: Values, batch: Mapping[str, Values], ids: dict[int, int]) -> None:
        for i in range(len(s.pieces)):
            inside = s.inside(x, i)
            fresh = (s.sample[i] < 0) & inside.reshape(len(inside), -1).any(axis=1)
            for c in np.flatnonzero(fresh):
                self._keep(s, i, int(c), x[c], batch, ids)
            stood_for = (s.sample[i] >= 0).reshape(-1, *(1,) * s.weight.ndim)
            s.seen[i] |= s.by_class(inside) & stood_for

    def _keep(self, s: ActivationState, i: int, c: int, x: Values, batch: Mapping[str, Values], ids: dict[int, int]) -> None:
        """The entry deepest in the regime stands for it."""
        piece = s.pieces[i]
        depth = np.minimum(x - piece.lo, piece.hi - x) if np.isfinite([piece.lo, piece.hi]).any() else np.abs(x)
        at = np.unravel_index(int(depth.argmax()), depth.shape)
        n = int(at[-1])
        if n not in ids:
            if sum(v[..., 0].nbytes for v in batch.values()) * (len(self.kept) + 1) > MOST_KEPT:
                return
            ids[n] = len(self.kept)
            self.kept.append({k: v[..., n].copy() for k, v in batch.items()})
        s.sample[i, c] = ids[n]
        s.position[i, c] = at[:-1]

    def confirm(self) -> dict[str, list[Witness]]:
        """Run the kept inputs again in float32 and float64; what both do not show is taken back.  The witnesses left."""
        found: dict[str, dict[tuple[int, int], float]] = {name: {} for name in self.activations}
        for start in range(0, len(self.kept), AT_ONCE):
            block = self.kept[start : start + AT_ONCE]
            both = [self._tensors({k: np.stack([b[k] for b in block], -1).astype(t) for k in block[0]})
                    for t in (np.float32, np.float64)]
            for name, s in self.activations.items():
                _check(s, range(start, start + len(block)), both[0][s.tensor], both[1][s.tensor], found[name])
        return {name: _witnesses(s, found[name]) for name, s in self.activations.items()}

    def _tensors(self, inputs: Mapping[str, Values]) -> dict[str, Values]:
        wanted, found = {s.tensor for s in self.activations.values()}, dict[str, Values]()

        def see(name: str, x: Values) -> None:
            if name in wanted:
                found[name] = x

        run(self.graph, inputs, see)
        return found


def _check(s: ActivationState, samples: range, single: Values, double: Values, found: dict[tuple[int, int], float]) -> None:
    """Values of the samples that stand for regimes, in both precisions; an observation that does not hold is taken back."""
    here = (s.sample >= samples.start) & (s.sample < samples.stop)
    for i, c in np.argwhere(here).tolist():
        at = (c, *s.position[i, c], s.sample[i, c] - samples.start)
        a, b = float(single[at]), float(double[at])
        piece = s.pieces[i]
        if min(b - piece.lo, piece.hi - b) > 2 * abs(a - b):
            found[i, c] = b
        else:
            s.seen[i, c] = False


def _witnesses(s: ActivationState, found: Mapping[tuple[int, int], float]) -> list[Witness]:
    rows = list[Witness]()
    for c in np.flatnonzero(s.unstable_channels).tolist():
        shown = [i for i in range(len(s.pieces)) if (i, c) in found]
        rows.append(Witness(
            c, tuple(found[i, c] for i in shown), tuple(tuple(int(p) for p in s.position[i, c]) for i in shown),
            tuple(int(s.sample[i, c]) for i in shown),
        ))
    return rows


def unseen(node: Node, channels: int, axes: Axes, own: Axes) -> ActivationState:
    """Nothing seen yet; `axes` are the position classes where it is analysed, `own` those of the user's picture."""
    assert isinstance(node.op, Activation)
    pieces = regimes(node.op, channels)
    order, starts, labels, counts = list[Ints](), list[Ints](), list[Ints](), list[Ints]()
    firsts = list[list[int]]()
    for axis, full in zip(axes, own, strict=True):
        sort = np.argsort(axis, kind="stable")
        kinds, first = np.unique(axis[sort], return_index=True)
        order.append(sort)
        labels.append(np.searchsorted(kinds, axis))
        starts.append(first)
        counts.append(np.array([int((full == k).sum()) for k in kinds], np.int64))
        firsts.append([int(at[len(at) // 2]) for at in (np.flatnonzero(axis == k) for k in kinds)])
    weight = np.asarray(reduce(np.multiply.outer, counts, np.ones((), np.int64)))
    shape = (len(pieces), channels)
    return ActivationState(
        node, pieces, tuple(order), tuple(starts), tuple(labels), weight, tuple(product(*firsts)),
        np.zeros((*shape, *weight.shape), np.bool_), np.full(shape, -1, np.int64), np.zeros((*shape, len(axes)), np.int64),
        np.full(channels, inf),
    )
