"""The peers that benchmarks run beside compress: they have to do what their papers say, or the comparison is nothing."""

from __future__ import annotations

import sys
from itertools import pairwise
from math import exp, inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from decascade.algebra.conv import Conv
from decascade.cost import target_named
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.interpret import run
from decascade.ir.ops import Activation, Add, Dense, Flatten, GlobalPool
from decascade.ir.shapes import infer_graph

pytest.importorskip("torch")
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their modules can be imported, and are forgotten afterwards."""
    if not BENCHMARKS.exists():
        pytest.skip("the benchmarks are not beside the tests")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in [n for n in sys.modules if n.split(".")[0] in ("peers", "support")]:
        monkeypatch.delitem(sys.modules, name)


def net(seed: int = 0) -> Graph:
    """Two residual blocks, the second with a projection and uneven padding, and a classifier."""
    rng = np.random.default_rng(seed)

    def conv(inside: int, outside: int, kernel: int, **more: Any) -> Conv:
        return Conv(rng.standard_normal((outside, inside, kernel, kernel)) / 3, rng.standard_normal(outside), **more)

    relu, uneven = Activation("relu"), ((0, 1), (0, 1))
    steps: list[tuple[str, Any, tuple[str, ...]]] = [
        ("c0", conv(3, 8, 3, padding=1), ("x",)), ("r0", relu, ("c0",)),
        ("c1", conv(8, 8, 3, padding=1), ("r0",)), ("r1", relu, ("c1",)), ("c2", conv(8, 8, 3, padding=1), ("r1",)),
        ("a1", Add(), ("c2", "r0")), ("r2", relu, ("a1",)),
        ("p", conv(8, 16, 1, stride=2), ("r2",)), ("c3", conv(8, 16, 3, stride=2, padding=uneven), ("r2",)),
        ("r3", relu, ("c3",)), ("c4", conv(16, 16, 3, padding=1), ("r3",)), ("a2", Add(), ("p", "c4")),
        ("g", GlobalPool("avg"), ("a2",)), ("f", Flatten(), ("g",)),
        ("y", Dense(Conv(rng.standard_normal((10, 16)), rng.standard_normal(10))), ("f",)),
    ]
    nodes = tuple(Node(name, op, inputs, (name,)) for name, op, inputs in steps)
    return infer_graph(Graph(nodes, ("x",), ("y",), {"x": Tensor("x", ("N", 3, 8, 8))}))


def picture() -> dict[str, Any]:
    return {"x": np.random.default_rng(1).standard_normal((2, 3, 8, 8))}


def value(graph: Graph) -> Any:
    return run(graph, picture())["y"]


def task(graph: Graph) -> Any:
    target = target_named("macs")
    before = target.graph_cost(graph).value
    work = SimpleNamespace(target=target, before=before)
    return SimpleNamespace(exact=graph, macs=lambda g: target.graph_cost(g).value, job=SimpleNamespace(work=work))


def test_the_net_that_is_pruned_computes_the_graph_and_comes_back_as_it() -> None:
    from support.torch_net import Net

    graph = net()
    built = Net(graph, "y")
    torch: Any = pytest.importorskip("torch")
    found = built(torch.as_tensor(picture()["x"], dtype=torch.float32)).detach().numpy()
    # float32 against float64: sums of at most 144 products, nine layers deep
    np.testing.assert_allclose(found, value(graph), rtol=1e-4, atol=1e-4)
    back = built.to_graph()
    assert [n.name for n in back.nodes] == [n.name for n in graph.nodes]
    np.testing.assert_allclose(value(back), value(graph), rtol=1e-5, atol=1e-5)


def test_narrowing_takes_the_same_share_of_every_layer_and_keeps_inputs_and_classes() -> None:
    from peers.scratch import narrowed

    half = narrowed(net(), 0.5)
    shapes = {n.name: n.op.weight.shape for n in half.nodes if isinstance(n.op, Conv)}
    assert shapes["c0"] == (4, 3, 3, 3)
    assert shapes["p"] == (8, 4, 1, 1)
    assert half.shape("y") == ("N", 10)
    assert value(half).shape == (2, 10)


def test_weights_from_scratch_start_every_layer_centred_and_of_size_one() -> None:
    from peers.scratch import random_weights

    torch: Any = pytest.importorskip("torch")
    graph = random_weights(net(), torch.as_tensor(picture()["x"], dtype=torch.float32), 0)
    names = [n.output for n in graph.nodes if isinstance(n.op, Conv)]
    found = run(graph, picture(), keep=names)
    for name in names:
        np.testing.assert_allclose(found[name].mean((0, 2, 3)), 0, atol=1e-4)
        np.testing.assert_allclose(found[name].std((0, 2, 3), ddof=1), 1, rtol=1e-4)


def test_a_dropped_block_leaves_its_skip_or_its_projection() -> None:
    from peers.dropped import blocks, minimal, without

    graph = net()
    assert blocks(graph) == ["a1", "a2"]
    assert {n.name for n in without(graph, ["a1"]).nodes}.isdisjoint({"c1", "r1", "c2", "a1"})
    last = without(graph, ["a2"])
    assert "p" in {n.name for n in last.nodes}
    assert "c4" not in {n.name for n in last.nodes}
    given = task(graph)
    cost = given.macs(without(graph, ["a1"]))
    assert list(minimal(given, cost)) == [("a1",)]
    assert list(minimal(given, given.macs(without(graph, ["a1", "a2"])))) == [("a1", "a2")]


def test_slopes_of_one_fold_to_the_same_function_and_the_rest_stay() -> None:
    from peers.folding import START, leaky, merged, nearest

    graph = leaky(net())
    assert [n.name for n in graph.nodes if isinstance(n.op, Activation)] == ["r0", "r1", "r2", "r3"]
    assert all((n.op.slope == START).all() for n in graph.nodes if isinstance(n.op, Activation) and n.op.slope is not None)
    ones = [Node(n.name, Activation("prelu", slope=np.ones(16)), n.inputs, n.outputs) if n.name == "r3" else n
            for n in graph.nodes]
    linear = Graph(tuple(ones), graph.inputs, graph.outputs, graph.tensors)
    folded = merged(task(graph), linear, ["r3"])
    np.testing.assert_allclose(value(folded), value(linear), rtol=1e-9, atol=1e-9)
    alphas = {"r0": 0.1, "r1": 0.2, "r2": 0.3, "r3": 0.95}
    given = task(graph)
    enough = given.macs(merged(given, graph, ["r3"]))
    assert nearest(given, graph, frozenset(), alphas, enough) <= {"r3"}
    assert nearest(given, graph, frozenset(), alphas, 0.0) == set(alphas)


def test_the_programme_finds_the_largest_sum_of_importances() -> None:
    from peers.merged import Entry, programme

    for seed in range(100):
        rng = np.random.default_rng(seed)
        count, budget = 5, int(rng.integers(3, 20))
        entries = [Entry(i, i + 1, int(rng.integers(1, 6)), 1.0) for i in range(count)]
        for _ in range(6):
            start = int(rng.integers(0, count))
            end = int(rng.integers(start + 1, count + 1))
            one: Any = SimpleNamespace(start=start, end=end)
            entries.append(Entry(start, end, int(rng.integers(0, 5)), exp(-rng.random()), one))
        best = largest(entries, count, budget)
        if best == -inf:
            with pytest.raises(ValueError, match="no choice costs at most"):
                programme(entries, count, budget)
            continue
        chosen: list[Any] = programme(entries, count, budget)
        assert all(a.end <= b.start for a, b in pairwise(chosen))
        kept = count - sum(c.end - c.start for c in chosen)
        assert kept + sum(next(e.importance for e in entries if e.candidate is c) for c in chosen) == pytest.approx(best)


def largest(entries: list[Any], count: int, left: int, place: int = 0) -> float:
    """By trying everything."""
    if place == count:
        return 0.0
    return max((e.importance + largest(entries, count, left - e.cost, e.end)
                for e in entries if e.start == place and e.cost <= left), default=-inf)
