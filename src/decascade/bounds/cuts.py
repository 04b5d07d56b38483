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

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.bounds.network import Network

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]
ROUNDS = 2
"""Of cuts.  More raise the bound further, but what they gain is less than the multipliers that each of them adds cost."""
VIOLATED = 1e-4
"""By what a plane has to be exceeded to become a cut."""


@dataclass(frozen=True, eq=False)
class Cuts:
    """Rows to_r·r + to_x·x ≤ most that hold for every input, and the multipliers with which they bound the neuron best."""

    to_x: F64
    to_r: F64
    most: F64
    multipliers: F64

    @staticmethod
    def none(net: Network) -> Cuts:
        m, n = len(net.cost_x), len(net.c)
        return Cuts(np.zeros((0, m)), np.zeros((0, n)), np.zeros(0), np.zeros(0))


def cuts_of(net: Network, seconds: float) -> Cuts:
    """Cuts where the linear program around the network, ReLUs between themselves and their chords, has its lowest point; those
    that support it there are kept, and it is solved again."""
    found, free = Cuts.none(net), np.flatnonzero((net.lo < 0) & (net.hi > 0))
    for _ in range(ROUNDS):
        solved = _relaxation(net, found, seconds / (ROUNDS + 1))
        if solved is None:
            return found
        x, r, multipliers = solved
        found = _with(found, multipliers, _planes(net, free, x, r))
    solved = _relaxation(net, found, seconds / (ROUNDS + 1))
    return found if solved is None else _with(found, solved[2], None)


def _with(found: Cuts, multipliers: F64, more: tuple[F64, F64, F64] | None) -> Cuts:
    """The cuts that have a multiplier, and others, which have none yet."""
    kept = multipliers > 0
    old = found.to_x[kept], found.to_r[kept], found.most[kept], multipliers[kept]
    if more is None:
        return Cuts(*old)
    return Cuts(*(np.concatenate(pair) for pair in zip(old, (*more, np.zeros(len(more[2]))), strict=True)))


def _relaxation(net: Network, cuts: Cuts, seconds: float) -> tuple[F64, F64, F64] | None:
    """x and r where the program is lowest, and the multipliers of the cuts; None if the time is up."""
    optimize: Any = import_module("scipy.optimize")
    sparse: Any = import_module("scipy.sparse")
    m, n = len(net.cost_x), len(net.c)
    low, high = np.minimum(net.lo, 0), np.maximum(net.hi, 0)
    steep = high / np.maximum(high - low, 1e-300)
    eye = np.eye(n)
    # columns x, z, r; rows z − r ≤ 0, r − steep·z ≤ −steep·low, the cuts; z − X·x − R·r = c
    under = [np.hstack([np.zeros((n, m)), eye, -eye]), np.hstack([np.zeros((n, m)), -np.diag(steep), eye])]
    under.append(np.hstack([cuts.to_x, np.zeros((len(cuts.most), n)), cuts.to_r]))
    answer = optimize.linprog(
        np.concatenate([net.cost_x, np.zeros(n), net.cost_r]), A_ub=sparse.csr_array(np.vstack(under)),
        b_ub=np.concatenate([np.zeros(n), -steep * low, cuts.most]),
        A_eq=sparse.csr_array(np.hstack([-net.x, eye, -net.r])), b_eq=net.c,
        bounds=np.concatenate([np.repeat([[-1.0, 1.0]], m, axis=0), np.stack([net.lo - net.e, net.hi + net.e], 1),
                               np.stack([np.zeros(n), high + net.e], 1)]),
        method="highs", options={"time_limit": max(seconds, 0.05)},
    )
    if answer.status != 0:
        return None
    return answer.x[:m], answer.x[m + n :], np.maximum(-np.asarray(answer.ineqlin.marginals)[2 * n :], 0)


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
    there &= np.tile(r[free], 2) - a @ point - k > VIOLATED
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
    h = (rest < 0).argmax(axis=1)[:, None]
    there = (rest < 0).any(axis=1) & (whole > 0)
    before = np.where(h > 0, np.take_along_axis(rest, np.maximum(h - 1, 0), 1), whole[:, None])
    a = np.zeros_like(w)
    np.put_along_axis(a, order, np.where(np.arange(w.shape[1]) < h, np.take_along_axis(w, order, 1), 0.0), 1)
    at = np.take_along_axis(order, h, 1)
    size = np.take_along_axis(span, at, 1)
    np.put_along_axis(a, at, before / np.where(size == 0, 1, size), 1)
    return a, -(a * first).sum(axis=1), there
