"""Lower bounds of a ReLU network by Lagrange multipliers, many at once: each a relaxation in which some ReLUs are fixed to one
side.

Backwards as in CROWN (`backward`): a ReLU that is free lies above α·z, 0 ≤ α ≤ 1, and below its chord.  Besides, β ≥ 0 times
the side on which a fixed one lies (β-CROWN, Wang et al. 2021, "Beta-CROWN: Efficient Bound Propagation with Per-neuron
Split Constraints"), and μ ≥ 0 times the cuts (De Palma et al. 2021, "Scaling the Convex Barrier with Active Sets").  Every
choice of α, β, μ gives a bound; good ones are found by ascent, with the gradients of Danskin's theorem: the values of the
relaxation where it is lowest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from decascade.bounds.prove.network import Network
from decascade.bounds.prove.program import Cuts, Multipliers, States
from decascade.typing import F64, Reals

BETA, SQUARES, LAST = 0.9, 0.99, 0.15
"""Adam's memory of gradients and of squares, and what is left of a rate at the last step."""
SHORT = 12
"""Steps of an ascent at the usual rates; longer ones have smaller rates of β and μ, by the square root of their length."""
RATE_ALPHA, RATE_BETA, RATE_MU = 0.2, 0.25, 0.5
"""Of the first step; β and μ are in units of the mean weight that the neuron gives to a ReLU."""


class Dual(NamedTuple):
    """Bounds (B,) and where the relaxation is that low: inputs, ReLUs' arguments, what a ReLU counts for (λ), and by how much
    the cuts are exceeded."""

    bound: Reals
    x: Reals
    z: Reals
    counts: Reals
    exceeded: Reals


@dataclass(frozen=True, eq=False)
class Relaxation:
    """A network and cuts in one precision."""

    layers: Sequence[slice]
    x: Reals
    r: Reals
    c: Reals
    e: Reals
    steep: Reals
    drop: Reals
    cost_x: Reals
    cost_r: Reals
    constant: float
    cuts_x: Reals
    cuts_r: Reals
    most: Reals

    @staticmethod
    def of(net: Network, cuts: Cuts, kind: type[np.floating[Any]]) -> Relaxation:
        high, low = np.maximum(net.hi, 0), np.minimum(net.lo, 0)
        steep = high / np.maximum(high - low, 1e-300)

        def fit(a: F64) -> Reals:
            return np.ascontiguousarray(a, kind)

        return Relaxation(
            net.layers, fit(net.x), fit(net.r), fit(net.c), fit(net.e), fit(steep), fit(-steep * low), fit(net.cost_x),
            fit(net.cost_r), net.constant, fit(cuts.to_x), fit(cuts.to_r), fit(cuts.most),
        )

    def _back(self, states: States, m: Multipliers) -> tuple[Reals, Reals, Reals, Reals]:
        """What ReLUs, their arguments and the inputs count for, and the ReLUs' slopes."""
        kind = self.c.dtype
        counts = m.mu @ self.cuts_r + self.cost_r
        onto, slope = np.empty_like(counts), np.empty_like(counts)
        free, active = states == 0, (states > 0).astype(kind)
        side = m.beta * np.where(np.abs(states) == 1, states, 0).astype(kind)
        for s in reversed(self.layers):
            if s.stop < counts.shape[1]:
                counts[:, s] += onto[:, s.stop :] @ self.r[s.stop :, s]
            slope[:, s] = np.where(free[:, s], np.where(counts[:, s] < 0, self.steep[s], m.alpha[:, s]), active[:, s])
            onto[:, s] = counts[:, s] * slope[:, s] - side[:, s]
        return counts, onto, onto @ self.x + m.mu @ self.cuts_x + self.cost_x, slope

    def _bound(self, states: States, m: Multipliers, counts: Reals, onto: Reals, inputs: Reals) -> Reals:
        chords = (np.minimum(counts, 0) * (states == 0)) @ self.drop
        fixed = onto @ self.c - np.abs(onto) @ self.e - m.mu @ self.most
        return fixed + chords - np.abs(inputs).sum(axis=1) + self.c.dtype.type(self.constant)

    def bound(self, states: States, m: Multipliers) -> Reals:
        """Lower bounds (B,)."""
        counts, onto, inputs, _ = self._back(states, m)
        return self._bound(states, m, counts, onto, inputs)

    def dual(self, states: States, m: Multipliers) -> Dual:
        """Lower bounds, and the point that attains them."""
        counts, onto, inputs, slope = self._back(states, m)
        bound = self._bound(states, m, counts, onto, inputs)
        x, z, r = -np.sign(inputs), np.empty_like(counts), np.empty_like(counts)
        above = np.where((states == 0) & (counts < 0), self.drop, 0)
        for s in self.layers:
            z[:, s] = x @ self.x[s].T + self.c[s]
            if s.start:
                z[:, s] += r[:, : s.start] @ self.r[s, : s.start].T
            r[:, s] = z[:, s] * slope[:, s] + above[:, s]
        return Dual(bound, x, z, counts, r @ self.cuts_r.T + x @ self.cuts_x.T - self.most)


class Best(NamedTuple):
    """The best bounds that an ascent came to, with their multipliers and points."""

    bound: F64
    multipliers: Multipliers
    x: Reals
    z: Reals
    counts: Reals


def ascend(relaxation: Relaxation, states: States, start: Multipliers, past: float, steps: int) -> Best:
    """Some steps of Adam; bounds that are above `past` go no further."""
    weights = np.abs(relaxation.cost_r)
    unit = min(SHORT / steps, 1) ** 0.5 * float(weights.sum()) / max(int(np.count_nonzero(weights)), 1)
    live, climb = np.arange(len(states)), _Climb.of(start, (RATE_ALPHA, RATE_BETA * unit, RATE_MU * unit), LAST ** (1 / steps))
    best = _nothing(relaxation, start)
    for step in range(steps):
        here = states[live]
        found = relaxation.dual(here, climb.at)
        better = found.bound > best.bound[live]
        which = live[better]
        best.bound[which] = found.bound[better]
        for kept, now in zip((*best.multipliers, best.x, best.z, best.counts), (*climb.at, *found[1:4]), strict=True):
            kept[which] = now[better]
        going = best.bound[live] <= past
        if step == steps - 1 or not going.any():
            break
        if going.mean() < 0.7:
            live, here, found, climb = live[going], here[going], Dual(*(a[going] for a in found)), climb.only(going)
        side = np.where(np.abs(here) == 1, here, 0).astype(found.z.dtype)
        climb.step((np.maximum(found.counts, 0) * found.z * (here == 0), -side * found.z, found.exceeded))
    return best


def _nothing(relaxation: Relaxation, start: Multipliers) -> Best:
    count, n = start.alpha.shape
    like = np.zeros((count, n), relaxation.c.dtype)
    x = np.zeros((count, len(relaxation.cost_x)), relaxation.c.dtype)
    return Best(np.full(count, -np.inf), Multipliers(*(a.copy() for a in start)), x, like, like.copy())


@dataclass(eq=False)
class _Climb:
    """Multipliers on their way, and the means and squares of their gradients."""

    at: Multipliers
    mean: Multipliers
    square: Multipliers
    rates: tuple[float, float, float]
    fading: float
    steps: int = 0

    @staticmethod
    def of(start: Multipliers, rates: tuple[float, float, float], fading: float) -> _Climb:
        zero = [Multipliers(*(np.zeros_like(a) for a in start)) for _ in range(2)]
        return _Climb(Multipliers(*(a.copy() for a in start)), zero[0], zero[1], rates, fading)

    def only(self, which: NDArray[np.bool_]) -> _Climb:
        return _Climb(self.at.at(which), self.mean.at(which), self.square.at(which), self.rates, self.fading, self.steps)

    def step(self, gradients: tuple[Reals, Reals, Reals]) -> None:
        self.steps += 1
        short, long = 1 / (1 - BETA**self.steps), 1 / (1 - SQUARES**self.steps)
        for p, m, s, g, rate in zip(self.at, self.mean, self.square, gradients, self.rates, strict=True):
            kind = p.dtype.type
            m *= kind(BETA)
            m += kind(1 - BETA) * g
            s *= kind(SQUARES)
            s += kind(1 - SQUARES) * g * g
            p += kind(rate * self.fading ** (self.steps - 1) * short) * m / (np.sqrt(s * kind(long)) + kind(1e-8))
            np.maximum(p, 0, out=p)
        np.minimum(self.at.alpha, 1, out=self.at.alpha)
