"""Claims checked again from nothing: confirmed, refuted, undecided, unknown, and those that need data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bounds.nets import chain, conv
from decascade.algebra.conv import Conv
from decascade.bounds import Box
from decascade.checking.proofs import Effort, recheck
from decascade.cost import target_named
from decascade.ir.graph import Graph
from decascade.ir.ops import Activation, BiasMap
from decascade.regions.candidates import Options
from decascade.regions.linearise import Claim
from decascade.regions.proven import merge_on_box
from decascade.report.facts.report import ProofFacts
from regions.test_linearise import POOL, ramp

RELU = Activation("relu")
MACS = Options(target_named("macs"))


@pytest.fixture
def graph(rng: np.random.Generator) -> Graph:
    layer = Conv(np.abs(rng.normal(size=(8, 2, 3, 3))).astype(np.float32), np.full(8, 0.1, np.float32), padding=1)
    return chain(layer, RELU, conv(rng, 8, 2), RELU, shape=(2, 14, 14))


def check(graph: Graph, claims: tuple[Claim, ...], lo: float, hi: float, seconds: float = 5.0, **more: object) -> ProofFacts:
    return recheck(graph, claims, Box.of(graph, (lo, hi)), Effort(seconds), **more)  # type: ignore[arg-type]


def test_what_a_merge_rests_on_is_proved_again(graph: Graph) -> None:
    claims = merge_on_box(graph, (0, 1), MACS, 5).claims
    found = check(graph, claims, 0, 1)
    assert found.held
    assert not found.complaint
    assert [(r.node, r.channels, r.confirmed, r.refuted, r.reason) for r in found.rows] == [("n1", 8, 8, 0, "")]
    assert "Certificate checked again: holds for x in [0, 1]" in str(found)
    assert "n1  proven  8 of 8 channels proved again" in str(found)


def test_a_wider_range_refutes_it(graph: Graph) -> None:
    found = check(graph, merge_on_box(graph, (0, 1), MACS, 5).claims, -1, 1)
    assert not found.held
    (row,) = found.rows
    assert (row.confirmed, row.refuted) == (0, 8)
    assert row.reason.startswith("channel 0 takes -")
    assert found.complaint.startswith("8 of 8 channels of n1 are not confirmed: channel 0 takes -")
    assert "does NOT hold for x in [-1, 1]" in str(found)


def test_a_false_claim_is_refuted(graph: Graph) -> None:
    (claim,) = merge_on_box(graph, (0, 1), MACS, 5).claims
    dead = replace(claim, regime=(0, *claim.regime[1:]))
    (row,) = check(graph, (dead,), 0, 1).rows
    assert (row.confirmed, row.refuted) == (7, 1)
    assert row.reason.startswith("channel 0 takes 0")


@pytest.mark.parametrize("change", [{"node": "other"}, {"channels": (0, 8), "regime": (1, 1)}, {"names": ("low", "high")}])
def test_a_claim_about_another_model(graph: Graph, change: dict[str, object]) -> None:
    (claim,) = merge_on_box(graph, (0, 1), MACS, 5).claims
    found = check(graph, (replace(claim, **change),), 0, 1)  # type: ignore[arg-type]
    assert not found.held
    assert found.rows[0].reason == "the model has no such activation"


def test_too_little_time() -> None:
    """A neuron whose proof takes a program: in no time it stays undecided."""
    first = Conv(np.array([1.0, -1.0]).reshape(2, 1, 1, 1))
    second = Conv(np.array([-1.0, -1.0]).reshape(1, 2, 1, 1), np.array([1.001]))
    graph = chain(first, RELU, second, RELU, shape=(1, 4, 4))
    claim = Claim("n3", ("n3",), "relu", "proven", ("inactive", "active"), (0,), (1,))
    assert check(graph, (claim,), -1, 1).held
    hurried = check(graph, (claim,), -1, 1, 1e-9)
    assert not hurried.held
    assert hurried.rows[0].reason == "1 channels could not be decided in the time given"


def test_pools_with_a_fixed_winner(rng: np.random.Generator) -> None:
    graph = chain(BiasMap(ramp((8, 8), (1, 0))), POOL, conv(rng, 2, 16), conv(rng, 16, 2), shape=(2, 8, 8))
    claims = merge_on_box(graph, (-1, 1), Options(target_named("macs"), policy="always"), 5).claims
    assert [c.kind for c in claims] == ["max_pool"]
    assert check(graph, claims, -1, 1).held
    found = check(graph, claims, -90, 90)
    assert not found.held
    assert found.rows[0].reason == "another tap may win"


def test_observed_claims_are_looked_at_on_data_alone(graph: Graph, rng: np.random.Generator) -> None:
    (claim,) = merge_on_box(graph, (0, 1), MACS, 5).claims
    seen = replace(claim, tier="observed")
    inside = [{"x": rng.random((6, 2, 14, 14)).astype(np.float32)}]
    without = recheck(graph, (seen,), None, Effort())
    assert without.held
    assert [(r.looked_at, r.reason) for r in without.rows] == [(False, "not looked at again")]
    assert "nothing was looked at" in str(without)
    found = recheck(graph, (seen,), None, Effort(), inside)
    assert found.held
    assert found.samples == 6
    assert "8 of 8 channels again so on 6 samples" in str(found)
    outside = [{"x": -inside[0]["x"]}]
    wrong = recheck(graph, (seen,), None, Effort(), outside)
    assert not wrong.held
    assert wrong.rows[0].refuted == 8

