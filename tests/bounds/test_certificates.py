"""Nothing that is sampled inside the box breaks a certificate; each kind of bound, once broken on purpose, is caught."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from bounds.nets import chain, conv, random_net
from bounds.sampling import ascents, corners, in_numpy, outside, pictures, proved, uniform
from decascade.bounds import interval, regimes
from decascade.bounds.prove import unroll
from decascade.ir.ops import Activation, Conv, Dense

RELU = Activation("relu")


def sources(state, rng) -> list[Iterator]:
    makers = [make(state.problem.limits, rng, 32) for make in (uniform, corners, pictures)]
    return [*makers, ascents(state, state.problem.limits, rng, 32)]


def violations(graph, box, seconds=2.0, batches=4) -> int:
    state, found = proved(graph, box, seconds)
    rng, wrong = np.random.default_rng(0), 0
    evaluate = in_numpy(state.problem.graph)
    for source in sources(state, rng):
        for _ in range(batches):
            bad, total, _ = outside(state, found, evaluate(next(source)))
            assert total > 0
            wrong += bad
    return wrong


def small_net(seed):
    rng = np.random.default_rng(seed)
    layers = [conv(rng, 2, 6), RELU, conv(rng, 6, 6), Activation("clip", (0.0, 0.6)), conv(rng, 6, 4), RELU]
    return chain(*layers, conv(rng, 4, 4), RELU, shape=(2, 6, 6))


@pytest.mark.parametrize("seed", range(4))
def test_certificates_of_random_networks_hold(seed):
    rng = np.random.default_rng(70 + seed)
    lo, hi = sorted(0.4 * rng.normal(size=2))
    assert violations(random_net(rng, depth=4), (lo, hi)) == 0


@pytest.mark.parametrize("box", [(0, 1), (0.45, 0.55), (-1, 1)])
def test_certificates_of_convolutions_hold(box):
    assert violations(small_net(0), box) == 0


def broken_lines(monkeypatch):
    right = regimes.enclose

    def wrong(op, lo, hi):
        lines, gap = right(op, lo, hi), 0.2 * np.where(np.isfinite(hi - lo), hi - lo, 0)
        return regimes.Lines(lines.low_slope, lines.low + gap, lines.high_slope, lines.high - gap)

    monkeypatch.setattr("decascade.bounds.backward.enclose", wrong)


def broken_intervals(monkeypatch):
    right = interval._weighted

    def wrong(op, x, u):
        found = right(op, x, u)
        middle, half = (found.lo + found.hi) / 2, 0.2 * (found.hi - found.lo)
        return interval.Bounds(middle - half, middle + half, found.slack)

    for kind in (Conv, Dense):
        monkeypatch.setitem(interval.INTERVALS.rules, kind, wrong)


def broken_programs(monkeypatch):
    """Programs whose answers are a tenth of the neuron's size too narrow."""
    monkeypatch.setattr(unroll, "GUARD", -0.1)


@pytest.mark.parametrize("broken", [broken_lines, broken_intervals, broken_programs])
def test_a_broken_bound_is_caught(monkeypatch, broken):
    broken(monkeypatch)
    assert any(violations(small_net(seed), (0.45, 0.55), 3.0, 8) for seed in range(4))


def test_a_channel_that_is_called_proven_and_is_not_is_caught():
    state, found = proved(small_net(0), (-1, 1), 2)
    record = found.activations[0]
    record.regime[0] = 1
    inputs = next(uniform(state.problem.limits, np.random.default_rng(0), 32))
    bad, _, _ = outside(state, found, in_numpy(state.problem.graph)(inputs))
    assert bad > 0
