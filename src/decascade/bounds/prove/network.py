"""An unrolled neuron as a ReLU network of dense blocks, on inputs from −1 to 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from decascade.bounds.prove.unroll import Unrolled
from decascade.typing import F64


@dataclass(frozen=True, eq=False)
class Network:
    """An unrolled neuron as dense blocks, its inputs from −1 to 1: the arguments of its ReLUs are
    z = X·x + R·r + c ± e, (n,), with lo ≤ z ≤ hi; the neuron is cost_x·x + cost_r·r + constant.

    ReLUs are sorted by layers, and R is below the diagonal of their blocks.  `implied` (n, n): where one is active so is the
    other, as both have one argument, and the other the lower threshold.
    """

    layers: tuple[slice, ...]
    x: F64
    r: F64
    c: F64
    e: F64
    lo: F64
    hi: F64
    cost_x: F64
    cost_r: F64
    constant: float
    implied: NDArray[np.bool_]
    found: Unrolled

    @staticmethod
    def of(found: Unrolled) -> Network:
        """Arguments that are computed from other arguments are substituted, layer after layer."""
        k, width = len(found.arguments), len(found.lower)
        matrix = np.zeros((k, width))
        np.add.at(matrix, found.rows[:2], found.rows[2])
        to_x, to_r, to_z = (matrix[:, which] for which in (found.inputs, found.relus, found.arguments))
        c, e = found.middle.copy(), found.error.copy()
        for layer in np.unique(found.layer):
            rows = found.layer == layer
            onto = to_z[rows]
            if onto.any():
                to_x[rows] += onto @ to_x
                to_r[rows] += onto @ to_r
                c[rows] += onto @ c
                e[rows] += np.abs(onto) @ e
        direct = found.cost[found.arguments]
        cost_x, cost_r = found.cost[found.inputs] + direct @ to_x, found.cost[found.relus] + direct @ to_r
        middle, half = (found.upper + found.lower)[found.inputs] / 2, (found.upper - found.lower)[found.inputs] / 2
        constant = found.constant + float(direct @ c - np.abs(direct) @ e + cost_x @ middle)
        order = np.argsort(found.layer[found.source], kind="stable")
        source, t = found.source[order], found.threshold[order]
        _, starts = np.unique(found.layer[source], return_index=True)
        ends = [*starts[1:].tolist(), len(order)]
        low, high = (b[found.arguments][source] - t for b in (found.lower, found.upper))
        implied = (source[:, None] == source) & (t[:, None] > t)
        return Network(
            tuple(slice(a, b) for a, b in zip(starts.tolist(), ends, strict=True)), (to_x * half)[source],
            to_r[np.ix_(source, order)], (c + to_x @ middle)[source] - t, e[source], low, high, cost_x * half, cost_r[order],
            constant, implied, found,
        )

    def states(self) -> NDArray[np.int8]:
        """±2 for a ReLU that is active or inactive on all inputs, 0 for the others."""
        return np.where(self.hi <= 0, -2, np.where(self.lo >= 0, 2, 0)).astype(np.int8)

    def with_implied(self, states: NDArray[np.int8]) -> NDArray[np.int8]:
        """States (B, n), with what follows for ReLUs of the same argument."""
        if not self.implied.any():
            return states
        active, inactive = (states > 0) @ self.implied, (states < 0) @ self.implied.T
        return np.where(states == 0, active.astype(np.int8) - inactive.astype(np.int8), states)

    def values(self, x: F64) -> F64:
        """The neuron itself at inputs (B, m) from −1 to 1, without any error."""
        r = np.zeros((len(x), len(self.c)))
        for layer in self.layers:
            z = x @ self.x[layer].T + r[:, : layer.start] @ self.r[layer, : layer.start].T + self.c[layer]
            r[:, layer] = np.maximum(z, 0)
        return x @ self.cost_x + r @ self.cost_r + self.constant

    def picture(self, x: F64) -> dict[str, F64]:
        """The graph's inputs (C, *S) at one x (m,)."""
        found, columns = self.found, np.zeros(len(self.found.lower))
        low, high = found.lower[found.inputs], found.upper[found.inputs]
        columns[found.inputs] = np.clip((low + high) / 2 + x * (high - low) / 2, low, high)
        return found.picture(columns)
