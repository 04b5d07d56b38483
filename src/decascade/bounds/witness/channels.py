"""Search for witnesses: neurons pushed towards the regimes that they were not seen in, along the signs of gradients.

One sample serves all neurons of a channel that lack the same regime: the gradient is that of the sum over those that have
not reached it yet, so that one picture often settles hundreds.  Steps begin with the width of the box and shrink; their
direction carries momentum (Dong et al. 2018, "Boosting Adversarial Attacks with Momentum").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np

from decascade.bounds.adjoint import Form
from decascade.bounds.forward import Values, run
from decascade.bounds.geometry import part
from decascade.bounds.observations import ActivationState
from decascade.bounds.problem import Inputs
from decascade.bounds.state import ProofState
from decascade.bounds.witness.gradient import gradient
from decascade.bounds.witness.search import WitnessSearch
from decascade.typing import F64, Bools

MOMENTUM = 0.75
LAST = 0.02
"""The last step's share of the box."""
PLANS = (("middle", False), ("shifted", True))
"""Where the ascents of a round start, and whether they push only some of a channel's neurons, far from each other."""
STEPS = 6


@dataclass(frozen=True, eq=False)
class Goal:
    """Neurons of one channel (`where`, flags over the positions) to be pushed up (+1) or down (−1) past a value.

    `regime`: the one to be reached.
    """

    channel: int
    direction: int
    past: float
    regime: int
    where: Bools


def push_channels(state: ProofState, search: WitnessSearch, until: float, rounds: int) -> None:
    """Rounds of ascents over all activations with open neurons, one per goal, while more than `until` seconds are left."""
    for n, (start, sparse) in enumerate(PLANS[:rounds]):
        for s in state.layers:
            found = goals(state, s, search.rng)
            if sparse:
                found = [thinned(goal, search.rng) for goal in found]
            found.sort(key=lambda g: np.argwhere(g.where)[0].tolist())
            state.on_progress("looking for witnesses", n / len(PLANS))
            for i in range(0, len(found), search.batch):
                block = found[i : i + search.batch]
                if not ascend(state, s, block, started(state, s, block, start, search.rng), until):
                    return


def goals(state: ProofState, s: ActivationState, rng: np.random.Generator) -> list[Goal]:
    """Per channel the open neurons, by the regimes next to those that they were seen in; one position per class."""
    undecided, last = state.open(s), len(s.pieces) - 1
    shown = np.arange(len(s.pieces)).reshape(-1, *(1,) * undecided.ndim)
    top = np.where(s.seen, shown, -1).max(axis=0)
    bottom = np.where(s.seen, shown, last + 1).min(axis=0)
    found = list[Goal]()
    for c in np.flatnonzero(undecided.reshape(len(undecided), -1).any(axis=1)).tolist():
        for direction, seen in ((1, top[c]), (-1, bottom[c])):
            levels: list[int] = np.unique(seen[undecided[c]]).tolist()
            for at in levels:
                if 0 <= at + direction <= last:
                    where = _somewhere(s, undecided[c] & (seen == at), rng)
                    found.append(Goal(c, direction, _entry(s, at + direction, direction), at + direction, where))
    return found


def _entry(s: ActivationState, regime: int, direction: int) -> float:
    """Where a regime begins for what comes from below (+1) or above (−1); its other end where it has no such one, as for
    neurons that were seen in no regime: they sit on an end."""
    ends = (s.pieces[regime].lo, s.pieces[regime].hi)[::direction]
    return ends[0] if isfinite(ends[0]) else ends[1]


def _somewhere(s: ActivationState, classes: Bools, rng: np.random.Generator) -> Bools:
    """One position of each class that is flagged."""
    rows = [np.array([int(rng.choice(np.flatnonzero(label == i))) for i in range(n)], np.int64)
            for label, n in zip(s.labels, classes.shape, strict=True)]
    found = np.zeros(tuple(len(label) for label in s.labels), np.bool_)
    found[np.ix_(*rows)] = classes
    return found


def thinned(goal: Goal, rng: np.random.Generator) -> Goal:
    """Of a goal's neurons those on a coarse grid: what close neighbours want may contradict."""
    step, kept = int(rng.integers(3, 8)), np.zeros(goal.where.shape, np.bool_)
    grid = tuple(slice(int(rng.integers(min(step, n))), None, step) for n in goal.where.shape)
    kept[grid] = goal.where[grid]
    return replace(goal, where=kept) if kept.any() else goal


def started(state: ProofState, s: ActivationState, block: Sequence[Goal], how: str, rng: np.random.Generator) -> Inputs:
    """One start per goal: the middle of the box, or a kept input in which the channel was in the regime that is looked for,
    shifted to where it is wanted."""
    limits, kept = state.problem.limits, state.observations.kept
    if how == "middle" or not kept:
        return limits.middle(len(block))
    picked = [_kept(kept, s, goal, rng) for goal in block]
    return limits.keep({name: np.stack([p[name] for p in picked], axis=-1) for name in picked[0]})


def _kept(kept: Sequence[dict[str, Values]], s: ActivationState, goal: Goal, rng: np.random.Generator) -> dict[str, Values]:
    sample = int(s.sample[goal.regime, goal.channel])
    if sample < 0:
        return kept[int(rng.integers(len(kept)))]
    if not goal.where.ndim:
        return kept[sample]
    moves = rng.choice(np.argwhere(goal.where)) - s.position[goal.regime, goal.channel]
    found = dict[str, Values]()
    for name, x in kept[sample].items():
        same = x.ndim == goal.where.ndim + 1
        scale = [max(m // n, 1) for m, n in zip(x.shape[1:], goal.where.shape, strict=True)] if same else []
        found[name] = np.roll(x, [int(m * f) for m, f in zip(moves, scale, strict=True)], range(1, x.ndim)) if same else x
    return found


def ascend(state: ProofState, s: ActivationState, block: Sequence[Goal], start: Inputs, until: float) -> bool:
    """Push each sample towards its goal; every point on the way is watched, up to the tensor.  False: the time is up."""
    wanted = np.stack([s.by_class(g.where[None])[0] for g in block])
    of, regime = np.array([g.channel for g in block]), np.array([g.regime for g in block])
    ahead, limits = part(state.problem.graph, [s.tensor]), state.problem.limits
    x = {k: v for k, v in start.items() if k in ahead.inputs}
    rest = {k: v for k, v in start.items() if k not in ahead.inputs}
    speed = dict[str, Values]()
    for share in np.geomspace(1.0, LAST, STEPS):
        if state.left() < until:
            return False
        if not (wanted & ~s.seen[regime, of]).any():
            return True
        watch = state.observations.watcher({**rest, **x})
        for name, form in gradient(ahead, x, s.tensor, _seed(block, s.margin), watch).items():
            pull = np.zeros_like(x[name])
            pull[form.where] = form.coefficients
            pull /= np.abs(pull).sum(axis=tuple(range(pull.ndim - 1)), keepdims=True) + np.float32(1e-30)
            speed[name] = MOMENTUM * speed[name] + pull if name in speed else pull
            reach = (share * (limits.hi[name] - limits.lo[name])).astype(np.float32)
            x = {**x, **limits.keep({name: x[name] + reach * np.sign(speed[name])})}
    run(ahead, x, state.observations.watcher({**rest, **x}), stop_after=s.tensor)
    return True


def _seed(block: Sequence[Goal], margin: F64) -> Callable[[Values], Form]:
    """The sum over each goal's neurons that are not past it by more than the margin; over all once all are."""
    used = np.logical_or.reduce([g.where for g in block])
    window = tuple((int(at.min()), int(at.max()) + 1) for at in np.nonzero(used)) if used.ndim else ()
    inner = tuple(slice(a, b) for a, b in window)

    def seed(z: Values) -> Form:
        found = np.zeros((z.shape[0], *(b - a for a, b in window), len(block)), z.dtype)
        for n, goal in enumerate(block):
            values, where = z[(goal.channel, *inner, n)], goal.where[inner]
            short = where & (goal.direction * (values - goal.past) <= margin[goal.channel])
            found[goal.channel, ..., n] = goal.direction * (short if short.any() else where)
        return Form(found, window)

    return seed


__all__ = ["Goal", "ascend", "goals", "push_channels", "started", "thinned"]
