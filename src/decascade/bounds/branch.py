"""Whether one neuron gets past a value: branch and bound over the ReLUs of its receptive field, many branches at once.

A branch assumes of some ReLUs on which side they are; `relax` bounds the neuron on it from below.  One that is not closed is
split at a ReLU for which both sides have been tried (filtered smart branching, De Palma et al. 2021); sides that this closes
are left out of the others.  The ascents are in float32; what closes a branch is the same bound in float64.
"""

from __future__ import annotations

from importlib import import_module
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from decascade.bounds.backward import Tracer
from decascade.bounds.cuts import cuts_of
from decascade.bounds.exact import Answer
from decascade.bounds.network import Network
from decascade.bounds.relax import Multipliers, Reals, Relaxation, States, ascend
from decascade.bounds.unroll import F64, unroll
from decascade.errors import CannotInterpret

LARGEST = 1_500_000
"""Entries of the dense blocks of a network that is not too large for many branches at once."""
BATCH, WAITING = 128, 2048
"""Branches that are split at once; where no more than these are open, those with the lowest bounds first (a witness would be
there), else those that are nearest to be closed, so that they do not become too many."""
CANDIDATES = 5
"""ReLUs whose sides are tried before a branch is split."""
FIRST, STEPS = 60, 6
"""Steps of the ascents, of the whole and of a branch."""
SLOW = 0.4
"""The first ascent's rates of multipliers; it begins where the linear program has ended."""
SHARE = 0.3
"""Of the time, what the linear programs that choose the cuts may take."""


class Branches(NamedTuple):
    """Bounds (B,), states (B, n), multipliers, and the points where the relaxations are lowest."""

    bound: F64
    states: States
    multipliers: Multipliers
    z: Reals
    counts: Reals

    def at(self, which: Any) -> Branches:
        return Branches(self.bound[which], self.states[which], self.multipliers.at(which), self.z[which], self.counts[which])

    def and_also(self, more: Branches) -> Branches:
        def joined(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
            return np.concatenate([a, b])

        multipliers = Multipliers(*map(joined, self.multipliers, more.multipliers))
        return Branches(
            joined(self.bound, more.bound), joined(self.states, more.states), multipliers, joined(self.z, more.z),
            joined(self.counts, more.counts),
        )


def gets_past(
    tracer: Tracer, tensor: str, channel: int, position: tuple[int, ...], direction: int, past: float, seconds: float
) -> Answer:
    """Whether direction · neuron gets to `past` or below anywhere in the box: settled if it does not, and else an input where
    it does, if there was time to find one."""
    start = perf_counter()
    try:
        found = unroll(tracer, tensor, channel, position, direction)
    except CannotInterpret:
        return Answer(-np.inf)
    if len(found.arguments) * len(found.lower) > LARGEST:
        return Answer(-np.inf)
    net = Network.of(found)
    if not len(found.relus):  # affine in the inputs
        bound, lowest = net.constant - float(np.abs(net.cost_x).sum()), net.picture(-np.sign(net.cost_x))
        return Answer(bound, bound > past, True, None if bound > past else lowest)
    return Search(net, past, start + seconds).run()


class Search:
    """One branch and bound."""

    def __init__(self, net: Network, past: float, deadline: float) -> None:
        self.net, self.past, self.deadline = net, past, deadline
        cuts = cuts_of(net, SHARE * (deadline - perf_counter()))
        self.quick, self.sure = (Relaxation.of(net, cuts, kind) for kind in (np.float32, np.float64))
        self.first = Multipliers(np.full((1, len(net.c)), 0.5), np.zeros((1, len(net.c))), cuts.multipliers[None]).to(np.float32)
        self.seen: F64 | None = None

    def run(self) -> Answer:
        net = self.net
        states = np.where(net.hi <= 0, -2, np.where(net.lo >= 0, 2, 0)).astype(np.int8)[None]
        branches = self._opened(np.array([-np.inf]), states, self.first, FIRST, SLOW)
        while len(branches.bound) and self.seen is None:
            if perf_counter() > self.deadline:
                return Answer(float(branches.bound.min()))
            order = np.argsort(branches.bound if len(branches.bound) <= WAITING else -branches.bound, kind="stable")
            now, rest = branches.at(order[:BATCH]), branches.at(order[BATCH:])
            whole = ~(now.states == 0).any(axis=1)
            if any(not self._ends(states) for states in now.states[whole]):
                break
            branches = rest.and_also(self._split(now.at(~whole)))
        if self.seen is not None:
            return Answer(-np.inf, ended=True, inputs=net.picture(self.seen))
        return Answer(self.past, settled=True, ended=True)

    def _opened(self, known: F64, states: States, start: Multipliers, steps: int, slow: float) -> Branches:
        """Branches as far as an ascent leaves them open; `known` are bounds that hold for them."""
        best = ascend(self.quick, states, start, self.past, steps, slow)
        values = self.net.values(best.x.astype(np.float64))
        if values.min() <= self.past:
            self.seen = best.x[int(values.argmin())].astype(np.float64)
        bound, at = np.maximum(known, best.bound), best.multipliers
        closed = np.flatnonzero(best.bound > self.past)
        open_ = np.ones(len(bound), np.bool_)
        open_[closed] = ~self._surely_closed(states[closed], at.at(closed))
        bound = np.minimum(bound, self.past)
        return Branches(bound, states, at, best.z, best.counts).at(open_)

    def _surely_closed(self, states: States, at: Multipliers) -> NDArray[np.bool_]:
        return self.sure.bound(states, at.to(np.float64)) > self.past

    def _ends(self, states: States) -> bool:
        """Whether a branch in which nothing is free is closed: there the neuron and its conditions are affine in the inputs.  The
        linear program's multipliers close it, or its solution is as low as the neuron gets."""
        optimize: Any = import_module("scipy.optimize")
        net, n = self.net, len(states)
        active, side = states > 0, np.where(np.abs(states) == 1, states, 0).astype(np.float64)
        to_x, c, e = net.x.copy(), net.c.copy(), net.e.copy()
        for s in net.layers:
            onto = net.r[s, : s.start] * active[: s.start]
            to_x[s] += onto @ to_x[: s.start]
            c[s] += onto @ c[: s.start]
            e[s] += np.abs(onto) @ e[: s.start]
        cost = net.cost_x + (net.cost_r * active) @ to_x
        found = optimize.linprog(cost, A_ub=-side[:, None] * to_x, b_ub=side * c + np.abs(side) * e, bounds=(-1, 1), method="highs")
        if found.status != 0:
            return found.status == 2
        beta = np.maximum(-np.asarray(found.ineqlin.marginals), 0)
        at = Multipliers(np.zeros((1, n)), beta[None], np.zeros((1, len(self.sure.most))))
        if self.sure.bound(states[None], at)[0] > self.past:
            return True
        self.seen = np.asarray(found.x, np.float64)
        return False

    def _split(self, branches: Branches) -> Branches:
        """Both sides of one ReLU of each branch, as far as they stay open."""
        pick, states, alive = self._choose(branches)
        branches = branches.at(alive)
        twice, rows = np.repeat(np.arange(len(pick)), 2), np.arange(2 * len(pick))
        states = states[twice]
        states[rows, pick[twice]] = np.tile(np.array([1, -1], np.int8), len(pick))
        if not len(pick):
            return branches
        return self._opened(branches.bound[twice], states, branches.multipliers.at(twice), STEPS, 1.0)

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
        at = branches.multipliers.at(each)
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
        alive = ~closed.all(axis=2).any(axis=1)
        return pick[alive], states[alive], alive

    def _gaps(self, branches: Branches) -> Reals:
        """How much the relaxation of each ReLU may be lower than itself: where the branch is lowest, and at the bend."""
        z, counts, relu = branches.z, branches.counts, np.maximum(branches.z, 0)
        above = -counts * (np.maximum(self.quick.steep * z + self.quick.drop - relu, 0) + 5 * self.quick.drop)
        return np.where(counts < 0, above, counts * np.maximum(relu - branches.multipliers.alpha * z, 0))
