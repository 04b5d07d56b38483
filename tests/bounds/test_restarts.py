"""What came near is kept, the nearest of all, and ascents that begin beside it get further than those that begin anywhere."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bounds.nets import chain, conv
from bounds.test_neurons import opened
from decascade.algebra.conv import Conv
from decascade.bounds.box import Box
from decascade.bounds.forward import run
from decascade.bounds.interval import propagate
from decascade.bounds.problem import Limits
from decascade.bounds.witness import neurons, restarts
from decascade.bounds.witness.restarts import Near, Restarts, perturbed
from decascade.ir.ops import Activation, Pool

KEY, OTHER = ("relu", 3, 1), ("relu", 3, -1)
RELU = Activation("relu")


def near(value, size=4):
    return Near(value, (1, 2), {"x": np.full((1, size, size), value, np.float32)})


@given(st.lists(st.floats(-1e3, 1e3), max_size=40))
def test_the_nearest_are_kept(values):
    found = Restarts()
    for v in values:
        found.offer(KEY, near(v))
    assert sorted(n.value for n in found.pools.get(KEY, [])) == sorted(values)[-restarts.POOL :]


def test_no_more_is_kept_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(restarts, "MOST", 3 * near(0.0).bytes)
    found = Restarts()
    for v in (1.0, 2.0, 3.0, 4.0):
        found.offer(KEY, near(v))
    found.offer(OTHER, near(9.0))  # there is no room, and nothing of its own that it could replace
    assert [n.value for n in found.pools[KEY]] == [4.0, 2.0, 3.0]
    assert found.bytes == restarts.MOST
    rng = np.random.default_rng(0)
    limits = limits_of((1, 4, 4))
    assert found.start(OTHER, limits, rng) is None
    assert found.start(("relu", 0, 1), limits, rng) is None
    picture, spot = found.start(KEY, limits, rng)
    assert spot == (1, 2)
    assert picture["x"].shape == (1, 4, 4)


def test_those_of_channels_that_were_decided_are_dropped():
    found = Restarts()
    for key in (KEY, OTHER, ("after", 0, 1)):
        found.offer(key, near(1.0))
    found.keep("relu", {OTHER})
    assert set(found.pools) == {OTHER, ("after", 0, 1)}


def limits_of(shape):
    graph = chain(RELU, shape=shape)
    return Limits.of(graph, Box.of(graph, (-1.0, 3.0)))


def test_perturbations_are_gentle_and_rough_and_stay_in_the_box():
    rng, limits = np.random.default_rng(0), limits_of((3, 20, 20))
    name = next(iter(limits.lo))
    picture = {name: np.full((3, 20, 20), 5.0, np.float32)}  # outside, so that what is left of it can be told
    shares = []
    for _ in range(300):
        x = perturbed(picture, limits, rng)[name]
        new = x != 5.0
        assert x[new].min(initial=0) >= -1
        assert x[new].max(initial=0) <= 3
        shares.append(new.mean())
    # 10^(−2u): half of them below a tenth
    assert np.mean(np.array(shares) < 0.1) == pytest.approx(0.5, abs=0.1)
    assert min(shares) < 0.02
    assert max(shares) > 0.8


def unreached(layers, weights, shape):
    """Layers, and a last one that is active where nothing gets, though interval bounds leave it open."""
    plain = chain(*layers, Conv(weights, np.zeros(len(weights), np.float32)), RELU, shape=shape)
    bounds = propagate(plain, Box.of(plain, (-1.0, 1.0)))[plain.nodes[-1].inputs[0]]
    most = bounds.hi.reshape(len(weights), -1).max(axis=1)
    return opened(chain(*layers, Conv(weights, -0.97 * most.astype(np.float32)), RELU, shape=shape))


def heights(monkeypatch, anew):
    """How far eight channels that are never reached are up after twelve rounds."""
    monkeypatch.setattr(neurons, "ANEW", anew)
    rng = np.random.default_rng(4)
    layers = [conv(rng, 1, 6, padding=0), RELU, Pool("max", (3, 3), (3, 3), ((0, 0), (0, 0)), (1, 1))]
    state, search = unreached(layers, rng.normal(size=(8, 6, 4, 4)).astype(np.float32), (1, 14, 14))
    name = state.layers[-1].node.name
    for _ in range(12):
        neurons.push_unwitnessed(state, search, -inf)
    assert set(search.restarts.pools) == {(name, c, 1) for c in range(8)}
    return np.array([max(n.value for n in search.restarts.pools[name, c, 1]) for c in range(8)])


def test_ascents_from_what_came_near_get_further(monkeypatch):
    near, anew = heights(monkeypatch, neurons.ANEW), heights(monkeypatch, 1.0)
    assert (near > anew).mean() >= 0.75


def test_a_kept_picture_shows_what_it_is_kept_for(rng):
    state, search = unreached([conv(rng, 2, 4), RELU], rng.normal(size=(3, 4, 3, 3)).astype(np.float32), (2, 9, 9))
    neurons.push_unwitnessed(state, search, -inf)
    s = state.layers[-1]
    assert {c for _, c, _ in search.restarts.pools} == {0, 1, 2}
    for (_, channel, direction), pool in search.restarts.pools.items():
        for n in pool:
            values = {}
            run(state.problem.graph, {k: v[..., None] for k, v in n.picture.items()}, values.__setitem__)
            assert n.value == pytest.approx(direction * values[s.tensor][(channel, *n.spot, 0)], rel=1e-5)
