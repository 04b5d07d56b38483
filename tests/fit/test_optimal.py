"""What the closed forms promise: exact where one layer can be exact, best for their rank, greedy elimination as defined."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from itertools import pairwise
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decascade.algebra.compose import compose
from decascade.algebra.conv import Conv
from decascade.compression.segments import find_segments
from decascade.ir.graph import Graph
from decascade.ir.interpret import run
from fit.sites import NETS, gathered, held, samples_for
from laws import Net

students = import_module("decascade.compression.students.families")
factored = import_module("decascade.compression.students.factored")
hidden = import_module("decascade.compression.students.hidden")
least_squares = import_module("decascade.compression.students.least_squares")
RIDGE = 2e-6
"""Share of the variance that the ridge may cost."""


def whole(graph: Graph):
    """The longest segment's site."""
    return students.site_of(graph, max(find_segments(graph, 9), key=lambda s: len(s.nodes)))


def white(graph: Graph, count: int = 60) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, *graph.shape("x")[1:]))


def errors(graph: Graph, x: np.ndarray, *found) -> list[float]:
    """The errors of students on the samples that they were fitted on."""
    moments = gathered(graph, x, [r for s in found for r in s.requests()])
    return [s.fit(moments).fitted_error for s in found]


# -- linear segments


def two_convs() -> Graph:
    net = Net((2, 9, 8), "float64")
    return net.graph(net.conv(net.conv("x", 5, (3, 2), pad=((1, 2), (0, 1)), stride=(2, 1)), 3, (2, 3), stride=(1, 2)))


def conv_and_pool() -> Graph:
    net = Net((2, 10, 10), "float64")
    return net.graph(net.average(net.affine(net.conv("x", 3, 3, pad=1)), 2))


def two_dense() -> Graph:
    net = Net((5,), "float64")
    return net.graph(net.dense(net.dense("x", 9), 4))


def skip_block() -> Graph:
    net = Net((3, 12), "float64")
    return net.graph(net.add("x", net.conv(net.conv("x", 4, 1, bias=False), 3, 3, pad=1), net.conv("x", 3, 1)))


def volumes() -> Graph:
    net = Net((1, 5, 6, 5), "float64")
    return net.graph(net.conv(net.conv("x", 2, (1, 2, 2), pad=((0, 0), (1, 0), (0, 1))), 2, (2, 1, 2)))


LINEAR = {f.__name__: f for f in (two_convs, conv_and_pool, two_dense, skip_block, volumes)}


@pytest.mark.parametrize("name", LINEAR)
def test_one_convolution_over_the_whole_reach_is_exact(name):
    graph = LINEAR[name]()
    site, x = whole(graph), white(graph, 200 if name == "two_dense" else 60)
    assert site.linear
    *small, full = list(students.OneConv.propose(site))
    assert full.window.kernel == site.reach.kernel
    moments = gathered(graph, x, [r for s in (*small, full) for r in s.requests()])
    fit = full.fit(moments)
    assert max(fit.error, fit.fitted_error) < 1e-10
    expected, found = run(graph, {"x": x[:2]})[graph.outputs[0]], fit.ops[0]
    layer = found.layer if isinstance(found, students.Dense) else found
    # the ridge takes about 1e-6 of every weight
    assert np.abs(layer(x[:2]) - expected).max() < 1e-5 * np.abs(expected).max()
    for student in small:
        assert min(student.fit(moments).fitted_error, student.fit(moments).error) > 1e-3, student.label


def test_the_composed_kernel_is_found():
    graph = two_convs()
    first, second = (node.op for node in graph.nodes)
    exact = compose(second, first)
    (student,) = [s for s in students.OneConv.propose(whole(graph)) if s.window.kernel == exact.kernel]
    (found,) = student.fit(gathered(graph, white(graph), student.requests())).ops
    assert (found.stride, found.dilation, found.groups) == (exact.stride, exact.dilation, exact.groups)
    assert [lo for lo, _ in found.padding] == [lo for lo, _ in exact.padding]
    assert np.abs(found.weight - exact.weight).max() < 2e-6 * np.abs(exact.weight).max()
    assert np.abs(found.bias - exact.bias).max() < 1e-6 * np.abs(exact.bias).max()


def test_a_large_reach_is_tried_only_where_it_can_be_exact():
    net = Net((1, 20, 20))
    bent = net.conv(net.relu(net.conv("x", 1, 5, pad=2)), 1, 5, pad=2)
    straight = net.conv(net.conv("x", 1, 5, pad=2), 1, 5, pad=2)
    graph = replace(net.graph(bent, straight))
    sites = {s.exit: students.site_of(graph, s) for s in find_segments(graph, 2) if len(s.nodes) > 1}
    assert max(w.kernel for w in sites[straight].windows()) == sites[bent].reach.kernel == (9, 9)
    assert max(w.kernel for w in sites[bent].windows()) == (7, 7)


# -- products of kernels


def reduced_rank(p: np.ndarray, z: np.ndarray, rank: int) -> float:
    """The least Σ|z − p A B|² over A with `rank` columns, by alternating least squares from a random start."""
    rng = np.random.default_rng(0)
    b = rng.standard_normal((rank, z.shape[1]))
    for _ in range(400):
        a = np.linalg.lstsq(p, z @ np.linalg.pinv(b), rcond=None)[0]
        b = np.linalg.lstsq(p @ a, z, rcond=None)[0]
    return float(((z - p @ a @ b) ** 2).sum())


def test_low_rank_is_the_best_of_its_rank():
    graph = NETS["vectors"]()
    site = whole(graph)
    x = samples_for(graph, 400)
    y = run(graph, {"x": x})[graph.outputs[0]][~held(400)]
    z, p = y - y.mean(0), x[~held(400)] - x[~held(400)].mean(0)
    found = [factored.LowRank(site, window, rank) for window in site.windows() for rank in (1, 2, 3)]
    for student, error in zip(found, errors(graph, x, *found), strict=True):
        assert error == pytest.approx(reduced_rank(p, z, student.rank) / (z**2).sum(), abs=RIDGE)


@pytest.mark.parametrize("name", ["residual_2d", "sequence_1d", "volume_3d"])
def test_full_rank_costs_no_error(name):
    graph = NETS[name]()
    x = samples_for(graph, 40)
    for segment in find_segments(graph, 2):
        site = students.site_of(graph, segment)
        for window in site.windows() if site is not None else ():
            taps = prod(window.kernel)
            pairs = [(factored.LowRank, min(site.channels * taps, site.out_channels))]
            if taps > 1:
                pairs.append((factored.Bottleneck, site.channels))
            if len(window.kernel) == 2 and min(window.kernel) > 1:
                pairs.append((factored.Separable, min(site.channels * window.kernel[0], site.out_channels * window.kernel[1])))
            for family, rank in pairs:
                best, full = errors(graph, x, students.OneConv(site, window), family(site, window, rank))
                assert full == pytest.approx(best, abs=RIDGE), (family, segment, window)


def test_errors_of_products_fall_with_their_rank():
    graph = NETS["residual_2d"]()
    x = samples_for(graph, 40)
    for segment in find_segments(graph, 2):
        site = students.site_of(graph, segment)
        for family in (factored.LowRank, factored.Bottleneck, factored.Separable):
            offered = list(family.propose(site))
            for key in {(s.window, s.skip) for s in offered}:
                each = sorted((s for s in offered if (s.window, s.skip) == key), key=lambda s: s.rank)
                told = errors(graph, x, *each)
                assert all(b <= a + RIDGE for a, b in pairwise(told)), (family, segment, key, told)


@pytest.mark.parametrize(("family", "first", "second"), [
    (factored.DepthwiseSeparable, (4, 1, 3, 3), (5, 4, 1, 1)),
    (factored.Separable, (2, 4, 3, 1), (5, 2, 1, 3)),
    (factored.Bottleneck, (2, 4, 1, 1), (5, 2, 3, 3)),
    (factored.LowRank, (2, 4, 3, 3), (5, 2, 1, 1)),
])
def test_a_product_is_recovered(family, first, second):
    """A kernel that is such a product is found, whatever the statistics of its input."""
    net = Net((4, 10, 10), "float64")
    kernels = [net.weights(*shape) for shape in (first, second)]
    groups = 4 if family is factored.DepthwiseSeparable else 1
    steps = [Conv(kernel, None, 1, 1, 0, g) for kernel, g in zip(kernels, (groups, 1), strict=True)]
    x = net.conv("x", 4, 1)
    y = net.emit(compose(steps[1], steps[0]), net.relu(x))
    graph = net.graph(y)
    (site,) = [students.site_of(graph, s) for s in find_segments(graph, 1) if s.exit == y]
    window = students.Window((3, 3), (1, 1), (0, 0))
    student = family(site, window) if family is factored.DepthwiseSeparable else family(site, window, 2)
    assert errors(graph, samples_for(graph, 40), student)[0] < RIDGE


# -- hidden channels


def hidden_net(dead: int, twice: int) -> Graph:
    """A net of two layers: some hidden channels are off, some are another's double."""
    net = Net((3, 8, 8), "float64")
    first = net.weights(8, 3, 3, 3)
    first[8 - twice :] = 2 * first[:twice]
    bias = net.vector(8)
    bias[8 - twice :] = 2 * bias[:twice]
    bias[twice : twice + dead] = -100
    x = net.emit(Conv(first, bias, 1, 1, 1), "x")
    return net.graph(net.conv(net.relu(x), 4, 3, pad=1))


@pytest.mark.parametrize(("dead", "twice"), [(2, 0), (0, 2), (1, 2), (0, 0)])
def test_narrowing_loses_nothing_where_channels_are_off_or_double(dead, twice):
    graph = hidden_net(dead, twice)
    found = list(hidden.Narrowed.propose(whole(graph)))
    told = dict(zip((s.widths[0] for s in found), errors(graph, white(graph), *found), strict=True))
    assert sorted(told) == list(range(1, 8))
    needed = 8 - dead - twice
    assert all(error < RIDGE for width, error in told.items() if width >= needed)
    assert told[needed - 1] > 1e-3


def backward(p: np.ndarray, z: np.ndarray, owner: np.ndarray) -> list[int]:
    """Greedy backward elimination as it is defined: at every step the channel goes without which a new fit is best."""
    left, order = sorted(set(owner.tolist())), list[int]()
    while left:
        price = {}
        for channel in left:
            rows = np.isin(owner, [c for c in left if c != channel])
            fitted = p[:, rows] @ np.linalg.lstsq(p[:, rows], z, rcond=None)[0] if rows.any() else 0 * z
            price[channel] = ((z - fitted) ** 2).sum()
        order.append(min(price, key=price.__getitem__))
        left.remove(order[-1])
    return order


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**16), st.integers(2, 7), st.integers(1, 3), st.integers(1, 4))
def test_elimination_is_greedy_backward_elimination(seed, channels, taps, outputs):
    rng = np.random.default_rng(seed)
    owner = rng.permutation(np.repeat(np.arange(channels), taps))
    p = rng.standard_normal((80, len(owner))) @ (np.eye(len(owner)) + 0.5 * rng.standard_normal((len(owner),) * 2))
    z = p @ rng.standard_normal((len(owner), outputs)) + rng.standard_normal((80, outputs))
    assert least_squares.eliminate(p.T @ p, p.T @ z, owner).tolist() == backward(p, z, owner)


def test_many_channels_go_several_at_a_time():
    rng = np.random.default_rng(0)
    p = rng.standard_normal((600, 200))
    size = np.repeat([1.0, 0.01], 100)
    order = least_squares.eliminate(p.T @ p, p.T @ (p @ (size[:, None] * rng.choice([-1, 1], (200, 3)))), np.arange(200))
    assert sorted(order.tolist()) == list(range(200))
    assert set(order[:100].tolist()) == set(range(100, 200))
