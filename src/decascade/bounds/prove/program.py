"""The linear program around a ReLU network in which some ReLUs are fixed to one side: its lowest point, and the multipliers of
its constraints, from which `relax` has the same bound again."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from decascade.bounds.prove.network import Network
from decascade.typing import F64, Reals

States = NDArray[np.int8]
"""Of ReLUs: 0 free, ±1 assumed active or inactive, ±2 so on all inputs."""


class Multipliers(NamedTuple):
    """α and β per ReLU (B, n), μ per cut (B, k); see `relax`."""

    alpha: Reals
    beta: Reals
    mu: Reals

    def at(self, which: Any) -> Multipliers:
        return Multipliers(*(a[which] for a in self))

    def to(self, kind: type[np.floating[Any]]) -> Multipliers:
        return Multipliers(*(a.astype(kind) for a in self))


@dataclass(frozen=True, eq=False)
class Cuts:
    """Rows to_r·r + to_x·x ≤ most that hold for every input."""

    to_x: F64
    to_r: F64
    most: F64

    @staticmethod
    def none(net: Network) -> Cuts:
        return Cuts(np.zeros((0, len(net.cost_x))), np.zeros((0, len(net.c))), np.zeros(0))


class UnsolvedError(Exception):
    """A linear program that was not solved in time."""


@dataclass(frozen=True, eq=False)
class Solved:
    """x (m,) and r (n,) where a program is lowest, and multipliers (1, ·)."""

    x: F64
    r: F64
    multipliers: Multipliers


def solve(net: Network, cuts: Cuts, states: States, seconds: float) -> Solved | None:
    """A free ReLU is between itself and its chord, one that is fixed on its side.  None if no input is on all these sides.

    Raises:
        UnsolvedError: the time is up.
    """
    optimize: Any = import_module("scipy.optimize")
    sparse: Any = import_module("scipy.sparse")
    m, n = len(net.cost_x), len(net.c)
    low, high = np.minimum(net.lo, 0), np.maximum(net.hi, 0)
    steep, eye, none = high / np.maximum(high - low, 1e-300), np.eye(n), np.zeros((n, m))
    free, split = states == 0, np.abs(states) == 1
    # columns x, z, r; rows z ≤ r where it is not inactive, r ≤ steep·(z − low) or z or 0, the cuts; z − X·x − R·r = c
    flat, over = np.where(free, steep, (states > 0) * 1.0), np.diag((states >= 0) * 1.0)
    under = [np.hstack([none, over, -over]), np.hstack([none, -np.diag(flat), eye]),
             np.hstack([cuts.to_x, np.zeros((len(cuts.most), n)), cuts.to_r])]
    sides = np.stack([np.where(split & (states > 0), 0.0, -np.inf), np.where(split & (states < 0), 0.0, np.inf)], 1)
    relus = np.stack([np.where(states > 0, -np.inf, 0.0), np.full(n, np.inf)], 1)
    answer = optimize.linprog(
        np.concatenate([net.cost_x, np.zeros(n), net.cost_r]), A_ub=sparse.csr_array(np.vstack(under)),
        b_ub=np.concatenate([np.zeros(n), np.where(free, -steep * low, 0.0), cuts.most]),
        A_eq=sparse.csr_array(np.hstack([-net.x, eye, -net.r])), b_eq=net.c,
        bounds=np.concatenate([np.repeat([[-1.0, 1.0]], m, axis=0), sides, relus]),
        method="highs", options={"time_limit": max(seconds, 0.05)},
    )
    if answer.status == 2:
        return None
    if answer.status != 0:
        raise UnsolvedError
    above, at_least = -np.asarray(answer.ineqlin.marginals), np.asarray(answer.lower.marginals)
    beta = np.where(split, at_least[m : m + n] - np.asarray(answer.upper.marginals)[m : m + n], 0)
    line, zero = np.maximum(above[:n], 0), np.maximum(at_least[m + n :], 0)
    alpha = np.where(line + zero > 0, line / np.maximum(line + zero, 1e-300), 0.5)
    found = Multipliers(alpha[None], np.maximum(beta, 0)[None], np.maximum(above[2 * n :], 0)[None])
    return Solved(np.asarray(answer.x[:m]), np.asarray(answer.x[m + n :]), found)
