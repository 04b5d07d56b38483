"""`prove`: every activation of a graph decided over a box, as far as the time goes.

Interval bounds; patterns and calibration data run through the graph.  Then two lanes, side by side where there are two
workers and in turns where there is one: witnesses (ascents towards the regimes that were not seen, first of many neurons
at once, then of single ones) and bounds (backward linear ones, layer by layer, each tightening what follows; then programs
of single neurons).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from queue import SimpleQueue
from threading import Event, Thread
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.bounds.box import Box
from decascade.bounds.certificate import ActivationRecord, Certificate, Status, Witness
from decascade.bounds.geometry import part
from decascade.bounds.observations import Seen
from decascade.bounds.prove.solver_process import Aside
from decascade.bounds.prove.tighten import linear, linear_layer, programs
from decascade.bounds.state import Clock, Progress, Work, activations
from decascade.bounds.witness.channels import search
from decascade.bounds.witness.neurons import chase, strangers
from decascade.bounds.witness.patterns import patterns
from decascade.errors import UsageError
from decascade.ir.graph import Graph
from decascade.ir.ops import Activation, Foreign
from decascade.ir.shapes import infer_graph

F64 = NDArray[np.float64]
LARGEST_BATCH, WIDEST = 32, 256
"""Inputs that are run together, as a rule and where one is as good as many."""
MOST_VAIN = 3
"""Rounds in a row that decide nothing.  More than one: ascents begin elsewhere each time, and a solver reads the wall clock, so
that on a machine that is busy with other things it gives up early."""
ROUNDS = range(1, 4)
"""Of ascents of single neurons, after the first."""
BATCH_SHARE = 0.004
"""Of the time, what one batch may take to run."""
MOST_WORKERS = 2


class UnknownSizeError(UsageError):
    """A size that is only known when the model runs."""


def prove(
    graph: Graph, box: Box | object, budget_seconds: float = 60.0, data: Mapping[str, NDArray[Any]] | None = None,
    progress: Progress | None = None, seed: int = 0, thorough: bool = True, clock: Clock = perf_counter,
    workers: int | None = None,
) -> Certificate:
    """Decide every piecewise-linear activation of a graph over a box of inputs.

    `box`: a Box or what `Box.of` takes.  `data`: calibration inputs (N, C, *S) per graph input, in the graph's layout,
    used in the search for witnesses where they lie in the box.  `thorough`: decide every neuron, also those of channels
    that one witness already shows not to be linear.  Sizes that are only known when the model runs: nothing is proved, and
    a note says so.  `clock`: what the budget is read from; with `time.process_time` the result is that of a machine which does
    nothing else.  `workers`: 1, or 2 to search for witnesses beside the proofs; by default as many as there are cores for
    this process, and no more than OMP_NUM_THREADS says.  Where the time suffices both end with the same proofs; which
    witnesses stand for a channel may differ.

    Raises:
        UsageError: a box that does not fit, workers below 1.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers = {workers}: give 1, or 2 to search for witnesses beside the proofs")
    start = clock()
    box, nodes = Box.of(graph, box), activations(graph)
    if not nodes:
        return Certificate(box.facts(), (), clock() - start, {})
    try:
        ahead = numbered(part(graph, [n.inputs[0] for n in nodes]), box)
    except UnknownSizeError as error:
        return Certificate(box.facts(), (), clock() - start, {}, notes=(str(error),))
    told: Progress = progress or (lambda _stage, _share: None)
    work = Work.of(ahead, nodes, box, start + budget_seconds, clock, told, seed, thorough)
    work.workers = usual_workers() if workers is None else min(workers, MOST_WORKERS)
    decide(work, budget_seconds, data)
    return certificate(work, start)


def usual_workers() -> int:
    """As many as there are cores for this process and as OMP_NUM_THREADS allows, up to the most that are of use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return max(1, min(MOST_WORKERS, cores, int(told) if told.isdecimal() else MOST_WORKERS))


def decide(work: Work, seconds: float, data: Mapping[str, NDArray[Any]] | None) -> None:
    """All stages, while there is time and something to decide."""
    warm_up(work, seconds)
    look_at_patterns(work, 0.97 * work.left(), data)
    if work.workers > 1:
        two_lanes(work)
        return
    search(work, 0.75 * work.left(), rounds=2)
    linear(work, 0.7 * work.left())
    chase(work, 0.7 * work.left(), range(1))
    strangers(work, 0.8 * work.left())
    chase(work, 0.6 * work.left(), ROUNDS)
    vain = 0 if programs(work, 0.4 * work.left()) else 1
    while vain < MOST_VAIN and work.left() > 0 and work.undecided():
        strangers(work, 0.8 * work.left())
        found = chase(work, 0.5 * work.left(), ROUNDS)
        vain = 0 if programs(work, 0.0) or found else vain + 1


def two_lanes(work: Work) -> None:
    """Witnesses and proofs, side by side, the searches of the latter in a process of their own; not where the clock is another
    than the wall's, as it would not see that process's time."""
    with closing(Aside()) as beside:
        if work.clock is perf_counter:
            work.run = beside.ask
        proving = Event()
        side_by_side(work, lambda: witnesses(work, proving.is_set), lambda: proofs(work, proving))


def witnesses(work: Work, others_done: Callable[[], bool]) -> None:
    """The one lane: ascents, until several rounds find nothing and the other lane is done."""
    search(work, 0.8 * work.left(), rounds=1)
    strangers(work, 0.6 * work.left())
    chase(work, 0.3 * work.left(), range(1))
    vain = 0
    while (vain < MOST_VAIN or not others_done()) and work.left() > 0 and work.undecided():
        strangers(work, 0.0)
        vain = 0 if chase(work, 0.0, ROUNDS) else vain + 1


def proofs(work: Work, done: Event) -> None:
    """The other lane: linear bounds, then programs, until several rounds decide nothing."""
    linear(work, 0.8 * work.left())
    vain = 0
    while vain < MOST_VAIN and work.left() > 0 and work.undecided():
        vain = 0 if programs(work, 0.0) else vain + 1
    done.set()


def side_by_side(work: Work, *lanes: Callable[[], None]) -> None:
    """Run lanes in threads until all are done.  What one raises is raised here, and the others are told to stop; so they are on
    an interrupt, which need not wait for them."""
    raised: SimpleQueue[BaseException | None] = SimpleQueue()

    def run(lane: Callable[[], None]) -> None:
        try:
            lane()
            raised.put(None)
        except BaseException as error:
            raised.put(error)

    for lane in lanes:
        Thread(target=run, args=(lane,), daemon=True).start()
    try:
        for _ in lanes:
            if (error := raised.get()) is not None:
                raise error
    except BaseException:
        work.stopped = True
        raise


def warm_up(work: Work, seconds: float) -> None:
    """One input, to know how many at once go in a small part of the time."""
    for _ in range(2):
        work.sightings.observe(work.limits.at(lambda shape: np.full((*shape, 1), 0.5)))
    fitting = BATCH_SHARE * seconds / max(work.sightings.pace, 1e-9)
    work.batch, work.widest = (int(np.clip(fitting, 1, most)) for most in (LARGEST_BATCH, WIDEST))


def look_at_patterns(work: Work, until: float, data: Mapping[str, NDArray[Any]] | None) -> None:
    """Calibration data, and random pictures until a whole round shows little that is new."""
    work.progress("running patterns through the model", 0.0)
    for batch in _data(work, data):
        if work.left() < until:
            return
        work.sightings.observe(batch)
    before, made = -1, patterns(work.limits, work.rng, work.batch)
    while True:
        for _ in range(5 * max(LARGEST_BATCH // work.batch, 1)):
            if work.left() < until:
                return
            work.sightings.observe(next(made))
        now = sum(int(s.unstable.sum()) for s in work.seen.values())
        if before >= 0 and now - before <= 0.001 * max(now, 1):
            return
        before = now


def _data(work: Work, data: Mapping[str, NDArray[Any]] | None) -> list[dict[str, NDArray[Any]]]:
    if data is None or any(data[n].shape[1:] != work.limits.lo[n].shape[:-1] for n in work.graph.inputs):
        return []
    count, n = min(len(v) for v in data.values()), work.batch
    blocks = [{k: np.moveaxis(data[k][i : i + n], 0, -1) for k in work.graph.inputs} for i in range(0, min(count, 64 * n), n)]
    return [work.limits.keep(b) for b in blocks]


def linear_bounds(graph: Graph, box: Box | object, budget_seconds: float = 60.0) -> dict[str, tuple[F64, F64]]:
    """Per activation node the backward linear bounds of its input, lowest and highest per channel (C,), of every neuron.

    `prove` bounds only as many neurons as it takes to decide; here all are bounded that time allows, each layer on the
    bounds of those before it.

    Raises:
        UsageError: as `prove`.
    """
    box, nodes = Box.of(graph, box), activations(graph)
    if not nodes:
        return {}
    ahead = numbered(part(graph, [n.inputs[0] for n in nodes]), box)
    work = Work.of(ahead, nodes, box, perf_counter() + budget_seconds, perf_counter, lambda _stage, _share: None)
    found = dict[str, tuple[F64, F64]]()
    for node in nodes:
        s = work.seen[node.name]
        if linear_layer(work, s, 0.0, whole=np.inf):
            work.settle()
        source = work.bounds[s.tensor]
        lo, hi = (a.reshape(len(a), -1) for a in (source.lo, source.hi))
        found[node.name] = lo.min(axis=1), hi.max(axis=1)
    return found


def certificate(work: Work, start: float) -> Certificate:
    """What is known in the end; the witnesses are run once more."""
    witnesses = work.sightings.confirm()
    records = tuple(_record(work, s, tuple(witnesses[name])) for name, s in work.seen.items())
    kept = work.sightings.kept
    used = {n: np.stack([k[n] for k in kept]) for n in work.graph.inputs} if kept else {}
    analysed = {n: work.limits.lo[n].shape[:-1] for n in work.graph.inputs}
    return Certificate(work.box.facts(), records, work.clock() - start, analysed, witnesses=used)


def _record(work: Work, s: Seen, witnesses: tuple[Witness, ...]) -> ActivationRecord:
    proven, source = work.proven(s), work.bounds[s.tensor]
    flat = proven.reshape(len(proven), -1)
    same = (flat == flat[:, :1]).all(axis=1) & (flat[:, 0] >= 0)
    regime = np.where(same, flat[:, 0], -1).astype(np.int8)
    rest = np.where((flat >= 0).all(axis=1), Status.MIXED, Status.OPEN)
    status = np.where(same, Status.PROVEN, np.where(s.unstable_channels, Status.WITNESSED, rest))
    which = {Status.PROVEN: proven >= 0, Status.WITNESSED: (proven < 0) & s.unstable, Status.OPEN: (proven < 0) & ~s.unstable}
    neurons = {str(k): n for k, flags in which.items() if (n := int((flags * s.weight).sum()))}
    classes = {str(k): n for k, flags in which.items() if (n := int(flags.sum()))}
    lo: F64 = source.lo.reshape(len(flat), -1).min(axis=1)
    hi: F64 = source.hi.reshape(len(flat), -1).max(axis=1)
    held: list[tuple[int, int]] = [(c, int(r)) for c, r in enumerate(regime) if r >= 0]
    ends = [min(float(lo[c]) - s.pieces[r].lo, s.pieces[r].hi - float(hi[c])) for c, r in held]
    kind = s.node.op.kind if isinstance(s.node.op, Activation) else ""
    return ActivationRecord(
        s.node.name, s.node.origin, kind, tuple(p.name for p in s.pieces), lo, hi, regime,
        tuple(Status(v) for v in status.tolist()), neurons, min(ends) if ends else None, witnesses, classes,
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
                " of fixed input size (an input shape makes it one), or lowest and highest values as arrays of the input's size"
            )
    return found


__all__ = ["Progress", "UnknownSizeError", "activations", "decide", "linear_bounds", "numbered", "prove"]
