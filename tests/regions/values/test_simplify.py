"""Rules about values: the same function, never at a higher cost, and each planted saving found."""

from __future__ import annotations

import numpy as np
import pytest

from decascade.algebra.conv import Conv
from decascade.cost import target_named
from decascade.ir.check import check
from decascade.ir.interpret import run
from decascade.ir.ops import Activation
from decascade.regions.merge import Options, merge_graph, sized
from decascade.regions.values.prune import prune
from decascade.regions.values.simplify import simplify
from laws import Net, inputs_for
from regions.values.planted import Planter

MACS = target_named("macs")


def same(old, new, seed: int = 0) -> bool:
    """Equal to the rounding of float64; inputs are of size 1, and so are, nearly, all tensors."""
    check(new)
    inputs = inputs_for(old, seed)
    before, after = run(old, inputs), run(new, inputs)
    return all(np.allclose(before[n], after[n], rtol=1e-9, atol=1e-9 * max(1.0, np.abs(before[n]).max())) for n in old.outputs)


@pytest.mark.parametrize("seed", range(150))
def test_planted_networks_stay_the_same_function(seed: int) -> None:
    graph = Planter(seed).graph()
    assert same(graph, prune(graph).graph)
    simplified = simplify(graph, MACS).graph
    assert same(graph, simplified)
    assert MACS.graph_cost(sized(simplified)) <= MACS.graph_cost(sized(graph))
    merged, _ = merge_graph(graph, Options(MACS))
    assert same(graph, merged)
    assert MACS.graph_cost(sized(merged)) <= MACS.graph_cost(sized(graph))


def net(*ops, channels: int = 16):
    """Operations one after the other on a 28×28 map."""
    found = Net((channels, 28, 28))
    x = "x"
    for op in ops:
        x = found.emit(op, x)
    return found.graph(x)


def kernel(rng: np.random.Generator, size: int, out: int = 16) -> np.ndarray:
    return rng.standard_normal((out, 16, size, size))


def ring(rng: np.random.Generator, size: int):
    """A kernel whose outermost taps are zero."""
    weight = kernel(rng, size)
    inner = np.zeros((size, size))
    inner[1:-1, 1:-1] = 1
    return Conv(weight * inner, rng.standard_normal(16), padding=size // 2)


def dirac() -> Conv:
    weight = np.zeros((16, 16, 3, 3))
    weight[np.arange(16), np.arange(16), 1, 1] = 1
    return Conv(weight, padding=1)


def blocks(rng: np.random.Generator, groups: int) -> Conv:
    owner = np.arange(16) // (16 // groups)
    mask = owner[:, None] == owner[None, :]
    return Conv(kernel(rng, 3) * mask[:, :, None, None], rng.standard_normal(16), padding=1)


def half(rng: np.random.Generator, kind: str):
    """A layer of which half of the channels is of no use, a ReLU, and a layer."""
    first, second, bias = kernel(rng, 3), kernel(rng, 3), rng.standard_normal(16)
    if kind == "repeated":
        first[8:], bias[8:] = 0.5 * first[:8], 0.5 * bias[:8]
    elif kind == "unread":
        second[:, 8:] = 0
    elif kind == "dead":
        first[8:], bias[8:] = 0, -np.abs(bias[8:])
    return Conv(first, bias, padding=1), Activation("relu"), Conv(second, rng.standard_normal(16), padding=1)


@pytest.mark.parametrize(("name", "before", "after"), [
    ("dirac", 1.81, 0.0), ("ring 3", 1.81, 0.20), ("ring 5", 5.02, 1.81), ("blocks 2", 1.81, 0.90), ("blocks 16", 1.81, 0.11),
    ("repeated", 3.61, 1.81), ("unread", 3.61, 1.81), ("dead", 3.61, 1.81),
])
def test_what_weights_say_is_saved(name: str, before: float, after: float, rng: np.random.Generator) -> None:
    """16 channels, 28×28, millions of multiply-accumulates."""
    what, _, size = name.partition(" ")
    made = {"dirac": lambda: (dirac(),), "ring": lambda: (ring(rng, int(size)),), "blocks": lambda: (blocks(rng, int(size)),)}
    graph = net(*made.get(what, lambda: half(rng, what))())
    merged, rows = merge_graph(graph, Options(MACS))
    assert same(graph, merged)
    costs = [MACS.graph_cost(sized(g)).value / 1e6 for g in (graph, merged)]
    assert costs == pytest.approx([before, after], abs=0.006)
    assert all(row.reason for row in rows)
    assert any(row.decision == "merged" for row in rows)


def test_constants_that_are_not_zero_are_one_channel_where_they_are_padded(rng: np.random.Generator) -> None:
    first, second = kernel(rng, 3), kernel(rng, 3)
    first[4:] = 0
    bias = np.abs(rng.standard_normal(16))
    graph = net(Conv(first, bias, padding=1), Activation("relu"), Conv(second, None, padding=1))
    pruned = prune(graph).graph
    assert same(graph, pruned)
    assert [n.op.weight.shape[:2] for n in pruned.nodes if isinstance(n.op, Conv)] == [(5, 16), (16, 5)]


def test_an_idle_relu_goes_and_what_it_parted_merges(rng: np.random.Generator) -> None:
    positive = np.abs(kernel(rng, 1))
    graph = net(Activation("sigmoid"), Conv(positive, np.ones(16)), Activation("relu"), Conv(kernel(rng, 3)))
    merged, _ = merge_graph(graph, Options(MACS))
    assert same(graph, merged)
    assert [type(n.op).__name__ for n in merged.nodes] == ["Activation", "Conv"]


def test_a_broken_rule_is_seen(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Constants forgotten in the next bias: the comparison above goes red."""
    first = kernel(rng, 3)
    first[8:] = 0
    graph = net(Conv(first, np.ones(16), padding=1), Activation("relu"), Conv(kernel(rng, 1), None))
    assert same(graph, prune(graph).graph)
    monkeypatch.setattr("decascade.regions.values.prune._Pruner._without",
                        lambda self, node, layer, gone: (layer.weight, layer.bias))
    assert not same(graph, prune(graph).graph)
