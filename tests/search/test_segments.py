"""Segments against their definition on random graphs, and what an exit sees of its entry by moving single inputs."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascades import Options, cascades
from decascade.algebra.conv import Conv, ConvTranspose
from decascade.compression.receptive_field import Reach, reach_of
from decascade.compression.segments import Segment, find_segments
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.interpret import run
from decascade.ir.ops import (
    Activation,
    Add,
    Concat,
    Dense,
    Flatten,
    Foreign,
    GlobalPool,
    Identity,
    Pad,
    Pool,
    Select,
    Slice,
    Upsample,
)
from decascade.ir.ops.traits import layer_of
from decascade.ir.shapes import infer_graph
from laws import Net

KINDS = ["layer"] * 4 + ["act"] * 2 + ["add"] * 3 + ["identity", "foreign", "pinned", "two", "none"]
LAYER = Conv(np.ones((2, 2, 3)), None, 1, 1, 1)


@st.composite
def graphs(draw) -> Graph:
    """Random acyclic graphs: layers, activations, sums, foreign and pinned nodes, nodes with two outputs or without inputs."""
    nodes, names = list[Node](), ["x0"] + ["x1"] * draw(st.booleans())
    inputs = tuple(names)
    for i in range(draw(st.integers(1, 9))):
        # near ones more often than far ones, as in networks
        pick = lambda: names[-1 - min(draw(st.integers(0, len(names) + 1)), len(names) - 1)]  # noqa: E731
        kind = draw(st.sampled_from(KINDS))
        name = f"n{i}"
        if kind == "add":
            nodes.append(Node(name, Add(), (pick(), pick()), (name,)))
        elif kind == "two":
            nodes.append(Node(name, Foreign("Split"), (pick(),), (name, f"{name}b")))
            names.append(f"{name}b")
        elif kind == "none":
            nodes.append(Node(name, Foreign("Constant"), (), (name,)))
        else:
            op = {"act": Activation("relu"), "identity": Identity(), "foreign": Foreign("Odd")}.get(kind, LAYER)
            nodes.append(Node(name, op, (pick(),), (name,), pinned="called twice" if kind == "pinned" else ""))
        names.append(name)
    outputs = tuple(dict.fromkeys([names[-1], *(draw(st.sampled_from(names)) for _ in range(draw(st.integers(0, 2))))]))
    return Graph(tuple(nodes), inputs, outputs, {n: Tensor(n, ("N", 2, 9)) for n in names})


def by_definition(graph: Graph, entry: str, exit_: str) -> tuple[str, ...] | None:
    """The nodes between two tensors if they are a segment: everything that `exit` depends on behind `entry`."""
    behind, nodes = {entry}, list[Node]()
    for node in graph.nodes:
        if behind.intersection(node.inputs) and entry not in node.outputs:
            behind.update(node.outputs)
    ahead = {exit_}
    for node in reversed(graph.nodes):
        if ahead.intersection(node.outputs) and behind.intersection(node.outputs) - {entry}:
            ahead.update(node.inputs)
            nodes.insert(0, node)
    made = {name for node in nodes for name in node.outputs}
    ordinary = all(len(n.outputs) == 1 and n.inputs and not isinstance(n.op, Foreign) and not n.pinned for n in nodes)
    closed = all(name in made or name == entry for node in nodes for name in node.inputs)
    inside = made - {exit_}
    leaves = any(inside.intersection(n.inputs) for n in graph.nodes if n not in nodes) or inside.intersection(graph.outputs)
    return tuple(n.name for n in nodes) if nodes and ordinary and closed and not leaves and exit_ in made else None


def all_segments(graph: Graph, span: int) -> list[Segment]:
    ops = {node.name: node.op for node in graph.nodes}
    found = list[Segment]()
    for entry in graph.tensors:
        if all(isinstance(node.op, Activation) for node in graph.consumers[entry]):
            continue
        for exit_, producer in graph.producer.items():
            nodes = None if isinstance(producer.op, Activation) else by_definition(graph, entry, exit_)
            if nodes and 1 <= sum(layer_of(ops[name]) is not None for name in nodes) <= span:
                found.append(Segment(entry, exit_, nodes))
    return found


@settings(max_examples=300, deadline=None)
@given(graphs(), st.integers(1, 9))
def test_segments_are_those_of_the_definition(graph, span):
    expected, found = all_segments(graph, span), find_segments(graph, span)
    assert len(set(found)) == len(found)
    assert set(found) <= set(expected)
    if 2 * span >= sum(layer_of(node.op) is not None for node in graph.nodes):  # growth is not cut short
        assert set(found) == set(expected)
    place = {name: i for i, name in enumerate((*graph.inputs, *(n for node in graph.nodes for n in node.outputs)))}
    order = [(place[s.entry], place[s.exit]) for s in found]
    assert order == sorted(order)
    ops = {node.name: node.op for node in graph.nodes}
    for segment in found:
        assert not isinstance(graph.producer[segment.exit].op, Activation)
        assert not all(isinstance(node.op, Activation) for node in graph.consumers[segment.entry])
        assert not any(isinstance(ops[name], Foreign) for name in segment.nodes)


def test_blocks_of_a_residual_net():
    net = Net((2, 9))
    x = net.relu(net.conv("x", 2, 3, pad=1, name="stem"))
    inner = net.conv(net.relu(net.conv(x, 2, 3, pad=1, name="a")), 2, 3, pad=1, name="b")
    graph = net.graph(net.conv(net.relu(net.add(x, inner)), 2, 1, name="head"))
    found = {(s.entry, s.exit) for s in find_segments(graph, 9)}
    relu, add, after = x, "add5", "activation6"
    assert found == {("x", "stem"), ("x", add), ("x", "head"), (relu, "a"), (relu, "b"), (relu, add), (relu, "head"),
                     ("activation3", "b"), (after, "head")}
    assert {(s.entry, s.exit) for s in find_segments(graph, 1)} == {("x", "stem"), (relu, "a"), ("activation3", "b"),
                                                                    (after, "head")}


def test_growth_is_cut_where_branches_do_not_meet():
    net = Net((2, 9))
    ends = [net.conv("x", 2, 1, name=f"c{i}") for i in range(7)]
    graph = replace(net.graph(*ends))
    # three layers at most: the seventh layer behind the entry is beyond twice that
    assert [s.exit for s in find_segments(graph, 3)] == ends[:6]
    assert [s.exit for s in find_segments(graph, 4)] == ends


# -- reach


def seen(graph: Graph, segment: Segment, places: list[tuple[int, ...]]) -> list[set[tuple[int, ...]]]:
    """For output positions, the input positions whose value they depend on."""
    size, rng = graph.spatial(segment.entry), np.random.default_rng(0)
    part = replace(graph, inputs=(segment.entry,), outputs=(segment.exit,))
    x = np.abs(rng.standard_normal((1, graph.shape(segment.entry)[1], *size))) + 1
    before, found = run(part, {segment.entry: x})[segment.exit], [set() for _ in places]
    for position in product(*map(range, size)):
        moved = x.copy()
        moved[(0, slice(None), *position)] += rng.uniform(0.5, 1, x.shape[1])
        after = run(part, {segment.entry: moved})[segment.exit]
        for place, positions in zip(places, found, strict=True):
            if not np.array_equal(before[(0, slice(None), *place)], after[(0, slice(None), *place)]):
                positions.add(position)
    return found


def check_reach(graph: Graph, segment: Segment, rng: np.random.Generator, exact: bool) -> None:
    reach = reach_of(graph, segment)
    if reach is None:
        return
    size, out = graph.spatial(segment.entry), graph.spatial(segment.exit)
    every = list(product(*map(range, out)))
    places = [every[i] for i in rng.choice(len(every), min(4, len(every)), replace=False)]
    for place, positions in zip(places, seen(graph, segment, places), strict=True):
        window = [(s * o + a, s * o + b) for s, o, a, b in zip(reach.stride, place, reach.start, reach.stop, strict=True)]
        assert all(lo <= p <= hi for position in positions for p, (lo, hi) in zip(position, window, strict=True))
        inside = all(lo >= 0 and hi < n for (lo, hi), n in zip(window, size, strict=True))
        if inside and exact:
            for axis, (lo, hi) in enumerate(window):
                assert {lo, hi} <= {position[axis] for position in positions}


@settings(max_examples=40, deadline=None)
@given(cascades(Options(ranks=(1, 2), depth=(1, 3), channels=3, size=(6, 11), bias=False)), st.integers(0, 2**16))
def test_outputs_see_nothing_beyond_the_reach(graph, seed):
    rng = np.random.default_rng(seed)
    found = find_segments(graph, 3)
    for i in rng.choice(len(found), min(3, len(found)), replace=False) if found else ():
        check_reach(graph, found[i], rng, exact=False)


def whole(graph: Graph) -> Segment:
    return max(find_segments(graph, 9), key=lambda s: len(s.nodes))


def test_the_ends_of_the_reach_are_seen():
    net = Net((2, 24, 20))
    x = net.conv("x", 3, (3, 2), pad=((2, 0), (0, 1)), stride=(2, 1), dilation=(1, 2))
    x = net.emit(Pool("max", (2, 3), (1, 1), ((1, 0), (1, 1)), (1, 2)), net.relu(x))
    x = net.emit(Pad(((1, 0), (0, 2))), x)
    x = net.emit(Slice(3, 2, 15), x)
    x = net.emit(Concat(1), net.conv(x, 2, 1), net.conv(x, 2, 3, pad=1))
    graph = net.graph(net.conv(net.emit(Select(np.array([3, 0])), x), 2, 2))
    segment, rng = whole(graph), np.random.default_rng(0)
    reach = reach_of(graph, segment)
    # by hand: the convolution, the maximum, the padding, the slice, the branches, the last convolution
    assert reach.stride == (2, 1)
    assert reach.start == (-2 + 2 * (-1 - 1 - 1), 0 - 1 + 2 - 1)
    assert reach.stop == (-2 + 2 + 2 * (-1 + 1 - 1 + 1 + 1), 0 + 2 + (-1 + 4) + 2 + 1 + 1)
    check_reach(graph, segment, rng, exact=False)
    straight = Net((2, 24))
    y = straight.conv(straight.conv("x", 3, 3, stride=2, pad=((2, 0),)), 2, 4, dilation=2)
    y = straight.add(y, straight.conv("x", 2, 2, stride=2, pad=((3, -14),)))
    graph = straight.graph(y)
    for seed in range(3):
        check_reach(graph, whole(graph), np.random.default_rng(seed), exact=True)
    assert reach_of(graph, whole(graph)) == Reach((2,), (-3,), (12,))


@pytest.mark.parametrize("op", [Flatten(), GlobalPool("avg"), Upsample((2, 2)), Activation("softmax", (3.0,)),
                                ConvTranspose(np.ones((2, 2, 2, 2)), stride=2)])
def test_no_one_window_fits(op):
    net = Net((2, 6, 6))
    x = net.emit(op, net.conv("x", 2, 1))
    graph = net.graph(net.dense(x, 2) if isinstance(op, Flatten) else net.conv(x, 2, 1))
    assert reach_of(graph, whole(graph)) is None


def test_branches_of_other_strides_have_no_reach_and_unknown_sizes_do():
    net = Net((2, "T"))
    graph = net.graph(net.conv(net.conv("x", 2, 3, stride=2), 2, 3))
    assert reach_of(graph, whole(graph)) == Reach((2,), (0,), (6,))
    net = Net((2, 9))
    slow = net.conv("x", 2, 5, stride=2, pad=((2, 2),))
    fast = net.conv(net.conv("x", 2, 5, pad=0), 2, 1)
    graph = net.graph(net.add(slow, fast))
    assert reach_of(graph, whole(graph)) is None


def test_vectors_have_a_reach_without_axes_and_dense_layers_on_maps_have_none():
    net = Net((4,))
    graph = net.graph(net.dense(net.relu(net.dense("x", 3)), 2))
    assert reach_of(graph, whole(graph)) == Reach((), (), ())
    net = Net((4, 5))
    graph = infer_graph(replace(net.graph(net.emit(Dense(Conv(np.ones((3, 5)))), "x"))))
    assert reach_of(graph, whole(graph)) is None
