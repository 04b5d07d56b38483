"""When work has to be over: one value that every stage asks, on a clock that never goes back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from time import perf_counter

from decascade.typing import Clock


@dataclass(frozen=True)
class Deadline:
    """`end`, on the clock `now`, in seconds; without a limit it is infinite."""

    end: float = inf
    now: Clock = perf_counter

    @property
    def left(self) -> float:
        """Seconds until then, 0 at least."""
        return max(self.end - self.now(), 0.0)

    @property
    def over(self) -> bool:
        return self.now() > self.end

    def share(self, part: float) -> Deadline:
        """The end of a part of what is left."""
        return replace(self, end=self.now() + part * self.left) if self.end < inf else self

    def before(self, seconds: float) -> Deadline:
        """Earlier by so many seconds, which are kept for what comes after."""
        return replace(self, end=self.end - seconds)
