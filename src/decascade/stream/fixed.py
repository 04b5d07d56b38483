"""TFLite's fixed-point arithmetic on int64 arrays, as its reference kernels for microcontrollers compute it.

Sources: tensorflow/lite/kernels/internal/common.h and quantization_util.cc (rounding twice), gemmlowp/fixedpoint.h.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
LOW, HIGH = -(1 << 31), (1 << 31) - 1


@dataclass(frozen=True)
class Multiplier:
    """mantissa·2^(shift−31), the mantissa in [2^30, 2^31) or 0."""

    mantissa: int
    shift: int


def multiplier_of(real: float) -> Multiplier:
    """QuantizeMultiplier: a positive real number in 31 bits; one below 2^−32 becomes 0."""
    if real == 0:
        return Multiplier(0, 0)
    fraction, shift = math.frexp(real)
    mantissa = math.floor(fraction * (1 << 31) + 0.5)
    if mantissa == 1 << 31:
        mantissa, shift = mantissa // 2, shift + 1
    if shift < -31:
        return Multiplier(0, 0)
    if shift > 30:
        return Multiplier(HIGH, 30)
    return Multiplier(mantissa, shift)


def wrapped(x: Integers) -> Integers:
    """int32 as a processor wraps it."""
    return ((x + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)


def high_product(a: Integers, b: Integers | int) -> Integers:
    """SaturatingRoundingDoublingHighMul: the rounded upper half of 2ab; halves go up."""
    product = np.asarray(a, np.int64) * np.asarray(b, np.int64)
    return np.minimum((product + (1 << 30)) >> 31, HIGH)


def divided(x: Integers, exponent: Integers | int) -> Integers:
    """RoundingDivideByPOT: x / 2^exponent, halves away from zero."""
    x, exponent = np.asarray(x, np.int64), np.asarray(exponent, np.int64)
    mask = (np.int64(1) << exponent) - 1
    return (x >> exponent) + ((x & mask) > (mask >> 1) + (x < 0))


def scaled(x: Integers, mantissa: Integers | int, shift: Integers | int) -> Integers:
    """MultiplyByQuantizedMultiplier, which rounds twice; arrays broadcast."""
    shift = np.asarray(shift, np.int64)
    left, right = np.maximum(shift, 0), np.maximum(-shift, 0)
    return divided(high_product(wrapped(np.asarray(x, np.int64) << left), mantissa), right)


def clamped(x: Integers, low: int = -128, high: int = 127) -> NDArray[np.int8]:
    """As int8 in [low, high]."""
    return np.clip(x, low, high).astype(np.int8)


def rounded(x: float) -> int:
    """std::round: halves away from zero."""
    return int(math.copysign(math.floor(abs(x) + 0.5), x))


def shifted_left(x: Integers, exponent: int) -> Integers:
    """x·2^exponent, saturated to int32."""
    return np.clip(np.asarray(x, np.int64) << exponent, LOW, HIGH)


_ONE = HIGH
"""1 in Q0.31, which cannot be represented, saturated."""


def half_sum(a: Integers, b: Integers | int) -> Integers:
    """RoundingHalfSum: (a + b) / 2, halves away from zero."""
    total = np.asarray(a, np.int64) + b
    sign = np.where(total >= 0, 1, -1)
    return ((np.abs(total + sign)) // 2) * np.where(total + sign >= 0, 1, -1)


def one_over_one_plus(a: Integers) -> Integers:
    """gemmlowp's one_over_one_plus_x_for_x_in_0_1, Q0.31 → Q0.31: three steps of Newton's division, in Q2.29."""
    denominator = half_sum(a, _ONE)
    x = 1515870810 + high_product(denominator, -1010580540)
    for _ in range(3):
        error = (1 << 29) - high_product(denominator, x)
        x = x + shifted_left(high_product(x, error), 2)
    return shifted_left(x, 1)


_EXPONENTIALS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
"""exp(−2^k) in Q0.31 for k = −2 … 4."""


def exp_on_negative(a: Integers, bits: int) -> Integers:
    """gemmlowp's exp_on_negative_values: `a` with so many integer bits, a ≤ 0, → Q0.31."""
    a = np.asarray(a, np.int64)
    fraction = 31 - bits
    quarter = np.int64(1) << (fraction - 2)
    mask = quarter - 1
    below = (a & mask) - quarter
    result = _exp_near_zero(shifted_left(below, bits))
    remainder = below - a
    for exponent, factor in enumerate(_EXPONENTIALS, start=-2):
        if bits > exponent:
            set_bit = (remainder & (np.int64(1) << (fraction + exponent))) != 0
            result = np.where(set_bit, high_product(result, factor), result)
    if bits > 5:
        result = np.where(a < -(np.int64(1) << (36 - bits)), 0, result)
    return np.where(a == 0, _ONE, result)


def _exp_near_zero(a: Integers) -> Integers:
    """exp on [−1/4, 0) in Q0.31: a Taylor polynomial around −1/8."""
    x = a + (1 << 28)
    x2 = high_product(x, x)
    x3 = high_product(x2, x)
    x4_over_4 = divided(high_product(x2, x2), 2)
    inner = divided(high_product(x4_over_4 + x3, 715827883) + x2, 1)
    return np.minimum(1895147668 + high_product(x + inner, 1895147668), HIGH)


def logistic(a: Integers, bits: int) -> Integers:
    """gemmlowp's logistic: `a` with so many integer bits → Q0.31."""
    a = np.asarray(a, np.int64)
    positive = one_over_one_plus(exp_on_negative(np.where(a > 0, -a, a), bits))
    return np.where(a == 0, 1 << 30, np.where(a > 0, positive, _ONE - positive))


def tanh(a: Integers, bits: int) -> Integers:
    """gemmlowp's tanh: `a` with so many integer bits → Q0.31."""
    a = np.asarray(a, np.int64)
    power = exp_on_negative(shifted_left(np.where(a > 0, -a, a), 1), bits)
    denominator = half_sum(power, _ONE)
    x = 1515870810 + high_product(denominator, -1010580540)
    for _ in range(3):
        error = (1 << 29) - high_product(denominator, x)
        x = x + shifted_left(high_product(x, error), 2)
    size = shifted_left(x - (1 << 29), 2)
    return np.where(a == 0, 0, np.where(a > 0, size, -size))
