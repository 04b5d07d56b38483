"""The observed tier: what data show, merged through, and never mixed with what is proved."""

from __future__ import annotations

import numpy as np
import pytest

from bounds.nets import Builder, chain, conv, random_net
from decascade.algebra.conv import Conv
from decascade.bounds import prove
from decascade.bounds.certificate import Status
from decascade.bounds.observe import observe
from decascade.bounds.regimes import regimes
from decascade.cost import target_named
from decascade.ir.interpret import run
from decascade.ir.ops import Activation, Foreign
from decascade.regions.candidates import Options
from decascade.regions.proven import merge_with

RELU = Activation("relu")
MACS = Options(target_named("macs"))


def tensors(graph, x):
    """Every tensor of the graph, by the oracle."""
    from dataclasses import replace

    names = tuple(n.output for n in graph.nodes)
    return {**run(replace(graph, outputs=names), {"x": x}), "x": x}


@pytest.mark.parametrize("seed", range(8))
def test_extremes_are_those_of_the_oracle(seed):
    rng = np.random.default_rng(seed)
    graph = random_net(rng, 4)
    x = rng.normal(size=(21, *(int(n) for n in graph.shape("x")[1:]))).astype(np.float32)
    found = observe(graph, [{"x": x[:13]}, {"x": x[13:]}])
    assert (found.tier, found.samples, found.bound) == ("observed", 21, 3 / 21)
    values = tensors(graph, x.astype(np.float64))
    nodes = {n.name: n for n in graph.nodes}
    piecewise = {n.name for n in graph.nodes if isinstance(n.op, Activation) and regimes(n.op, 1)}
    assert {a.node for a in found.activations} == piecewise
    for record in found.activations:
        seen = np.moveaxis(values[nodes[record.node].inputs[0]], 1, 0).reshape(record.channels, -1)
        assert np.allclose(record.lo, seen.min(axis=1), rtol=1e-12, atol=1e-12)
        assert np.allclose(record.hi, seen.max(axis=1), rtol=1e-12, atol=1e-12)
        assert set(record.status) <= {Status.OBSERVED, Status.WITNESSED}
        for witness in record.witnesses:
            for value, position, sample in zip(witness.values, witness.positions, witness.samples, strict=True):
                there = values[nodes[record.node].inputs[0]][(sample, witness.channel, *position)]
                assert there == pytest.approx(value, rel=1e-9, abs=1e-12)


def test_what_was_only_observed_is_never_called_proven():
    rng = np.random.default_rng(0)
    layer = Conv(np.abs(rng.normal(size=(16, 2, 3, 3))).astype(np.float32), np.full(16, 0.1, np.float32), padding=1)
    other = Conv(rng.normal(size=(16, 2, 3, 3)).astype(np.float32), np.full(16, 9.0, np.float32), padding=1)
    graph = chain(layer, RELU, conv(rng, 16, 2), Activation("sigmoid"), other, RELU, conv(rng, 16, 2), shape=(2, 12, 12))
    data = [{"x": rng.random((30, 2, 12, 12)).astype(np.float32)}]
    sights = observe(graph, data)
    assert [a.linear for a in sights.activations] == [True, True]
    proofs = prove(graph, (0, 1), 3)
    assert [a.linear for a in proofs.activations] == [True, False]
    assert proofs.activations[1].counts.keys() & {"open", "witnessed"}
    found = merge_with(graph, proofs, MACS, None, sights)
    assert [(c.layers, c.tier) for c in found.cascades if c.decision == "merged"] == [
        (("n0", "n1", "n2"), "proven"), (("n4", "n5", "n6"), "observed")]
    assert [(c.node, c.tier) for c in found.claims] == [("n1", "proven"), ("n5", "observed")]
    alone = merge_with(graph, None, MACS, None, sights)
    assert {c.tier for c in alone.claims} == {"observed"}
    assert {c.tier for c in alone.cascades if c.decision == "merged"} == {"observed"}
    exact = np.concatenate([d["x"] for d in data]).astype(np.float64)
    for result in (found, alone):
        a, b = (next(iter(run(g, {"x": exact}).values())) for g in (graph, result.graph))
        assert np.abs(a - b).max() < 1e-12


def test_a_cascade_that_rests_on_both_is_observed():
    """Two activations in one cascade, one proved and one observed: the weaker word counts."""
    rng = np.random.default_rng(1)
    first = Conv(np.abs(rng.normal(size=(12, 2, 1, 1))).astype(np.float32), np.full(12, 0.1, np.float32))
    second = Conv(rng.normal(size=(12, 12, 1, 1)).astype(np.float32) / 3, np.full(12, 1.5, np.float32))
    graph = chain(first, RELU, second, RELU, conv(rng, 12, 2, kernel=1), shape=(2, 8, 8))
    data = [{"x": rng.uniform(0, 0.1, (30, 2, 8, 8)).astype(np.float32)}]
    found = merge_with(graph, prove(graph, (0, 1), 3), MACS, None, observe(graph, data))
    (row,) = [c for c in found.cascades if c.decision == "merged"]
    assert row.layers == ("n0", "n1", "n2", "n3", "n4")
    assert row.tier == "observed"
    assert [(c.node, c.tier) for c in found.claims] == [("n1", "proven"), ("n3", "observed")]


def test_dead_channels_by_proof_and_by_data_go_one_after_the_other():
    rng = np.random.default_rng(2)
    weight = rng.normal(size=(8, 2, 1, 1)).astype(np.float32)
    weight[:2], weight[2:4, 0], weight[2:4, 1] = -1, -1, 0.5
    bias = np.where(np.arange(8) < 2, -0.5, 0.0).astype(np.float32)
    graph = chain(Conv(weight, bias), RELU, conv(rng, 8, 3), shape=(2, 6, 6))
    x = rng.random((30, 2, 6, 6)).astype(np.float32)
    x[:, 1] = x[:, 0] / 4
    found = merge_with(graph, prove(graph, (0, 1), 3), MACS, None, observe(graph, [{"x": x}]))
    told = [(c.tier, c.channels) for c in found.claims]
    assert [tier for tier, _ in told] == ["proven", "observed"]
    assert {0, 1} <= set(told[0][1])
    assert {2, 3} <= set(told[1][1])
    assert set(told[0][1]).isdisjoint(told[1][1])
    a, b = (next(iter(run(g, {"x": x.astype(np.float64)}).values())) for g in (graph, found.graph))
    assert np.abs(a - b).max() < 1e-12


def test_what_cannot_be_run_is_left_out():
    made = Builder(2, 6, 6)
    made.add(RELU)
    made.add(Foreign("Mystery"))
    made.tensors[made.at] = made.tensors["x"].__class__(made.at, ("N", 2, 6, 6))
    made.add(RELU)
    found = observe(made.graph(), [{"x": np.ones((3, 2, 6, 6), np.float32)}])
    assert [a.node for a in found.activations] == ["n0"]


def test_progress_is_told():
    told = []
    graph = chain(RELU, shape=(2, 6, 6))
    observe(graph, [{"x": np.ones((20, 2, 6, 6), np.float32)}], lambda stage, share: told.append((stage, share)))
    assert told[-1] == ("running the data through the model", 1.0)
    assert len(told) > 1
