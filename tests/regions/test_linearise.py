"""Bypasses, channels deleted through depthwise layers, pools with a fixed winner, and when each is left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bounds.nets import Builder, chain, conv
from decascade.algebra.conv import Conv
from decascade.bounds import prove
from decascade.cost import target_named
from decascade.ir.check import check
from decascade.ir.interpret import run
from decascade.ir.ops import Activation, Add, Affine, BiasMap, Dense, GlobalPool, Pool
from decascade.regions.bypass import Bypass
from decascade.regions.candidates import Options
from decascade.regions.deletion import DeleteConstant
from decascade.regions.fixed_pools import fixed_winners, selection
from decascade.regions.linearise import DropLinear, linearise
from decascade.regions.proven import merge_on_box
from regions.test_proven import equal_on

RELU = Activation("relu")
MACS = Options(target_named("macs"))


def mixed_layer(rng, count, stable, inputs=2, kernel=1):
    """A layer whose first `stable` channels are active on [0, 1] and whose other ones are neither active nor dead."""
    weight = rng.normal(size=(count, inputs, kernel, kernel))
    weight[:stable] = np.abs(weight[:stable])
    weight[stable:, 0] = -np.abs(weight[stable:, 0])
    weight[stable:, 1] = np.abs(weight[stable:, 1])
    bias = np.where(np.arange(count) < stable, 0.1, 0.0).astype(np.float32)
    return Conv(weight.astype(np.float32), bias, padding=kernel // 2)


@pytest.mark.parametrize("activation", [RELU, Activation("leaky_relu", (0.25,)), Activation("clip", (0.0, 1e6))])
def test_linear_channels_bypass_the_others(activation):
    """32 channels of which 30 stay linear, between 2 and 2: a direct 3×3 layer costs less than the way through them."""
    rng = np.random.default_rng(0)
    scale = Affine(np.linspace(0.5, 2, 32), np.zeros(32))
    graph = chain(mixed_layer(rng, 32, 30), scale, activation, conv(rng, 32, 2), RELU, shape=(2, 9, 10))
    found = merge_on_box(graph, (0, 1), MACS, 5)
    check(found.graph)
    assert equal_on(graph, found.graph, 0, 1, rng) < 1e-12
    assert equal_on(found.reference, found.graph, -3, 3, rng) < 1e-12, "the rewritten graph is merged exactly"
    assert equal_on(graph, found.graph, -1, 0, rng) > 1e-3, "outside the box the two must differ, or nothing was tested"
    (row,) = [c for c in found.cascades if c.reason.endswith("for 30 of 32 channels, which stay linear and bypass the others")]
    assert row.tier == "proven"
    assert row.layers == ("n0", "n1", "n2", "n3")
    cost = [target_named("macs").graph_cost(g).value for g in (graph, found.graph)]
    assert cost[1] < cost[0] / 4
    (claim,) = found.claims
    assert claim.node == "n2"
    assert claim.channels == tuple(range(30))


def test_a_bypass_of_dense_layers():
    rng = np.random.default_rng(1)
    first = np.abs(rng.normal(size=(40, 6)))
    first[38:] = rng.normal(size=(2, 6))
    graph = chain(Dense(Conv(first)), RELU, Dense(Conv(rng.normal(size=(5, 40)), rng.normal(size=5))), shape=(6,))
    found = merge_on_box(graph, (0, 1), MACS, 5)
    assert any("bypass the others" in c.reason for c in found.cascades)
    assert equal_on(graph, found.graph, 0, 1, rng) < 1e-12


def test_a_bypass_follows_the_deletion_of_dead_channels():
    rng = np.random.default_rng(2)
    layer = mixed_layer(rng, 32, 28)
    weight, bias = layer.weight.copy(), layer.bias.copy()
    weight[3], bias[3] = -1, -0.5
    graph = chain(Conv(weight, bias), RELU, conv(rng, 32, 2), RELU, shape=(2, 9, 10))
    found = merge_on_box(graph, (0, 1), MACS, 5)
    words = [c.words for c in found.linearised.changes]
    assert words == ["1 of 32 channels are constant behind the activation and leave the layers around it",
                     "27 of 31 channels stay linear and bypass the others"]
    assert equal_on(graph, found.graph, 0, 1, rng) < 1e-12
    assert [c.channels for c in found.claims] == [(3,), tuple(c for c in range(28) if c != 3)]
    assert {c.names[r] for c in found.claims[:1] for r in c.regime} == {"inactive"}


def refusals(graph, rewrites, box=(0, 1)):
    return [r.reason for r in linearise(graph, prove(graph, box, 1), rewrites).refusals]


def test_a_bypass_that_does_not_pay_is_not_made():
    rng = np.random.default_rng(3)
    graph = chain(mixed_layer(rng, 8, 4, kernel=3), RELU, conv(rng, 8, 8), RELU, shape=(2, 9, 10))
    told = refusals(graph, (Bypass(MACS),))
    assert any("n1: a bypass of its 4 linear channels would cost" in t and t.endswith("MACs") for t in told)
    found = merge_on_box(graph, (0, 1), MACS, 5)
    assert found.graph.nodes == graph.nodes
    assert not found.claims


def test_a_bypass_is_refused_in_words():
    rng = np.random.default_rng(4)
    first = mixed_layer(rng, 32, 30)
    made = Builder(2, 9, 10)
    made.add(first)
    relu = made.add(RELU)
    a, b = made.add(conv(rng, 32, 2), relu), made.add(conv(rng, 32, 2), relu)
    made.add(Add(), a, b)
    assert "linear channels of n1 stay: no single layer reads them" in refusals(made.graph(), (Bypass(MACS),))
    plain = chain(first, RELU, conv(rng, 32, 2), shape=(2, 9, 10))
    always = Options(target_named("macs"), policy="always")
    assert "n1: a bypass would make more layers, not fewer" in refusals(plain, (Bypass(always),))
    assert "n1 has no linear channels beside others" in refusals(plain, (Bypass(MACS),), (-9, 9))
    lift = Affine(np.ones(32), np.where(np.arange(32) < 9, 50.0, 0.0))
    twice = chain(first, Activation("leaky_relu", (0.5,)), lift, RELU, conv(rng, 32, 2), shape=(2, 9, 9))
    told = refusals(twice, (Bypass(MACS),), (-0.05, 1))
    assert "linear channels of n3 stay: another activation is on their way" in told


def test_dead_channels_leave_through_depthwise_layers():
    """MobileNet's block: expand, ReLU6, depthwise, ReLU6, project; a channel that is dead goes from all of them."""
    rng = np.random.default_rng(5)
    expand, clip = mixed_layer(rng, 12, 3), Activation("clip", (0.0, 6.0))
    weight, bias = expand.weight.copy(), expand.bias.copy()
    weight[5:8], bias[5:8] = -1, -0.2
    depthwise = Conv(rng.normal(size=(12, 1, 3, 3)).astype(np.float32), np.full(12, -0.5, np.float32), padding=1, groups=12)
    graph = chain(Conv(weight, bias), clip, depthwise, clip, conv(rng, 12, 4, kernel=1), shape=(2, 8, 8))
    found = merge_on_box(graph, (0, 1), MACS, 5)
    check(found.graph)
    assert equal_on(graph, found.graph, 0, 1, rng) < 1e-12
    weights = [n.op.weight.shape for n in found.graph.nodes if isinstance(n.op, Conv)]
    assert weights == [(9, 2, 1, 1), (9, 1, 3, 3), (4, 9, 1, 1)]
    assert [c.node for c in found.claims] == ["n3"]


def test_a_dense_layer_on_the_last_axis_keeps_its_rows():
    """Its outputs are not the channels that a certificate counts."""
    rng = np.random.default_rng(6)
    far = BiasMap(np.array([[-99.0], [0], [0], [99]]) * np.ones((4, 4)))
    first, second = (Dense(Conv(rng.normal(size=(n, 4)), np.zeros(n))) for n in (4, 3))
    graph = chain(first, far, RELU, second, shape=(4, 4))
    told = refusals(graph, (DropLinear(), DeleteConstant(), Bypass(MACS)))
    assert "constant channels of n2 stay: n0 mixes them with others" in told
    found = merge_on_box(graph, (0, 1), MACS, 5)
    assert equal_on(graph, found.graph, 0, 1, rng) < 1e-12


POOL = Pool("max", (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1))


def ramp(size, at):
    """Numbers that are largest at one position of every 2×2 window."""
    found = np.zeros((2, *size))
    found[:, at[0] :: 2, at[1] :: 2] = 50
    return found


@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
@pytest.mark.parametrize("at", [(0, 0), (1, 0), (0, 1)])
def test_a_pool_with_a_fixed_winner_merges_as_a_slice(size, at):
    rng = np.random.default_rng(7)
    graph = chain(BiasMap(ramp(size, at)), POOL, conv(rng, 2, 16), conv(rng, 16, 2), shape=(2, *size))
    graph = replace(graph, nodes=tuple(replace(n, pinned="") for n in graph.nodes))
    certificate = prove(graph, (-1, 1), 5)
    where = 2 * at[0] + at[1]
    assert fixed_winners(graph, certificate)["n1"].tolist() == [where, where]
    found = merge_on_box(graph, (-1, 1), Options(target_named("macs"), policy="always"), 5)
    check(found.graph)
    assert equal_on(graph, found.graph, -1, 1, rng) < 1e-12
    assert equal_on(graph, found.graph, -90, 90, rng) > 1e-3, "outside the box the two must differ, or nothing was tested"
    assert not any(isinstance(n.op, Pool) for n in found.graph.nodes)
    (claim,) = found.claims
    assert (claim.kind, claim.names[claim.regime[0]]) == ("max_pool", f"tap {at[0]},{at[1]}")
    assert [c.tier for c in found.cascades if c.decision == "merged"] == ["proven"]


def test_a_global_pool_with_a_fixed_winner_merges_as_a_slice():
    rng = np.random.default_rng(7)
    peak = np.zeros((2, 6, 5))
    peak[:, 2, 3] = 50
    graph = chain(BiasMap(peak), GlobalPool("max"), conv(rng, 2, 16, 1), conv(rng, 16, 2, 1), shape=(2, 6, 5))
    graph = replace(graph, nodes=tuple(replace(n, pinned="") for n in graph.nodes))
    assert fixed_winners(graph, prove(graph, (-1, 1), 5))["n1"].tolist() == [13, 13]
    found = merge_on_box(graph, (-1, 1), Options(target_named("macs"), policy="always"), 5)
    check(found.graph)
    assert equal_on(graph, found.graph, -1, 1, rng) < 1e-12
    assert equal_on(graph, found.graph, -90, 90, rng) > 1e-3
    assert not any(isinstance(n.op, GlobalPool) for n in found.graph.nodes)
    assert not fixed_winners(graph, prove(graph, (-60, 60), 5)), "elsewhere another position may win"


def test_winners_that_differ_by_channel_and_pools_that_are_put_back():
    rng = np.random.default_rng(8)
    values = ramp((8, 8), (0, 0))
    values[1] = ramp((8, 8), (1, 1))[1]
    graph = chain(BiasMap(values), POOL, RELU, shape=(2, 8, 8))
    assert fixed_winners(graph, prove(graph, (-1, 1), 5))["n1"].tolist() == [0, 3]
    taps = np.array([0, 3])
    x = rng.normal(size=(3, 2, 8, 8))
    picked = selection(POOL, taps, ((8, 8), (4, 4)))(x)
    assert np.array_equal(picked[:, 0], x[:, 0, ::2, ::2])
    assert np.array_equal(picked[:, 1], x[:, 1, 1::2, 1::2])
    found = merge_on_box(graph, (-1, 1), MACS, 5)
    assert [n.op for n in found.graph.nodes] == [n.op for n in graph.nodes], "no layer takes the selection up"
    assert not found.claims


def test_a_pool_whose_winner_may_change_stays():
    rng = np.random.default_rng(9)
    open_ = chain(BiasMap(0.01 * ramp((8, 8), (0, 0))), POOL, conv(rng, 2, 2), shape=(2, 8, 8))
    assert not fixed_winners(open_, prove(open_, (-1, 1), 5))
    padded = Pool("max", (2, 2), (2, 2), ((1, 1), (1, 1)), (1, 1))
    edge = chain(BiasMap(ramp((8, 8), (0, 0))), padded, conv(rng, 2, 2), shape=(2, 8, 8))
    assert not fixed_winners(edge, prove(edge, (-1, 1), 5)), "the first window sees padding where the winner would be"
    inside = chain(BiasMap(ramp((8, 8), (1, 1))), padded, conv(rng, 2, 2), shape=(2, 8, 8))
    assert not fixed_winners(inside, prove(inside, (-1, 1), 5)), "the last one as well"


def test_results_are_the_same_function_on_random_networks():
    """Everything together on random nets: what is made of them is equal on the box."""
    from bounds.nets import random_net

    changed = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        graph = random_net(rng, 4)
        shape = tuple(int(n) for n in graph.shape("x")[1:])
        centre = rng.normal(size=shape)
        found = merge_on_box(graph, (centre - 0.05, centre + 0.05), MACS, 1)
        changed += bool(found.claims)
        x = np.concatenate([centre + 0.05 * rng.uniform(-1, 1, (4, *shape)), centre + 0.05 * rng.choice([-1, 1], (4, *shape))])
        a, b = (next(iter(run(g, {"x": x}).values())) for g in (graph, found.graph))
        assert np.abs(a - b).max() <= 1e-9 * max(1.0, np.abs(a).max()), seed
    assert changed > 10
