"""The generator of random cascades is itself tested: valid, wholly linear, varied, and held to its options."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings

from cascades import Options, cascades, random_cascade, random_input
from decascade.algebra.conv import Conv
from decascade.ir.check import check
from decascade.ir.graph import Graph
from decascade.ir.interpret import run
from decascade.ir.ops import Add, Affine, Concat, Dense, Flatten, Identity, Pad, Pool

LINEAR = (Conv, Dense, Affine, Pool, Flatten, Pad, Add, Concat, Identity)


def depth(graph: Graph) -> int:
    """Convolutions and dense layers on the longest path."""
    found = {"x": 0}
    for node in graph.nodes:
        found[node.output] = max(found[n] for n in node.inputs) + isinstance(node.op, Conv | Dense)
    return found["y"]


def assert_is_a_cascade(graph: Graph, seed: int = 0) -> None:
    check(graph)
    assert graph.inputs == ("x",)
    assert graph.outputs == ("y",)
    assert all(isinstance(node.op, LINEAR) for node in graph.nodes)
    assert all(node.op.kind == "avg" for node in graph.nodes if isinstance(node.op, Pool))
    assert all(graph.consumers[n] for n in graph.tensors if n != "y"), "a tensor that leads nowhere"
    assert 2 <= depth(graph) <= 4
    rng = np.random.default_rng(seed)
    a, b = (random_input(graph, rng)["x"].astype(np.float64) for _ in range(2))
    y = {key: run(graph, {"x": x})["y"] for key, x in {"a": a, "b": b, "0": 0 * a, "a+b": a + b}.items()}
    assert y["a"].shape[1:] == graph.shape("y")[1:]
    error = np.abs(y["a+b"] - y["a"] - y["b"] + y["0"])
    assert error.max() <= 1e-10 * max(1, *(np.abs(v).max() for v in y.values())), "the graph is not affine"


@settings(max_examples=100, deadline=None)
@given(cascades())
def test_drawn_cascades_are_valid_and_affine(graph):
    assert_is_a_cascade(graph)


def test_random_cascades_are_valid_affine_and_varied():
    seen = Counter()
    for seed in range(400):
        graph = random_cascade(np.random.default_rng(seed))
        assert_is_a_cascade(graph, seed)
        ops = [node.op for node in graph.nodes]
        layers = [op for op in ops if isinstance(op, Conv)]
        seen.update({type(op).__name__ for op in ops})
        seen[f"rank {len(graph.shape('x')) - 2}"] += 1
        seen[f"depth {depth(graph)}"] += 1
        seen["stride"] += any(s > 1 for op in layers for s in op.stride)
        seen["dilation"] += any(d > 1 for op in layers for d in op.dilation)
        seen["asymmetric"] += any(lo != hi for op in layers for lo, hi in op.padding)
        seen["grouped"] += any(1 < op.groups < op.in_channels for op in layers)
        seen["multiplier"] += any(op.groups == op.in_channels > 1 and op.out_channels > op.groups for op in layers)
        seen["no bias"] += any(op.bias is None for op in layers)
        seen["skip"] += any("x" in n.inputs or len(n.inputs) == 2 for n in graph.nodes if isinstance(n.op, Add))
        seen["ring"] += len(layers) > 1 and any(k > 1 for k in layers[0].kernel) and any(map(any, layers[1].padding))
        assert all(op.weight.dtype == np.float32 for op in layers)
    wanted = [t.__name__ for t in LINEAR] + [f"rank {r}" for r in (1, 2, 3)] + [f"depth {d}" for d in (2, 3, 4)]
    wanted += ["stride", "dilation", "asymmetric", "grouped", "multiplier", "no bias", "skip", "ring"]
    assert {name: seen[name] for name in wanted if seen[name] < 8} == {}


def test_the_same_seed_gives_the_same_cascade():
    a, b = (random_cascade(np.random.default_rng(7)) for _ in range(2))
    x = random_input(a, np.random.default_rng(1))
    assert np.array_equal(run(a, x)["y"], run(b, x)["y"])


@pytest.mark.parametrize(
    ("options", "forbidden"),
    [
        (Options(chain=True), lambda op: isinstance(op, Add | Concat)),
        (Options(affine=False), lambda op: isinstance(op, Affine)),
        (Options(pools=False), lambda op: isinstance(op, Pool)),
        (Options(pads=False), lambda op: isinstance(op, Pad)),
        (Options(tails=False), lambda op: isinstance(op, Flatten | Dense)),
        (Options(strides=False, pools=False), lambda op: isinstance(op, Conv) and any(s > 1 for s in op.stride)),
        (Options(dilations=False), lambda op: isinstance(op, Conv) and any(d > 1 for d in op.dilation)),
        (Options(groups=False), lambda op: isinstance(op, Conv) and op.groups > 1),
        (Options(bias=False), lambda op: isinstance(op, Conv) and op.bias is not None),
        (Options(bias=True), lambda op: isinstance(op, Conv) and op.bias is None),
        (Options(ranks=(1,)), lambda op: isinstance(op, Conv) and op.rank != 1),
    ],
)
def test_options_hold(options, forbidden):
    graphs = [random_cascade(np.random.default_rng(seed), options) for seed in range(150)]
    assert not [node.name for graph in graphs for node in graph.nodes if forbidden(node.op)]
    free = [random_cascade(np.random.default_rng(seed)) for seed in range(150)]
    assert any(forbidden(node.op) for graph in free for node in graph.nodes), "the option forbids what never occurs"
