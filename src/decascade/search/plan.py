"""Which students to take under a budget: an exact multiple-choice cover (DESIGN §3).

    minimise Σ s_i x_i    subject to    Σ saving_i x_i ≥ cost − budget,    Σ_{i covers n} x_i ≤ 1 for every node n

x_i says that option i replaces its segment; a node that no option covers stays as it is.  Solved by HiGHS
(`scipy.optimize.milp`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from decascade.errors import UsageError

GAP = 1e-4
"""Relative optimality gap at which the solver may stop."""
SECONDS = 8.0


@dataclass(frozen=True)
class Option:
    """One student for one segment: the nodes it replaces, what it saves in the target's unit, and its sensitivity, how far
    the model's output moves with only it swapped in."""

    nodes: frozenset[str]
    saving: float
    sensitivity: float


def choose(options: Sequence[Option], cost: float, budget: float, unit: str) -> tuple[int, ...]:
    """The options, by index, whose summed sensitivity is least among all that bring `cost` down to `budget`.

    Raises:
        UsageError: no choice is cheap enough; the message names the cheapest there is.
    """
    if budget >= cost:
        return ()
    least = cost - largest_saving(options)
    if least > budget:
        raise UsageError(
            f"budget {budget:,.0f} {unit} is out of reach: the cheapest plan costs {least:,.0f} of {cost:,.0f}"
            f" (speedup {cost / max(least, 1e-30):.2f}): ask for less"
        )
    return _solve(options, np.array([o.sensitivity for o in options]), cost - budget)


def largest_saving(options: Sequence[Option]) -> float:
    """The largest saving that options can have together."""
    if not options:
        return 0.0
    chosen = _solve(options, -np.array([o.saving for o in options]), None)
    return sum(options[i].saving for i in chosen)


def _solve(options: Sequence[Option], price: Any, saving: float | None) -> tuple[int, ...]:
    optimize: Any = import_module("scipy.optimize")
    sparse: Any = import_module("scipy.sparse")
    nodes = {name: i for i, name in enumerate(sorted({n for o in options for n in o.nodes}))}
    pairs = [(nodes[name], i) for i, o in enumerate(options) for name in o.nodes]
    rows, columns = zip(*pairs, strict=True)
    cover = sparse.csr_array((np.ones(len(pairs)), (rows, columns)), shape=(len(nodes), len(options)))
    constraints = [optimize.LinearConstraint(cover, -np.inf, 1)]
    # units as small as the numbers' own size keep the solver's tolerances meaningful
    scale = float(np.abs(price).max()) or 1.0
    if saving is not None:
        savings = np.array([o.saving for o in options])
        constraints.append(optimize.LinearConstraint(savings[None] / saving, 1.0, np.inf))
    # between equals the one that saves more
    tie = 1e-9 * np.array([o.saving for o in options]) / (max(abs(o.saving) for o in options) or 1.0)
    found = optimize.milp(
        price / scale - tie, constraints=constraints, integrality=np.ones(len(options)), bounds=optimize.Bounds(0, 1),
        options={"mip_rel_gap": GAP, "time_limit": SECONDS},
    )
    if found.x is None:
        raise UsageError(f"no plan found in {SECONDS:g} s: {found.message}")
    return tuple(int(i) for i in np.flatnonzero(found.x > 0.5))
