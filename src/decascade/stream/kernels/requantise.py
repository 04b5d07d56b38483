"""Which channels may take the short way from sum to int8, with proofs; and which are the same for every input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from decascade.stream.fixed import Integers, clamped, scaled, wrapped
from decascade.stream.ops.conv import Rescale

SHORT = 1 << 30
"""Sums below this in size may be doubled before the product."""
MOST_SHIFT = 22
"""So that zero point and half a unit, shifted up, stay below 2^30."""


@dataclass(frozen=True, eq=False)
class Sums:
    """Filters as (channels, taps), the zero point folded into the bias, and the range of every sum over all int8 inputs."""

    filters: Integers
    bias: Integers
    low: Integers
    high: Integers


def sums_of(filters: NDArray[np.int8], bias: Integers, zero: int) -> Sums:
    """Exact ranges: every input is −128 … 127; padding holds the zero point, which lies between."""
    taps = filters.astype(np.int64)
    positive, negative = np.maximum(taps, 0).sum(1), np.maximum(-taps, 0).sum(1)
    folded = bias - zero * taps.sum(1)
    return Sums(taps, folded, folded - 128 * positive - 127 * negative, folded + 127 * positive + 128 * negative)


def constants(sums: Sums, rescale: Rescale) -> NDArray[np.bool_]:
    """Channels whose int8 value is the same at both ends of their range, and so for every input: rescaling is monotone."""
    return (_value(sums.low, rescale) == _value(sums.high, rescale)) & _inside(sums)


def _inside(sums: Sums) -> NDArray[np.bool_]:
    return (sums.low >= -(1 << 31)) & (sums.high < 1 << 31)


def _value(total: Integers, rescale: Rescale) -> NDArray[np.int64]:
    found = scaled(wrapped(total), rescale.mantissa, rescale.shift) + rescale.zero
    return clamped(found, rescale.low, rescale.high).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Short:
    """Per channel mantissa, offset and shift of `rescaled`, where every channel may take it; filters of constants are 0."""

    filters: Integers
    bias: Integers
    mantissa: Integers
    offset: Integers
    shift: Integers


def short(sums: Sums, rescale: Rescale) -> Short | None:
    """The short form of all channels; None where some channel has no proof."""
    fixed = constants(sums, rescale)
    proven = (np.maximum(-sums.low, sums.high) < SHORT) & (rescale.shift <= -1) & (rescale.shift >= -MOST_SHIFT)
    if not np.all(fixed | proven):
        return None
    shift = np.where(fixed, 0, -rescale.shift)
    offset = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0) + (rescale.zero << shift)
    return Short(
        filters=np.where(fixed[:, None], 0, sums.filters),
        bias=np.where(fixed, 0, sums.bias),
        mantissa=np.where(fixed, 0, rescale.mantissa),
        offset=np.where(fixed, _value(sums.low, rescale), offset),
        shift=shift,
    )
