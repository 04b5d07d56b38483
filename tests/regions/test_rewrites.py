"""Rewrites that commute with activations: each where it applies, and each where it must not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decascade.algebra.conv import Conv
from decascade.cost import target_named
from decascade.ir.graph import Graph
from decascade.ir.interpret import run
from decascade.ir.ops import Activation, Affine, GlobalPool, Op, Pool
from decascade.regions.merge import Cascade, Options, merge_graph, sized
from decascade.regions.rewrites import MaxPoolFirst, PoolFirst, ScaleFirst, rewrite_locally
from laws import EPS, Net, assert_rows_are_true, assert_same, fan_in, inputs_for, sizes_of

OPTIONS = Options(target_named("macs"))


def rewritten(graph: Graph, target: str = "macs") -> list[type[Op]]:
    """The operations after the local rewrites; the function is the same."""
    new, _ = rewrite_locally(graph, Options(target_named(target)))
    same(graph, new)
    return [type(n.op) for n in new.nodes]


def same(old: Graph, new: Graph) -> None:
    inputs = inputs_for(old)
    tame = [replace(g, nodes=tuple(n if not isinstance(n.op, Activation) or n.op.kind in ("relu", "leaky_relu", "clip")
                                   else replace(n, op=Activation("relu")) for n in g.nodes)) for g in (old, new)]
    size = max(sizes_of(g, inputs)[old.outputs[0]].max() for g in tame)
    terms = sum(fan_in(n.op) for g in (old, new) for n in g.nodes)
    assert np.abs(run(old, inputs)[old.outputs[0]] - run(new, inputs)[new.outputs[0]]).max() <= 4 * terms * EPS * max(size, 1)


def kept(graph: Graph, target: str = "macs") -> bool:
    new, made = rewrite_locally(graph, Options(target_named(target)))
    return new is graph and made == ()


def merged(graph: Graph, **more) -> tuple[Graph, tuple[Cascade, ...]]:
    new, rows = merge_graph(graph, Options(target_named("macs"), **more))
    same(graph, new)
    return new, rows


def maximum(net: Net, source: str, kernel: int = 2, pad: int = 0) -> str:
    every = (kernel,) * net.rank
    return net.emit(Pool("max", every, every, ((pad, pad),) * net.rank, (1,) * net.rank), source)


# -- pool first


@pytest.mark.parametrize("make", [
    lambda net, x: net.average(x, 2),
    lambda net, x: net.emit(GlobalPool("avg"), x),
])
def test_a_1x1_convolution_goes_behind_an_average(make):
    net = Net((4, 8, 8))
    graph = net.graph(make(net, net.conv("x", 8, 1)))
    assert rewritten(graph) == [type(graph.nodes[1].op), Conv]


def test_a_1x1_behind_the_pool_of_a_wide_convolution_is_four_times_cheaper():
    """conv 3×3 → ReLU → conv 1×1 → average 2×2: only the 1×1 can move, and does."""
    net = Net((4, 10, 10))
    name = net.average(net.conv(net.relu(net.conv("x", 8, 3)), 8, 1, name="point"), 2)
    graph = net.graph(name)
    new, (row, left) = merged(graph)
    cost = target_named("macs").graph_cost
    assert cost(graph).value - cost(new).value == 8 * 8 * (64 - 16) == row.before.value - row.after.value
    assert (row.decision, row.layers, row.removed) == ("merged", ("point", "pool3"), ("point", "pool3"))
    assert (row.added, row.border) == (("pool3/moved", "point/moved"), "free")
    assert row.reason == "average pool moved before a 1x1 convolution"
    assert (left.decision, left.layers) == ("left", ("pool3", "point"))
    assert left.reason == "one 2x2 convolution would cost 4.00x: 1,024 MACs -> 4,096 MACs"


@pytest.mark.parametrize("make", [
    lambda net: net.average(net.conv("x", 8, 3), 2),  # not 1×1
    lambda net: net.average(net.conv("x", 8, 1, stride=2), 2),
    lambda net: net.average(net.conv("x", 8, 1, pad=1), 2),
    lambda net: net.average(net.conv("x", 8, 1), 2, pad=1),  # hangs over the edge
    lambda net: net.emit(GlobalPool("avg", keepdims=False), net.conv("x", 8, 1)),
    lambda net: net.emit(GlobalPool("max"), net.conv("x", 8, 1)),
    lambda net: maximum(net, net.conv("x", 8, 1)),
    lambda net: net.average(net.conv("x", 8, 1), 1),  # nothing is saved
    lambda net: net.average(net.conv("x", 8, 1, pinned="stays"), 2),
])
def test_pool_first_does_not_apply(make: Callable[[Net], str]):
    net = Net((4, 9, 9))
    assert kept(net.graph(make(net)))


def test_pool_first_leaves_what_others_read():
    net = Net((4, 8, 8))
    a = net.conv("x", 8, 1)
    assert kept(net.graph(net.average(a, 2), net.relu(a)))
    net = Net((4, 8, 8))
    a = net.conv("x", 8, 1)
    assert kept(net.graph(net.average(a, 2), a))


# -- scale first


@pytest.mark.parametrize("activation", [
    Activation("relu"), Activation("leaky_relu", (0.1,)), Activation("prelu", (), np.array([0.1, 2.0, 0.0, -1.0])),
])
def test_a_positive_scale_goes_before_a_homogeneous_activation(activation):
    net = Net((3, 8, 8))
    graph = net.graph(net.affine(net.emit(activation, net.conv("x", 4, 3)), shift=False))
    new, made = rewrite_locally(graph, OPTIONS)
    assert [type(n.op) for n in new.nodes] == [Conv, Affine, Activation]
    x = inputs_for(graph)
    a, b = run(graph, x)[graph.outputs[0]], run(new, x)[graph.outputs[0]]
    assert np.abs(a - b).max() <= 1e-14 * np.abs(a).max()
    (move,) = made
    assert [n.name for n in move.old] == ["activation1", "affine2"]
    assert {name: node.name for name, node in move.home.items()} == {n.name: n.name.removesuffix("/moved") for n in move.new}


def test_the_convolution_takes_up_the_scale():
    net = Net((3, 8, 8))
    graph = net.graph(net.affine(net.relu(net.conv("x", 4, 3)), shift=False))
    new, (row,) = merged(graph)
    assert [type(n.op) for n in new.nodes] == [Conv, Activation]
    assert row.reason == ("scale and shift folded into one 3x3 convolution, "
                          "positive scale moved before an activation")
    assert (row.layers, row.removed) == (("conv0", "activation1", "affine2"), ("conv0", "activation1", "affine2"))
    assert row.added == tuple(n.name for n in new.nodes)
    assert (row.entry, row.exit) == ("x", "affine2")
    assert row.after.parameters == row.before.parameters - 4


@pytest.mark.parametrize("make", [
    lambda net: net.affine(net.relu(net.conv("x", 4, 3)), shift=True),
    lambda net: net.affine(net.relu(net.conv("x", 4, 3)), shift=False, positive=False),
    lambda net: net.affine(net.emit(Activation("sigmoid"), net.conv("x", 4, 3)), shift=False),
    lambda net: net.affine(net.emit(Activation("clip", (0.0, 6.0)), net.conv("x", 4, 3)), shift=False),
    lambda net: net.affine(net.relu("x"), shift=False),  # nothing before it takes the scale up
    lambda net: net.affine(net.relu(maximum(net, "x")), shift=False),
    lambda net: net.affine(net.relu(net.conv("x", 4, 3, pinned="stays")), shift=False),
])
def test_scale_first_does_not_apply(make: Callable[[Net], str]):
    net = Net((4, 8, 8))
    assert kept(net.graph(make(net)))


def test_scale_first_leaves_what_others_read():
    for extra in ("conv0", "activation1"):
        net = Net((3, 8, 8))
        name = net.affine(net.relu(net.conv("x", 4, 3)), shift=False)
        assert kept(net.graph(name, extra))
    net = Net((3, 8, 8))
    a = net.conv("x", 4, 3)
    assert kept(net.graph(net.affine(net.relu(a), shift=False), net.conv(a, 2, 1)))


# -- max pool first


@pytest.mark.parametrize("activation", [
    Activation("relu"), Activation("clip", (0.0, 6.0)), Activation("sigmoid"), Activation("tanh"),
    Activation("leaky_relu", (0.1,)), Activation("elu", (1.0,)), Activation("hard_sigmoid", (0.2, 0.5)),
])
def test_a_monotone_activation_goes_behind_a_max_pool(activation):
    net = Net((3, 8, 8))
    graph = net.graph(maximum(net, net.emit(activation, "x")))
    assert rewritten(graph, "memory") == [Pool, Activation]
    net = Net((3, 8, 8))
    graph = net.graph(net.emit(GlobalPool("max"), net.emit(activation, "x")))
    assert rewritten(graph, "memory") == [GlobalPool, Activation]


def test_max_pool_first_with_padding():
    """Minus infinity outside stays below all that a monotone function gives."""
    net = Net((3, 8, 8))
    assert rewritten(net.graph(maximum(net, net.relu("x"), 3, 1)), "memory") == [Pool, Activation]


@pytest.mark.parametrize("activation", [
    Activation("silu"), Activation("gelu"), Activation("abs"), Activation("hard_swish"), Activation("leaky_relu", (-0.1,)),
    Activation("neg"), Activation("softmax", (1.0,)), Activation("elu", (-1.0,)),
    Activation("prelu", (), np.array([0.1, 0.2, 0.3])), Activation("hard_sigmoid", (-0.2, 0.5)), Activation("sqrt"),
])
def test_max_pool_first_not_for_what_is_not_known_to_be_monotone(activation):
    net = Net((3, 8, 8))
    assert kept(net.graph(maximum(net, net.emit(activation, "x"))), "memory")


@pytest.mark.parametrize("make", [
    lambda net: net.average(net.relu("x"), 2),
    lambda net: net.emit(GlobalPool("max", keepdims=False), net.relu("x")),
    lambda net: maximum(net, net.relu("x"), 1),
])
def test_max_pool_first_does_not_apply(make: Callable[[Net], str]):
    net = Net((3, 8, 8))
    assert kept(net.graph(make(net)), "memory")


def test_rewrites_are_made_until_none_applies():
    """Average of average of 1×1: the convolution ends behind both."""
    net = Net((4, 8, 8))
    graph = net.graph(net.average(net.average(net.conv("x", 8, 1), 2), 2))
    assert rewritten(graph) == [Pool, Pool, Conv]
    _, (move,) = rewrite_locally(graph, OPTIONS)
    assert [n.name for n in move.old] == ["conv0", "pool1", "pool2"]
    assert [n.name for n in move.new] == ["pool1/moved", "pool2/moved", "conv0/moved/moved"]
    new, rows = merged(graph)
    (row,) = (row for row in rows if row.decision == "merged")
    assert sorted(row.removed) == sorted({n.name for n in graph.nodes} - {n.name for n in new.nodes})
    assert sorted(row.added) == sorted({n.name for n in new.nodes} - {n.name for n in graph.nodes})


def test_rewrites_are_values():
    assert (PoolFirst(), ScaleFirst(), MaxPoolFirst()) == (PoolFirst(), ScaleFirst(), MaxPoolFirst())


@st.composite
def nets(draw) -> Graph:
    """Convolutions, normalisations, activations and pools in any order, with a second reader here and there."""
    net, name, more = Net((draw(st.sampled_from([2, 4])), 9, 9)), "x", []
    for _ in range(draw(st.integers(2, 8))):
        size = net.graph(name).spatial(name)
        step = draw(st.sampled_from(["relu", "point", "scale", "average", "maximum", "norm", "leaky", "wide", "read"]))
        small = min(size) < 3
        if step in ("relu", "leaky"):
            name = net.emit(Activation("relu") if step == "relu" else Activation("leaky_relu", (0.2,)), name)
        elif step in ("scale", "norm"):
            name = net.affine(name, shift=step == "norm")
        elif step == "read":
            more.append(name)
        elif step == "point" or small:
            name = net.conv(name, draw(st.sampled_from([2, 4, 8])), 1, bias=draw(st.booleans()))
        elif step == "wide":
            name = net.conv(name, draw(st.sampled_from([2, 8])), 3, pad=draw(st.integers(0, 1)))
        else:
            name = maximum(net, name) if step == "maximum" else net.average(name, 2)
    outputs = dict.fromkeys([name, *(n for n in more if draw(st.booleans()))])
    return net.graph(*outputs)


@settings(max_examples=120, deadline=None)
@given(nets(), st.sampled_from(["always", "profitable"]), st.sampled_from(["macs", "memory"]))
def test_networks_with_activations_stay_what_they_are_and_rows_say_what_was_done(graph, policy, target):
    new, rows = merge_graph(graph, Options(target_named(target), policy))
    assert_same(graph, new, inputs_for(graph))
    assert_rows_are_true(graph, new, rows, target, 16)
    if policy == "profitable":
        cost = target_named(target).graph_cost
        assert cost(sized(new)) <= cost(sized(graph))
