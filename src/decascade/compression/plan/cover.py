"""Which students to take under a budget: an exact multiple-choice cover (DESIGN §3).

    minimise Σ s_i x_i    subject to    Σ saving_i x_i ≥ cost − budget,    Σ_{i covers n} x_i ≤ 1 for every node n

x_i says that option i replaces its segment; a node that no option covers stays as it is.  Solved by HiGHS
(`scipy.optimize.milp`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from math import isfinite
from typing import Any

import numpy as np

from decascade.errors import UsageError

SECONDS = 8.0
"""After so long the solver gives the best choice that it has by then."""
ROW = 0.1
"""What the largest coefficient of the budget's row is."""
INFEASIBLE = 2
"""What `scipy.optimize.milp` calls a problem without a solution."""


@dataclass(frozen=True)
class Option:
    """One student for one segment: the nodes it replaces, what it saves in the target's unit, and its sensitivity, how far
    the model's output moves with only it swapped in."""

    nodes: frozenset[str]
    saving: float
    sensitivity: float


def choose(options: Sequence[Option], cost: float, budget: float, unit: str) -> tuple[int, ...]:
    """The options, by index, whose summed sensitivity is least among all that bring `cost` down to `budget`; between two for
    the same nodes and with the same sensitivity the one that saves more.

    Raises:
        UsageError: no choice is cheap enough; the message names the cheapest there is.
    """
    if budget >= cost:
        return ()
    worth = _undominated(options)
    some = [options[i] for i in worth]
    found = _solve(some, np.array([o.sensitivity for o in some]), cost - budget) if some else None
    if found is None:
        least = cost - largest_saving(some)
        raise UsageError(
            f"budget {budget:,.0f} {unit} is out of reach: the cheapest plan costs {least:,.0f} of {cost:,.0f}"
            f" (speedup {cost / max(least, 1e-30):.2f}): ask for less"
        )
    return tuple(worth[i] for i in found)


def _undominated(options: Sequence[Option]) -> list[int]:
    """The options whose sensitivity is a number and that no other for the same nodes beats in both."""
    told = [i for i, option in enumerate(options) if isfinite(option.sensitivity)]
    order = sorted(told, key=lambda i: (options[i].sensitivity, -options[i].saving))
    most, kept = dict[frozenset[str], float](), list[int]()
    for i in order:
        if options[i].saving > most.get(options[i].nodes, 0.0):
            most[options[i].nodes] = options[i].saving
            kept.append(i)
    return sorted(kept)


def largest_saving(options: Sequence[Option]) -> float:
    """The largest saving that options can have together."""
    chosen = _solve(options, -np.array([o.saving for o in options]), None) if options else ()
    return sum(options[i].saving for i in chosen or ())


def _solve(options: Sequence[Option], price: Any, saving: float | None) -> tuple[int, ...] | None:
    """The cheapest choice that saves so much, None where there is none.

    The solver keeps constraints to a tolerance: a choice that falls short within it is excluded, and the solver asked again.
    """
    optimize: Any = import_module("scipy.optimize")
    savings = np.array([o.saving for o in options])
    constraints = [optimize.LinearConstraint(_cover(options), -np.inf, 1)]
    # units as small as the numbers' own size keep the solver's tolerances meaningful
    scale = float(np.abs(price).max()) or 1.0
    if saving is not None:
        # what one option saves beyond all that is asked counts for nothing; and a row of small numbers, in which an x that is
        # 1e-6 from a whole number stays within the solver's tolerance of 1e-6 (beyond it, HiGHS prints a line and starts over)
        constraints.append(optimize.LinearConstraint(ROW * np.minimum(savings, saving)[None] / saving, ROW, np.inf))
    while True:
        found = optimize.milp(
            price / scale, constraints=constraints, integrality=np.ones(len(options)), bounds=optimize.Bounds(0, 1),
            options={"mip_rel_gap": 0.0, "time_limit": SECONDS},
        )
        if found.x is None:
            if found.status != INFEASIBLE:
                raise UsageError(f"no plan found in {SECONDS:g} s: {found.message}")
            return None
        chosen = np.flatnonzero(found.x > 0.5)
        if saving is None or savings[chosen].sum() >= saving:
            return tuple(chosen.tolist())
        apart = np.where(found.x > 0.5, 1.0, -1.0)
        constraints.append(optimize.LinearConstraint(apart[None], -np.inf, len(chosen) - 1))


def _cover(options: Sequence[Option]) -> Any:
    """One row per node with a 1 for every option that replaces it."""
    sparse: Any = import_module("scipy.sparse")
    nodes = {name: i for i, name in enumerate(sorted({n for o in options for n in o.nodes}))}
    pairs = [(nodes[name], i) for i, o in enumerate(options) for name in o.nodes]
    rows, columns = zip(*pairs, strict=True)
    return sparse.csr_array((np.ones(len(pairs)), (rows, columns)), shape=(len(nodes), len(options)))
