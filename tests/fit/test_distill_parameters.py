"""Conditioned weights are the layers' own in another form, and condition what they should."""

from __future__ import annotations

import copy
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascades import cascades, random_input
from decascade.algebra.conv import Conv, ConvTranspose
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.interpret import run
from decascade.ir.ops import Activation, Affine, BiasMap, Dense, Foreign
from decascade.ir.shapes import infer_graph
from fit.distill_nets import net, pictures

torch = pytest.importorskip("torch")
Lowered = import_module("decascade.compression.torch_graph.graph").Lowered
parameters = import_module("decascade.compression.distill.parameters")
Trainable, measured = parameters.Trainable, parameters.measured
EPS = np.finfo(np.float64).eps


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def trainable(graph: Graph, batch, dtype: str = "float64"):
    lowered = Lowered(graph, dtype)
    return Trainable(lowered, measured(lowered, [batch]))


def tensors(graph: Graph, seed: int = 0, batch: int = 3) -> dict:
    return {n: torch.tensor(a) for n, a in random_input(graph, np.random.default_rng(seed), batch).items()}


def same(a, b, terms: int = 1) -> None:
    scale = max(1.0, float(b.detach().abs().max()))
    # deviations from 1e-2 of a tensor's up stand between the two forms
    assert float((a - b).detach().abs().max()) <= 1e4 * terms * EPS * scale


@settings(max_examples=40, deadline=None)
@given(cascades(), st.integers(0, 9))
def test_random_cascades_are_the_same_function(graph, seed):
    batch = tensors(graph, seed)
    both = trainable(graph, batch)
    (name,) = graph.outputs
    other = tensors(graph, seed + 1)
    same(both.run(other, (name,))[name], Lowered(graph, "float64").run(other, (name,))[name], 600 * len(graph.nodes))


LAYERS = {
    "transposed": (ConvTranspose(normal(4, 3, 3), normal(6, seed=1), 2, 1, [(1, 0)], 2), (4, 5)),
    "transposed without bias": (ConvTranspose(normal(4, 3, 2, 2)), (4, 3, 3)),
    "grouped": (Conv(normal(6, 2, 3, 3), normal(6, seed=1), padding=1, groups=3), (6, 4, 4)),
    "depthwise": (Conv(normal(8, 1, 3), normal(8, seed=1), groups=4), (4, 6)),
    "without bias": (Conv(normal(5, 3, 1, 1)), (3, 2, 2)),
    "dense": (Dense(Conv(normal(5, 7), normal(5, seed=1))), (7,)),
    "dense on the last axis": (Dense(Conv(normal(5, 7), normal(5, seed=1))), (3, 2, 7)),
    "affine": (Affine(normal(3), normal(3, seed=1)), (3, 4, 4)),
    "bias map": (BiasMap(normal(3, 4, 4)), (3, 4, 4)),
    "prelu": (Activation("prelu", slope=normal(3)), (3, 4, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_is_the_same_function_before_and_after_a_step(name):
    op, shape = LAYERS[name]
    graph = infer_graph(Graph((Node("it", op, ("x",), ("y",)),), ("x",), ("y",), {"x": Tensor("x", ("N", *shape))}))
    batch = {"x": torch.tensor(5 * normal(6, *shape, seed=3) + 2)}
    both = trainable(graph, batch)
    assert both.to_graph() is graph
    expected = torch.tensor(run(graph, {"x": batch["x"].numpy()})["y"])
    same(both.module(batch["x"]), expected, 40)
    with torch.no_grad():
        for number, parameter in enumerate(both.module.parameters()):
            parameter.add_(0.1 * torch.tensor(normal(*parameter.shape, seed=number + 5)))
    now = both.to_graph()
    assert type(now.nodes[0].op) is type(op)
    same(both.module(batch["x"]), torch.tensor(run(now, {"x": batch["x"].numpy()})["y"]), 40)
    assert float((both.module(batch["x"]) - expected).detach().abs().max()) > 1e-2


def test_what_a_layer_sees_and_makes_is_centred_and_of_size_one():
    """V on inputs less their mean over their deviation, without a bias, gives deviations of one."""
    graph = net(size=8)
    x = {"x": torch.tensor(pictures(64).astype(np.float64))}
    both = trainable(graph, x)
    lowered = both.lowered
    found = lowered.run(x, ("x", "a"))
    mean, deviation = found["x"].mean((0, 2, 3), keepdim=True), found["x"].std((0, 2, 3), keepdim=True, correction=0)
    names = lowered.names["stem"]
    weight, bias = (dict(both.module.named_parameters())[names[f]] for f in ("weight", "bias"))
    # away from the border, where the padding is no centred value
    made = torch.nn.functional.conv2d((found["x"] - mean) / deviation, weight, bias)
    own = found["a"][..., 1:-1, 1:-1] / found["a"].std((0, 2, 3), keepdim=True, correction=0)
    same(made, own, 100)


def test_raw_pixels_train_like_scaled_ones():
    """A net on 0–255 and the same net on 0–1 have the same conditioned weights: every step is the same."""
    graph, x = net(), torch.tensor(pictures(32) / 255)
    first, *rest = graph.nodes
    stem = replace(first.op, weight=first.op.weight.astype(np.float64) / 255)
    raw = replace(graph, nodes=(replace(first, op=stem), *rest))
    one, other = trainable(graph, {"x": x}), trainable(raw, {"x": 255 * x})
    for (name, a), (_, b) in zip(one.module.named_parameters(), other.module.named_parameters(), strict=True):
        assert float((a - b).detach().abs().max()) < 1e-9, name


def test_weights_that_did_not_move_keep_their_operations():
    graph = net()
    both = trainable(graph, {"x": torch.rand(8, 3, 8, 8)}, "float32")
    assert both.to_graph() is graph
    with torch.no_grad():
        dict(both.module.named_parameters())[both.lowered.names["two"]["weight"]].mul_(2)
    ops = {n.name: n.op for n in graph.nodes}
    moved = [n.name for n in both.to_graph().nodes if n.op is not ops[n.name]]
    assert moved == ["two"]


def test_pinned_and_shared_layers():
    layer = Conv(normal(2, 2, 1), normal(2, seed=1))
    nodes = (
        Node("a", layer, ("x",), ("u",)), Node("b", layer, ("u",), ("v",)),
        Node("c", Conv(normal(2, 2, 1, seed=2)), ("v",), ("y",), pinned="it has hooks"),
    )
    graph = infer_graph(Graph(nodes, ("x",), ("y",), {"x": Tensor("x", ("N", 2, 4))}))
    batch = tensors(graph)
    both = trainable(graph, batch)
    assert [p.requires_grad for p in both.module.parameters()] == [True, True, False]
    same(both.run(batch, ("y",))["y"], Lowered(graph, "float64").run(batch, ("y",))["y"], 10)
    both.run(batch, ("y",))["y"].sum().backward()
    with torch.no_grad():
        for parameter in both.module.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.1 * parameter.grad)
    first, second, third = both.to_graph().nodes
    assert first.op is second.op
    assert third.op is nodes[2].op
    same(both.run(batch, ("y",))["y"], torch.tensor(run(both.to_graph(), {"x": batch["x"].numpy()})["y"]), 10)


def test_layers_that_cannot_be_run_are_trained_on_their_own_weights():
    graph = net(middle=Foreign("Mystery"))
    lowered = Lowered(graph)
    frames = measured(lowered, [{"x": torch.rand(4, 3, 8, 8)}])
    assert set(frames) == {"stem", "one", "two"}
    own = dict(lowered.module.named_parameters())
    for name, parameter in Trainable(lowered, frames).module.named_parameters():
        assert torch.equal(parameter, own[name]) == name.startswith("head")


def test_constant_channels_do_no_harm():
    graph = net()
    x = torch.zeros(8, 3, 8, 8)
    x[:, 1] = 7
    both = trainable(graph, {"x": x})
    assert all(torch.isfinite(p).all() for p in both.module.parameters())
    other = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    same(both.module(other), Lowered(graph, "float64").module(other), 1000)


def test_a_copy_of_the_module_is_trained_alone():
    both = trainable(net(), {"x": torch.rand(8, 3, 8, 8)}, "float32")
    x = torch.rand(2, 3, 8, 8)
    before = both.module(x).detach()
    other = copy.deepcopy(both.module)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(both.module(x), before)
    assert not torch.equal(other(x), before)
