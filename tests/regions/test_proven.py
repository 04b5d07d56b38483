"""Merging through proofs: the seed case, dead and constant channels, what is undone, and every refusal's words."""

from __future__ import annotations

import numpy as np
import pytest

from bounds.nets import Builder, chain, conv
from decascade.algebra.conv import Conv
from decascade.bounds import prove
from decascade.cost import target_named
from decascade.ir.check import check
from decascade.ir.interpret import run
from decascade.ir.ops import Activation, Add, Affine, Dense, Flatten, GlobalPool, Pool
from decascade.regions.bypass import Bypass
from decascade.regions.candidates import Options
from decascade.regions.deletion import DeleteConstant
from decascade.regions.linearise import DropLinear, linearise
from decascade.regions.proven import merge_on_box

RELU = Activation("relu")
MACS = Options(target_named("macs"))
ALWAYS = Options(target_named("macs"), policy="always")


def positive(rng, shape, bias=0.1):
    return Conv(np.abs(rng.normal(size=shape)).astype(np.float32), np.full(shape[0], bias, np.float32), padding=1)


def equal_on(graph, other, lo, hi, rng):
    shape = tuple(int(n) for n in graph.shape("x")[1:])
    x = np.concatenate(
        [
            rng.uniform(lo, hi, (4, *shape)),
            np.full((1, *shape), lo),
            np.full((1, *shape), hi),
            np.where(rng.random((4, *shape)) < 0.5, lo, hi),
        ]
    )
    a, b = (next(iter(run(g, {"x": x}).values())) for g in (graph, other))
    return np.abs(a - b).max() / max(np.abs(a).max(), 1e-9)


def kinds(graph):
    return [n.op.kind if isinstance(n.op, Activation) else type(n.op).__name__ for n in graph.nodes]


def test_the_seed_case():
    rng = np.random.default_rng(0)
    graph = chain(positive(rng, (8, 2, 3, 3)), RELU, conv(rng, 8, 2), RELU, shape=(2, 14, 14))
    found = merge_on_box(graph, (0, 1), MACS, 10)
    check(found.graph)
    assert [c.decision for c in found.cascades] == ["merged"]
    assert found.cascades[0].tier == "proven"
    assert found.cascades[0].layers == ("n0", "n1", "n2")
    assert kinds(found.graph).count("relu") == 1
    assert equal_on(graph, found.graph, 0, 1, rng) < 1e-12
    assert equal_on(graph, found.graph, -1, 0, rng) > 1e-3, "outside the box the two must differ, or nothing was tested"
    assert equal_on(found.reference, found.graph, -3, 3, rng) < 1e-12
    left = merge_on_box(graph, (-1, 1), MACS, 10)
    assert left.graph.nodes == graph.nodes
    assert [len(a.witnesses) for a in left.certificate.activations] == [8, 2]
    assert "n1 is not linear on the box (8 witnessed): channel 0 takes -" in left.linearised.refusals[0].reason


def test_a_linear_activation_that_no_merge_takes_up_is_put_back():
    rng = np.random.default_rng(0)
    graph = chain(positive(rng, (2, 2, 3, 3)), RELU, positive(rng, (2, 2, 3, 3)), RELU, shape=(2, 14, 14))
    found = merge_on_box(graph, (0, 1), MACS, 10)
    assert set(found.linearised.linear) == {"n1", "n3"}
    assert not found.claims
    assert [n.op for n in found.graph.nodes] == [n.op for n in graph.nodes]
    assert [c.decision for c in found.cascades] == ["left"]


def test_slopes_and_shifts_of_other_regimes_merge():
    rng = np.random.default_rng(1)
    for op, bias in [(Activation("leaky_relu", (0.2,)), -30.0), (Activation("hard_swish"), 40.0),
                     (Activation("hard_sigmoid", (0.01, 0.5)), 1.0), (Activation("abs"), -30.0),
                     (Activation("clip", (-9.0, 90.0)), 1.0),
                     (Activation("prelu", (), rng.normal(size=8).astype(np.float32)), -30.0)]:  # fmt: skip
        graph = chain(positive(rng, (8, 2, 3, 3), bias), op, conv(rng, 8, 2), shape=(2, 14, 14))
        found = merge_on_box(graph, (0, 1), MACS, 5)
        assert [c.decision for c in found.cascades] == ["merged"], op
        assert equal_on(graph, found.graph, 0, 1, rng) < 1e-12


def half_dead(rng, channels=6, dead=(1, 4)):
    layer = positive(rng, (channels, 2, 3, 3))
    weight, bias = layer.weight.copy(), layer.bias.copy()
    weight[list(dead)] *= -1
    bias[list(dead)] = -0.5
    # one channel is neither, so that the activation stays
    weight[0, 0] *= -1
    return Conv(weight, bias, padding=1)


def test_dead_channels_leave_both_sides():
    rng = np.random.default_rng(2)
    scale = Affine(np.linspace(1, 2, 6), np.zeros(6))
    graph = chain(
        half_dead(rng), scale, RELU, Pool("max", (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), conv(rng, 6, 3), shape=(2, 8, 8)
    )
    found = merge_on_box(graph, (0, 1), MACS, 10)
    check(found.graph)
    weights = [n.op.weight.shape for n in found.graph.nodes if isinstance(n.op, Conv)]
    assert weights[0][0] == 4
    assert weights[-1][1] == 4
    assert equal_on(graph, found.graph, 0, 1, rng) < 1e-12
    row = found.cascades[0]
    assert row.reason == "2 of 6 channels are constant behind the activation and leave the layers around it"
    assert row.tier == "proven"
    assert row.after < row.before
    assert row.layers == ("n0", "n1", "n2", "n3", "n4")


@pytest.mark.parametrize("order", ["channels_first", "channels_last"])
def test_constant_channels_become_bias_behind_a_flatten(order):
    rng = np.random.default_rng(3)
    layer = half_dead(rng)
    bias = layer.bias.copy()
    bias[4] = 60
    weight = layer.weight.copy()
    weight[4] = np.abs(weight[4])
    layer = Conv(weight, bias, padding=1)
    dense = Dense(Conv(rng.normal(size=(3, 6 * 16)).astype(np.float32), rng.normal(size=3).astype(np.float32)))
    graph = chain(layer, Activation("clip", (0.0, 1.0)), Flatten(order), dense, shape=(2, 4, 4))
    found = merge_on_box(graph, (0, 1), MACS, 10)
    assert any(c.made for c in found.linearised.changes)
    assert equal_on(graph, found.graph, 0, 1, rng) < 1e-12


def refusals(graph, box=(0, 1)):
    rewrites = (DropLinear(), DeleteConstant(), Bypass(MACS))
    return [r.reason for r in linearise(graph, prove(graph, box, 5), rewrites).refusals]


def test_refusals_in_words():
    rng = np.random.default_rng(2)
    made = Builder(2, 6, 6)
    made.add(half_dead(rng))
    relu = made.add(RELU)
    other = made.add(conv(rng, 6, 6))
    made.add(Add(), relu, other)
    assert "constant channels of n1 stay: n3 reads them as they are" in refusals(made.graph())
    made = Builder(2, 6, 6)
    first = made.add(half_dead(rng))
    relu = made.add(RELU)
    made.add(Add(), first, relu)
    assert "constant channels of n1 stay: n0:0 is read elsewhere too" in refusals(made.graph())
    assert "constant channels of n1 stay: n1:0 is an output" in refusals(chain(half_dead(rng), RELU, shape=(2, 6, 6)))
    dead = Conv(-np.ones((2, 2, 1, 1)), None)
    graph = chain(dead, RELU, conv(rng, 2, 2), shape=(2, 4, 4))
    graph2 = chain(Pool("max", (2, 2), (1, 1), ((0, 0), (0, 0)), (1, 1)), RELU, conv(rng, 2, 2), shape=(2, 4, 4))
    assert "n1 has no channel that is constant" in refusals(graph2, (-1, 1))
    box = ([-2, -1], [-1, 1])
    assert "constant channels of n1 stay: no layer writes them" in refusals(graph2, box)
    made = Builder(2, 6, 6)
    made.add(Add(), made.add(half_dead(rng)), made.add(conv(rng, 6, 6)))
    made.add(Affine(np.array([1, -1, 1, 1, 1, 1]), np.array([0, -99.0, 0, 0, 0, 0])))
    made.add(RELU)
    made.add(conv(rng, 6, 2))
    assert "constant channels of n4 stay: n2 mixes them with others" in refusals(made.graph())
    assert set(linearise(graph, prove(graph, (0, 1), 5)).linear) == {"n1"}
    mixed = chain(
        Conv(np.ones((1, 1, 3, 3), np.float32), np.array([-6.5], np.float32), padding=1), RELU, conv(rng, 1, 1), shape=(1, 6, 6)
    )
    assert "n1 is not proved linear on the box (1 mixed)" in refusals(mixed, (0.99, 1.01))


def test_a_constant_that_is_not_zero_must_not_be_padded():
    rng = np.random.default_rng(0)
    layer = half_dead(rng)
    bias = layer.bias.copy()
    bias[5] = 90
    graph = chain(Conv(layer.weight, bias, padding=1), Activation("clip", (0.0, 6.0)), conv(rng, 6, 3), shape=(2, 6, 6))
    assert "constant channels of n1 stay: n2 pads what is not zero" in refusals(graph)
    graph = chain(
        Conv(layer.weight, bias, padding=1), Activation("clip", (0.0, 6.0)), conv(rng, 6, 3, padding=0), shape=(2, 6, 6)
    )
    found = merge_on_box(graph, (0, 1), MACS, 5)
    assert any(c.made for c in found.linearised.changes)
    assert equal_on(graph, found.graph, 0, 1, rng) < 1e-12


def test_a_dead_network_still_runs():
    graph = chain(
        Conv(-np.ones((2, 2, 3, 3)), None, padding=1),
        RELU,
        conv(np.random.default_rng(0), 2, 3),
        RELU,
        GlobalPool("avg"),
        shape=(2, 6, 6),
    )
    found = merge_on_box(graph, (0, 1), ALWAYS, 5)
    assert equal_on(graph, found.graph, 0, 1, np.random.default_rng(1)) < 1e-12
