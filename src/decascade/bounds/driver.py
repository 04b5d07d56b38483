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
from queue import SimpleQueue
from threading import Event, Thread
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.bounds.box import Box
from decascade.bounds.certificate import ActivationRecord, Certificate, Status, Witness
from decascade.bounds.observations import ActivationState
from decascade.bounds.problem import Problem, UnknownSizeError, activations
from decascade.bounds.prove.solver_process import Run, SolverProcess, here
from decascade.bounds.prove.tighten import linear, linear_layer, programs
from decascade.bounds.state import Budget, ProofState
from decascade.bounds.witness.channels import push_channels
from decascade.bounds.witness.neurons import push_neurons, push_unwitnessed
from decascade.bounds.witness.patterns import patterns
from decascade.bounds.witness.search import WitnessSearch
from decascade.errors import UsageError
from decascade.ir.graph import Graph
from decascade.ir.ops import Activation
from decascade.typing import F64, Clock, Progress

LARGEST_BATCH, WIDEST = 32, 256
"""Inputs that are run together, as a rule and where one is as good as many."""
MOST_FRUITLESS = 3
"""Rounds in a row that decide nothing.  More than one: ascents begin elsewhere each time, and a solver reads the wall clock, so
that on a machine that is busy with other things it gives up early."""
ROUNDS = range(1, 4)
"""Of ascents of single neurons, after the first."""
BATCH_SHARE = 0.004
"""Of the time, what one batch may take to run."""
MOST_WORKERS = 2


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
    box = Box.of(graph, box)
    if not activations(graph):
        return Certificate(box.facts(), (), clock() - start, {})
    try:
        problem = Problem.of(graph, box, thorough)
    except UnknownSizeError as error:
        return Certificate(box.facts(), (), clock() - start, {}, notes=(str(error),))
    budget = Budget.of(budget_seconds, clock, start, usual_workers() if workers is None else min(workers, MOST_WORKERS))
    state = ProofState.of(problem, budget, progress or (lambda _stage, _share: None))
    decide(state, warmed_up(state, np.random.default_rng(seed), budget_seconds), data)
    return certificate(state, start)


def usual_workers() -> int:
    """As many as there are cores for this process and as OMP_NUM_THREADS allows, up to the most that are of use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return max(1, min(MOST_WORKERS, cores, int(threads) if threads.isdecimal() else MOST_WORKERS))


def decide(state: ProofState, search: WitnessSearch, data: Mapping[str, NDArray[Any]] | None) -> None:
    """All stages, while there is time and something to decide."""
    look_at_patterns(state, search, 0.97 * state.left(), data)
    if state.budget.workers > 1:
        two_lanes(state, search)
        return
    push_channels(state, search, 0.75 * state.left(), rounds=2)
    linear(state, 0.7 * state.left())
    push_neurons(state, search, 0.7 * state.left(), range(1))
    push_unwitnessed(state, search, 0.8 * state.left())
    push_neurons(state, search, 0.6 * state.left(), ROUNDS)
    fruitless = 0 if programs(state, 0.4 * state.left()) else 1
    while fruitless < MOST_FRUITLESS and state.left() > 0 and state.any_open():
        push_unwitnessed(state, search, 0.8 * state.left())
        found = push_neurons(state, search, 0.5 * state.left(), ROUNDS)
        fruitless = 0 if programs(state, 0.0) or found else fruitless + 1


def two_lanes(state: ProofState, search: WitnessSearch) -> None:
    """Witnesses and proofs, side by side, the searches of the latter in a process of their own; not where the clock is another
    than the wall's, as it would not see that process's time."""
    with closing(SolverProcess()) as beside:
        run = beside.ask if state.budget.clock is perf_counter else here
        proving = Event()
        side_by_side(state.budget, lambda: witnesses(state, search, proving.is_set), lambda: proofs(state, run, proving))


def witnesses(state: ProofState, search: WitnessSearch, others_done: Callable[[], bool]) -> None:
    """The one lane: ascents, until several rounds find nothing and the other lane is done."""
    push_channels(state, search, 0.8 * state.left(), rounds=1)
    push_unwitnessed(state, search, 0.6 * state.left())
    push_neurons(state, search, 0.3 * state.left(), range(1))
    fruitless = 0
    while (fruitless < MOST_FRUITLESS or not others_done()) and state.left() > 0 and state.any_open():
        push_unwitnessed(state, search, 0.0)
        fruitless = 0 if push_neurons(state, search, 0.0, ROUNDS) else fruitless + 1


def proofs(state: ProofState, run: Run, done: Event) -> None:
    """The other lane: linear bounds, then programs, until several rounds decide nothing."""
    linear(state, 0.8 * state.left())
    fruitless = 0
    while fruitless < MOST_FRUITLESS and state.left() > 0 and state.any_open():
        fruitless = 0 if programs(state, 0.0, run) else fruitless + 1
    done.set()


def side_by_side(budget: Budget, *lanes: Callable[[], None]) -> None:
    """Run lanes in threads until all are done.  What one raises is raised here, and cancels the budget of the others;
    so does an interrupt, which need not wait for them."""
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
        budget.cancelled.set()
        raise


def warmed_up(state: ProofState, rng: np.random.Generator, seconds: float) -> WitnessSearch:
    """A search in batches that take a small part of the seconds: one input is run to know how many that are."""
    for _ in range(2):
        state.observations.observe(state.problem.limits.middle())
    fitting = BATCH_SHARE * seconds / max(state.observations.pace, 1e-9)
    batch, widest = (int(np.clip(fitting, 1, most)) for most in (LARGEST_BATCH, WIDEST))
    return WitnessSearch(rng, batch, widest)


def look_at_patterns(state: ProofState, search: WitnessSearch, until: float, data: Mapping[str, NDArray[Any]] | None) -> None:
    """Calibration data, and random pictures until a whole round shows little that is new."""
    state.on_progress("running patterns through the model", 0.0)
    for batch in _data(state.problem, data, search.batch):
        if state.left() < until:
            return
        state.observations.observe(batch)
    before, made = -1, patterns(state.problem.limits, search.rng, search.batch)
    while True:
        for _ in range(5 * max(LARGEST_BATCH // search.batch, 1)):
            if state.left() < until:
                return
            state.observations.observe(next(made))
        now = sum(int(s.unstable.sum()) for s in state.layers)
        if before >= 0 and now - before <= 0.001 * max(now, 1):
            return
        before = now


def _data(problem: Problem, data: Mapping[str, NDArray[Any]] | None, n: int) -> list[dict[str, NDArray[Any]]]:
    """The data in batches of n, as far as they are of the size analysed; values outside the box are moved to its edge."""
    inputs = problem.graph.inputs
    if data is None or any(data[name].shape[1:] != problem.analysed[name] for name in inputs):
        return []
    count = min(len(v) for v in data.values())
    blocks = [{k: np.moveaxis(data[k][i : i + n], 0, -1) for k in inputs} for i in range(0, min(count, 64 * n), n)]
    return [problem.limits.keep(b) for b in blocks]


def linear_bounds(graph: Graph, box: Box | object, budget_seconds: float = 60.0) -> dict[str, tuple[F64, F64]]:
    """Per activation node the backward linear bounds of its input, lowest and highest per channel (C,), of every neuron.

    `prove` bounds only as many neurons as it takes to decide; here all are bounded that time allows, each layer on the
    bounds of those before it.

    Raises:
        UsageError: as `prove`.
    """
    box = Box.of(graph, box)
    if not activations(graph):
        return {}
    problem, start = Problem.of(graph, box), perf_counter()
    state = ProofState.of(problem, Budget.of(budget_seconds, perf_counter, start), lambda _stage, _share: None)
    found = dict[str, tuple[F64, F64]]()
    for s in state.layers:
        if linear_layer(state, s, 0.0, whole=np.inf):
            state.bounds.carry_forward()
        source = state.bounds.tensors[s.tensor]
        lo, hi = (a.reshape(len(a), -1) for a in (source.lo, source.hi))
        found[s.node.name] = lo.min(axis=1), hi.max(axis=1)
    return found


def certificate(state: ProofState, start: float) -> Certificate:
    """What is known in the end; the witnesses are run once more."""
    problem, observations = state.problem, state.observations
    witnesses = observations.confirm()
    records = tuple(_record(state, s, tuple(witnesses[s.node.name])) for s in state.layers)
    kept = observations.kept
    used = {n: np.stack([k[n] for k in kept]) for n in problem.graph.inputs} if kept else {}
    return Certificate(problem.box.facts(), records, state.budget.clock() - start, problem.analysed, witnesses=used)


def _record(state: ProofState, s: ActivationState, witnesses: tuple[Witness, ...]) -> ActivationRecord:
    proven, source = state.bounds.regimes(s), state.bounds.tensors[s.tensor]
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
