"""When the command began: a limit of time is one on the whole of it, the start of the program included."""

from __future__ import annotations

from time import perf_counter

LOADED = perf_counter()
"""When the program was loaded, on the performance counter."""
LEAST = 1.0
"""Seconds that a command has at least."""
_began = [LOADED]


def begin(at: float | None = None) -> None:
    """A command begins, now or then."""
    _began[0] = perf_counter() if at is None else at


def left(seconds: float | None) -> float | None:
    """What is left of a limit."""
    return None if seconds is None else max(seconds - (perf_counter() - _began[0]), LEAST)
