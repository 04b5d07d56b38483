"""`prove`: every activation of a graph decided over a box, as far as the time goes.

In order: interval bounds; patterns and calibration data run through the graph; backward linear bounds, layer by layer,
each tightening what follows; ascent towards the regimes that were not seen.  First per channel, then per neuron.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.bounds.backward import Tracer, neuron_bounds
from decascade.bounds.box import Box
from decascade.bounds.certificate import ActivationRecord, Certificate, Status
from decascade.bounds.exact import lowest_reaches
from decascade.bounds.geometry import Axes, Classes, part, smallest
from decascade.bounds.interval import Bounds, propagate
from decascade.bounds.regimes import regime_of, regimes
from decascade.bounds.search import BATCH, Goal, Limits, ascend, patterns
from decascade.bounds.sightings import Seen, Sightings, seen_of
from decascade.errors import UsageError
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import Activation, Foreign
from decascade.ir.shapes import infer_graph

Progress = Callable[[str, float], None]
Ints8 = NDArray[np.int8]
F64 = NDArray[np.float64]
ENOUGH = 0.02
"""Share of open neurons below which the bounds of those with a witness are not worth their time."""


class UnknownSizeError(UsageError):
    """A size that is only known when the model runs."""


def prove(
    graph: Graph, box: Box | object, budget_seconds: float = 60.0, data: Mapping[str, NDArray[Any]] | None = None,
    progress: Progress | None = None, seed: int = 0, thorough: bool = True,
) -> Certificate:
    """Decide every piecewise-linear activation of a graph over a box of inputs.

    `box`: a Box or what `Box.of` takes.  `data`: calibration inputs (N, C, *S) per graph input, in the graph's layout,
    used in the search for witnesses where they lie in the box.  `thorough`: decide every neuron, also those of channels
    that one witness already shows not to be linear.  Sizes that are only known when the model runs: nothing is proved, and
    a note says so.

    Raises:
        UsageError: a box that does not fit.
    """
    start = perf_counter()
    box = Box.of(graph, box)
    try:
        work = _Work.of(graph, box, start + 0.92 * budget_seconds, progress or (lambda _stage, _share: None), seed)
    except UnknownSizeError as error:
        return Certificate(box.facts(), (), perf_counter() - start, {}, notes=(str(error),))
    if work is None:
        return Certificate(box.facts(), (), perf_counter() - start, {})
    work.thorough = thorough
    work.patterns(data)
    work.linear()
    work.ascend(range(3), by_neuron=False)
    work.exact(work.left() * 0.6, by_neuron=False)
    work.ascend(range(3), by_neuron=True)
    work.exact(work.left() * 0.1, by_neuron=True)
    work.ascend(range(3, 30 if thorough else 6), by_neuron=True)
    return work.certificate(box, start)


def linear_bounds(graph: Graph, box: Box | object, budget_seconds: float = 60.0) -> dict[str, tuple[F64, F64]]:
    """Per activation node the backward linear bounds of its input, lowest and highest per channel (C,), of every neuron.

    `prove` bounds only as many neurons as it takes to decide; here all are bounded that time allows, each layer on the
    bounds of those before it.

    Raises:
        UsageError: as `prove`.
    """
    work = _Work.of(graph, Box.of(graph, box), perf_counter() + budget_seconds, lambda _stage, _share: None, 0)
    found = dict[str, tuple[F64, F64]]()
    for node in activations(graph) if work is not None else ():
        assert work is not None
        s = work.seen[node.name]
        if work.linear_layer(s, 0.0, only_open=False):
            work.bounds = propagate(work.graph, work.box, work.known)
        source = work.bounds[s.tensor]
        flat = (a.reshape(len(a), -1) for a in (source.lo, source.hi))
        found[node.name] = (next(flat).min(axis=1), next(flat).max(axis=1))
    return found


def activations(graph: Graph) -> list[Node]:
    """The activations that have regimes and whose inputs are within reach of the analysis."""
    return [n for n in graph.nodes if isinstance(n.op, Activation) and regimes(n.op, 1)]


@dataclass(eq=False)
class _Work:
    """The state of one analysis: the graph at the size analysed, its bounds, and what was seen."""

    graph: Graph
    box: Box
    axes: Mapping[str, Axes]
    bounds: dict[str, Bounds]
    sightings: Sightings
    limits: Limits
    deadline: float
    progress: Progress
    rng: np.random.Generator
    known: dict[str, Bounds] = field(default_factory=dict[str, Bounds])
    thorough: bool = True

    @staticmethod
    def of(graph: Graph, box: Box, deadline: float, progress: Progress, seed: int) -> _Work | None:
        nodes = activations(graph)
        if not nodes:
            return None
        ahead = numbered(part(graph, [n.inputs[0] for n in nodes]), box)
        classes = Classes()
        own = classes.of(ahead, box)
        small, axes = smallest(ahead, box, classes)
        bounds = propagate(small, box)
        seen = {n.name: seen_of(n, len(bounds[n.inputs[0]].lo), axes[n.inputs[0]], own[n.inputs[0]]) for n in nodes}
        return _Work(small, box, axes, bounds, Sightings(small, seen), Limits.of(small, box), deadline, progress,
                     np.random.default_rng(seed))

    @property
    def seen(self) -> Mapping[str, Seen]:
        return self.sightings.seen

    def left(self) -> float:
        return self.deadline - perf_counter()

    def classed(self, s: Seen) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Bounds (C, *classes) of an activation's input."""
        source = self.bounds[s.tensor]
        lo, hi = (a[(slice(None), *zip(*s.spots, strict=True))] if s.spots[0] else a for a in (source.lo, source.hi))
        shape = (len(source.lo), *s.weight.shape)
        return lo.reshape(shape), hi.reshape(shape)

    def proven(self, s: Seen) -> Ints8:
        return regime_of(s.pieces, *self.classed(s))

    def open(self, s: Seen) -> NDArray[np.bool_]:
        """Channels × classes that are neither proven nor witnessed."""
        found = (self.proven(s) < 0) & ~s.unstable
        beside = s.unstable_channels.reshape(-1, *(1,) * s.weight.ndim)
        return found if self.thorough else found & ~beside

    def patterns(self, data: Mapping[str, NDArray[Any]] | None) -> None:
        """Random pictures until a whole round shows little that is new; at most a quarter of the time."""
        self.progress("running patterns through the model", 0.0)
        until = self.left() * 0.8
        for batch in self._data(data):
            self.sightings.observe(batch)
        before, made = -1, patterns(self.limits, self.rng)
        while self.left() > until:
            for _ in range(5):
                self.sightings.observe(next(made))
            now = sum(int((s.unstable * s.weight).sum()) for s in self.seen.values())
            if before >= 0 and now - before <= 0.001 * max(now, 1):
                return
            before = now

    def _data(self, data: Mapping[str, NDArray[Any]] | None) -> list[dict[str, NDArray[Any]]]:
        if data is None or any(data[n].shape[1:] != self.limits.lo[n].shape[:-1] for n in self.graph.inputs):
            return []
        count = min(len(v) for v in data.values())
        blocks = [{n: np.moveaxis(data[n][i : i + BATCH], 0, -1) for n in self.graph.inputs} for i in range(0, count, BATCH)]
        return [self.limits.keep(b) for b in blocks[:64]]

    def linear(self) -> None:
        """Backward bounds of the neurons that intervals leave undecided, up to the last layer with an open one."""
        order = [self.seen[n.name] for n in activations(self.graph)]
        order += [s for s in self.seen.values() if s not in order]
        for i, s in enumerate(order):
            waiting = order[i:]
            if not any(self.open(w).any() for w in waiting):
                return
            until = self.left() * (1 - 2 / (len(waiting) + 3))
            self.progress("bounding activations", i / len(order))
            if self.linear_layer(s, until, self._open_share(order[i + 1 :]) < ENOUGH):
                self.bounds = propagate(self.graph, self.box, self.known)

    def _open_share(self, layers: Sequence[Seen]) -> float:
        """The share of the neurons of some layers that is open."""
        total = sum(int(s.weight.sum()) * len(s.seen[0]) for s in layers)
        return sum(int((self.open(s) * s.weight).sum()) for s in layers) / total if total else 0.0

    def linear_layer(self, s: Seen, until: float, only_open: bool) -> bool:
        """Bounds of one layer's neurons; of those with a witness too where they may help to decide what follows."""
        undecided = self.open(s) if only_open else self.proven(s) < 0
        source = self.bounds[s.tensor]
        lo, hi = source.lo.copy(), source.hi.copy()
        tracer, done = Tracer(self.graph, self.bounds), False
        flat = undecided.reshape(len(undecided), -1)
        if s.tensor in self.graph.inputs:
            return False
        for k in np.argsort(-s.weight.ravel(), kind="stable"):
            channels = np.flatnonzero(flat[:, k])
            if not len(channels):
                continue
            if self.left() < until:
                break
            low, high = neuron_bounds(tracer, s.tensor, channels.tolist(), s.spots[int(k)])
            at = np.ix_(channels, *self._positions(s, int(k)))
            tail = (1,) * (lo.ndim - 1)
            lo[at] = np.maximum(lo[at], low.reshape(-1, *tail))
            hi[at] = np.minimum(hi[at], high.reshape(-1, *tail))
            done = True
        if done:
            self.known[s.tensor] = self.bounds[s.tensor] = Bounds(lo, hi, source.slack)
        return done

    def _positions(self, s: Seen, flat: int) -> list[NDArray[np.int64]]:
        index = np.unravel_index(flat, s.weight.shape) if s.weight.shape else ()
        found = list[NDArray[np.int64]]()
        for order, starts, i in zip(s.order, s.starts, index, strict=True):
            stop = starts[i + 1] if i + 1 < len(starts) else len(order)
            found.append(order[starts[i] : stop])
        return found

    def ascend(self, attempts: range, by_neuron: bool) -> None:
        """Towards the regimes that were not seen; from the middle of the box, then from random points and corners."""
        for attempt in attempts:
            for s in self.seen.values():
                goals = self._goals(s, by_neuron)
                for i in range(0, len(goals), BATCH):
                    if self.left() < 0:
                        return
                    block = goals[i : i + BATCH]
                    self.progress("looking for witnesses", 0.0)
                    start = self._start(len(block), attempt)
                    ascend(self.graph, s.tensor, block, start, self.limits, self.sightings.watcher)

    def exact(self, until: float, by_neuron: bool) -> None:
        """Open neurons as mixed-integer programs, early layers first; what is proved tightens what follows."""
        for s in self.seen.values():
            goals, changed = self._goals(s, by_neuron), False
            for goal in goals:
                if self.left() < until or self.left() < 0.5:
                    break
                self.progress("solving programs of single neurons", 0.0)
                changed |= self._exact(s, goal, min(10.0, self.left() - until))
            if changed:
                self.bounds = propagate(self.graph, self.box, self.known)

    def _exact(self, s: Seen, goal: Goal, seconds: float) -> bool:
        """Whether a goal is out of reach: the neuron stays on its side of the regimes that it was seen in."""
        k = s.spots.index(goal.position)
        known = np.flatnonzero(s.seen.reshape(*s.seen.shape[:2], -1)[:, goal.channel, k])
        if not len(known):
            return False
        threshold = s.pieces[int(known.max())].hi if goal.direction > 0 else s.pieces[int(known.min())].lo
        answer = lowest_reaches(
            Tracer(self.graph, self.bounds), s.tensor, goal.channel, goal.position, threshold, -goal.direction, seconds)
        if answer.inputs is not None:
            middle = self.limits.at(lambda shape: np.full((*shape, 1), 0.5))
            found = {n: np.where(np.isnan(x), middle[n][..., 0], x)[..., None] for n, x in answer.inputs.items()}
            self.sightings.observe({**middle, **self.limits.keep(found)})
        if answer.verdict != "proved":
            return False
        source = self.bounds[s.tensor]
        lo, hi = source.lo.copy(), source.hi.copy()
        at = (goal.channel, *np.ix_(*self._positions(s, k))) if s.weight.shape else (goal.channel,)
        side = hi if goal.direction > 0 else lo
        side[at] = np.minimum(hi[at], threshold) if goal.direction > 0 else np.maximum(lo[at], threshold)
        self.known[s.tensor] = self.bounds[s.tensor] = Bounds(lo, hi, source.slack)
        return True

    def _start(self, count: int, attempt: int) -> dict[str, NDArray[Any]]:
        if attempt % 3 == 0:
            share = 0.5 if attempt == 0 else float(self.rng.random())
            return self.limits.at(lambda shape: np.full((*shape, count), share))
        if attempt % 3 == 1:
            return self.limits.at(lambda shape: self.rng.random((*shape, count)))
        return self.limits.at(lambda shape: self.rng.integers(0, 2, (*shape, count)).astype(np.float64))

    def _goals(self, s: Seen, by_neuron: bool) -> list[Goal]:
        undecided = self.open(s).reshape(len(s.seen[0]), -1)
        seen = s.seen.reshape(*s.seen.shape[:2], -1)
        if not by_neuron:
            undecided = undecided & ~s.unstable_channels[:, None]
            heaviest = np.argsort(-s.weight.ravel(), kind="stable")
            pick = [(int(c), next(int(k) for k in heaviest if undecided[c, k])) for c in np.flatnonzero(undecided.any(axis=1))]
        else:
            pick = [(int(c), int(k)) for k, c in np.argwhere(undecided.T)]
        goals = list[Goal]()
        for c, k in pick:
            known = np.flatnonzero(seen[:, c, k])
            low, high = (known.min(), known.max()) if len(known) else (len(s.pieces), -1)
            goals += [Goal(c, s.spots[k], 1)] if high < len(s.pieces) - 1 else []
            goals += [Goal(c, s.spots[k], -1)] if low > 0 else []
        return goals

    def certificate(self, box: Box, start: float) -> Certificate:
        witnesses = self.sightings.confirm()
        records = tuple(self._record(s, tuple(witnesses[name])) for name, s in self.seen.items())
        used = {n: np.stack([k[n] for k in self.sightings.kept]) for n in self.graph.inputs} if self.sightings.kept else {}
        analysed = {n: self.limits.lo[n].shape[:-1] for n in self.graph.inputs}
        return Certificate(box.facts(), records, perf_counter() - start, analysed, witnesses=used)

    def _record(self, s: Seen, witnesses: tuple[Any, ...]) -> ActivationRecord:
        proven, unstable = self.proven(s), s.unstable
        flat = proven.reshape(len(proven), -1)
        same = (flat == flat[:, :1]).all(axis=1) & (flat[:, 0] >= 0)
        regime = np.where(same, flat[:, 0], -1).astype(np.int8)
        channels = s.unstable_channels
        rest = np.where((flat >= 0).all(axis=1), Status.MIXED, Status.OPEN)
        status = tuple(Status(v) for v in np.where(same, Status.PROVEN, np.where(channels, Status.WITNESSED, rest)).tolist())
        counts = {
            Status.PROVEN: int(((proven >= 0) * s.weight).sum()),
            Status.WITNESSED: int((((proven < 0) & unstable) * s.weight).sum()),
            Status.OPEN: int((((proven < 0) & ~unstable) * s.weight).sum()),
        }
        source = self.bounds[s.tensor]
        lo: F64 = source.lo.reshape(len(flat), -1).min(axis=1)
        hi: F64 = source.hi.reshape(len(flat), -1).max(axis=1)
        held: list[tuple[int, int]] = [(c, int(r)) for c, r in enumerate(regime) if r >= 0]
        ends = [min(float(lo[c]) - s.pieces[r].lo, s.pieces[r].hi - float(hi[c])) for c, r in held]
        kind = s.node.op.kind if isinstance(s.node.op, Activation) else ""
        return ActivationRecord(
            s.node.name, s.node.origin, kind, tuple(p.name for p in s.pieces),
            lo, hi, regime, status, {str(k): v for k, v in counts.items() if v}, min(ends) if ends else None, witnesses,
        )


def numbered(graph: Graph, box: Box) -> Graph:
    """The graph with every size inferred; a box that gives every entry tells the size of its input.

    Raises:
        UnknownSizeError: a size that is only known when the model runs.
    """
    tensors = dict(graph.tensors)
    for name in graph.inputs:
        shape, given = tensors[name].shape, box.intervals[name].lo.shape
        if shape is not None:
            told = (d if isinstance(d, int) or n == 1 else n for d, n in zip(shape[1:], given, strict=True))
            tensors[name] = replace(tensors[name], shape=(shape[0], *told))
    found = infer_graph(replace(graph, tensors=tensors))
    for name, tensor in found.tensors.items():
        if tensor.shape is None or any(not isinstance(n, int) for n in tensor.shape[1:]):
            writer = found.producer.get(name)
            kind = f", which {writer.op.kind} writes" if writer is not None and isinstance(writer.op, Foreign) else ""
            raise UnknownSizeError(
                f"the size of {name}{kind} is not known before the model runs: proofs over an input range need a model"
                " of fixed input size, or lowest and highest values as arrays of the input's size"
            )
    return found
