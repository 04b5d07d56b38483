"""What `collect` gathers against patches written out and `numpy.linalg.lstsq`."""

from __future__ import annotations

from importlib import import_module
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decascade.ir.graph import Graph
from decascade.ir.interpret import run
from fit.sites import batches, gathered, held, runner, samples_for, sizes_of, torch, unexplained
from laws import Net

moments = import_module("decascade.compression.students.moments")
windows = import_module("decascade.compression.students.windows")
sums = import_module("decascade.compression.students.sums")
least_squares = import_module("decascade.compression.students.least_squares")
Request, Window = windows.Request, windows.Window


def patches(x: np.ndarray, window: Window, out: tuple[int, ...]) -> np.ndarray:
    """(N, *out, C·ΠK), tap by tap, zeros beside the map."""
    found = np.zeros((len(x), *out, x.shape[1], *window.kernel))
    for place in product(*map(range, out)):
        for tap in product(*map(range, window.kernel)):
            at = [s * o + a + t for s, o, a, t in zip(window.stride, place, window.start, tap, strict=True)]
            if all(0 <= p < n for p, n in zip(at, x.shape[2:], strict=True)):
                found[(slice(None), *place, slice(None), *tap)] = x[(slice(None), slice(None), *at)]
    return found.reshape(len(x), *out, -1)


def solved(p: np.ndarray, z: np.ndarray, ridge: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """W and b of z ≈ Wᵀp + b by numpy, rows on the first axis; the ridge as rows of their own."""
    mean, size = p.mean(0), p.shape[1]
    weight_of = ridge * ((p - mean) ** 2).sum() / size
    rows = np.vstack([p - mean, np.sqrt(weight_of) * np.eye(size)])
    weight = np.linalg.lstsq(rows, np.vstack([z - z.mean(0), np.zeros((size, z.shape[1]))]), rcond=None)[0]
    return weight, z.mean(0) - mean @ weight


def rows_of(graphs: tuple[Graph, Graph], x: np.ndarray, request):
    """Patches, targets and exits of the request on the first graph, towards the second: of the fitted samples, of the held."""
    entry, y = (run(g, {"x": x}, [name])[name] for g, name in zip(graphs, (request.tensor, request.target), strict=True))
    z = np.moveaxis(y - entry if request.minus else y, 1, -1)
    p, apart = patches(entry, request.window, y.shape[2:]), held(len(x))
    return [(p[m].reshape(-1, p.shape[-1]), z[m].reshape(-1, z.shape[-1]), np.moveaxis(y, 1, -1)[m]) for m in (~apart, apart)]


def check_regression(moments_, graphs: tuple[Graph, Graph], x: np.ndarray, request) -> None:
    """The request's regression is numpy's on the samples that are not held out, and its errors are those measured."""
    rows = rows_of(graphs, x, request)
    weight, bias = solved(*rows[0][:2], ridge=least_squares.RIDGE)
    regression = moments_.regression(request)
    # normal equations in float64 with a condition of at most 1 / RIDGE, times the unknowns
    assert np.allclose(regression.weight, weight, atol=1e-7 * np.abs(weight).max(), rtol=0)
    assert np.allclose(regression.bias(weight), bias, atol=1e-9 * max(1.0, np.abs(bias).max()), rtol=0)
    for told, (p, z, exit_) in zip(regression.error(weight), rows[::-1], strict=True):
        left = ((z - p @ weight - bias) ** 2).sum()
        variance = ((exit_ - exit_.mean(tuple(range(exit_.ndim - 1)))) ** 2).sum()
        assert told == pytest.approx(left / variance, rel=1e-8, abs=1e-12)
    free, offset = solved(*rows[0][:2])
    assert offset == pytest.approx(regression.bias(free), rel=1e-9, abs=1e-9)
    least = regression.error(free)[1]
    assert least - 1e-12 <= regression.error(weight)[1] <= least + 2e-6, "what the ridge costs"


def net_of(rank: int, stride: int, channels: int = 2) -> tuple[Graph, str]:
    """A non-linear net with one target of the input's channels."""
    net = Net((channels, *(9, 7, 5)[:rank]), "float64")
    hidden = net.relu(net.conv("x", 3, 3, pad=1) if rank else net.dense("x", 3))
    y = net.conv(hidden, channels, 2, stride=stride, pad=((1, 0),) * rank) if rank else net.dense(hidden, channels)
    return net.graph(y), y


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_regressions_are_lstsq(data):
    rank = data.draw(st.integers(0, 3))
    stride = data.draw(st.integers(1, 2)) if rank else 1
    graph, y = net_of(rank, stride)
    per_axis = lambda lo, hi: tuple(data.draw(st.integers(lo, hi)) for _ in range(rank))  # noqa: E731
    several = data.draw(st.integers(1, 3))
    requests = [Request("x", Window(per_axis(1, 3 if rank < 3 else 2), (stride,) * rank, per_axis(-2, 1)), y)
                for _ in range(several)]
    if stride == 1 and data.draw(st.booleans()):
        requests += [Request(r.tensor, r.window, y, "x") for r in requests]
    x = samples_for(graph, 41 if rank else 400)
    gathered_ = gathered(graph, x, requests)
    for request in requests:
        check_regression(gathered_, (graph, graph), x, request)


def test_windows_of_one_tensor_share_sums_unless_their_union_is_too_large():
    graph, y = net_of(2, 1)
    shapes = sizes_of(graph)
    near = [Request("x", Window((3, 3), (1, 1), (-1, -1)), y), Request("x", Window((1, 3), (1, 1), (0, -2)), y),
            Request("x", Window((1, 1), (1, 1), (0, 0)), "conv0")]
    found = moments.groups(near, shapes)
    assert len(set(found.values())) == 1
    assert found[near[0]].window == Window((3, 4), (1, 1), (-1, -2))
    long = [Request("x", Window((1, moments.LARGEST // 4), (1, 1), (0, 0)), y),
            Request("x", Window((moments.LARGEST // 4, 1), (1, 1), (0, 0)), y)]
    assert len(set(moments.groups(long, shapes).values())) == 2
    whole = Request("x", Window((1, moments.LARGEST), (1, 1), (0, 0)), y)
    inside = Request("x", Window((1, 9), (1, 1), (5, 0)), y)
    assert len(set(moments.groups([inside, whole], shapes).values())) == 2
    inside = Request("x", Window((1, 9), (1, 1), (0, 5)), y)
    assert len(set(moments.groups([inside, whole], shapes).values())) == 1


def test_the_order_of_requests_and_of_batches_in_size_changes_nothing():
    graph, y = net_of(2, 1)
    requests = [Request("x", Window((k, k), (1, 1), (-1, 0)), y, minus) for k in (1, 2, 3) for minus in ("", "x")]
    x = samples_for(graph, 23)
    first = gathered(graph, x, requests)
    again = moments.collect(runner(graph), batches(x, 7), requests[::-1], sizes_of(graph), len(x), 0, rows=np.inf)
    for request in requests:
        one, other = first.regression(request), again.regression(request)
        assert np.allclose(one.gram, other.gram, rtol=1e-10, atol=1e-9)
        assert np.allclose(one.weight, other.weight, rtol=1e-6, atol=1e-9)
        assert one.error(one.weight) == pytest.approx(other.error(one.weight), rel=1e-8)


def test_a_block_of_rows_holds_a_few_positions_at_a_time(monkeypatch):
    graph, y = net_of(2, 1)
    request = Request("x", Window((3, 3), (1, 1), (-1, -1)), y)
    x = samples_for(graph, 11)
    whole = gathered(graph, x, [request]).regression(request)
    monkeypatch.setattr(sums, "BLOCK", 1)
    parts = gathered(graph, x, [request]).regression(request)
    assert np.allclose(whole.gram, parts.gram, rtol=1e-12, atol=1e-9)
    assert np.allclose(whole.cross, parts.cross, rtol=1e-12, atol=1e-9)


def test_targets_of_another_model():
    graph, y = net_of(2, 1)
    other, _ = net_of(2, 1)
    other = other.with_nodes([n if n.name != y else type(n)(n.name, scaled(n.op), n.inputs, n.outputs) for n in other.nodes])
    request = Request("x", Window((3, 3), (1, 1), (-1, -1)), y, "x")
    x = samples_for(graph, 20)
    both = moments.collect(runner(graph), batches(x), [request], sizes_of(graph), len(x), 0, runner(other), np.inf)
    check_regression(both, (graph, other), x, request)


def scaled(conv):
    return type(conv)(3 * conv.weight, conv.bias, conv.stride, conv.dilation, conv.padding, conv.groups)


def test_float32_far_from_zero_is_as_good_as_float64():
    """A mean of a thousand standard deviations would leave products in float32 one digit without the shift."""
    net = Net((2, 9, 9), "float64")
    y = net.conv(net.relu(net.conv("x", 3, 3, bias=False)), 2, 1)
    graph = net.graph(y)
    request = Request("x", Window((3, 3), (1, 1), (0, 0)), y)
    x = (samples_for(graph, 40) + 1000).astype(np.float32)
    exact = gathered(graph, x.astype(np.float64), [request]).regression(request)
    single = moments.collect(runner(graph, "float32"), batches(x, dtype=torch.float32), [request], sizes_of(graph), 40, 0,
                             rows=np.inf).regression(request)
    assert exact.error(single.weight) == pytest.approx(exact.error(exact.weight), rel=0, abs=1e-5)
    assert single.error(single.weight) == pytest.approx(exact.error(exact.weight), rel=0, abs=1e-5)


def test_errors_without_held_out_samples_are_told_on_the_fitted_ones():
    graph, y = net_of(2, 1)
    request = Request("x", Window((1, 1), (1, 1), (0, 0)), y)
    regression = gathered(graph, samples_for(graph, 3), [request]).regression(request)
    held_out, fitted = regression.error(regression.weight)
    assert held_out == fitted > 0


def test_a_constant_exit_is_explained_by_the_bias():
    net = Net((2, 5, 5), "float64")
    y = net.conv(net.relu(net.conv("x", 2, 3)), 3, 1)
    graph = net.graph(y)
    zero = [type(n)(n.name, type(n.op)(0 * n.op.weight, n.op.bias + 7), n.inputs, n.outputs) if n.name == y else n
            for n in graph.nodes]
    request = Request("x", Window((3, 3), (1, 1), (0, 0)), y)
    x = samples_for(graph, 12).astype(np.float32)
    found = moments.collect(runner(graph.with_nodes(zero), "float32"), batches(x, dtype=torch.float32), [request],
                            sizes_of(graph), 12, 0).regression(request)
    assert max(found.error(found.weight)) < 1e-2
    assert np.abs(found.weight).max() < 1e-9


def test_subsampled_positions_cost_as_much_error_as_is_stated():
    """With independent rows the expected excess is unknowns / rows = 1 / ROWS of what the best leaves."""
    net = Net((2, 40, 40), "float64")
    y = net.relu(net.conv("x", 4, 1))
    graph = net.graph(net.conv(y, 3, 1))
    rng = np.random.default_rng(1)
    x = rng.standard_normal((40, 2, 40, 40))
    request = Request("x", Window((1, 1), (1, 1), (0, 0)), graph.outputs[0])
    y = run(graph, {"x": x})[graph.outputs[0]]
    best = gathered(graph, x, [request]).regression(request)
    least = best.error(best.weight)[1]
    excess = list[float]()
    for seed in range(40):
        sampled = gathered(graph, x, [request], moments.ROWS[1], seed).regression(request)
        assert sampled.patches.fitted.count == 30 * 7  # (64 · 4/3 rows per unknown of 40 · 1600 / 3) of 1600 positions
        full = np.einsum("nihw,io->nohw", x, sampled.weight) + sampled.bias(sampled.weight)[:, None, None]
        excess.append(unexplained(y[~held(40)], full[~held(40)]) / least - 1)
    mean, spread = np.mean(excess), np.std(excess) / np.sqrt(len(excess))
    assert min(excess) > -1e-9
    assert abs(mean - 1 / moments.ROWS[1]) < 4 * spread
    assert 4 * spread < 1 / moments.ROWS[1]


def test_positions_are_drawn_from_the_seed():
    generator = lambda seed: torch.Generator().manual_seed(seed)  # noqa: E731
    draw = lambda seed: sums.places_of((6, 7), 0.25, generator(seed)).tolist()  # noqa: E731
    assert draw(3) == draw(3) != draw(4)
    assert len({tuple(p) for p in draw(3)}) == 11
    assert all(0 <= a < 6 and 0 <= b < 7 for a, b in draw(3))
    assert len(sums.places_of((6, 7), 1.0, generator(0))) == 42
    assert len(sums.places_of((6, 7), 1e-9, generator(0))) == 1
    assert sums.places_of((), 0.5, generator(0)).shape == (1, 0)


def test_patches_that_rounding_left_indefinite_are_fitted_all_the_same():
    """Of nearly dependent patches float32 sums have eigenvalues below zero by more than the least damping."""
    rng = np.random.default_rng(0)
    smooth = np.outer(rng.standard_normal(4000), np.ones(24)) + 1e-5 * rng.standard_normal((4000, 24))
    gram, cross = smooth.T @ smooth, smooth.T @ smooth[:, :2]
    gram -= 1e-4 * np.trace(gram) / 24 * np.outer(*[np.eye(24)[0] - np.eye(24)[1]] * 2)
    assert np.linalg.eigvalsh(gram)[0] < -10 * least_squares.RIDGE * np.trace(gram) / 24
    weight = least_squares.ridge_solve(gram, cross)
    assert np.abs(smooth @ weight - smooth[:, :2]).max() < 0.01 * np.abs(smooth).max()
    order = least_squares.eliminate(gram, cross, np.repeat(np.arange(8), 3))
    assert sorted(order) == list(range(8))


def test_channels_of_which_nothing_is_known_go_in_their_order():
    assert least_squares.eliminate(np.zeros((6, 6)), np.zeros((6, 2)), np.repeat([0, 1, 2], 2)).tolist() == [0, 1, 2]
