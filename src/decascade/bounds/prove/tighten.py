"""Bounds beyond intervals, stage by stage: backward linear ones of whole layers, then programs of single neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

import numpy as np

from decascade.bounds.adjoint import can_pull
from decascade.bounds.backward import Tracer, neuron_bounds
from decascade.bounds.geometry import part
from decascade.bounds.prove.branch import gets_past
from decascade.bounds.prove.exact import lowest
from decascade.bounds.prove.work import F64, Work
from decascade.bounds.witness.sightings import Seen

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
"""After so many neurons in a row without a result the rest of a layer is left as it is."""
HOPELESS = 3
"""After so many layers in a row of which bounds decide nothing, later ones, whose bounds are looser still, are left alone."""
EARLY, EARLY_SHARE, FIRST, LATER = 2, 0.8, 0.5, 24
"""Layers whose neurons are small enough for programs to decide them all; they come first, and may take so much of the time.
Each of their neurons is given so many seconds, and so many times more when its turn comes again: of those that half a second
does not decide, most take several."""


def linear(work: Work, until: float) -> None:
    """Backward bounds of the neurons that intervals leave undecided, layer by layer, up to the last with an open one."""
    order, vain = list(work.seen.values()), 0
    for i, s in enumerate(order):
        if work.left() < until or vain >= HOPELESS or not any(work.open(w).any() for w in order[i:]):
            return
        work.progress("bounding activations", i / len(order))
        before = int((work.proven(s) >= 0).sum())  # witnesses may turn up beside: they are not what bounds decide
        if linear_layer(work, s, until, whole=WHOLE * work.left()):
            work.settle()
        vain = vain + 1 if work.open(s).any() and int((work.proven(s) >= 0).sum()) == before else 0


def linear_layer(work: Work, s: Seen, until: float, whole: float) -> bool:
    """Bounds of one layer's open neurons; of all that are not proven, which helps what follows, where that takes less than
    `whole` seconds; of all whatsoever where that is infinite.  Whether anything was bounded."""
    if s.tensor in work.graph.inputs:
        return False
    tracer, start, done = Tracer(work.graph, work.bounds), work.clock(), 0
    undecided, wanted = (a.reshape(len(a), -1) for a in ((work.proven(s) < 0) | (whole == np.inf), work.open(s)))
    weight, decided = s.weight.ravel(), 0
    order: list[int] = np.argsort(-weight, kind="stable").tolist()
    for k in order:
        paid = done == 0 or (work.clock() - start) / done * int(undecided.any(axis=0).sum()) <= whole
        channels = np.flatnonzero((undecided if paid else wanted)[:, k])
        if not len(channels):
            continue
        if work.left() < until or (not paid and done >= FUTILE and not decided):
            break
        low, high = neuron_bounds(tracer, s.tensor, channels.tolist(), s.spots[k])
        work.tighten(s, k, channels, low, high)
        done += 1
        decided += int(wanted[:, k].sum()) - int(work.open(s).reshape(wanted.shape)[:, k].sum())
    return done > 0


def programs(work: Work, until: float) -> bool:
    """Single neurons as mixed-integer programs: the open ones of the first layers; then, layer by layer, all that are not
    stable, while they are quick, for the sake of what follows; then the open ones.  Whether any was decided."""
    order, before = list(work.seen.values()), sum(work.count_open(s) for s in work.seen.values())
    _in_turns(work, order[:EARLY], until + (1 - EARLY_SHARE) * (work.left() - until))
    for i, s in enumerate(order):
        ahead = order[i + 1 : i + 4]
        if work.left() < until:
            break
        if _affine(work, s) or not any(work.open(w).any() for w in ahead):
            continue
        work.progress("solving programs of single neurons", i / len(order))
        if not _narrow(work, s, until + (1 - LAYER) * max(work.left() - until, 0)):
            break
        work.settle()
        for w in ahead:
            if linear_layer(work, w, until, whole=0.0):
                work.settle()
        if _decide(work, order[i + 1], until, strangers=True):
            work.settle()
    for s in order:
        if _decide(work, s, until):
            work.settle()
    return sum(work.count_open(s) for s in work.seen.values()) < before


def _in_turns(work: Work, layers: Sequence[Seen], until: float) -> None:
    """All open neurons of some layers, in turns: what takes how long is not known before, and most are quick."""
    seconds = FIRST
    while work.left() - seconds > until and any(work.open(s).any() for s in layers):
        for s in layers:
            if _decide(work, s, until, inf, seconds):
                work.settle()
        seconds *= LATER


def _affine(work: Work, s: Seen) -> bool:
    """Whether a tensor is affine in the inputs, so that its bounds are exact as they are."""
    return all(can_pull(n.op) for n in part(work.graph, [s.tensor]).nodes)


def _narrow(work: Work, s: Seen, until: float) -> bool:
    """The exact ranges of neurons that are not stable, the largest classes first, until several in a row take too long.
    Whether any became narrower."""
    undecided, weight = (work.proven(s) < 0).reshape(len(s.seen[0]), -1), s.weight.ravel()
    gained = vain = 0
    for k in np.argsort(-weight, kind="stable").tolist():
        for c in np.flatnonzero(undecided[:, k]).tolist():
            if work.left() < until or vain >= FUTILE:
                return gained > 0
            done = _range(work, s, c, k, max(RANGE * work.left(), 0.2))
            gained, vain = gained + done, 0 if done else vain + 1
    return gained > 0


def _range(work: Work, s: Seen, channel: int, k: int, seconds: float) -> bool:
    """Both bounds of one neuron by a program.  Whether it came to an end, or made them narrower by a twentieth."""
    lo, hi = (b.reshape(len(b), -1)[channel, k] for b in work.classed(s))
    tracer = Tracer(work.graph, work.bounds)
    limit = work.on_the_wall(seconds)
    low, high = (lowest(tracer, s.tensor, channel, s.spots[k], d, limit, BINARIES, work.run) for d in (1, -1))
    for answer in (low, high):
        if answer.inputs is not None:
            look(work, answer.inputs)
    work.tighten(s, k, np.array([channel]), np.array([low.bound]), np.array([-high.bound]))
    ended = low.ended and high.ended
    return ended or bool(min(-high.bound, hi) - max(low.bound, lo) <= 0.95 * (hi - lo))


def _decide(work: Work, s: Seen, until: float, patience: float = FUTILE, limit: float | None = None,
            strangers: bool = False) -> bool:
    """Whether open neurons get to regimes that they were not seen in.  First those whose channel may yet be linear, which takes
    a proof of every one, those that bounds put nearest to it before others; then those that are near and stand for many, for
    their share of the time; or each for the limit.  `strangers`: the first alone.  Whether any was decided."""
    if work.left() < until:
        return False
    waiting, weight = np.argwhere(work.open(s).reshape(len(s.seen[0]), -1)), s.weight.ravel()
    if strangers:
        waiting = waiting[~s.unstable_channels[waiting[:, 0]]]
    lo, hi = (b.reshape(len(b), -1) for b in work.classed(s))
    # the share of a neuron's bounds that is in the way of a proof
    excess = np.array([_excess(s, c, k, float(lo[c, k]), float(hi[c, k])) for c, k in waiting.tolist()])
    shown = s.unstable_channels[waiting[:, 0]]
    ease = np.lexsort((np.where(shown, excess / weight[waiting[:, 1]], excess), shown))
    decided, vain, promising = 0, 0, set[int]()
    for n, (c, k) in enumerate(waiting[ease].tolist()):
        if work.left() < until or vain >= patience:
            break
        if not work.open(s).reshape(len(s.seen[0]), -1)[c, k]:  # a witness turned up since
            continue
        share = float(weight[k] / weight[waiting[ease[n:], 1]].sum())
        if not s.unstable_channels[c]:
            share = PROMISING if c in promising else WANTED
        seconds = max(PROGRAM * work.left(), (work.left() - until) * share, 0.5) if limit is None else limit
        if _reach(work, s, c, k, seconds):
            decided, vain = decided + 1, 0
            promising.add(c)
        else:
            vain += 1
    return decided > 0


def _sides(s: Seen, channel: int, k: int) -> list[tuple[int, float]]:
    """Where a neuron may leave the regimes that it was seen in: upwards (−1, the direction whose lowest value is asked for)
    and the end there, downwards (+1)."""
    shown = np.flatnonzero(s.seen.reshape(*s.seen.shape[:2], -1)[:, channel, k])
    found = list[tuple[int, float]]()
    if not len(shown) or shown[-1] < len(s.pieces) - 1:
        found.append((-1, s.pieces[int(shown[-1]) if len(shown) else 0].hi))
    if len(shown) and shown[0] > 0:
        found.append((1, s.pieces[int(shown[0])].lo))
    return found


def _excess(s: Seen, channel: int, k: int, lo: float, hi: float) -> float:
    """The share of a neuron's bounds lo, hi that lies beyond the regimes that it was seen in."""
    beyond = [hi - end if direction < 0 else end - lo for direction, end in _sides(s, channel, k)]
    return max(beyond, default=0.0) / max(hi - lo, 1e-300)


def _reach(work: Work, s: Seen, channel: int, k: int, seconds: float) -> bool:
    """Whether one neuron is decided by programs."""
    decided = True
    for direction, end in _sides(s, channel, k):
        past, tracer = direction * end, Tracer(work.graph, work.bounds)
        limit = work.on_the_wall(seconds)
        answer = gets_past(tracer, s.tensor, channel, s.spots[k], direction, past, limit, work.run)
        if answer.inputs is not None:
            look(work, answer.inputs)
        bound = np.array([max(answer.bound, past) if answer.settled else answer.bound])
        low, high = (bound, np.array([np.inf])) if direction > 0 else (np.array([-np.inf]), -bound)
        work.tighten(s, k, np.array([channel]), low, high)
        decided &= answer.settled
    return decided or not work.open(s).reshape(len(s.seen[0]), -1)[channel, k]


def look(work: Work, inputs: Mapping[str, F64]) -> None:
    """Run an input that a solver came up with; what it leaves open is in the middle of the box."""
    middle = work.limits.at(lambda shape: np.full((*shape, 1), 0.5))
    found = {n: np.where(np.isnan(x), middle[n][..., 0], x)[..., None] for n, x in inputs.items()}
    work.sightings.observe({**middle, **work.limits.keep(found)})

