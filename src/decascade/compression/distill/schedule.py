"""How far a training is, and the learning rate there: a short rise, then half a cosine to zero at the very end.

The end is a number of steps, a time, or whichever comes first.  With a time the share done follows the clock, so that a
training on a slower or busier machine makes fewer steps but anneals all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import cos, pi
from time import monotonic

from decascade.errors import UsageError


@dataclass(frozen=True)
class Schedule:
    """`warm`: share of the training over which the rate rises."""

    steps: int
    seconds: float | None = None
    warm: float = 0.05

    def __post_init__(self) -> None:
        if self.steps < 1 or (self.seconds is not None and not self.seconds > 0):
            raise UsageError(f"a training of {self.steps} steps and {self.seconds} seconds: give positive numbers")

    def share(self, step: int, elapsed: float, reserve: float = 0.0) -> float:
        """How much of the training is done, 0 to 1; `reserve`: seconds that are kept for what comes after the last step."""
        done = step / self.steps
        if self.seconds is not None:
            done = max(done, elapsed / max(self.seconds - reserve, 1e-9))
        return min(done, 1.0)

    def rate(self, share: float) -> float:
        """The learning rate as a share of the highest."""
        if share < self.warm:
            return 0.05 + 0.95 * share / self.warm
        return 0.5 * (1 + cos(pi * (share - self.warm) / (1 - self.warm)))


@dataclass
class Clock:
    """Time spent, over several runs of one training."""

    before: float = 0.0
    now: Callable[[], float] = monotonic
    start: float = field(init=False)

    def __post_init__(self) -> None:
        self.start = self.now()

    @property
    def elapsed(self) -> float:
        return self.before + self.now() - self.start
