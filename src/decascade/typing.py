"""Names for types that every room uses: arrays by the kind of their entries, and the callback that shows progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Reals = NDArray[np.floating[Any]]
"""Of any one precision."""

Progress = Callable[[str, float], None]
"""What is being done, in words, and the share of it that is done (0 to 1)."""
Clock = Callable[[], float]
"""Seconds since some moment."""
