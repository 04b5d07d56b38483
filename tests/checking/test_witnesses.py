"""Witnesses at the model's own size: every one is shown there, by the oracle, in the box."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bounds.nets import chain, conv, random_net
from decascade.bounds import Box, prove
from decascade.checking.witnesses import at_full_size
from decascade.ir.graph import Graph
from decascade.ir.interpret import run
from decascade.ir.ops import Activation, Pool

RELU = Activation("relu")


def shown(graph: Graph, box: object, seconds: float = 3.0) -> tuple[int, int]:
    """Witnesses before and after, those after checked one by one."""
    before = prove(graph, box, seconds)
    after, inputs = at_full_size(graph, before)
    if not inputs:
        return 0, 0
    limits = Box.of(graph, box)
    assert all(limits.contains(name, x).all() for name, x in inputs.items())
    names = tuple({n.inputs[0] for n in graph.nodes if isinstance(n.op, Activation)} - set(graph.inputs))
    values = run(replace(graph, outputs=names), {k: v.astype(np.float64) for k, v in inputs.items()}) | inputs
    tensors = {n.name: n.inputs[0] for n in graph.nodes}
    for record in after.activations:
        for witness in record.witnesses:
            for value, position, sample in zip(witness.values, witness.positions, witness.samples, strict=True):
                there = float(values[tensors[record.node]][(sample, witness.channel, *position)])
                assert there == pytest.approx(value, rel=2e-3)
                assert there * value >= 0
    counts = [sum(len(r.witnesses) for r in c.activations) for c in (before, after)]
    return counts[0], counts[1]


@pytest.mark.parametrize("size", [(40, 32), (41, 33)])
def test_pictures_larger_than_those_that_were_analysed(size: tuple[int, int], rng: np.random.Generator) -> None:
    """Padding, strides and a pool: witnesses at every kind of border are laid against the right corner."""
    pool = Pool("max", (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1))
    graph = chain(
        conv(rng, 2, 4), RELU, pool, conv(rng, 4, 6, stride=2, padding=((0, 1), (1, 1))), RELU, conv(rng, 6, 3), RELU,
        shape=(2, *size),
    )
    assert prove(graph, (-1, 1), 3).analysed["x"][1:] < size, "else nothing is tested"
    before, after = shown(graph, (-1, 1))
    assert before == after == 13


def test_every_witness_of_random_networks() -> None:
    found = np.array([shown(random_net(np.random.default_rng(seed), 3), (-1, 1), 0.5) for seed in range(12)]).sum(axis=0)
    assert found[0] == found[1] > 50


def test_what_is_not_shown_again_is_left_out(rng: np.random.Generator) -> None:
    graph = chain(conv(rng, 2, 4), RELU, shape=(2, 12, 12))
    before = prove(graph, (-1, 1), 2)
    spoiled = replace(before, witnesses={"x": np.zeros_like(before.witnesses["x"])})
    after, _ = at_full_size(graph, spoiled)
    assert not any(r.witnesses for r in after.activations)


def test_nothing_to_show(rng: np.random.Generator) -> None:
    graph = chain(RELU, shape=(2, 6, 6))
    found = prove(graph, (0, 1), 1)
    assert at_full_size(graph, found) == (found, {})
