"""The floating-point types that weights are stored in: how far they reach, how fine they are, and rounding to them.

A number x of at least the smallest normal number `tiny` is stored with an error of at most u·|x|, u half the spacing at 1.
Below it the spacing stays what it is at `tiny`, so that the error is bounded by a constant, `underflow`, whatever x is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class FloatType:
    """u: half the spacing at 1.  `tiny`: the smallest normal number.  `top`: the largest number.

    `underflow`: the largest error of a result below `tiny`.  Where devices compute in the type itself (float32, float64,
    bfloat16) many flush such results to zero, so it is `tiny`.  float16 is computed in float32 or with its subnormal numbers,
    which are too coarse to do without: half their spacing.
    """

    u: float
    tiny: float
    top: float
    underflow: float

    @property
    def floor(self) -> float:
        """The size below which `underflow`, not u, bounds the error: u·floor = underflow."""
        return self.underflow / self.u


def float_type(dtype: str) -> FloatType | None:
    """The properties of a type; None where it is not a floating-point type known here."""
    if dtype == "bfloat16":
        return FloatType(2.0**-8, 2.0**-126, (2 - 2.0**-7) * 2.0**127, 2.0**-126)
    try:
        kind = np.dtype(dtype)
    except TypeError:
        return None
    if kind.kind != "f":
        return None
    info = np.finfo(kind)
    u, tiny = float(info.eps) / 2, float(info.tiny)
    return FloatType(u, tiny, float(info.max), tiny * u if kind == np.float16 else tiny)


def rounded(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """The values as a type stores them, to the nearest, ties to even; infinite beyond its range.  bfloat16, which NumPy lacks,
    comes back as float32."""
    with np.errstate(over="ignore"):
        if dtype != "bfloat16":
            return values.astype(dtype) if float_type(dtype) is not None else values
        single = np.ascontiguousarray(values, np.float32)
        bits = single.view(np.uint32)
        nearest = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
        return np.where(np.isfinite(single), nearest.view(np.float32), single)
