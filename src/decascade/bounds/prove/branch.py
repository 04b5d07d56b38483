"""Whether one neuron gets past a value: branch and bound over the ReLUs of its receptive field, many branches at once.

A branch assumes of some ReLUs on which side they are; `relax` bounds the neuron on it from below.  One that is not closed is
split at a ReLU for which both sides have been tried (filtered smart branching, De Palma et al. 2021); sides that this closes
are left out of the others.  The ascents are in float32; what closes a branch is the same bound in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from decascade.bounds.backward import Tracer
from decascade.bounds.prove.cuts import cuts_of
from decascade.bounds.prove.exact import Answer, gets_to
from decascade.bounds.prove.network import Network
from decascade.bounds.prove.program import Multipliers, States, UnsolvedError, solve
from decascade.bounds.prove.relax import Relaxation, ascend
from decascade.bounds.prove.solver_process import here
from decascade.bounds.prove.unroll import Unrolled, unroll
from decascade.errors import CannotInterpret
from decascade.typing import F64, Reals

LARGEST = 1_500_000
"""Entries of the dense blocks of a network that is not too large for many branches at once."""
SMALL, EARLIER = 160, 0.3
"""ReLUs and inputs of a network on which a mixed-integer program, too, may come to an end, and the share of the time after
which it takes over: on few inputs the conditions of a branch soon depend on each other, and ascents are slow to find out."""
BATCH, WAITING = 128, 2048
"""Branches that are split at once; where no more than these are open, those with the lowest bounds first (a witness would be
there), else those that are nearest to be closed, so that they do not become too many."""
CANDIDATES = 5
"""ReLUs whose sides are tried before a branch is split."""
STEPS, LONG, OFTEN, DEEP = 12, 60, 6, 30
"""Steps of an ascent and of a long one, which the whole has, and every so many splits a branch that has had so many: short
ones no longer keep up with its many conditions."""
FOR_CUTS = 0.3
"""Of the time, what the linear programs that choose the cuts may take."""


class Branches(NamedTuple):
    """Bounds (B,), states (B, n), numbers of splits, multipliers, and the points where the relaxations are
    lowest."""

    bound: F64
    states: States
    age: NDArray[np.int64]
    multipliers: Multipliers
    z: Reals
    counts: Reals

    def at(self, which: Any) -> Branches:
        return Branches(
            self.bound[which], self.states[which], self.age[which], self.multipliers.at(which), self.z[which],
            self.counts[which],
        )

    def and_also(self, more: Branches) -> Branches:
        def joined(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
            return np.concatenate([a, b])

        multipliers = Multipliers(*map(joined, self.multipliers, more.multipliers))
        return Branches(
            joined(self.bound, more.bound), joined(self.states, more.states), joined(self.age, more.age), multipliers,
            joined(self.z, more.z), joined(self.counts, more.counts),
        )


def gets_past(
    tracer: Tracer, tensor: str, channel: int, position: tuple[int, ...], direction: int, past: float, seconds: float,
    run: Callable[..., Answer] = here,
) -> Answer:
    """Whether direction · neuron gets to `past` or below anywhere in the box: settled if it does not, and else an input where
    it does, if there was time to find one.  `run`: here, or `SolverProcess.ask`."""
    start = perf_counter()
    try:
        found = unroll(tracer, tensor, channel, position, direction)
    except CannotInterpret:
        return Answer(-np.inf)
    if len(found.arguments) * len(found.lower) > LARGEST:
        return Answer(-np.inf)
    return run(search, found, past, seconds - (perf_counter() - start))


def search(found: Unrolled, past: float, seconds: float) -> Answer:
    """`gets_past` of an unrolled neuron."""
    start = perf_counter()
    if not len(found.relus):  # affine in the inputs
        ends = np.where(found.cost > 0, found.lower, found.upper)
        bound = found.constant + float(found.cost @ ends)
        return Answer(bound, bound > past, True, None if bound > past else found.picture(ends))
    small = len(found.relus) + len(found.inputs) <= SMALL
    try:
        answer = Search(Network.of(found), past, start + (EARLIER if small else 1.0) * seconds).run()
    except UnsolvedError:
        answer = Answer(-np.inf)
    return gets_to(found, past, start + seconds - perf_counter()) if small and not answer.ended else answer


class Search:
    """One branch and bound."""

    def __init__(self, net: Network, past: float, deadline: float) -> None:
        self.net, self.past, self.deadline = net, past, deadline
        self.cuts, mu = cuts_of(net, FOR_CUTS * (deadline - perf_counter()))
        self.quick, self.sure = (Relaxation.of(net, self.cuts, kind) for kind in (np.float32, np.float64))
        none = np.zeros((1, len(net.c)))
        self.first = Multipliers(none + 0.5, none, mu[None]).to(np.float32)
        self.seen: F64 | None = None

    def run(self) -> Answer:
        branches = self._opened(np.array([-np.inf]), self.net.states()[None], np.array([0]), self.first)
        while len(branches.bound) and self.seen is None:
            if perf_counter() > self.deadline:
                return Answer(float(branches.bound.min()))
            order = np.argsort(branches.bound if len(branches.bound) <= WAITING else -branches.bound, kind="stable")
            now, rest = branches.at(order[:BATCH]), branches.at(order[BATCH:])
            free = (now.states == 0).any(axis=1)
            branches = rest.and_also(self._split(now.at(free)))
            for states in now.states[~free]:
                self._end(states)
        if self.seen is not None:
            return Answer(-np.inf, ended=True, inputs=self.net.picture(self.seen))
        return Answer(self.past, settled=True, ended=True)

    def _end(self, states: States) -> None:
        """A branch in which nothing is free, where the linear program is exact: its multipliers close it, or its solution is as
        low as the neuron gets."""
        found = solve(self.net, self.cuts, states, np.inf)
        if found is not None and not self._surely_closed(states[None], found.multipliers)[0]:
            self.seen = found.x

    def _opened(self, known: F64, states: States, age: NDArray[np.int64], start: Multipliers) -> Branches:
        """Branches as far as ascents leave them open; `known` are bounds that hold for them."""
        long = (age % OFTEN == 0) & ((age == 0) | (age >= DEEP))
        if long.all() or not long.any():
            return self._ascended(known, states, age, start, LONG if long.any() else STEPS)
        parts = [self._ascended(known[w], states[w], age[w], start.at(w), n) for w, n in ((long, LONG), (~long, STEPS))]
        return parts[0].and_also(parts[1])

    def _ascended(self, known: F64, states: States, age: NDArray[np.int64], start: Multipliers, steps: int) -> Branches:
        best = ascend(self.quick, states, start, self.past, steps)
        values = self.net.values(best.x.astype(np.float64))
        if values.min() <= self.past:
            self.seen = best.x[int(values.argmin())].astype(np.float64)
        closed = np.flatnonzero(best.bound > self.past)
        left = np.ones(len(states), np.bool_)
        left[closed] = ~self._surely_closed(states[closed], best.multipliers.at(closed))
        bound = np.minimum(np.maximum(known, best.bound), self.past)
        return Branches(bound, states, age, best.multipliers, best.z, best.counts).at(left)

    def _surely_closed(self, states: States, at: Multipliers) -> NDArray[np.bool_]:
        return self.sure.bound(states, at.to(np.float64)) > self.past

    def _split(self, branches: Branches) -> Branches:
        """Both sides of one ReLU of each branch, as far as they stay open."""
        pick, states, alive = self._choose(branches)
        branches = branches.at(alive)
        twice, rows = np.repeat(np.arange(len(pick)), 2), np.arange(2 * len(pick))
        states = states[twice]
        states[rows, pick[twice]] = np.tile(np.array([1, -1], np.int8), len(pick))
        if not len(pick):
            return branches
        states = self.net.with_implied(states)
        return self._opened(branches.bound[twice], states, branches.age[twice] + 1, branches.multipliers.at(twice))

    def _choose(self, branches: Branches) -> tuple[NDArray[np.int64], States, NDArray[np.bool_]]:
        """Per branch the ReLU to split at, its states with all that was found out, and whether it is open after all."""
        count, states = len(branches.bound), branches.states.copy()
        score = np.where(states == 0, self._gaps(branches), -1.0)
        k = min(CANDIDATES, score.shape[1])
        tried = np.argsort(-score, axis=1, kind="stable")[:, :k]
        real = np.take_along_axis(score, tried, 1) >= 0
        each = np.repeat(np.arange(count), 2 * k)
        sides = states[each]
        sides[np.arange(len(each)), np.repeat(tried.ravel(), 2)] = np.tile(np.array([1, -1], np.int8), count * k)
        sides, at = self.net.with_implied(sides), branches.multipliers.at(each)
        bound = self.quick.bound(sides, at)
        closed = bound > self.past
        closed[closed] = self._surely_closed(sides[closed], at.at(closed))
        closed = closed.reshape(count, k, 2) & real[..., None]
        for side, other in ((0, -1), (1, 1)):  # one side is closed, so that the ReLU is on the other
            at_row, at_column = np.nonzero(closed[:, :, side] & ~closed[:, :, 1 - side])
            states[at_row, tried[at_row, at_column]] = other
        gain = np.maximum(np.minimum(bound, self.past).reshape(count, k, 2) - branches.bound[:, None, None], 0)
        worth = np.where(real & ~closed.any(axis=2), gain.min(axis=2) + 2 * gain.max(axis=2), -1.0)
        pick = np.take_along_axis(tried, worth.argmax(axis=1)[:, None], 1)[:, 0]
        rest = np.where(states == 0, score, -1.0)
        pick = np.where(worth.max(axis=1) >= 0, pick, rest.argmax(axis=1))
        alive = np.logical_not(closed.all(axis=2).any(axis=-1))
        return pick[alive], states[alive], alive

    def _gaps(self, branches: Branches) -> Reals:
        """How much the relaxation of each ReLU may be lower than itself: where the branch is lowest, and at the bend."""
        z, counts, relu = branches.z, branches.counts, np.maximum(branches.z, 0)
        above = -counts * (np.maximum(self.quick.steep * z + self.quick.drop - relu, 0) + 5 * self.quick.drop)
        return np.where(counts < 0, above, counts * np.maximum(relu - branches.multipliers.alpha * z, 0))
