"""Branch and bound of single neurons: its networks are the graph, its cuts hold, no multiplier makes a bound too high, and its
answers are those of the mixed-integer program."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bounds.nets import Builder, chain, conv
from decascade.bounds import Box
from decascade.bounds.backward import Tracer
from decascade.bounds.forward import run
from decascade.bounds.interval import propagate
from decascade.bounds.prove import branch, cuts, exact
from decascade.bounds.prove.branch import Search, gets_past
from decascade.bounds.prove.cuts import cuts_of, lowest_planes
from decascade.bounds.prove.exact import lowest
from decascade.bounds.prove.network import Network
from decascade.bounds.prove.program import Cuts, Multipliers, UnsolvedError, solve
from decascade.bounds.prove.relax import Relaxation, ascend
from decascade.bounds.prove.unroll import GUARD, unroll
from decascade.ir.ops import Activation, Add, Pool

RELU = Activation("relu")
KINKED = (
    RELU, Activation("clip", (0.0, 0.6)), Activation("leaky_relu", (0.2,)), Activation("abs"), Activation("leaky_relu", (1.5,)),
)


def residual(rng, op=RELU):
    """Three convolutions on a small picture, one of them past the others; the neuron in question is the last one's."""
    made = Builder(2, 3, 3)
    first = made.add(op, made.add(conv(rng, 2, 2)))
    made.add(Add((1, 1)), made.add(conv(rng, 2, 2)), first)
    made.add(op)
    last = made.add(conv(rng, 2, 2))
    made.add(RELU)
    return made.graph(), last


def traced(graph, lo=-0.5, hi=0.5):
    return Tracer(graph, propagate(graph, Box.of(graph, (lo, hi))))


def small(seed, op=RELU, position=(2, 1)):
    rng = np.random.default_rng(seed)
    graph, last = residual(rng, op)
    tracer = traced(graph, -0.3, 0.3)
    return graph, last, tracer, unroll(tracer, last, 1, position, -1)


def values_of(graph, tensor, x):
    found = {}
    run(graph, {"x": x}, found.__setitem__)
    return found[tensor]


@pytest.mark.parametrize("op", KINKED, ids=lambda op: f"{op.kind}{op.parameters if hasattr(op, 'parameters') else ''}")
def test_an_unrolled_network_is_the_neuron(op):
    """But for what it is lowered by: float32 slack and the solver's tolerance."""
    graph, last, tracer, found = small(3, op)
    net, rng = Network.of(found), np.random.default_rng(0)
    x = rng.uniform(-1, 1, (20, len(net.cost_x)))
    pictures = [net.picture(row)["x"] for row in x]
    assert all(np.isnan(p).any() or p.size == len(net.cost_x) for p in pictures)
    batch = np.stack([np.where(np.isnan(p), 0.1, p) for p in pictures], -1)
    true = -values_of(graph, last, batch)[1, 2, 1]
    scale = max(abs(tracer.bounds[last].lo[1, 2, 1]), abs(tracer.bounds[last].hi[1, 2, 1]))
    assert (net.values(x) <= true).all()
    np.testing.assert_allclose(net.values(x), true, atol=3 * GUARD * scale)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_planes_lie_above_their_relu_and_touch_it(seed):
    """Anderson et al. 2020: above everywhere in the box; over all corners, some plane is as low as the concave envelope."""
    rng = np.random.default_rng(seed)
    d = int(rng.integers(1, 6))
    w, b = rng.normal(size=(1, d)), rng.normal(size=1)
    low = rng.normal(size=d)
    high = low + rng.random(d) * (rng.random(d) < 0.9)
    v = low + rng.random(d) * (high - low)
    a, k, there = lowest_planes(w, b, v, low, high)
    corners = np.array(list(product(*zip(low, high, strict=True))))
    relu = np.maximum(corners @ w[0] + b, 0)
    straddles = (corners @ w[0] + b).min() < 0 < (corners @ w[0] + b).max()
    assert there[0] == straddles
    if straddles:
        points = np.concatenate([corners, rng.uniform(low, high, (200, d))])
        assert (points @ a[0] + k >= np.maximum(points @ w[0] + b, 0) - 1e-9).all()
        assert a[0] @ v + k[0] == pytest.approx(envelope(corners, relu, v), abs=1e-7)


def envelope(corners, values, v):
    """The concave envelope at v of a convex function over a box, a linear program over its corners."""
    from scipy.optimize import linprog

    equal = np.vstack([corners.T, np.ones(len(corners))])
    return -linprog(-values, A_eq=equal, b_eq=[*v, 1.0]).fun


@pytest.mark.parametrize("op", KINKED[:4], ids=lambda op: op.kind)
def test_cuts_hold_for_every_input(op):
    net = Network.of(small(5, op)[3])
    (found, _), rng = cuts_of(net, 20.0), np.random.default_rng(1)
    assert len(found.most) > 3
    x = np.concatenate([rng.uniform(-1, 1, (300, len(net.cost_x))), rng.choice([-1.0, 1.0], (300, len(net.cost_x)))])
    assert (activations(net, x) @ found.to_r.T + x @ found.to_x.T <= found.most + 1e-9).all()


def activations(net, x):
    r = np.zeros((len(x), len(net.c)))
    for s in net.layers:
        r[:, s] = np.maximum(x @ net.x[s].T + r[:, : s.start] @ net.r[s, : s.start].T + net.c[s], 0)
    return r


@pytest.mark.parametrize("seed", range(4))
def test_no_multipliers_make_a_bound_too_high(seed):
    """On every branch: the lowest value among inputs that lie on its sides."""
    net, rng = Network.of(small(seed, KINKED[seed])[3]), np.random.default_rng(seed)
    found, _ = cuts_of(net, 20.0)
    relaxation = Relaxation.of(net, found, np.float64)
    x = np.concatenate([rng.uniform(-1, 1, (3000, len(net.cost_x))), rng.choice([-1.0, 1.0], (3000, len(net.cost_x)))])
    r, values = activations(net, x), net.values(x)
    n, whole = len(net.c), net.states()
    for _ in range(40):
        split, point = rng.choice(n, 2), rng.integers(len(x))
        states = whole.copy()
        states[split] = np.where(whole[split] == 0, np.where(r[point, split] > 0, 1, -1), whole[split])
        at = Multipliers(rng.random((1, n)), rng.exponential(0.1, (1, n)), rng.exponential(0.05, (1, len(found.most))))
        inside = (np.where(r[:, split] > 0, 1, -1) == np.sign(states[split])).all(axis=1)
        bound = relaxation.bound(states[None], at)[0]
        assert bound <= values[inside].min() + 1e-9
        assert bound == pytest.approx(relaxation.dual(states[None], at).bound[0], abs=1e-9)


def test_an_ascent_raises_bounds_and_cuts_raise_them_further():
    net = Network.of(small(1)[3])
    whole, best = net.states()[None], []
    for found, mu in ((Cuts.none(net), np.zeros(0)), cuts_of(net, 20.0)):
        start = Multipliers(np.full((1, len(net.c)), 0.5), np.zeros((1, len(net.c))), mu[None])
        relaxation = Relaxation.of(net, found, np.float64)
        kept = ascend(relaxation, whole, start, np.inf, 100)
        assert kept.bound[0] > relaxation.bound(whole, start)[0]
        assert relaxation.bound(whole, kept.multipliers)[0] == pytest.approx(kept.bound[0])
        best.append(kept.bound[0])
    assert best[1] > best[0] + 1e-3


@pytest.mark.parametrize("op", KINKED, ids=lambda op: op.kind)
def test_the_multipliers_of_a_linear_program_give_its_value_and_no_others_a_higher_one(op):
    """Strong duality, on branches of all depths; a branch without inputs has no solution."""
    net, rng = Network.of(small(7, op)[3]), np.random.default_rng(0)
    found, _ = cuts_of(net, 20.0)
    relaxation, whole = Relaxation.of(net, found, np.float64), net.states()
    x = rng.uniform(-1, 1, (1, len(net.cost_x)))
    active, free = activations(net, x)[0] > 0, np.flatnonzero(whole == 0)
    for count in range(0, len(free) + 1, 3):
        states = whole.copy()
        picked = rng.permutation(free)[:count]
        states[picked] = np.where(active[picked], 1, -1)
        solved = solve(net, found, states, 20.0)
        dual = relaxation.dual(states[None], solved.multipliers)
        value = solved.x @ net.cost_x + solved.r @ net.cost_r + net.constant
        assert dual.bound[0] <= value + 1e-7
        assert dual.bound[0] == pytest.approx(value, abs=1e-5 * np.abs(net.cost_r).sum() + 10 * net.e.sum())
        assert ascend(relaxation, states[None], solved.multipliers, np.inf, 30).bound[0] <= value + 1e-7
    states = whole.copy()
    states[free] = np.where(active[free], -1, 1)
    assert solve(net, found, states, 20.0) is None


@pytest.mark.parametrize("op", KINKED, ids=lambda op: op.kind)
@pytest.mark.parametrize("seed", [0, 1])
def test_answers_are_those_of_the_mixed_integer_program(op, seed):
    """On both sides of the lowest value: settled a little below it, an input a little above it."""
    graph, last, tracer, _ = small(seed, op)
    program = lowest(tracer, last, 1, (2, 1), -1, 60.0, 10**6)
    assert program.ended
    scale = max(abs(tracer.bounds[last].lo[1, 2, 1]), abs(tracer.bounds[last].hi[1, 2, 1]))
    below = gets_past(tracer, last, 1, (2, 1), -1, program.bound - 0.01 * scale, 16.0)
    assert below.settled
    assert below.inputs is None
    above = gets_past(tracer, last, 1, (2, 1), -1, program.bound + 0.01 * scale, 16.0)
    assert not above.settled
    assert above.inputs is not None
    x = np.where(np.isnan(above.inputs["x"]), 0.0, above.inputs["x"])
    assert (np.abs(x) <= 0.3).all()
    assert -values_of(graph, last, x[..., None])[1, 2, 1, 0] <= program.bound + 0.02 * scale


def test_a_neuron_that_is_affine_in_the_inputs():
    rng = np.random.default_rng(0)
    graph = chain(conv(rng, 2, 3), RELU, shape=(2, 4, 4))
    tracer, tensor = traced(graph), graph.nodes[0].output
    low = float(tracer.bounds[tensor].lo[0, 1, 1])
    assert gets_past(tracer, tensor, 0, (1, 1), 1, low - 0.01, 1.0).settled
    found = gets_past(tracer, tensor, 0, (1, 1), 1, low + 0.01, 1.0)
    assert not found.settled
    x = np.where(np.isnan(found.inputs["x"]), 0.0, found.inputs["x"])
    assert values_of(graph, tensor, x[..., None])[0, 1, 1, 0] == pytest.approx(low, abs=1e-3 * abs(low))


def test_what_cannot_be_unrolled_or_is_too_large_is_left_open(monkeypatch):
    rng = np.random.default_rng(0)
    curved = chain(conv(rng, 2, 3), Activation("tanh"), conv(rng, 3, 3), RELU, shape=(2, 4, 4))
    assert gets_past(traced(curved), curved.nodes[2].output, 0, (1, 1), 1, -9.0, 1.0).bound == -np.inf
    pool = Pool("max", (2, 2), (1, 1), ((0, 0), (0, 0)), (1, 1))
    pooled = chain(conv(rng, 2, 3), pool, conv(rng, 3, 3), RELU, shape=(2, 5, 5))
    assert gets_past(traced(pooled), pooled.nodes[2].output, 0, (1, 1), 1, -9.0, 1.0).bound == -np.inf
    monkeypatch.setattr(branch, "LARGEST", 10)
    _, last, tracer, _ = small(0)
    assert gets_past(tracer, last, 1, (2, 1), -1, -99.0, 1.0).bound == -np.inf


def test_a_mixed_integer_program_takes_over_on_a_small_network(monkeypatch):
    _, last, tracer, _ = small(2)
    program = lowest(tracer, last, 1, (2, 1), -1, 60.0, 10**6)
    monkeypatch.setattr(branch.Search, "run", lambda self: exact.Answer(-np.inf))
    assert gets_past(tracer, last, 1, (2, 1), -1, program.bound - 1e-3, 60.0).settled
    found = gets_past(tracer, last, 1, (2, 1), -1, program.bound + 1e-3, 60.0)
    assert found.ended
    assert not found.settled
    assert found.inputs is not None
    monkeypatch.setattr(branch, "SMALL", 10)
    assert gets_past(tracer, last, 1, (2, 1), -1, program.bound - 1e-3, 60.0).bound == -np.inf


def test_without_time_what_is_known_is_told(monkeypatch):
    monkeypatch.setattr(branch, "SMALL", 10)
    _, last, tracer, _ = small(2)
    program = lowest(tracer, last, 1, (2, 1), -1, 60.0, 10**6)
    answer = gets_past(tracer, last, 1, (2, 1), -1, program.bound - 1e-4, 0.0)
    assert not answer.ended
    assert not answer.settled
    assert -np.inf < answer.bound <= program.bound
    def late(*_):
        raise UnsolvedError

    monkeypatch.setattr(cuts, "solve", late)  # no linear program in time: no cuts, and the same answer
    assert gets_past(tracer, last, 1, (2, 1), -1, program.bound - 0.05, 60.0).settled
    monkeypatch.setattr(branch.Search, "run", late)
    assert gets_past(tracer, last, 1, (2, 1), -1, program.bound - 0.05, 60.0).bound == -np.inf


def test_float32_alone_closes_nothing(monkeypatch):
    """Where float64 does not confirm a bound, the branch stays open."""
    monkeypatch.setattr(branch, "SMALL", 10)
    _, last, tracer, _ = small(2)
    program = lowest(tracer, last, 1, (2, 1), -1, 60.0, 10**6)
    monkeypatch.setattr(Search, "_surely_closed", lambda self, states, at: np.zeros(len(states), np.bool_))
    assert not gets_past(tracer, last, 1, (2, 1), -1, program.bound - 0.05, 5.0).settled


@pytest.mark.parametrize("part", ["drop", "c", "most"])
def test_a_broken_relaxation_is_caught(monkeypatch, part):
    """A chord, a bias or a cut that is off, and what gets past a value is called settled."""
    right = Relaxation.of

    def wrong(net, found, kind):
        made = right(net, found, kind)
        off = {"drop": 0 * made.drop, "c": made.c - 0.1 * np.abs(made.c).max(), "most": made.most - 1}
        return replace(made, **{part: off[part]})

    monkeypatch.setattr(Relaxation, "of", staticmethod(wrong))
    monkeypatch.setattr(branch, "SMALL", 10)
    caught = False
    for seed in range(3):
        _, last, tracer, _ = small(seed)
        program = lowest(tracer, last, 1, (2, 1), -1, 60.0, 10**6)
        scale = max(abs(tracer.bounds[last].lo[1, 2, 1]), abs(tracer.bounds[last].hi[1, 2, 1]))
        caught |= gets_past(tracer, last, 1, (2, 1), -1, program.bound + 1e-4 * scale, 8.0).settled
    assert caught


def test_exact_relus_are_the_nearest_to_the_neuron():
    found = small(0)[3]
    lo, hi = (b[found.arguments][found.source] - found.threshold for b in (found.lower, found.upper))
    unstable = (lo < 0) & (hi > 0)
    assert exact._exact(found, 10**6).sum() == unstable.sum()
    few = exact._exact(found, 5)
    layer = found.layer[found.source]
    assert few.sum() == 5
    assert layer[few].min() >= np.sort(layer[unstable])[-5]
