"""Piecewise activations: their linear regimes, their range over an interval, and two lines that enclose them there.

A *regime* is an interval of arguments on which the activation is one affine function.  The enclosing lines are sound by
construction: slopes are chosen freely, the intercepts are the extremes of f(x) − s·x, which a piecewise function takes
at an end of the interval, at a breakpoint, or where its slope is s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.ir.ops import Activation
from decascade.ir.ops.activation import activate
from decascade.ir.ops.traits import is_monotone, is_total
from decascade.typing import F64

LOWEST = {"silu": (-1.2784645, -0.27846455), "gelu": (-0.7517916, -0.16997121), "gelu_tanh": (-0.7524614, -0.17004122)}
"""Where the one minimum of a smooth activation is, and a number just below it."""
SMOOTH_SLACK = 2.0**-18
"""Relative error granted to the float32 implementations of smooth functions; the best are at 2^-24, fast ones at 2^-20."""


@dataclass(frozen=True, eq=False)
class Regime:
    """On lo ≤ x ≤ hi the activation is slope·x + shift, per channel; `slope` None: it is curved there."""

    name: str
    lo: float
    hi: float
    slope: F64 | None
    shift: float = 0.0

    @property
    def linear(self) -> bool:
        return self.slope is not None


def regimes(op: Activation, channels: int) -> tuple[Regime, ...]:
    """The regimes from −∞ to +∞; none for an activation that is not piecewise linear anywhere."""
    one, zero = np.ones(channels), np.zeros(channels)
    match op.kind:
        case "relu":
            return Regime("inactive", -inf, 0, zero), Regime("active", 0, inf, one)
        case "clip":
            return _clip(op.params[0], op.params[1], one)
        case "leaky_relu":
            return Regime("negative", -inf, 0, op.params[0] * one), Regime("positive", 0, inf, one)
        case "prelu" if op.slope is not None:
            return Regime("negative", -inf, 0, op.slope.astype(np.float64)), Regime("positive", 0, inf, one)
        case "abs":
            return Regime("negative", -inf, 0, -one), Regime("positive", 0, inf, one)
        case "hard_swish":
            return Regime("zero", -inf, -3, zero), Regime("curved", -3, 3, None), Regime("identity", 3, inf, one)
        case "hard_sigmoid" if op.params[0] > 0:
            alpha, beta = op.params
            low, high = -beta / alpha, (1 - beta) / alpha
            return (Regime("low", -inf, low, zero), Regime("linear", low, high, alpha * one, beta),
                    Regime("high", high, inf, zero, 1.0))
        case _:
            return ()


def _clip(lo: float, hi: float, one: F64) -> tuple[Regime, ...]:
    found = list[Regime]()
    if isfinite(lo):
        found.append(Regime("low", -inf, lo, 0 * one, lo))
    if lo < hi:
        found.append(Regime("linear", lo, hi, one))
    if isfinite(hi):
        found.append(Regime("high", hi, inf, 0 * one, hi))
    return tuple(found)


def regime_of(found: tuple[Regime, ...], lo: F64, hi: F64) -> NDArray[np.int8]:
    """Per entry the index of the linear regime that holds all of [lo, hi]; −1 where there is none."""
    index = np.full(lo.shape, -1, np.int8)
    for i, regime in enumerate(found):
        if regime.linear:
            index[(index < 0) & (lo >= regime.lo) & (hi <= regime.hi)] = i
    return index


def value(op: Activation, x: F64) -> F64:
    """The activation on x (C, ...)."""
    return activate(op, x[None])[0]


def image(op: Activation, lo: F64, hi: F64) -> tuple[F64, F64]:
    """Bounds on the activation over [lo, hi], both (C, ...); of smooth ones with the error of a float32 implementation,
    of piecewise ones in real arithmetic (`interval` adds theirs)."""
    if op.kind == "softmax":
        return np.zeros(lo.shape), np.full(lo.shape, 1 + SMOOTH_SLACK)
    pieces = regimes(op, lo.shape[0])
    if pieces or op.kind == "neg":
        values = [value(op, x) for x in _candidates(op, pieces, lo, hi)]
        low, high = np.minimum.reduce(values), np.maximum.reduce(values)
        return low, high
    with np.errstate(over="ignore", invalid="ignore"):
        return _smooth_image(op, lo, hi)


def _smooth_image(op: Activation, lo: F64, hi: F64) -> tuple[F64, F64]:
    if op.kind in LOWEST:
        at, lowest = LOWEST[op.kind]
        ends = [np.nan_to_num(value(op, x), nan=0.0, posinf=inf) for x in (lo, hi)]
        low = np.where((lo <= at + 1e-6) & (hi >= at - 1e-6), lowest, np.minimum(*ends))
        high = np.maximum(*ends)
    elif is_monotone(op):
        floor = -inf if is_total(op) else 0.0
        low, high = value(op, np.maximum(lo, floor)), value(op, np.maximum(hi, floor))
    elif op.kind == "elu":
        values = [value(op, x) for x in (lo, hi, np.clip(0.0, lo, hi))]
        low, high = np.minimum.reduce(values), np.maximum.reduce(values)
    else:
        return np.full(lo.shape, -inf), np.full(lo.shape, inf)
    # where the function is near zero by cancellation (gelu from erf), the error is absolute and grows with x
    reach = np.minimum(np.maximum(np.abs(lo), np.abs(hi)), 100.0)
    slack = SMOOTH_SLACK * np.maximum(np.abs(low), np.abs(high)) + 2.0**-21 * (1 + reach)
    return np.where(np.isnan(low), -inf, low) - slack, np.where(np.isnan(high), inf, high) + slack


def _candidates(op: Activation, pieces: tuple[Regime, ...], lo: F64, hi: F64, slope: F64 | None = None) -> list[F64]:
    """Arguments of which one is the lowest point, and one the highest, of f(x) − slope·x on [lo, hi]."""
    found = [lo, hi, *(np.clip(p.hi, lo, hi) for p in pieces if isfinite(p.hi))]
    if op.kind == "hard_swish":
        # the slope of the curved part is (2x + 3) / 6
        found.append(np.clip(np.clip(3 * (0.0 if slope is None else slope) - 1.5, -3, 3), lo, hi))
    return found


@dataclass(frozen=True, eq=False)
class Lines:
    """below(x) = low_slope·x + low ≤ f(x) ≤ high_slope·x + high on [lo, hi], entry by entry."""

    low_slope: F64
    low: F64
    high_slope: F64
    high: F64


def enclose(op: Activation, lo: F64, hi: F64) -> Lines:
    """Two lines around the activation on [lo, hi] (C, ...).

    Of the candidate slopes the one whose line is best at the middle of the interval is taken: for a ReLU that is the
    chord above and, below, the identity or zero, whichever leaves the smaller area.
    """
    pieces = regimes(op, lo.shape[0])
    if not pieces and op.kind != "neg":
        low, high = image(op, lo, hi)
        flat = np.zeros(lo.shape)
        return Lines(flat, low, flat, high)
    finite = np.isfinite(lo) & np.isfinite(hi)
    a, b = np.where(finite, lo, 0.0), np.where(finite, hi, 0.0)
    middle = (a + b) / 2
    best: dict[str, list[Any]] = {"low": [np.full(lo.shape, -inf), None, None], "high": [np.full(lo.shape, inf), None, None]}
    for slope in _slopes(op, pieces, a, b):
        gaps = [value(op, x) - slope * x for x in _candidates(op, pieces, a, b, slope)]
        _keep(best["low"], slope, np.minimum.reduce(gaps), middle, np.greater)
        _keep(best["high"], slope, np.maximum.reduce(gaps), middle, np.less)
    lines = Lines(best["low"][1], best["low"][2], best["high"][1], best["high"][2])
    if finite.all():
        return lines
    low, high = image(op, lo, hi)
    return Lines(np.where(finite, lines.low_slope, 0.0), np.where(finite, lines.low, low),
                 np.where(finite, lines.high_slope, 0.0), np.where(finite, lines.high, high))


def _keep(best: list[Any], slope: F64, shift: F64, middle: F64, better: Callable[..., Any]) -> None:
    at = slope * middle + shift
    if best[1] is None:
        best[:] = [at, slope, shift]
        return
    wins = better(at, best[0])
    best[:] = [np.where(wins, at, best[0]), np.where(wins, slope, best[1]), np.where(wins, shift, best[2])]


def _slopes(op: Activation, pieces: tuple[Regime, ...], lo: F64, hi: F64) -> list[F64]:
    tail = (1,) * (lo.ndim - 1)
    if op.kind == "neg":
        return [np.full(lo.shape, -1.0)]
    spans = [(lo, hi)]
    for piece in pieces:
        # towards the corners: the tangents of a clip, which is neither convex nor concave
        spans += [(lo, np.clip(x, lo, hi)) for x in (piece.hi,) if isfinite(x)]
        spans += [(np.clip(x, lo, hi), hi) for x in (piece.hi,) if isfinite(x)]
    found = list[F64]()
    for a, b in spans:
        wide = b > a
        found.append(np.where(wide, (value(op, b) - value(op, a)) / np.where(wide, b - a, 1.0), 0.0))
    found += [np.broadcast_to(p.slope.reshape(-1, *tail), lo.shape) for p in pieces if p.slope is not None]
    if op.kind == "hard_swish":
        found += [np.clip((2 * x + 3) / 6, -0.5, 1.5) for x in (lo, hi, (lo + hi) / 2)]
    return found
