"""Linear inequalities between a ReLU and what it is computed from, tighter than its chord (Anderson et al. 2020, "Strong
mixed-integer programming formulations for trained neural networks").

Over a box of its inputs v the concave envelope of relu(w·v + b) is the lowest of many planes, one for every set I of inputs
and one input h beside it: with L_i, U_i the ends at which w_i·v_i is lowest and highest, and
ℓ(I) = b + Σ_{i∈I} w_i·L_i + Σ_{i∉I} w_i·U_i, where ℓ(I) ≥ 0 > ℓ(I ∪ {h}),

    relu(w·v + b) ≤ Σ_{i∈I} w_i·(v_i − L_i) + ℓ(I)/(U_h − L_h)·(v_h − L_h).

The lowest at a given point is found by sorting (v_i − L_i)/(U_i − L_i).  As relu(z) = z + relu(−z), the same planes of −z
bound it once more.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from decascade.bounds.prove.network import Network
from decascade.bounds.prove.program import Cuts, UnsolvedError, solve
from decascade.typing import F64, Bools

ROUNDS = 2
"""Of cuts.  More raise the bound further, but what they gain is less than the multipliers that each of them adds cost."""
VIOLATED = 1e-4
"""Share of a ReLU's range by which a plane has to be exceeded to become a cut."""


def cuts_of(net: Network, seconds: float) -> tuple[Cuts, F64]:
    """Cuts where the linear program has its lowest point; those that support it there are kept, and it is solved again.  And
    their multipliers, zero where there was no time to find out."""
    found, mu, free = Cuts.none(net), np.zeros(0), np.flatnonzero((net.lo < 0) & (net.hi > 0))
    for last in (*[False] * ROUNDS, True):
        try:
            solved = solve(net, found, net.states(), seconds / (ROUNDS + 1))
        except UnsolvedError:
            break
        if solved is None:  # but for tolerances there is always an input
            break
        mu = np.asarray(solved.multipliers.mu[0], np.float64)
        kept = mu > 0
        found, mu = Cuts(found.to_x[kept], found.to_r[kept], found.most[kept]), mu[kept]
        if not last:
            more = _planes(net, free, solved.x, solved.r)
            found = Cuts(*(np.concatenate(pair) for pair in zip((found.to_x, found.to_r, found.most), more, strict=True)))
            mu = np.concatenate([mu, np.zeros(len(more[2]))])
    return found, mu


def _planes(net: Network, free: NDArray[np.int64], x: F64, r: F64) -> tuple[F64, F64, F64]:
    """The planes of some ReLUs, and of their negations, that a point exceeds: rows for x and for r, and their right sides."""
    m, count = len(net.cost_x), len(free)
    w, c, e = np.hstack([net.x, net.r])[free], net.c[free], net.e[free]
    low = np.concatenate([-np.ones(m), np.maximum(net.lo, 0)])
    high = np.concatenate([np.ones(m), np.maximum(net.hi, 0)])
    point, both, shift = np.concatenate([x, r]), np.concatenate([w, -w]), np.concatenate([c + e, e - c])
    a, k, there = lowest_planes(both, shift, point, low, high)
    a[count:] += w
    k[count:] += c + e
    there &= np.tile(r[free], 2) - a @ point - k > VIOLATED * np.tile(net.hi[free], 2)
    to_r = -a[:, m:]
    to_r[np.arange(2 * count), np.tile(free, 2)] += 1
    return -a[there, :m], to_r[there], k[there]


def lowest_planes(w: F64, b: F64, v: F64, low: F64, high: F64) -> tuple[F64, F64, Bools]:
    """For each row w, b the plane a·v + k ≥ relu(w·v + b) over low ≤ v ≤ high that is lowest at a point v: (rows, d), (rows,),
    and whether there is one."""
    first, last = np.where(w >= 0, low, high), np.where(w >= 0, high, low)
    span = last - first
    where = np.where(w * span != 0, (v - first) / np.where(span == 0, 1, span), np.inf)
    order = np.argsort(where, axis=1)
    whole = b + (w * last).sum(axis=1)
    rest = whole[:, None] - np.cumsum(np.take_along_axis(w * span, order, 1), axis=1)  # ℓ(I), I growing
    h: Any = np.argmax(rest < 0, axis=1)[:, None]
    there = (rest < 0).any(axis=1) & (whole > 0)
    before = np.take_along_axis(np.concatenate([whole[:, None], rest], axis=1), h, 1)
    inside = cast(Bools, np.arange(w.shape[1]) < h)
    a = np.zeros_like(w)
    np.put_along_axis(a, order, np.where(inside, np.take_along_axis(w, order, 1), 0.0), 1)
    at = np.take_along_axis(order, h, 1)
    size = np.take_along_axis(span, at, 1)
    np.put_along_axis(a, at, before / np.where(size == 0, 1, size), 1)
    return a, -(a * first).sum(axis=1), there
