"""The state of one analysis: a graph at the size analysed, its bounds, what was seen of it, and the time that is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.bounds.box import Box
from decascade.bounds.geometry import Axes, Classes, smallest
from decascade.bounds.interval import Bounds, propagate
from decascade.bounds.observations import Seen, Sightings, seen_of
from decascade.bounds.prove.solver_process import here
from decascade.bounds.regimes import regime_of, regimes
from decascade.bounds.witness.patterns import Limits
from decascade.bounds.witness.restarts import Kicks
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import Activation

Progress = Callable[[str, float], None]
Clock = Callable[[], float]
F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def activations(graph: Graph) -> list[Node]:
    """The activations that have regimes."""
    return [n for n in graph.nodes if isinstance(n.op, Activation) and regimes(n.op, 1)]


@dataclass(eq=False)
class Work:
    """`thorough`: neurons of channels that one witness already shows not to be linear are to be decided as well.
    `batch`, `widest`: how many inputs are run together, as a rule and where one is as good as many.  `opened`: when it began,
    on its own clock and on the wall's.  `stopped`: no more time, whatever the clock says.  `run`: runs a function of what it is
    given, here or in a process beside.  `rounds`: how often each activation's channels without a witness were pushed.
    `kicks`: where those begin again."""

    graph: Graph
    box: Box
    axes: Mapping[str, Axes]
    bounds: dict[str, Bounds]
    sightings: Sightings
    limits: Limits
    deadline: float
    clock: Clock
    progress: Progress
    rng: np.random.Generator
    thorough: bool = True
    batch: int = 32
    widest: int = 32
    known: dict[str, Bounds] = field(default_factory=dict[str, Bounds])
    opened: tuple[float, float] = (0.0, 0.0)
    stopped: bool = False
    workers: int = 1
    run: Callable[..., Any] = here
    rounds: dict[str, int] = field(default_factory=dict[str, int])
    kicks: Kicks = field(default_factory=Kicks)

    @staticmethod
    def of(
        graph: Graph, nodes: Sequence[Node], box: Box, deadline: float, clock: Clock, progress: Progress, seed: int = 0,
        thorough: bool = True,
    ) -> Work:
        """A graph that leads to the inputs of some activations and whose sizes are all numbers, cut to the smallest picture
        that has all its classes of positions."""
        classes = Classes()
        own = classes.of(graph, box)
        small, axes = smallest(graph, box, classes)
        bounds = propagate(small, box)
        seen = {n.name: seen_of(n, len(bounds[n.inputs[0]].lo), axes[n.inputs[0]], own[n.inputs[0]]) for n in nodes}
        return Work(small, box, axes, bounds, Sightings(small, seen, clock), Limits.of(small, box), deadline, clock, progress,
                    np.random.default_rng(seed), thorough, opened=(clock(), perf_counter()))

    @property
    def seen(self) -> Mapping[str, Seen]:
        return self.sightings.seen

    def left(self) -> float:
        """Seconds, but for what it will take to run the witnesses again."""
        return -inf if self.stopped else self.deadline - self.clock() - self.sightings.to_confirm()

    def on_the_wall(self, seconds: float) -> float:
        """Seconds of this work's clock in those of a clock on the wall, which is what a solver reads: more where the clock
        counts CPU time and others keep the machine busy, fewer where it counts that of two threads."""
        own, wall = self.clock() - self.opened[0], perf_counter() - self.opened[1]
        return seconds * max(wall / own, 1 / self.workers) if own > 0 else seconds

    def classed(self, s: Seen) -> tuple[F64, F64]:
        """Bounds (C, *classes) of an activation's input."""
        source = self.bounds[s.tensor]
        lo, hi = (a[(slice(None), *zip(*s.spots, strict=True))] if s.spots[0] else a for a in (source.lo, source.hi))
        shape = (len(source.lo), *s.weight.shape)
        return lo.reshape(shape), hi.reshape(shape)

    def proven(self, s: Seen) -> NDArray[np.int8]:
        """Channels × classes: the regime that holds all values, −1 where none does."""
        return regime_of(s.pieces, *self.classed(s))

    def open(self, s: Seen) -> Bools:
        """Channels × classes that are neither proven nor witnessed."""
        found = (self.proven(s) < 0) & ~s.unstable
        beside = s.unstable_channels.reshape(-1, *(1,) * s.weight.ndim)
        return found if self.thorough else found & ~beside

    def undecided(self) -> bool:
        """Whether anything is open."""
        return any(self.open(s).any() for s in self.seen.values())

    def count_open(self, s: Seen) -> int:
        """How many channels × classes of an activation are open."""
        return int(self.open(s).sum())

    def tighten(self, s: Seen, k: int, channels: Ints, low: F64, high: F64) -> None:
        """Intersect the bounds of some channels, at all positions of class k, with others."""
        source = self.bounds[s.tensor]
        lo, hi = source.lo.copy(), source.hi.copy()
        at, tail = np.ix_(channels, *self.positions(s, k)), (1,) * (lo.ndim - 1)
        lo[at], hi[at] = np.maximum(lo[at], low.reshape(-1, *tail)), np.minimum(hi[at], high.reshape(-1, *tail))
        self.known[s.tensor] = self.bounds[s.tensor] = Bounds(lo, hi, source.slack)

    def settle(self) -> None:
        """Carry what was tightened forward to all that follows."""
        self.bounds = propagate(self.graph, self.box, self.known)

    def positions(self, s: Seen, k: int) -> list[Ints]:
        """Per axis the positions of class k."""
        index = np.unravel_index(k, s.weight.shape) if s.weight.shape else ()
        return [np.flatnonzero(label == i) for label, i in zip(s.labels, index, strict=True)]
