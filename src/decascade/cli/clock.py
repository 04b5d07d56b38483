"""When the command began: a limit of time is one on the whole of it, the start of the program included."""

from __future__ import annotations

from time import perf_counter

LOADED = perf_counter()
"""When the program was loaded, on the performance counter."""
LEAST = 1.0
"""Seconds that a command has at least."""
_began, _whole = [LOADED], [False]


def whole_program() -> None:
    """The program runs one command and ends: that began as the program was loaded."""
    _whole[0] = True


def begin() -> None:
    """A command begins."""
    _began[0] = LOADED if _whole[0] else perf_counter()


def left(seconds: float | None) -> float | None:
    """What is left of a limit."""
    return None if seconds is None else max(seconds - (perf_counter() - _began[0]), LEAST)
