"""Input boxes in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def box_text(box: Mapping[str, Any]) -> str:
    """A box in words: image in [0, 1]."""
    return "; ".join(f"{name} in {_interval(ends['lo'], ends['hi'])}" for name, ends in box.items())


def _interval(lo: Any, hi: Any) -> str:
    low, high = np.asarray(lo, np.float64), np.asarray(hi, np.float64)
    if not low.ndim and not high.ndim:
        return f"[{_number(low)}, {_number(high)}]"
    each = "per channel" if max(low.ndim, high.ndim) == 1 else "per entry"
    return f"its own interval {each}, within [{_number(low.min())}, {_number(high.max())}]"


def _number(value: Any) -> str:
    """Six digits: an end that was moved to its neighbour in float32 looks as the user gave it."""
    return f"{float(value):.6g}"
