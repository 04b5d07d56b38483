"""No value that a network takes inside the box lies outside its bounds; a broken bound is caught by the same test."""

from __future__ import annotations

import numpy as np
import pytest

from bounds.nets import Builder, conv, random_net
from decascade.bounds import regimes
from decascade.bounds.adjoint import Form
from decascade.bounds.backward import Tracer, neuron_bounds
from decascade.bounds.box import Box
from decascade.bounds.forward import run
from decascade.bounds.interval import propagate
from decascade.bounds.witness.gradient import gradient
from decascade.ir.ops import Activation, GlobalPool, Product, Slice


def samples(graph, lo, hi, rng, count=60):
    shape = (*(int(n) for n in graph.shape("x")[1:]), count)
    uniform = rng.uniform(lo, hi, shape)
    corners = np.where(rng.random(shape) < rng.random(count), lo, hi)
    plain = np.broadcast_to(rng.uniform(lo, hi, (shape[0], 1, 1, count)), shape)
    return np.concatenate([uniform, corners, plain], axis=-1).astype(np.float32).clip(np.float32(lo), np.float32(hi))


def values(graph, x):
    found = {}
    run(graph, {"x": x}, found.__setitem__)
    return found


def violations(graph, bounds, found):
    """Entries outside their bounds."""
    return sum(int(((x < bounds[n].lo[..., None]) | (x > bounds[n].hi[..., None])).sum()) for n, x in found.items())


@pytest.mark.parametrize("seed", range(40))
def test_interval_bounds_hold(seed):
    rng = np.random.default_rng(seed)
    hold(random_net(rng), rng)


def hold(graph, rng):
    """Intervals over some box, against what is sampled in it; the bounds and the float32 values."""
    lo, hi = sorted(rng.normal(size=2))
    bounds = propagate(graph, Box.of(graph, (lo, hi)))
    x = samples(graph, lo, hi, rng)
    x = np.clip(x, np.nextafter(np.float32(lo), np.float32(9)), np.nextafter(np.float32(hi), np.float32(-9)))
    for dtype in (np.float32, np.float64):
        assert violations(graph, bounds, values(graph, x.astype(dtype))) == 0
    return bounds, values(graph, x)


def gated(rng):
    """Channels scaled by what the whole picture says (squeeze and excitation), and a tensor times itself and a row."""
    made = Builder(3, 6, 7)
    made.add(conv(rng, 3, 5))
    trunk = made.add(Activation("relu"))
    made.add(GlobalPool("avg"))
    made.add(conv(rng, 5, 5, 1))
    gate = made.add(Activation("hard_sigmoid", (0.2, 0.5)))
    made.add(Product(), trunk, gate)
    made.add(conv(rng, 5, 4))
    at = made.at
    row = made.add(Slice(2, 2, 3), at)
    made.add(Product(), at, at, row)
    made.add(Activation("relu"))
    return made.graph()


@pytest.mark.parametrize("seed", range(10))
def test_bounds_of_products_hold(seed):
    rng = np.random.default_rng(seed)
    graph = gated(rng)
    bounds, found = hold(graph, rng)
    assert backward_violations(graph, bounds, found, rng) == 0


def test_gradients_of_products_are_those_of_differences():
    rng = np.random.default_rng(0)
    graph = gated(rng)
    name = graph.nodes[-1].inputs[0]
    x = rng.normal(size=(3, 6, 7, 2))
    a = rng.normal(size=(4, 6, 7, 2))
    window = ((0, 6), (0, 7))
    slope = gradient(graph, {"x": x}, name, lambda _z: Form(a, window), lambda _n, _x: None)["x"]
    whole = np.zeros_like(x)
    whole[slope.where] = slope.coefficients
    for _ in range(5):
        step = 1e-6 * rng.normal(size=x.shape)
        ends = [values(graph, x + s * step)[name] for s in (1, -1)]
        assert ((ends[0] - ends[1]) * a).sum() / 2 == pytest.approx((whole * step).sum(), rel=1e-4)


@pytest.mark.parametrize("seed", range(40))
def test_backward_bounds_hold_and_are_no_looser_where_it_counts(seed):
    rng = np.random.default_rng(100 + seed)
    graph = random_net(rng)
    lo, hi = sorted(0.4 * rng.normal(size=2))
    bounds = propagate(graph, Box.of(graph, (lo, hi)))
    x = np.clip(
        samples(graph, lo, hi, rng), np.nextafter(np.float32(lo), np.float32(9)), np.nextafter(np.float32(hi), np.float32(-9))
    )
    found = values(graph, x)
    assert backward_violations(graph, bounds, found, rng) == 0


def backward_violations(graph, bounds, found, rng):
    tracer, bad = Tracer(graph, bounds), 0
    for node in graph.nodes:
        if not isinstance(node.op, Activation):
            continue
        name = node.inputs[0]
        shape = tracer.shape(name)
        for _ in range(3):
            position = tuple(int(rng.integers(n)) for n in shape[1:])
            low, high = neuron_bounds(tracer, name, range(shape[0]), position)
            seen = found[name][(slice(None), *position)]
            bad += int(((seen < low[:, None]) | (seen > high[:, None])).sum())
    return bad


def test_a_form_over_a_window_is_bounded():
    rng = np.random.default_rng(5)
    graph = random_net(rng, smooth=False)
    bounds = propagate(graph, Box.of(graph, (-1, 1)))
    name = next(n.inputs[0] for n in graph.nodes[::-1] if isinstance(n.op, Activation) and len(graph.shape(n.inputs[0])) == 4)
    shape = bounds[name].lo.shape
    window = tuple((0, n) for n in shape[1:])
    seed = rng.normal(size=(*shape, 5))
    low = Tracer(graph, bounds).lowest(name, Form(seed, window))
    seen = np.tensordot(seed, values(graph, samples(graph, -1, 1, rng))[name].astype(np.float64), axes=([0, 1, 2], [0, 1, 2]))
    assert (seen >= low[:, None] - 1e-6).all()


def test_a_broken_bound_is_caught(monkeypatch):
    """The lines around activations, moved inwards by a hundredth of the interval."""
    right = regimes.enclose

    def wrong(op, lo, hi):
        lines = right(op, lo, hi)
        gap = 0.05 * np.where(np.isfinite(hi - lo), hi - lo, 0)
        return regimes.Lines(lines.low_slope, lines.low + gap, lines.high_slope, lines.high - gap)

    monkeypatch.setattr("decascade.bounds.backward.enclose", wrong)
    bad = 0
    for seed in range(20):
        rng = np.random.default_rng(100 + seed)
        graph = random_net(rng)
        lo, hi = sorted(0.4 * rng.normal(size=2))
        bounds = propagate(graph, Box.of(graph, (lo, hi)))
        bad += backward_violations(graph, bounds, values(graph, samples(graph, lo, hi, rng)), rng)
    assert bad > 0


def test_a_missing_slack_is_caught(monkeypatch):
    """Without γ_n a long sum of equal signs leaves its bounds in float32."""
    from bounds.nets import chain
    from decascade.algebra.conv import Conv

    rng = np.random.default_rng(0)
    dense_like = Conv((1 + rng.random((64, 9, 7, 7))).astype(np.float32), None)
    graph = chain(dense_like, Activation("relu"), shape=(9, 7, 7))
    x = np.full((9, 7, 7, 1), np.float32(0.1))

    def bad():
        return violations(graph, propagate(graph, Box.of(graph, (float(np.float32(0.1)),) * 2)), values(graph, x))

    assert bad() == 0
    monkeypatch.setattr("decascade.bounds.interval.gamma", lambda terms, u: 0.0)
    assert bad() > 0


@pytest.mark.parametrize("op", [
    Activation("relu"), Activation("clip", (0.0, 6.0)), Activation("clip", (-1.0, np.inf)), Activation("clip", (-np.inf, 2.0)),
    Activation("leaky_relu", (0.1,)), Activation("leaky_relu", (-0.5,)), Activation("leaky_relu", (2.0,)), Activation("abs"),
    Activation("prelu", (), np.linspace(-2, 2, 6)), Activation("hard_swish"), Activation("hard_sigmoid", (0.2, 0.5)),
    Activation("hard_sigmoid", (-0.2, 0.5)), Activation("sigmoid"), Activation("tanh"), Activation("silu"), Activation("gelu"),
    Activation("gelu_tanh"), Activation("softplus"), Activation("softsign"), Activation("elu", (0.5,)),
    Activation("elu", (-0.5,)),
    Activation("selu"), Activation("exp"), Activation("neg"), Activation("sqrt"),
], ids=lambda op: f"{op.kind}{op.params}")  # fmt: skip
def test_ranges_and_lines_enclose(op):
    rng = np.random.default_rng(1)
    scale = np.array([0.01, 0.1, 1, 3, 10, 30])[:, None]
    ends = np.sort(rng.normal(size=(2, 6, 400)) * scale + rng.normal(size=(6, 400)) * scale, axis=0)
    lo, hi = np.abs(np.sort(ends, axis=0)) if op.kind == "sqrt" else ends
    lo, hi = np.minimum(lo, hi), np.maximum(lo, hi)
    low, high = regimes.image(op, lo, hi)
    lines = regimes.enclose(op, lo, hi)
    for share in np.linspace(0, 1, 41):
        x = np.clip(lo + share * (hi - lo), lo, hi)
        y = regimes.value(op, x)
        tolerance = 1e-12 * (1 + np.abs(y) + np.abs(x))
        assert (y >= low - 1e-15).all()
        assert (y <= high + 1e-15).all()
        assert (y >= lines.low_slope * x + lines.low - tolerance).all()
        assert (y <= lines.high_slope * x + lines.high + tolerance).all()


@pytest.mark.parametrize(
    "op",
    [
        Activation("relu"),
        Activation("clip", (0.0, 6.0)),
        Activation("abs"),
        Activation("hard_swish"),
        Activation("leaky_relu", (0.1,)),
        Activation("hard_sigmoid", (0.2, 0.5)),
    ],
    ids=lambda op: op.kind,
)
def test_regimes_are_what_the_activation_does(op):
    for piece in regimes.regimes(op, 1):
        lo, hi = max(piece.lo, -50.0), min(piece.hi, 50.0)
        x = np.linspace(lo, hi, 101)[None]
        if piece.slope is None:
            assert np.ptp(np.diff(regimes.value(op, x))) > 1e-6
        else:
            assert np.abs(regimes.value(op, x) - (piece.slope[0] * x + piece.shift)).max() <= 1e-12


def orders(terms, rng):
    """Sums in float32, one term after the other, in orders that round badly: by size, by sign, at random; and in pairs."""
    ranked = np.argsort(np.abs(terms))
    signed = np.argsort(terms)
    for order in (ranked, ranked[::-1], signed, signed[::-1], *(rng.permutation(len(terms)) for _ in range(10))):
        yield np.cumsum(terms[order], dtype=np.float32)[-1]
    pairs = terms
    while len(pairs) > 1:
        even = np.append(pairs, np.zeros(len(pairs) % 2, np.float32))
        pairs = even[::2] + even[1::2]
    yield pairs[0]


@pytest.mark.parametrize("signed", [False, True])
def test_bounds_hold_in_any_order_of_summation(monkeypatch, signed):
    """A box of one point: the bounds are the slack alone.  Without it, some order leaves them."""
    from bounds.nets import chain
    from decascade.algebra.conv import Conv
    from decascade.ir.ops import Dense

    rng = np.random.default_rng(3)
    weight = (rng.normal(size=(1, 3000)) if signed else rng.random((1, 3000))).astype(np.float32)
    x = rng.random(3000).astype(np.float32)
    graph = chain(Dense(Conv(weight, None)), Activation("relu"), shape=(3000,))
    sums = np.array(list(orders(weight[0] * x, rng)), np.float64)
    assert np.ptp(sums) > 0

    def held():
        bounds = propagate(graph, Box.of(graph, (x, x)))[graph.nodes[0].output]
        low, high = neuron_bounds(Tracer(graph, propagate(graph, Box.of(graph, (x, x)))), graph.nodes[0].output, [0], ())
        return ((sums >= bounds.lo[0]) & (sums <= bounds.hi[0]) & (sums >= low[0]) & (sums <= high[0])).all()

    assert held()
    monkeypatch.setattr("decascade.bounds.interval.gamma", lambda terms, u: 0.0)
    assert not held()
