"""Times that hold on a machine that is not quiet: interleaved with a yardstick, repeated until the interval is small.

A disturbance only ever adds time.  So the estimate is the mean of the fastest quarter of the runs, its interval comes from
resampling the runs, and it is scaled by how fast the same runs of a fixed small layer, the yardstick, were in the same
moments: numbers of different hours stay comparable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import process_time

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Visit = Callable[[int], tuple[F64, F64]]
"""So many interleaved runs: microseconds of each run of what is measured, and of each run of the yardstick."""
FASTEST = 0.25
RESAMPLED = 200


@dataclass(frozen=True)
class Effort:
    """How long a measurement may go on: runs per visit, visits at most, the relative half width that is good enough, and
    seconds of processor time after which there is no other visit."""

    runs: int = 40
    visits: int = 8
    width: float = 0.02
    seconds: float = 2.0


def fastest(times: F64) -> float:
    """Mean of the fastest quarter."""
    ordered = np.sort(times)
    return float(ordered[: max(int(len(ordered) * FASTEST), 1)].mean())


def half_width(times: F64, rng: np.random.Generator) -> float:
    """Half of the 95 % interval of `fastest`, by resampling."""
    drawn = rng.choice(times, (RESAMPLED, len(times)))
    low, high = np.percentile([fastest(row) for row in drawn], (2.5, 97.5))
    return float(high - low) / 2


@dataclass
class Stopwatch:
    """Measures against a yardstick whose own time is `known`, or becomes so with the first measurement."""

    known: float | None = None
    effort: Effort = field(default_factory=Effort)

    def measure(self, visit: Visit) -> tuple[float, float]:
        """Microseconds and the half width of their 95 % interval."""
        rng = np.random.default_rng(0)
        times, yard = np.empty(0), np.empty(0)
        value, width, start = 0.0, 0.0, process_time()
        for _ in range(self.effort.visits):
            more = visit(self.effort.runs)
            times, yard = np.concatenate([times, more[0]]), np.concatenate([yard, more[1]])
            value, width = fastest(times), half_width(times, rng)
            if width <= self.effort.width * max(value, 1.0) or process_time() - start > self.effort.seconds:
                break
        here = fastest(yard)
        if self.known is None:
            self.known = here
        scale = self.known / here if here else 1.0
        return value * scale, width * scale
