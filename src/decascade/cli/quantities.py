"""Numbers as people write them on a command line."""

from __future__ import annotations

import re
from math import isfinite

from decascade.errors import UsageError

LONGEST = 365 * 24 * 3600.0
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str | None, option: str) -> float | None:
    """ "90s", "20m", "1.5h", "90".

    Raises:
        UsageError: something else.
    """
    if text is None:
        return None
    parts = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh]?)", text.lower())
    found = float(parts.group(1)) * UNITS[parts.group(2) or "s"] if parts else 0.0
    if not 0 < found <= LONGEST:
        raise UsageError(f"{option} {text}: give a time above 0, at most a year: 90s, 20m, 1.5h")
    return found


def value(text: str, option: str) -> float:
    """A number, or a fraction as in 1/255.

    Raises:
        UsageError: something else.
    """
    above, _, below = text.partition("/")
    try:
        found = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        found = float("nan")
    if not isfinite(found):
        raise UsageError(f"{option} {text}: give a number, or a fraction like 1/255")
    return found


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Numbers with commas between.

    Raises:
        UsageError: something else.
    """
    return tuple(value(part.strip(), option) for part in text.split(","))
