"""The largest speedup that keeps a promise, found by trying: bisection on the logarithm."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import TypeVar

Result = TypeVar("Result")
CLOSE = 1.03
"""Two speedups whose ratio is below this are the same for the search."""


def largest_speedup(
    attempt: Callable[[float], Result], holds: Callable[[Result], bool], most: float, rounds: int, first: float = 1.5,
) -> tuple[float, Result] | None:
    """The largest speedup tried, and what came of it, for which the promise holds; None where no attempt held.

    Speedups lie between 1, which always holds, and `most`.  `rounds` attempts at most: one holds → larger is tried next, else
    smaller.
    """
    low, high, speedup = 1.0, most, min(first, most)
    best: tuple[float, Result] | None = None
    for _ in range(rounds):
        result = attempt(speedup)
        if holds(result):
            low, best = speedup, (speedup, result)
        else:
            high = speedup
        if high / low < CLOSE:
            break
        speedup = sqrt(low * high)
    return best
