"""The dynamic programme against trying every partition, and chains longer than its window."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascades import Options as Cascading
from cascades import cascades
from decascade.algebra.conv import Conv
from decascade.cost import target_named
from decascade.ir.graph import Graph
from decascade.ir.ops import Dense
from decascade.regions.candidates import Candidate, Segment, candidate
from decascade.regions.chains import Unit, find_chains
from decascade.regions.merge import Options, merge_graph, sized
from decascade.regions.partition import WINDOW, Partition
from laws import Net, assert_same, inputs_for


def options(policy: str, target: str = "macs", cap: float = 16.0) -> Options:
    return Options(target_named(target), policy, max_growth=cap)


def cuts(count: int) -> Iterator[list[range]]:
    """Every way of cutting 0 … count−1 into runs."""
    for mask in range(2 ** (count - 1)):
        ends = [i + 1 for i in range(count - 1) if mask >> i & 1] + [count]
        yield [range(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]


def ranked(graph: Graph, units: tuple[Unit, ...], runs: list[range], chosen: Options) -> tuple[Any, ...] | None:
    """What is minimised, of one partition; None where some run has no single layer."""
    costs, layers = [], 0
    for run in runs:
        nodes = tuple(n for i in run for n in units[i].nodes)
        if len(run) == 1:
            costs.append(chosen.target.segment_cost(nodes, graph.tensors))
            layers += len(nodes)
            continue
        found = candidate(graph, sized(graph), Segment(units[run[0]].entry, units[run[-1]].exit, nodes), chosen)
        if not isinstance(found, Candidate) or not found.kind:
            return None
        costs.append(found.cost)
        layers += 1
    cost = chosen.target.combine(costs)
    return (layers, cost) if chosen.policy == "always" else (cost,)


def assert_best(graph: Graph, chosen: Options) -> None:
    (chain,) = find_chains(graph)
    blocks = Partition(graph, sized(graph), chosen).solve(chain)
    cost = chosen.target.combine(b.cost for b in blocks)
    found = (sum(b.layers for b in blocks), cost) if chosen.policy == "always" else (cost,)
    ranks = [ranked(graph, chain.units, runs, chosen) for runs in cuts(len(chain.units))]
    best = min(r for r in ranks if r is not None)
    if chosen.target.name == "memory":  # ties of the peak are broken block by block, and by the whole model in the end
        found, best = ([*x[:-1], x[-1].value] for x in (found, best))
    assert found == best


CHAINS = Cascading(chain=True, depth=(2, 4), size=(5, 9), size_3d=(3, 5))


@settings(max_examples=80, deadline=None)
@given(cascades(CHAINS), st.sampled_from(["always", "profitable"]), st.sampled_from(["macs", "memory"]),
       st.sampled_from([16.0, 4.0, 1.0]))
def test_no_partition_is_better(graph, policy, target, cap):
    if len(find_chains(graph)) == 1 and all(not u.inner for u in find_chains(graph)[0].units):
        assert_best(graph, options(policy, target, cap))


@st.composite
def dense_chains(draw) -> Graph:
    """Dense layers of widths from 1 to 40: here merging part of a run is often what pays."""
    net = Net((draw(st.integers(1, 40)),))
    name = "x"
    for _ in range(draw(st.integers(2, 7))):
        name = net.dense(name, draw(st.integers(1, 40)), bias=draw(st.booleans()))
    return net.graph(name)


@settings(max_examples=60, deadline=None)
@given(dense_chains(), st.sampled_from(["always", "profitable"]), st.sampled_from([16.0, 2.0, 0.5]))
def test_no_partition_of_dense_layers_is_better(graph, policy, cap):
    assert_best(graph, options(policy, cap=cap))
    new, _ = merge_graph(graph, options(policy, cap=cap))
    assert_same(graph, new, inputs_for(graph))


def test_a_run_that_outgrows_the_cap_may_be_part_of_one_that_does_not():
    """64 → 1 → 64 alone would grow 32-fold; with the 2 → 64 before it nothing grows."""
    net = Net((2, 8, 8))
    name = net.conv(net.conv(net.conv("x", 64, 3, bias=False), 1, 1, bias=False), 64, 1, bias=False)
    graph = net.graph(name)
    new, (row,) = merge_graph(graph, options("always"))
    assert len(new.nodes) == 1
    assert row.reason == "3 layers -> one 3x3 convolution"
    assert_best(graph, options("always"))


def test_profitable_merges_the_part_that_pays():
    """64 → 4 → 64 is a bottleneck and stays; the wide middle before it goes."""
    net = Net((4,))
    name = "x"
    for width in (64, 4, 64):
        name = net.dense(name, width, bias=False)
    graph = net.graph(name)
    new, rows = merge_graph(graph, options("profitable"))
    # one 64×4 layer: 256 numbers, fewer than 4·4 + 4·64
    assert [n.op.layer.weight.shape for n in new.nodes] == [(64, 4)]
    assert [row.decision for row in rows] == ["merged"]
    assert_best(graph, options("profitable"))


def dense_run(widths: list[int]) -> Graph:
    net, name = Net((widths[0],)), "x"
    for width in widths[1:]:
        weight = net.weights(width, net.channels(name)) / 2 + np.eye(width, net.channels(name), dtype=np.float32)
        name = net.emit(Dense(Conv(weight, net.vector(width, 0.01))), name)
    return net.graph(name)


@pytest.mark.parametrize("layers", [WINDOW, WINDOW + 1, 200])
@pytest.mark.parametrize("policy", ["always", "profitable"])
def test_long_chains_become_one_layer(layers, policy):
    graph = dense_run([8] * (layers + 1))
    new, (row,) = merge_graph(graph, options(policy))
    assert len(new.nodes) == 1
    assert row.reason == f"{layers} layers -> one dense layer"
    assert len(row.removed) == layers
    assert_same(graph, new, inputs_for(graph))


def test_a_long_chain_of_bottlenecks_is_cut_where_it_pays():
    """Widths 40, 40, 2 over and over: 40 → 40 → 2 → 40 keeps its narrow waist."""
    graph = dense_run([40, 40, 2] * 10)
    new, _ = merge_graph(graph, options("profitable"))
    shapes = [n.op.layer.weight.shape for n in new.nodes]
    assert all(2 in shape for shape in shapes)
    assert_same(graph, new, inputs_for(graph))
    cost = target_named("macs").graph_cost
    assert cost(new) < cost(graph)


def test_a_long_chain_of_convolutions_is_cut_at_the_cap():
    """24 3×3 layers of 4 channels without padding: k of them store 16·(2k+1)² numbers and had 144·k."""
    net, name = Net((4, 60, 60)), "x"
    for _ in range(24):
        name = net.conv(name, 4, 3, bias=False)
    graph = net.graph(name)
    for cap in (1.0, 2.0, 3.0):
        new, rows = merge_graph(graph, options("always", cap=cap))
        sizes = [n.op.kernel[0] for n in new.nodes]
        most = max(k for k in range(1, 25) if (2 * k + 1) ** 2 <= cap * 9 * k)
        assert len(sizes) == -(-24 // most)
        assert all((k // 2 * 2 + 1) ** 2 <= cap * 9 * (k // 2) for k in sizes)
        assert sum(k // 2 for k in sizes) == 24
        left = [row.reason for row in rows if row.decision == "left"]
        assert left == ([f"one 49x49 convolution would store {49 * 49 / 9 / 24:.1f}x the parameters of the cascade, "
                         f"above the cap of {cap:g}x (--max-growth)"] if most < 24 else [])


def test_of_equals_the_one_that_changes_less():
    """A scale and shift between two convolutions folds into either: at the same cost the first stays as it is."""
    net = Net((4, 8, 8))
    first = net.conv("x", 1, 3, name="first")
    graph = net.graph(net.affine(net.conv(net.affine(first), 4, 1)))
    new, _ = merge_graph(graph, options("profitable"))
    assert new.nodes[0].op is graph.nodes[0].op
    assert len(new.nodes) == 2


@pytest.mark.parametrize("size", [3, 5, 8])
def test_tiles_are_charged_for_the_taps_on_padding(size):
    """Decision 0002: nine tiles multiply less than the one convolution, but only where taps on padding are not counted."""
    net = Net((1, size, size))
    graph = net.graph(net.conv(net.conv("x", 8), 1, 3, pad=1, bias=False))
    new, (row,) = merge_graph(graph, options("profitable"))
    assert [type(n.op).__name__ for n in new.nodes] == ["Conv", "BiasMap"]
    assert row.after.value == 9 * size * size
