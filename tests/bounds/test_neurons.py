"""Ascents of single neurons find what sums of neurons and random inputs do not; two workers decide what one decides."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from threading import Event
from time import perf_counter, sleep

import numpy as np
import pytest

from bounds.nets import chain, random_net
from decascade.algebra.conv import Conv
from decascade.bounds import Box, prove
from decascade.bounds.certificate import Status
from decascade.bounds.driver import side_by_side, usual_workers, warmed_up
from decascade.bounds.problem import Problem
from decascade.bounds.prove import tighten
from decascade.bounds.prove.solver_process import here
from decascade.bounds.state import Budget, ProofState
from decascade.bounds.witness.neurons import push_neurons, push_unwitnessed, seeds, targets
from decascade.errors import UsageError
from decascade.ir.ops import Activation, Dense, Flatten

RELU = Activation("relu")


def opened(graph, low=-1.0, high=1.0, seconds=60.0):
    """The state of a proof of which nothing is done, and its search."""
    budget = Budget.of(seconds, perf_counter, perf_counter())
    state = ProofState.of(Problem.of(graph, Box.of(graph, (low, high))), budget, lambda _stage, _share: None)
    return state, warmed_up(state, np.random.default_rng(0), seconds)


def at_a_standstill(state, seconds):
    """A state whose clock stands still, with so many seconds left."""
    return replace(state, budget=Budget.of(seconds, lambda: 0.0, 0.0))


def needle(rng, shape, kernel):
    """Channels that are active on one pattern of ±1 alone, nine tenths of the way to it: no random input gets there."""
    signs = rng.choice([-1.0, 1.0], (3, shape[0], *kernel)).astype(np.float32)
    count = signs[0].size
    same = np.eye(shape[0], dtype=np.float32).reshape(shape[0], shape[0], *(1,) * len(kernel))
    first = Conv(same, np.full(shape[0], 2, np.float32))
    shift = -(0.9 * count + 2 * signs.reshape(3, -1).sum(axis=1)).astype(np.float32)
    return chain(first, RELU, Conv(signs, shift), RELU, shape=shape)


@pytest.mark.parametrize(("shape", "kernel"), [((2, 9, 8), (4, 4)), ((4, 20), (9,))])
def test_patterns_that_no_random_input_shows_are_found(rng, shape, kernel):
    graph = needle(rng, shape, kernel)
    state, search = opened(graph)
    for _ in range(20):
        state.observations.observe(state.problem.limits.at(lambda s: rng.random((*s, 64))))
    last = state.layers[-1]
    assert not last.unstable_channels.any()
    push_unwitnessed(state, search, -inf)
    assert last.unstable_channels.all()
    state.observations.confirm()
    assert last.unstable_channels.all()


@pytest.mark.parametrize("shape", [(2, 9, 8), (4, 20)])
def test_every_neuron_of_a_linear_layer_gets_where_its_bounds_say(rng, shape):
    signs = rng.normal(size=(6, shape[0], *(4,) * (len(shape) - 1))).astype(np.float32)
    most = np.maximum(signs, 0).reshape(6, -1).sum(axis=1)
    state, search = opened(chain(Conv(signs, -0.6 * most, padding=1), RELU, shape=shape), 0.0, 1.0)
    (s,) = state.layers
    before = state.count_open(s)
    assert push_neurons(state, search, -inf, range(3)) == before > 10
    assert not state.open(s).any()
    state.observations.confirm()
    assert not state.open(s).any()


def test_targets_of_dense_layers(rng):
    signs = rng.choice([-1.0, 1.0], (5, 12)).astype(np.float32)
    first, second = Conv(np.eye(12, dtype=np.float32), np.ones(12, np.float32)), Conv(signs, -(0.9 * 12 + signs.sum(axis=1)))
    graph = chain(Flatten(), Dense(first), RELU, Dense(second), RELU, shape=(3, 2, 2))
    state, search = opened(graph)
    last = state.layers[-1]
    assert {t.channel for t in targets(state, last)} == set(range(5))
    assert all(t.place == () and t.direction == 1 and t.regime == 1 for t in seeds(state, last, search.rng))
    push_neurons(state, search, -inf, range(3))  # the third round pushes one neuron per sample
    assert last.unstable_channels.all()


def three_layers(rng):
    """Of which two inputs show no channel both sides."""
    layers = [Conv(rng.normal(size=(4, 4, 3, 3)).astype(np.float32), np.full(4, 40, np.float32), padding=1) for _ in range(3)]
    return opened(chain(*(op for conv in layers for op in (conv, RELU)), shape=(4, 9, 9)), -4.0, 4.0)


def test_channels_without_a_witness_are_pushed_first_where_they_were_least_often(rng, monkeypatch):
    (state, search), stages = three_layers(rng), []
    # which would find witnesses of the first as well
    monkeypatch.setattr("decascade.bounds.witness.neurons.NeuronAscent.go", lambda *_: None)
    first, second, third = state.observations.activations
    search.rounds[first] = 1
    state = replace(state, on_progress=lambda stage, _share: stages.append(stage))
    push_unwitnessed(state, search, -inf)
    assert stages == [f"looking for witnesses of {name}" for name in (second, third, first)]
    assert search.rounds == {first: 2, second: 1, third: 1}


def test_a_layer_that_the_time_cuts_short_has_its_turn_again(rng, monkeypatch):
    (state, search), stages, now = three_layers(rng), [], [0.0]
    budget = Budget.of(100.0, lambda: now[0], 0.0)
    state = replace(state, budget=budget, on_progress=lambda stage, _share: stages.append(stage.split()[-1]))

    def late(_self, _steps, _until):
        now[0] += 40.0

    monkeypatch.setattr("decascade.bounds.witness.neurons.NeuronAscent.go", late)
    first, second, third = state.observations.activations
    push_unwitnessed(state, search, 50.0)
    assert stages == [first, second]
    assert search.rounds == {first: 1}
    push_unwitnessed(state, search, -inf)
    assert stages[2:] == [second, third, first]


def test_a_channel_of_which_one_neuron_was_proved_is_given_more_time(rng, monkeypatch):
    """Four fifths of the time, and half of it those of which none was; neurons of channels that are shown, their share."""
    (state, _), given = three_layers(rng), []
    state = at_a_standstill(state, 100.0)
    last = state.layers[-1]
    count = len(last.seen[0])

    def settle(_state, _run, _s, channel, k, seconds):
        given.append((channel, k, seconds))
        return channel == 1

    monkeypatch.setattr(tighten, "_settle", settle)
    last.seen[...] = False
    last.sample[...] = -1
    last.seen[:, count - 1] = True  # the last channel is shown, all its neurons but one in two regimes
    last.seen[:, count - 1].reshape(len(last.seen), -1)[0, 0] = False
    assert tighten._decide(state, here, last, 0.0, patience=inf)
    left = state.left()
    per = {c: [s for d, _, s in given if d == c] for c in range(count)}
    assert len(per[1]) > 2
    assert set(per[0]) == {left * tighten.WANTED}
    assert per[1] == [left * tighten.WANTED] + [left * tighten.PROMISING] * (len(per[1]) - 1)
    assert tighten.PROMISING > tighten.WANTED
    assert per[count - 1] == [pytest.approx(left)]  # the last of all, whose share is the whole


def test_time_that_is_up_ends_it(rng):
    state, search = opened(needle(rng, (2, 9, 8), (4, 4)))
    state.budget.cancelled.set()
    assert state.left() == -inf
    assert push_neurons(state, search, 0.0, range(3)) == 0


@pytest.mark.parametrize("seed", range(12))
def test_two_workers_prove_what_one_does(seed):
    """And as to witnesses they do not contradict each other; what is open behind curved activations only luck shows."""
    graph = random_net(np.random.default_rng(seed))
    one, two = (prove(graph, (-0.5, 0.5), 20, workers=n) for n in (1, 2))
    assert one.neurons.get("proven") == two.neurons.get("proven")
    for a, b in zip(one.activations, two.activations, strict=True):
        assert (a.regime == b.regime).all()
        assert all(p == q or Status.OPEN in (p, q) for p, q in zip(a.status, b.status, strict=True))
    witnessed = [c.neurons.get("witnessed", 0) for c in (one, two)]
    assert abs(witnessed[0] - witnessed[1]) <= 0.02 * sum(one.neurons.values())


def test_no_workers_are_refused(rng):
    with pytest.raises(UsageError, match="workers = 0: give 1, or 2 to search for witnesses beside the proofs"):
        prove(needle(rng, (2, 9, 8), (4, 4)), (-1, 1), workers=0)


def test_what_one_lane_raises_stops_the_others():
    budget, ended = Budget.of(60.0, perf_counter, perf_counter()), Event()

    def fails():
        raise MemoryError("none left")

    def waits():
        while budget.left() > 0:
            sleep(0.001)
        ended.set()

    with pytest.raises(MemoryError, match="none left"):
        side_by_side(budget, fails, waits)
    assert ended.wait(10)


@pytest.mark.parametrize(("threads", "most"), [("1", 1), ("2", 2), ("16", 2), ("1,4", 1), ("", 2), ("many", 2), ("0", 1)])
def test_no_more_workers_than_the_user_says(monkeypatch, threads, most):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    assert usual_workers() == most
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0}, raising=False)
    assert usual_workers() == 1
