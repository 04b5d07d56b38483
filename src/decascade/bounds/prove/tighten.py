"""Bounds beyond intervals, stage by stage: backward linear ones of whole layers, then programs of single neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

import numpy as np

from decascade.bounds.adjoint import can_pull
from decascade.bounds.backward import Tracer, neuron_bounds
from decascade.bounds.geometry import part
from decascade.bounds.observations import ActivationState
from decascade.bounds.prove.branch import gets_past
from decascade.bounds.prove.exact import lowest
from decascade.bounds.prove.solver_process import Run, here
from decascade.bounds.state import ProofState
from decascade.typing import F64

WHOLE = 0.04
"""Of the time that is left, what a layer may take to have all its neurons bounded, not only the open ones."""
PROGRAM, RANGE = 0.04, 0.01
"""Of the time that is left, what one program may take that is to decide a neuron, or to give its range."""
LAYER = 0.15
"""Of the time, what the ranges of one layer may take."""
WANTED, PROMISING = 0.5, 0.8
"""Of the time, what one neuron may take whose channel may yet be linear, and one where others of the channel were proved."""
BINARIES = 300
"""Neurons that are exact in a program."""
FUTILE = 8
"""After so many neurons in a row without a result the rest of a layer is skipped."""
HOPELESS = 3
"""After so many layers in a row of which bounds decide nothing, later ones, whose bounds are looser still, are skipped."""
EARLY, EARLY_SHARE, FIRST, LATER = 2, 0.8, 0.5, 24
"""Layers whose neurons are small enough for programs to decide them all; they come first, and may take so much of the time.
Each of their neurons is given so many seconds, and so many times more when its turn comes again: of those that half a second
does not decide, most take several."""


def linear(state: ProofState, until: float) -> None:
    """Backward bounds of the neurons that intervals leave undecided, layer by layer, up to the last with an open one."""
    order, fruitless = state.layers, 0
    for i, s in enumerate(order):
        if state.left() < until or fruitless >= HOPELESS or not state.any_open(order[i:]):
            return
        state.on_progress("bounding activations", i / len(order))
        before = int((state.bounds.regimes(s) >= 0).sum())  # witnesses may turn up beside: they are not what bounds decide
        if linear_layer(state, s, until, whole=WHOLE * state.left()):
            state.bounds.carry_forward()
        fruitless = fruitless + 1 if state.open(s).any() and int((state.bounds.regimes(s) >= 0).sum()) == before else 0


def linear_layer(state: ProofState, s: ActivationState, until: float, whole: float) -> bool:
    """Bounds of one layer's open neurons; of all that are not proven, which helps what follows, where that takes less than
    `whole` seconds; of all whatsoever where that is infinite.  Whether anything was bounded."""
    if s.tensor in state.problem.graph.inputs:
        return False
    tracer, start, done = Tracer(state.problem.graph, state.bounds.tensors), state.budget.clock(), 0
    undecided, wanted = (a.reshape(len(a), -1) for a in ((state.bounds.regimes(s) < 0) | (whole == np.inf), state.open(s)))
    weight, decided = s.weight.ravel(), 0
    order: list[int] = np.argsort(-weight, kind="stable").tolist()
    for k in order:
        paid = done == 0 or (state.budget.clock() - start) / done * int(undecided.any(axis=0).sum()) <= whole
        channels = np.flatnonzero((undecided if paid else wanted)[:, k])
        if not len(channels):
            continue
        if state.left() < until or (not paid and done >= FUTILE and not decided):
            break
        low, high = neuron_bounds(tracer, s.tensor, channels.tolist(), s.spots[k])
        state.bounds.tighten(s, k, channels, low, high)
        done += 1
        decided += int(wanted[:, k].sum()) - int(state.open(s).reshape(wanted.shape)[:, k].sum())
    return done > 0


def programs(state: ProofState, until: float, run: Run = here) -> bool:
    """Single neurons as mixed-integer programs: the open ones of the first layers; then, layer by layer, all that are not
    stable, while they are quick, for the sake of what follows; then the open ones.  Whether any was decided."""
    order, before = state.layers, sum(state.count_open(s) for s in state.layers)
    _in_turns(state, run, order[:EARLY], until + (1 - EARLY_SHARE) * (state.left() - until))
    for i, s in enumerate(order):
        ahead = order[i + 1 : i + 4]
        if state.left() < until:
            break
        if _affine(state, s) or not state.any_open(ahead):
            continue
        state.on_progress("solving programs of single neurons", i / len(order))
        if not _narrow(state, run, s, until + (1 - LAYER) * max(state.left() - until, 0)):
            break
        state.bounds.carry_forward()
        for w in ahead:
            if linear_layer(state, w, until, whole=0.0):
                state.bounds.carry_forward()
        if _decide(state, run, order[i + 1], until, unwitnessed=True):
            state.bounds.carry_forward()
    for s in order:
        if _decide(state, run, s, until):
            state.bounds.carry_forward()
    return sum(state.count_open(s) for s in state.layers) < before


def _in_turns(state: ProofState, run: Run, layers: Sequence[ActivationState], until: float) -> None:
    """All open neurons of some layers, in turns: what takes how long is not known before, and most are quick."""
    seconds = FIRST
    while state.left() - seconds > until and state.any_open(layers):
        for s in layers:
            if _decide(state, run, s, until, inf, seconds):
                state.bounds.carry_forward()
        seconds *= LATER


def _affine(state: ProofState, s: ActivationState) -> bool:
    """Whether a tensor is affine in the inputs, so that its bounds are exact as they are."""
    return all(can_pull(n.op) for n in part(state.problem.graph, [s.tensor]).nodes)


def _narrow(state: ProofState, run: Run, s: ActivationState, until: float) -> bool:
    """The exact ranges of neurons that are not stable, the largest classes first, until several in a row take too long.
    Whether any became narrower."""
    undecided, weight = (state.bounds.regimes(s) < 0).reshape(s.channels, -1), s.weight.ravel()
    gained = fruitless = 0
    for k in np.argsort(-weight, kind="stable").tolist():
        for c in np.flatnonzero(undecided[:, k]).tolist():
            if state.left() < until or fruitless >= FUTILE:
                return gained > 0
            done = _range(state, run, s, c, k, max(RANGE * state.left(), 0.2))
            gained, fruitless = gained + done, 0 if done else fruitless + 1
    return gained > 0


def _range(state: ProofState, run: Run, s: ActivationState, channel: int, k: int, seconds: float) -> bool:
    """Both bounds of one neuron by a program.  Whether it came to an end, or made them narrower by a twentieth."""
    lo, hi = (b.reshape(len(b), -1)[channel, k] for b in state.bounds.classed(s))
    tracer = Tracer(state.problem.graph, state.bounds.tensors)
    limit = state.budget.on_the_wall(seconds)
    low, high = (lowest(tracer, s.tensor, channel, s.spots[k], d, limit, BINARIES, run) for d in (1, -1))
    for answer in (low, high):
        if answer.inputs is not None:
            look(state, answer.inputs)
    state.bounds.tighten(s, k, np.array([channel]), np.array([low.bound]), np.array([-high.bound]))
    ended = low.ended and high.ended
    return ended or bool(min(-high.bound, hi) - max(low.bound, lo) <= 0.95 * (hi - lo))


def _decide(
    state: ProofState, run: Run, s: ActivationState, until: float, patience: float = FUTILE, limit: float | None = None,
    unwitnessed: bool = False,
) -> bool:
    """Whether open neurons get to regimes that they were not seen in.  First those whose channel may yet be linear, which takes
    a proof of every one, those that bounds put nearest to it before others; then those that are near and stand for many, for
    their share of the time; or each for the limit.  `unwitnessed`: the first alone.  Whether any was decided."""
    if state.left() < until:
        return False
    waiting, weight = np.argwhere(state.open_by_class(s)), s.weight.ravel()
    if unwitnessed:
        waiting = waiting[~s.unstable_channels[waiting[:, 0]]]
    lo, hi = (b.reshape(len(b), -1) for b in state.bounds.classed(s))
    # the share of a neuron's bounds that is in the way of a proof
    excess = np.array([_excess(s, c, k, float(lo[c, k]), float(hi[c, k])) for c, k in waiting.tolist()])
    shown = s.unstable_channels[waiting[:, 0]]
    ease = np.lexsort((np.where(shown, excess / weight[waiting[:, 1]], excess), shown))
    decided, fruitless, promising = 0, 0, set[int]()
    for n, (c, k) in enumerate(waiting[ease].tolist()):
        if state.left() < until or fruitless >= patience:
            break
        if not state.open_by_class(s)[c, k]:  # a witness turned up since
            continue
        share = float(weight[k] / weight[waiting[ease[n:], 1]].sum())
        if not s.unstable_channels[c]:
            share = PROMISING if c in promising else WANTED
        seconds = max(PROGRAM * state.left(), (state.left() - until) * share, 0.5) if limit is None else limit
        if _settle(state, run, s, c, k, seconds):
            decided, fruitless = decided + 1, 0
            promising.add(c)
        else:
            fruitless += 1
    return decided > 0


def _sides(s: ActivationState, channel: int, k: int) -> list[tuple[int, float]]:
    """Where a neuron may leave the regimes that it was seen in: upwards (−1, the direction whose lowest value is asked for)
    and the end there, downwards (+1)."""
    shown = np.flatnonzero(s.seen.reshape(*s.seen.shape[:2], -1)[:, channel, k])
    found = list[tuple[int, float]]()
    if not len(shown) or shown[-1] < len(s.pieces) - 1:
        found.append((-1, s.pieces[int(shown[-1]) if len(shown) else 0].hi))
    if len(shown) and shown[0] > 0:
        found.append((1, s.pieces[int(shown[0])].lo))
    return found


def _excess(s: ActivationState, channel: int, k: int, lo: float, hi: float) -> float:
    """The share of a neuron's bounds lo, hi that lies beyond the regimes that it was seen in."""
    beyond = [hi - end if direction < 0 else end - lo for direction, end in _sides(s, channel, k)]
    return max(beyond, default=0.0) / max(hi - lo, 1e-300)


def _settle(state: ProofState, run: Run, s: ActivationState, channel: int, k: int, seconds: float) -> bool:
    """Whether one neuron is decided by programs."""
    decided = True
    for direction, end in _sides(s, channel, k):
        past, tracer = direction * end, Tracer(state.problem.graph, state.bounds.tensors)
        limit = state.budget.on_the_wall(seconds)
        answer = gets_past(tracer, s.tensor, channel, s.spots[k], direction, past, limit, run)
        if answer.inputs is not None:
            look(state, answer.inputs)
        bound = np.array([max(answer.bound, past) if answer.settled else answer.bound])
        low, high = (bound, np.array([np.inf])) if direction > 0 else (np.array([-np.inf]), -bound)
        state.bounds.tighten(s, k, np.array([channel]), low, high)
        decided &= answer.settled
    return decided or not state.open_by_class(s)[channel, k]


def look(state: ProofState, inputs: Mapping[str, F64]) -> None:
    """Run an input that a solver came up with; what it leaves open is in the middle of the box."""
    middle = state.problem.limits.middle()
    found = {n: np.where(np.isnan(x), middle[n][..., 0], x)[..., None] for n, x in inputs.items()}
    state.observations.observe({**middle, **state.problem.limits.keep(found)})

