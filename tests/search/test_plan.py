"""The choice under a budget against all choices there are."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decascade.compression.plan import cover as plan
from decascade.compression.plan.cover import Option, choose
from decascade.errors import UsageError


def allowed(options: list[Option], chosen: tuple[int, ...]) -> bool:
    return all(not options[i].nodes & options[j].nodes for i, j in combinations(chosen, 2))


def every_choice(options: list[Option]) -> list[tuple[int, ...]]:
    count = len(options)
    every = (chosen for size in range(count + 1) for chosen in combinations(range(count), size))
    return [chosen for chosen in every if allowed(options, chosen)]


@st.composite
def covers(draw) -> list[Option]:
    """Options for runs of a chain of nodes, a few per run; savings are whole numbers, as multiply-accumulates are."""
    length, options = draw(st.integers(1, 5)), list[Option]()
    for _ in range(draw(st.integers(1, 9))):
        first = draw(st.integers(0, length - 1))
        nodes = frozenset(f"n{i}" for i in range(first, draw(st.integers(first + 1, length))))
        unit = draw(st.sampled_from([1, 1000, 1_000_003]))
        options.append(Option(nodes, float(unit * draw(st.integers(1, 40))), draw(st.integers(0, 2000)) / 1000))
    return options


@settings(max_examples=80, deadline=None)
@given(covers(), st.floats(0.0, 1.0))
def test_the_least_sensitive_choice_within_the_budget(options, share):
    cost = sum(o.saving for o in options) + 10
    every = every_choice(options)
    saved = lambda chosen: sum(options[i].saving for i in chosen)  # noqa: E731
    lost = lambda chosen: sum(options[i].sensitivity for i in chosen)  # noqa: E731
    most = max(map(saved, every))
    budget = cost - round(share * most)
    chosen = choose(options, cost, budget, "MACs")
    assert allowed(options, chosen)
    assert cost - saved(chosen) <= budget
    least = min(lost(c) for c in every if cost - saved(c) <= budget)
    assert least <= lost(chosen) + 1e-12
    assert lost(chosen) <= least + 1e-6 * max(o.sensitivity for o in options)  # the solver's absolute gap
    if budget < cost:
        with pytest.raises(UsageError, match=r"budget .* MACs is out of reach: the cheapest plan costs"):
            choose(options, cost, cost - most - 1, "MACs")


def test_a_budget_that_is_met_needs_nothing():
    assert choose([Option(frozenset("a"), 5.0, 0.0)], 10.0, 10.0, "MACs") == ()
    assert choose([], 10.0, 10.0, "MACs") == ()


def test_a_budget_out_of_reach_names_the_cheapest_plan():
    options = [Option(frozenset("a"), 4000.0, 0.1), Option(frozenset("ab"), 5000.0, 0.1), Option(frozenset("b"), 2500.0, 3.0)]
    words = "budget 3,000 MACs is out of reach: the cheapest plan costs 3,500 of 10,000 (speedup 2.86): ask for less"
    with pytest.raises(UsageError, match=f"^{re.escape(words)}$"):
        choose(options, 10000.0, 3000.0, "MACs")
    with pytest.raises(UsageError, match=r"the cheapest plan costs 10 of 10 \(speedup 1\.00\)"):
        choose([], 10.0, 9.0, "MACs")


def test_between_equals_the_one_that_saves_more():
    options = [Option(frozenset("a"), s, 0.5) for s in (100.0, 300.0, 200.0)]
    assert choose(options, 1000.0, 950.0, "MACs") == (1,)


def test_a_budget_is_kept_to_the_last_unit():
    """The solver works to a tolerance of about 1e-6 of what is asked; a plan that is one unit short is none."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        savings = rng.integers(1, 10**8, (int(rng.integers(2, 12)), 2))
        each = [(f"n{i}", float(saving)) for i, pair in enumerate(savings) for saving in pair]
        options = [Option(frozenset([node]), saving, float(rng.uniform(0.01, 1))) for node, saving in each]
        needed = sum(int(s) for s in savings[rng.random(len(savings)) < 0.6, int(rng.integers(2))]) + 1
        chosen = choose(options, 1e10, 1e10 - needed, "MACs")
        assert sum(options[i].saving for i in chosen) >= needed


def test_what_has_no_sensitivity_is_not_chosen():
    wild = [Option(frozenset("a"), 9.0, float("nan")), Option(frozenset("b"), 9.0, float("inf"))]
    assert choose([*wild, Option(frozenset("c"), 5.0, 2.0)], 20.0, 16.0, "MACs") == (2,)
    with pytest.raises(UsageError, match="the cheapest plan costs 20 of 20"):
        choose(wild, 20.0, 16.0, "MACs")


def test_a_solver_that_finds_nothing_in_time_says_so(monkeypatch):
    monkeypatch.setattr(plan, "SECONDS", 0.0)
    options, cost = chain(50, 5, 6, 0)
    with pytest.raises(UsageError, match=r"^no plan found in 0 s: Time limit reached"):
        choose(options, cost, cost / 2, "MACs")


def chain(layers: int, span: int, each: int, seed: int) -> tuple[list[Option], float]:
    """Options as a net of so many layers has them."""
    rng, options = np.random.default_rng(seed), list[Option]()
    macs = rng.integers(1, 40, layers) * 100_000
    for first in range(layers):
        for stop in range(first + 1, min(layers, first + span) + 1):
            for kept in rng.uniform(0.05, 0.95, each):
                whole = int(macs[first:stop].sum())
                lost = (stop - first) * (1 - kept) ** 2 * rng.lognormal(-3, 1)
                options.append(Option(frozenset(f"n{i}" for i in range(first, stop)), float(int(whole * (1 - kept))), lost))
    return options, float(macs.sum())


def test_a_deep_net_is_planned_and_nothing_is_printed(capfd):
    options, cost = chain(50, 5, 6, 0)
    before = 0.0
    for speedup in (1.3, 2.0):
        chosen = choose(options, cost, cost / speedup, "MACs")
        assert allowed(options, chosen)
        assert sum(options[i].saving for i in chosen) >= cost - cost / speedup
        lost = sum(options[i].sensitivity for i in chosen)
        assert lost > before
        before = lost
    assert capfd.readouterr() == ("", "")
