"""The lowest value of one neuron: a mixed-integer linear program over its receptive field (Tjeng et al. 2019), by HiGHS.

Each ReLU of the unrolled receptive field takes one variable r between max(0, z − t) and its chord, and, near the neuron in
question, a binary one that makes it exact.  HiGHS works with tolerances (1e-6 on integers, 1e-7 on constraints), which is
what `unroll` lowers the neuron for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.bounds.backward import Tracer
from decascade.bounds.prove.solver_process import here
from decascade.bounds.prove.unroll import Unrolled, unroll
from decascade.errors import CannotInterpret
from decascade.typing import F64


@dataclass(frozen=True, eq=False)
class Answer:
    """`bound`: the neuron, times the direction, is nowhere lower; −∞ where nothing was found out.  `settled`: it was asked
    whether the neuron gets past a value, and it does not.  `inputs`: where the solver found it lowest, NaN where that does
    not matter.  `ended`: the solver came to the end; all else is what it knew when the time was up."""

    bound: float
    settled: bool = False
    ended: bool = False
    inputs: Mapping[str, F64] | None = None


def lowest(
    tracer: Tracer, tensor: str, channel: int, position: tuple[int, ...], direction: int, seconds: float, binaries: int = 600,
    run: Callable[..., Answer] = here,
) -> Answer:
    """The lowest value of direction · neuron over the box, or a bound on it.

    `binaries`: how many ReLUs, the nearest to the neuron first, are exact; the rest are between a ReLU and its chord.
    `run`: here, or `SolverProcess.ask`.
    """
    try:
        found = unroll(tracer, tensor, channel, position, direction)
    except CannotInterpret:
        return Answer(-np.inf)
    if not len(found.lower):  # a constant neuron: it depends on no input
        return Answer(found.constant, ended=True)
    return run(_solved, found, _exact(found, binaries), seconds)


def gets_to(found: Unrolled, past: float, seconds: float) -> Answer:
    """Whether an unrolled neuron gets to `past` or below: settled if it does not, else an input if there was time for one."""
    return _solved(found, _exact(found, len(found.relus)), seconds, past)


def _exact(found: Unrolled, most: int) -> NDArray[np.bool_]:
    """The ReLUs that are not stable, those of the last layers first and there those whose chord is farthest off."""
    lo, hi = (b[found.arguments][found.source] - found.threshold for b in (found.lower, found.upper))
    unstable = (lo < 0) & (hi > 0)
    off = np.where(unstable, -lo * hi / np.maximum(hi - lo, 1e-300), -1.0)
    order = np.lexsort((-off, -found.layer[found.source], ~unstable))
    chosen = np.zeros(len(lo), np.bool_)
    chosen[order[:most]] = True
    return chosen & unstable


def _solved(found: Unrolled, exact: NDArray[np.bool_], seconds: float, past: float = np.inf) -> Answer:
    optimize: Any = import_module("scipy.optimize")
    count = int(exact.sum())
    rows, least, most = _rows(found, exact)
    cost = np.concatenate([found.cost, np.zeros(count)])
    if past < np.inf:
        sparse: Any = import_module("scipy.sparse")
        rows = sparse.vstack([rows, cost[None]])
        least, most = np.append(least, -np.inf), np.append(most, past - found.constant)
    answer = optimize.milp(
        cost, integrality=np.arange(len(cost)) >= len(found.lower),
        bounds=optimize.Bounds(np.concatenate([found.lower, np.zeros(count)]), np.concatenate([found.upper, np.ones(count)])),
        constraints=optimize.LinearConstraint(rows, least, most), options={"time_limit": max(seconds, 0.05)},
    )
    if answer.status == 2 and past < np.inf:
        return Answer(past, settled=True, ended=True)
    dual = answer.mip_dual_bound if count else answer.fun if answer.status == 0 else None
    bound = -np.inf if dual is None or not np.isfinite(dual) else float(dual) + found.constant
    inputs = None if answer.x is None else found.picture(answer.x)
    return Answer(bound, past < np.inf and bound > past, answer.status == 0, inputs)


def _rows(found: Unrolled, exact: NDArray[np.bool_]) -> tuple[Any, F64, F64]:
    """Over columns: those unrolled, and a binary d per exact ReLU.  Rows: z = Σ ± error; r ≥ z − t; where it is exact
    r ≤ z − t − lo·(1 − d) and r ≤ hi·d, elsewhere the chord r ≤ (z − t − lo)·hi/(hi − lo)."""
    sparse: Any = import_module("scipy.sparse")
    width, count, k, n = len(found.lower), int(exact.sum()), len(found.arguments), len(found.relus)
    t, source = found.threshold, found.source
    lo, hi = (b[found.arguments][source] - t for b in (found.lower, found.upper))
    low, high, none = np.minimum(lo, 0), np.maximum(hi, 0), np.full(n, np.inf)
    each = np.arange(n)

    def picked(columns: NDArray[np.int64], factors: F64, rows: NDArray[np.int64] = each, most: int = n) -> Any:
        return sparse.csr_array((factors, (rows, columns)), shape=(most, width + count))

    row, column, factor = found.rows
    z, r, one = found.arguments[source], found.relus, np.ones(n)
    sums = picked(found.arguments, np.ones(k), np.arange(k), k) - picked(column, factor, row, k)
    steep = np.where(exact, 1.0, high / np.maximum(high - low, 1e-300))
    d = np.full(n, width)
    d[exact] = width + np.arange(count)
    under = picked(r, one) - picked(z, steep)
    some, binary = exact.nonzero()[0], np.arange(count)
    if count:
        under = under - picked(d[some], low[some], some)
    rows = [sums, picked(r, one) - picked(z, one), under]
    least = [found.middle - found.error, -t, -none]
    most = [found.middle + found.error, none, np.where(exact, -low - t, -steep * (low + t))]
    if count:
        rows.append(picked(r[some], np.ones(count), binary, count) - picked(d[some], high[some], binary, count))
        least.append(np.full(count, -np.inf))
        most.append(np.zeros(count))
    return sparse.vstack(rows), np.concatenate(least), np.concatenate(most)
