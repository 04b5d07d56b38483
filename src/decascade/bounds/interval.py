"""Interval bounds of every tensor, sound for float32 evaluation in any summation order.

A sum of n terms computed in any order is off by at most γ_n·Σ|w||x|, γ_n = n·u/(1 − n·u), u half the dtype's spacing
(Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., §3.1 and §4.2).  The graph as computed is therefore the
graph in real arithmetic with an error e, |e| ≤ slack, added to every result, and that is what is bounded: here and in
`backward`.  Rounding keeps order, so a sum whose terms all have one sign keeps that sign, whatever the slack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from decascade.algebra.conv import Conv, ConvTranspose
from decascade.bounds.box import Box
from decascade.bounds.forward import apply, column, convolve, dense
from decascade.bounds.regimes import image, regimes
from decascade.ir.graph import Graph
from decascade.ir.ops import Activation, Add, Affine, BiasMap, Dense, Foreign, GlobalPool, Op, Pad, Pool, Product
from decascade.ir.ops.table import Table
from decascade.ir.ops.traits import moves_values
from decascade.typing import F64, Bools

FUSED = 8
"""Terms added to every sum for a runtime that folds a scale into the kernel before it multiplies."""
TINY = 2.0**-140
"""Above what underflow can lose per term in float32."""
SPARE = 1 + 2.0**-10
"""The slack's own factor: it covers the float64 rounding of the analysis, which is 2^-29 of it per term (`backward`)."""


@dataclass(frozen=True, eq=False)
class Bounds:
    """Lowest and highest value (C, *S) of a tensor, and the slack of the operation that wrote it."""

    lo: F64
    hi: F64
    slack: F64

    def tightened(self, lo: F64, hi: F64) -> Bounds:
        """The intersection with other bounds on the same values."""
        return Bounds(np.maximum(self.lo, lo), np.minimum(self.hi, hi), self.slack)


def gamma(terms: int, u: float) -> float:
    """γ_n of a sum of `terms` terms, widened by SPARE."""
    n = terms + FUSED
    return SPARE * n * u / (1 - n * u)


def unit(dtype: str) -> float:
    """Half the spacing at 1 of the type that a tensor is computed in; float32's for what is not a float."""
    if dtype == "bfloat16":
        return 2.0**-9
    kind = np.dtype(dtype)
    return float(np.finfo(kind).eps) / 2 if np.issubdtype(kind, np.floating) else 2.0**-24


def propagate(graph: Graph, box: Box, known: Mapping[str, Bounds] | None = None) -> dict[str, Bounds]:
    """Bounds of every tensor of a graph whose sizes are all numbers; `known` ones are intersected with."""
    found = dict[str, Bounds]()
    for name in graph.inputs:
        shape = tuple(int(n) for n in (graph.shape(name) or ())[1:])
        interval = box.intervals[name]
        lo, hi = (np.broadcast_to(a, shape).astype(np.float64) for a in (interval.lo, interval.hi))
        found[name] = Bounds(lo, hi, np.zeros(shape))
    for node in graph.nodes:
        extend(graph, node.name, node.op, node.inputs, node.outputs, found, known or {})
    return found


def extend(
    graph: Graph, name: str, op: Op, inputs: Sequence[str], outputs: Sequence[str], found: dict[str, Bounds],
    known: Mapping[str, Bounds],
) -> None:
    """Bounds of what one node writes, from `found`, into `found`."""
    sources = [found[n] for n in inputs]
    if len(outputs) == 1 and (bounds := step(op, sources, unit(graph.tensors[outputs[0]].dtype))) is not None:
        old = known.get(outputs[0])
        found[outputs[0]] = bounds if old is None else bounds.tightened(old.lo, old.hi)
        return
    for output in outputs:
        shape = tuple(int(n) for n in (graph.shape(output) or ())[1:])
        found[output] = Bounds(np.full(shape, -np.inf), np.full(shape, np.inf), np.full(shape, np.inf))


def step(op: Op, sources: Sequence[Bounds], u: float) -> Bounds | None:
    """Bounds of one operation's result; None for an operation that nothing is known of."""
    rule = INTERVALS.get(op) if sources else None
    return None if rule is None else rule(op, sources, u)


Rule = Callable[[Any, Sequence[Bounds], float], Bounds]


def _evaluated(op: Op, arrays: Sequence[F64]) -> F64:
    return apply(op, [a[..., None] for a in arrays])[0][..., 0].astype(np.float64)


def _moved(op: Op, sources: Sequence[Bounds], _: float) -> Bounds:
    """Values that are only moved about are not rounded."""
    lo, hi = (_evaluated(op, a) for a in ([s.lo for s in sources], [s.hi for s in sources]))
    return Bounds(lo, hi, np.zeros(lo.shape))


def _shifted(op: BiasMap, sources: Sequence[Bounds], u: float) -> Bounds:
    (x,), values = sources, op.values.astype(np.float64)
    return _summed(x.lo + values, x.hi + values, np.maximum(np.abs(x.lo), np.abs(x.hi)) + np.abs(values), 2, u)


def _padded(op: Pad, sources: Sequence[Bounds], u: float) -> Bounds:
    lo, hi = (_evaluated(op, [a]) for a in (sources[0].lo, sources[0].hi))
    # the constant itself is rounded to the type
    slack = np.full(lo.shape, abs(op.value) * u * SPARE)
    return _signed(lo, hi, slack, lo >= 0, hi <= 0, np.zeros(lo.shape, np.bool_))


def _weighted(op: Conv | ConvTranspose | Dense, sources: Sequence[Bounds], u: float) -> Bounds:
    """Σ w·x: the positive and the negative parts of weights and bounds apart, so that signs are seen exactly."""
    x = sources[0]
    layer = op.layer if isinstance(op, Dense) else op
    infinite = ~(np.isfinite(x.lo) & np.isfinite(x.hi))
    lo, hi = np.where(infinite, 0.0, x.lo), np.where(infinite, 0.0, x.hi)
    parts = [np.maximum(lo, 0), np.maximum(-lo, 0), np.maximum(hi, 0), np.maximum(-hi, 0), infinite.astype(np.float64)]
    weight = layer.weight.astype(np.float64)
    stacked = np.stack(parts, axis=-1)
    plus, minus = (_linear(op, stacked, w) for w in (np.maximum(weight, 0), np.maximum(-weight, 0)))
    bias = layer.bias64[:, None] if isinstance(op, Dense) and plus.ndim > 2 else column(layer.bias64, plus.ndim)
    bias = np.broadcast_to(bias, plus.shape)[..., 0]
    up, down = np.maximum(bias, 0), np.maximum(-bias, 0)
    # per bound: what adds to it, what takes from it
    low_plus, low_minus = plus[..., 0] + minus[..., 3] + up, plus[..., 1] + minus[..., 2] + down
    high_plus, high_minus = plus[..., 2] + minus[..., 1] + up, plus[..., 3] + minus[..., 0] + down
    size = np.maximum(low_plus, high_plus) + np.maximum(low_minus, high_minus)
    terms = weight.shape[0] // layer.groups if isinstance(op, ConvTranspose) else weight.shape[1]
    slack = gamma(terms * prod(layer.kernel) + 1, u) * size + TINY * (terms + 1)
    lost = (plus[..., 4] + minus[..., 4]) > 0
    return _signed(low_plus - low_minus, high_plus - high_minus, slack, low_minus == 0, high_plus == 0, lost)


def _linear(op: Conv | ConvTranspose | Dense, stacked: F64, weight: F64) -> F64:
    if isinstance(op, Conv):
        return convolve(op, stacked, weight, bias=False).astype(np.float64)
    if isinstance(op, Dense):
        return dense(op.layer, stacked, weight, bias=False).astype(np.float64)
    plain = ConvTranspose(weight, None, op.stride, op.dilation, op.padding, op.groups)
    return np.moveaxis(plain(np.moveaxis(stacked, -1, 0)), 0, -1)


def _signed(lo: F64, hi: F64, slack: F64, positive: Bools, negative: Bools, lost: Bools) -> Bounds:
    """Bounds widened by the slack, but not beyond zero where every term has one sign."""
    low, high = lo - slack, hi + slack
    low = np.where(positive, np.maximum(low, 0), low)
    high = np.where(negative, np.minimum(high, 0), high)
    return Bounds(np.where(lost, -np.inf, low), np.where(lost, np.inf, high), np.where(lost, np.inf, slack))


def _summed(lo: F64, hi: F64, size: F64, terms: int, u: float) -> Bounds:
    """Bounds of a sum whose float result has the sign that both bounds share."""
    slack = gamma(terms, u) * size + TINY
    return _signed(lo, hi, slack, lo >= 0, hi <= 0, np.isinf(slack))


def _scaled(op: Affine, sources: Sequence[Bounds], u: float) -> Bounds:
    x = sources[0]
    scale, shift = (column(a.astype(np.float64), x.lo.ndim) for a in (op.scale, op.shift))
    with np.errstate(invalid="ignore"):
        ends: list[F64] = [np.where(scale == 0, 0.0, scale * a).astype(np.float64) for a in (x.lo, x.hi)]
    lo, hi = np.minimum(*ends), np.maximum(*ends)
    slack = gamma(2, u) * (np.maximum(np.abs(lo), np.abs(hi)) + np.abs(shift)) + TINY
    same_low, same_high = (lo >= 0) & (shift >= 0), (hi <= 0) & (shift <= 0)
    low, high = (lo + shift).astype(np.float64), (hi + shift).astype(np.float64)
    return _signed(low, high, slack.astype(np.float64), same_low, same_high, np.isinf(slack))


def _added(op: Add, sources: Sequence[Bounds], u: float) -> Bounds:
    signs = op.signs or (1,) * len(sources)
    lows = [s.lo if sign > 0 else -s.hi for s, sign in zip(sources, signs, strict=True)]
    highs = [s.hi if sign > 0 else -s.lo for s, sign in zip(sources, signs, strict=True)]
    size = np.add.reduce([np.maximum(np.abs(a), np.abs(b)) for a, b in zip(lows, highs, strict=True)])
    slack = gamma(len(sources), u) * size + TINY
    low, high = np.add.reduce(lows), np.add.reduce(highs)
    same_low = np.logical_and.reduce([a >= 0 for a in lows])
    same_high = np.logical_and.reduce([b <= 0 for b in highs])
    return _signed(low, high, slack, same_low, same_high, np.isinf(slack) | np.isnan(low) | np.isnan(high))


def _multiplied(_: Product, sources: Sequence[Bounds], u: float) -> Bounds:
    """One factor after the other, by the products of ends; zero times an infinite end is zero, as all values are finite."""
    product = sources[0]
    for factor in sources[1:]:
        with np.errstate(invalid="ignore"):
            ends = [x * y for x in (product.lo, product.hi) for y in (factor.lo, factor.hi)]
        ends = [np.where(np.isnan(e), 0.0, e) for e in ends]
        low, high = np.minimum.reduce(ends), np.maximum.reduce(ends)
        slack = gamma(1, u) * np.maximum(np.abs(low), np.abs(high)) + TINY
        product = _signed(low, high, slack, low >= 0, high <= 0, np.isinf(slack))
    return product


def _pooled(op: Pool | GlobalPool, sources: Sequence[Bounds], u: float) -> Bounds:
    x = sources[0]
    lo, hi = _evaluated(op, [x.lo]), _evaluated(op, [x.hi])
    if op.kind == "max":
        return Bounds(lo, hi, np.zeros(lo.shape))
    size = _evaluated(op, [np.maximum(np.abs(x.lo), np.abs(x.hi))])
    terms = prod(op.kernel) if isinstance(op, Pool) else prod(x.lo.shape[1:])
    slack = gamma(terms + 1, u) * size + TINY * terms
    same_low, same_high = _evaluated(op, [np.minimum(x.lo, 0)]) >= 0, _evaluated(op, [np.maximum(x.hi, 0)]) <= 0
    return _signed(lo, hi, slack, same_low, same_high, np.isinf(slack) | np.isnan(lo) | np.isnan(hi))


def _activated(op: Activation, sources: Sequence[Bounds], u: float) -> Bounds:
    x = sources[0]
    lo, hi = image(op, x.lo, x.hi)
    size = np.maximum(np.abs(x.lo), np.abs(x.hi)) + np.maximum(np.abs(lo), np.abs(hi))
    if op.kind in {"relu", "clip", "abs", "neg"}:
        # exact in floating point but for a clip's own ends; the rest is for the rounding of the analysis
        ends = max((abs(p) for p in op.params if np.isfinite(p)), default=0.0)
        slack = 2.0**-40 * size + SPARE * u * ends
        if ends:
            return _signed(lo, hi, slack, lo >= 0, hi <= 0, ~np.isfinite(slack))
        return Bounds(lo, hi, np.where(np.isfinite(slack), slack, np.inf))
    rounding = gamma(4, u) * size + TINY if regimes(op, x.lo.shape[0]) else np.zeros(x.lo.shape)
    lo_sign, hi_sign = lo >= 0, hi <= 0
    return _signed(lo, hi, rounding, lo_sign, hi_sign, np.isinf(rounding) | np.isnan(lo))


def _by_traits(op: Op) -> Rule | None:
    return _moved if moves_values(op) else None


INTERVALS: Table[Rule] = Table(
    "the interval bounds",
    {
        **dict.fromkeys((Conv, ConvTranspose, Dense), _weighted), Affine: _scaled, BiasMap: _shifted, Add: _added,
        Product: _multiplied, Pool: _pooled, GlobalPool: _pooled, Pad: _padded, Activation: _activated,
    },
    {Foreign: "nothing is known of its values"},
    _by_traits,
)
"""What has no rule may take any value."""
