"""How far a proof has come: what is asked, what is proved, what was observed, and the time that is left.

Each part has one owner: the problem never changes; bounds are written by `prove` alone; observations by whatever runs inputs
through the graph; the budget by its clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from threading import Event
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from decascade.bounds.interval import Bounds, propagate
from decascade.bounds.observations import ActivationState, Observations
from decascade.bounds.problem import Problem
from decascade.bounds.regimes import regime_of
from decascade.typing import F64, Bools, Clock, Ints, Progress


@dataclass(frozen=True, eq=False)
class Budget:
    """Time until `deadline` on its own clock.  `opened`: when it began, on that clock and on the wall's.  `workers`: threads
    that spend it.  `cancelled`: no more time, whatever the clock says."""

    deadline: float
    clock: Clock
    opened: tuple[float, float]
    workers: int = 1
    cancelled: Event = field(default_factory=Event)

    @staticmethod
    def of(seconds: float, clock: Clock, start: float, workers: int = 1) -> Budget:
        """Seconds from `start` on a clock."""
        return Budget(start + seconds, clock, (clock(), perf_counter()), workers)

    def left(self) -> float:
        """Seconds."""
        return -inf if self.cancelled.is_set() else self.deadline - self.clock()

    def on_the_wall(self, seconds: float) -> float:
        """Seconds of this clock in those of a clock on the wall, which is what a solver reads: more where the clock counts CPU
        time and others keep the machine busy, fewer where it counts that of two threads."""
        own, wall = self.clock() - self.opened[0], perf_counter() - self.opened[1]
        return seconds * max(wall / own, 1 / self.workers) if own > 0 else seconds


class ProvenBounds:
    """Bounds of every tensor of a problem: intervals, intersected with what was proved since."""

    def __init__(self, problem: Problem) -> None:
        self._problem, self._known = problem, dict[str, Bounds]()
        self.tensors = propagate(problem.graph, problem.box)

    def classed(self, s: ActivationState) -> tuple[F64, F64]:
        """Bounds (C, *classes) of an activation's input."""
        source = self.tensors[s.tensor]
        lo, hi = (a[(slice(None), *zip(*s.spots, strict=True))] if s.spots[0] else a for a in (source.lo, source.hi))
        shape = (len(source.lo), *s.weight.shape)
        return lo.reshape(shape), hi.reshape(shape)

    def regimes(self, s: ActivationState) -> NDArray[np.int8]:
        """Channels × classes: the regime that holds all values, −1 where none does."""
        return regime_of(s.pieces, *self.classed(s))

    def tighten(self, s: ActivationState, k: int, channels: Ints, low: F64, high: F64) -> None:
        """Intersect the bounds of some channels, at all positions of class k, with others."""
        source = self.tensors[s.tensor]
        lo, hi = source.lo.copy(), source.hi.copy()
        at, tail = np.ix_(channels, *_positions(s, k)), (1,) * (lo.ndim - 1)
        lo[at], hi[at] = np.maximum(lo[at], low.reshape(-1, *tail)), np.minimum(hi[at], high.reshape(-1, *tail))
        self._known[s.tensor] = self.tensors[s.tensor] = Bounds(lo, hi, source.slack)

    def carry_forward(self) -> None:
        """What was tightened, to all that follows."""
        self.tensors = propagate(self._problem.graph, self._problem.box, self._known)


def _positions(s: ActivationState, k: int) -> list[Ints]:
    """Per axis the positions of class k."""
    index = np.unravel_index(k, s.weight.shape) if s.weight.shape else ()
    return [np.flatnonzero(label == i) for label, i in zip(s.labels, index, strict=True)]


@dataclass(frozen=True, eq=False)
class ProofState:
    """The four parts; questions that take more than one of them."""

    problem: Problem
    bounds: ProvenBounds
    observations: Observations
    budget: Budget
    on_progress: Progress

    @staticmethod
    def of(problem: Problem, budget: Budget, on_progress: Progress) -> ProofState:
        """Interval bounds, and nothing observed."""
        bounds = ProvenBounds(problem)
        observations = Observations.of(problem, budget.clock)
        return ProofState(problem, bounds, observations, budget, on_progress)

    @property
    def layers(self) -> Sequence[ActivationState]:
        """The activations, in the order of the graph."""
        return tuple(self.observations.activations.values())

    def left(self) -> float:
        """Seconds, but for what it will take to run the witnesses again."""
        return self.budget.left() - self.observations.to_confirm()

    def open(self, s: ActivationState) -> Bools:
        """Channels × classes that are neither proven nor witnessed."""
        found = (self.bounds.regimes(s) < 0) & ~s.unstable
        beside = s.unstable_channels.reshape(-1, *(1,) * s.weight.ndim)
        return found if self.problem.thorough else found & ~beside

    def open_by_class(self, s: ActivationState) -> Bools:
        """`open` as channels × classes by their flat index."""
        return self.open(s).reshape(s.channels, -1)

    def count_open(self, s: ActivationState) -> int:
        """How many channels × classes of an activation are open."""
        return int(self.open(s).sum())

    def any_open(self, layers: Sequence[ActivationState] | None = None) -> bool:
        """Whether anything of some activations is open, or of all."""
        return any(self.open(s).any() for s in (self.layers if layers is None else layers))
