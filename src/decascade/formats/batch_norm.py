"""Batch normalisation with stored statistics as a scale and shift per channel, the same for every format."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.errors import FormatError
from decascade.ir.ops import Affine

Numbers = NDArray[Any] | None


def batch_norm(what: str, mean: NDArray[Any], variance: NDArray[Any], epsilon: float, gamma: Numbers, beta: Numbers) -> Affine:
    """y = gamma·(x − mean)/√(variance + epsilon) + beta, in float64; arrays (C,), gamma and beta None for 1 and 0.

    Raises:
        FormatError: variance + epsilon is not above 0, or a number is not finite; names the layer `what`, channel and value.
    """
    for name, values in (("mean", mean), ("variance", variance), ("scale", gamma), ("shift", beta)):
        if values is not None:
            _check(np.isfinite(values), f"{what}: the batch normalisation's {name} is {{value}} in channel {{channel}}", values,
                   "its output would not be finite: train or export the model again")
    spread = variance.astype(np.float64) + epsilon
    words = f"{what}: the batch normalisation's variance is {{value}} in channel {{channel}}, with epsilon {epsilon:.9g}"
    _check(spread > 0, words, variance, "a variance plus epsilon must be above 0: repair the stored statistics")
    scale = (1.0 if gamma is None else gamma.astype(np.float64)) / np.sqrt(spread)
    return Affine(scale, (0.0 if beta is None else beta.astype(np.float64)) - mean.astype(np.float64) * scale)


def _check(right: NDArray[np.bool_], words: str, values: NDArray[Any], repair: str) -> None:
    if not right.all():
        channel = int(np.argmin(right))
        filled = words.replace("{value}", f"{float(values[channel]):.9g}").replace("{channel}", str(channel))
        raise FormatError(f"{filled}; {repair}")
