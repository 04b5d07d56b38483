"""Functions of one int8 value as tables: TFLM's arithmetic on all 256 values.

Sources: tensorflow/lite/micro/kernels/{logistic,tanh,activations,leaky_relu,hard_swish,quantize}_common.cc and the reference
kernels that they call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from decascade.errors import UsageError
from decascade.stream.fixed import Integers, clamped, divided, logistic, multiplier_of, rounded, scaled, tanh
from decascade.stream.graph import Array, Map

BITS = 4
"""Integer bits of the argument of logistic and tanh."""
Function = Callable[[Map, Map, Mapping[str, Any]], Array]
VALUES = np.arange(-128, 128, dtype=np.int64)


def _curve(source: Map, shape: Callable[[Integers, int], Integers], drop: int, zero: int) -> Array:
    """A curve of gemmlowp's between its flat ends."""
    fraction, shift = math.frexp(source.scale * (1 << (31 - BITS)))
    mantissa = rounded(fraction * (1 << 31))
    radius = math.floor(((1 << BITS) - 1) * float(1 << (31 - BITS)) / 2.0**shift)
    x = VALUES - source.zero
    inner = shape(scaled(np.clip(x, -radius, radius), mantissa, shift), BITS)
    found = np.where(x <= -radius, -128, np.where(x >= radius, 127, divided(inner, drop) + zero))
    return clamped(found)


def _range(out: Map, scale: float, zero: int, kind: str) -> None:
    if (out.scale, out.zero) != (scale, zero):
        raise UsageError(f"{kind} writes the scale {out.scale:g} and zero point {out.zero}: int8 needs {scale:g} and {zero}")


def sigmoid(source: Map, out: Map, options: Mapping[str, Any]) -> Array:
    _range(out, 1 / 256, -128, "LOGISTIC")
    return _curve(source, logistic, 31 - 8, -128)


def hyperbolic_tangent(source: Map, out: Map, options: Mapping[str, Any]) -> Array:
    _range(out, 1 / 128, 0, "TANH")
    return _curve(source, tanh, 31 - 7, 0)


def _ratio(source: Map, out: Map, factor: float = 1.0) -> float:
    """scale · factor / scale, in float32 as TFLM has it."""
    return float(np.float32(source.scale) * np.float32(factor) / np.float32(out.scale))


def relu(source: Map, out: Map, options: Mapping[str, Any]) -> Array:
    m = multiplier_of(_ratio(source, out))
    return clamped(scaled(VALUES - source.zero, m.mantissa, m.shift) + out.zero, max(-128, out.zero), 127)


def relu6(source: Map, out: Map, options: Mapping[str, Any]) -> Array:
    six = source.zero + rounded(float(np.float32(6.0) / np.float32(source.scale)))
    return clamped(np.clip(VALUES, source.zero, max(source.zero, min(127, six))))


def leaky_relu(source: Map, out: Map, options: Mapping[str, Any]) -> Array:
    x = VALUES - source.zero
    above, below = multiplier_of(_ratio(source, out)), multiplier_of(_ratio(source, out, float(options["alpha"])))
    high, low = (scaled(x, m.mantissa, m.shift) for m in (above, below))
    return clamped(np.where(x >= 0, high, low) + out.zero)


def quantise(source: Map, out: Map, options: Mapping[str, Any]) -> Array:
    m = multiplier_of(source.scale / out.scale)
    return clamped(scaled(VALUES - source.zero, m.mantissa, m.shift) + out.zero)


def hard_swish(source: Map, out: Map, options: Mapping[str, Any]) -> Array:
    """In 16 bits: x on the output's scale times clip(x + 3, 0, 6) / 6."""
    fine = np.float32(1.0 / 128.0) * np.float32(source.scale)
    output = multiplier_of(float(fine / np.float32(out.scale)))
    reluish = multiplier_of(float(fine / (np.float32(3.0) / np.float32(32768.0))))
    if output.shift > 0:
        raise UsageError(f"HARD_SWISH of map {source.name} enlarges its scale by 2^{output.shift}: TFLM refuses it too")
    x = (VALUES - source.zero) << 7
    gate = x
    if reluish.shift > 0:
        gate = _narrow(gate << (reluish.shift - 1))
    gate = _high16(gate, _short(reluish.mantissa))
    if reluish.shift > 0:
        gate = _narrow(gate << 1)
    elif reluish.shift < 0:
        gate = divided(gate, -reluish.shift)
    gate = (gate + (1 << 15)) >> 1
    product = gate * _high16(x, _short(output.mantissa))
    found = np.where(product >= 0, product >> 15, -((-product) >> 15))
    return clamped(divided(found, -output.shift) + out.zero)


def _short(mantissa: int) -> int:
    """DownScaleInt32ToInt16Multiplier."""
    return min((mantissa + (1 << 15)) >> 16, (1 << 15) - 1)


def _narrow(x: Integers) -> Integers:
    return np.clip(x, -(1 << 15), (1 << 15) - 1)


def _high16(a: Integers, b: int) -> Integers:
    """SaturatingRoundingDoublingHighMul of 16 bits."""
    product = a * b
    moved = product + np.where(product >= 0, 1 << 14, 1 - (1 << 14))
    return _narrow(np.where(moved >= 0, moved >> 15, -((-moved) >> 15)))


FUNCTIONS: Mapping[str, Function] = {
    "HARD_SWISH": hard_swish,
    "LEAKY_RELU": leaky_relu,
    "LOGISTIC": sigmoid,
    "QUANTIZE": quantise,
    "RELU": relu,
    "RELU6": relu6,
    "TANH": hyperbolic_tangent,
}
"""By TFLite's name."""
