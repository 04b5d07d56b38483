"""Targets: their numbers by hand, their ties, and their names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from cascades import cascades
from decascade.algebra.conv import Conv, ConvTranspose
from decascade.cost import TARGETS, Cost, target_named
from decascade.cost.count import bytes_of, macs, parameters, sizes
from decascade.errors import UsageError
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.ops import (
    Activation,
    Add,
    Affine,
    BiasMap,
    Concat,
    Dense,
    Flatten,
    GlobalPool,
    Identity,
    Op,
    Pad,
    Pool,
    Select,
    Upsample,
)
from decascade.regions.merge import Options, merge_graph, sized
from laws import Net, assert_same, inputs_for

MACS, MEMORY = target_named("macs"), target_named("memory")


def one(op: Op, shape: tuple[int | str, ...]) -> tuple[Node, Graph]:
    net = Net(shape)
    graph = net.graph(net.emit(op, "x"))
    return graph.nodes[0], graph


@pytest.mark.parametrize(
    ("op", "shape", "multiplications", "stored"),
    [
        (Conv(np.ones((8, 3, 3, 3)), np.zeros(8), padding=1), (3, 10, 12), 8 * 27 * 120, 8 * 27 + 8),
        (Conv(np.ones((8, 3, 3, 3)), None, 2), (3, 11, 11), 8 * 27 * 25, 8 * 27),
        (Conv(np.ones((8, 1, 3)), None, groups=4), (4, 10), 8 * 3 * 8, 24),
        (ConvTranspose(np.ones((3, 8, 2, 2)), np.zeros(8), 2), (3, 5, 5), 3 * 8 * 4 * 25, 3 * 8 * 4 + 8),
        (Dense(Conv(np.ones((7, 5)), np.zeros(7))), (5,), 35, 42),
        (Dense(Conv(np.ones((7, 5)))), (3, 4, 5), 35 * 12, 35),
        (Affine(np.full(4, 2.0), np.ones(4)), (4, 9), 0, 8),
        (Affine(np.ones(4), np.ones(4)), (4, 9), 0, 4),
        (Affine(np.full(4, 2.0), np.zeros(4)), (4, 9), 0, 4),
        (BiasMap(np.ones((4, 9))), (4, 9), 0, 36),
        (Activation("prelu", (), np.ones(4)), (4, 9), 0, 4),
        (Activation("relu"), (4, 9), 0, 0),
        (Pool("avg", (3,), (1,), ((0, 0),), (1,)), (4, 9), 0, 0),
        (GlobalPool("avg"), (4, 9), 0, 0),
        (Select(np.array([1])), (4, 9), 0, 0),
        (Upsample((2,)), (4, 9), 0, 0),
    ],
)
def test_counts_of_one_operation(op, shape, multiplications, stored):
    node, graph = one(op, shape)
    assert macs(node, graph.tensors) == multiplications
    assert parameters(node) == stored
    assert MACS.graph_cost(graph) == Cost(multiplications, stored)


def test_sizes_that_are_not_known_count_as_one():
    tensor = Tensor("t", ("N", 3, "H", 5))
    assert (sizes(tensor), bytes_of(tensor)) == ((3, 1, 5), 60)
    assert sizes(Tensor("t", None)) == ()


@pytest.mark.parametrize(
    ("dtype", "width"), [("float32", 4), ("float16", 2), ("bfloat16", 2), ("float64", 8), ("int8", 1), ("float8e4m3", 4)],
)
def test_bytes_of_an_element(dtype, width):
    assert bytes_of(Tensor("t", ("N", 3, 4), dtype)) == 12 * width


def test_macs_by_hand():
    """16 → 32 3×3 on 8×8 and a dense layer behind the average: sums of macs and of numbers."""
    net = Net((16, 8, 8))
    name = net.dense(net.emit(GlobalPool("avg", keepdims=False), net.conv("x", 32, 3, pad=1)), 10)
    graph = net.graph(name)
    assert MACS.graph_cost(graph) == Cost(64 * 32 * 16 * 9 + 320, 32 * 16 * 9 + 32 + 330)
    assert MACS.combine([Cost(3, 1), Cost(4, 2)]) == Cost(7, 3)
    assert MACS.combine([]) == Cost(0, 0)


def test_peak_memory_of_a_chain():
    """In and out of the busiest layer: 4·8·8 → 16·8·8 → 2·8·8 floats."""
    net = Net((4, 8, 8))
    graph = net.graph(net.conv(net.conv("x", 16, 1), 2, 1))
    assert MEMORY.graph_cost(graph).value == (4 + 16) * 64 * 4
    assert MEMORY.combine([Cost(3, 1), Cost(4, 2)]) == Cost(4, 3)
    assert MEMORY.combine([]) == Cost(0, 0)


def test_peak_memory_of_a_residual_block():
    """x (4) stays alive until the addition: while the second convolution runs 4 + 16 + 4 channels are."""
    net = Net((4, 8, 8))
    graph = net.graph(net.add("x", net.conv(net.conv("x", 16, 1), 4, 1)))
    assert MEMORY.graph_cost(graph).value == (4 + 16 + 4) * 64 * 4
    assert MEMORY.segment_cost(graph.nodes[1:2], graph.tensors).value == (16 + 4) * 64 * 4


def test_views_take_no_memory_and_what_is_never_read_again_goes():
    net = Net((4, 8, 8))
    same = net.emit(Identity(), net.emit(Identity(), "x"))
    graph = net.graph(net.emit(Flatten(), net.relu(same)))
    assert MEMORY.graph_cost(graph).value == 2 * 4 * 64 * 4
    net = Net((4, 8, 8))
    name = net.relu(net.relu(net.relu("x")))
    assert MEMORY.graph_cost(net.graph(name)).value == 2 * 4 * 64 * 4


def test_a_view_that_is_read_later_keeps_its_tensor():
    net = Net((4, 8, 8))
    view = net.emit(Identity(), "x")
    graph = net.graph(net.add(view, net.conv(net.relu("x"), 4, 1)))
    assert MEMORY.graph_cost(graph).value == 3 * 4 * 64 * 4


def test_outputs_stay_until_the_end():
    net = Net((4, 8, 8))
    a = net.relu("x")
    b = net.relu(a)
    c = net.relu(b)
    assert MEMORY.graph_cost(net.graph(c)).value == 2 * 4 * 64 * 4
    net.emit(Concat(1), a, c, name="both")
    assert MEMORY.graph_cost(net.graph("both")).value == 4 * 4 * 64 * 4


def test_memory_counts_no_macs_and_pads_do():
    net = Net((4, 8))
    graph = net.graph(net.emit(Pad(((1, 1),)), "x"))
    assert MEMORY.graph_cost(graph) == Cost((32 + 40) * 4, 0)


def test_ties_are_broken_by_parameters():
    assert Cost(1.0, 5) < Cost(2.0, 0)
    assert Cost(1.0, 5) < Cost(1.0, 6)
    assert min(Cost(2.0, 3), Cost(2.0, 2), Cost(3.0, 0)) == Cost(2.0, 2)


def test_a_tie_is_decided_by_parameters():
    """1×1 convolutions on a 1×1 map: 6·6 + 6·6 numbers become 36, and a pair that gains nothing stays."""
    net = Net((6, 4, 4))
    graph = net.graph(net.affine(net.conv("x", 6, 1, bias=False), shift=False))
    new, _ = merge_graph(graph, Options(MACS))
    assert len(new.nodes) == 1
    assert MACS.graph_cost(new) == Cost(36 * 16, 36)
    assert MACS.graph_cost(graph) == Cost(36 * 16, 42)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mac", "unknown target 'mac'; did you mean macs? (targets: macs, memory)"),
        ("memroy", "unknown target 'memroy'; did you mean memory? (targets: macs, memory)"),
        ("zzz", "unknown target 'zzz' (targets: macs, memory)"),
        ("", "unknown target '' (targets: macs, memory)"),
    ],
)
def test_a_target_that_there_is_not(name, words):
    with pytest.raises(UsageError) as error:
        target_named(name)
    assert str(error.value) == words


def test_targets_have_names_and_units():
    assert {name: (target_named(name).name, target_named(name).unit) for name in TARGETS} == {
        "macs": ("macs", "MACs"), "memory": ("memory", "bytes"),
    }


# -- the whole model's peak


def read_again() -> Graph:
    """Two padded layers on an input that is read again behind them: by itself their merge lowers the peak (the input
    could go after its last slice), in the model it raises it from 184 to 192 bytes (the input stays)."""
    net = Net((3, 6))
    name = net.conv(net.conv("x", 3, 3, pad=1, bias=False, name="a"), 2, 3, pad=[(1, 0)], name="b")
    return net.graph(name, net.relu("x"))


def test_a_merge_that_would_raise_the_peak_of_the_model_is_left():
    graph = read_again()
    assert MEMORY.graph_cost(graph).value == 4 * (3 * 6 + 3 * 6 + 2 * 5)
    new, (row,) = merge_graph(graph, Options(MEMORY))
    assert new.nodes == graph.nodes
    assert (row.decision, row.layers) == ("left", ("a", "b"))
    assert row.reason.endswith("costs less by itself, but makes the whole model dearer: what is alive beside it counts there")
    assert row.after.value < row.before.value
    alone = replace(graph, nodes=graph.nodes[:2], outputs=graph.outputs[:1])
    assert merge_graph(alone, Options(MEMORY))[1][0].decision == "merged"
    always, _ = merge_graph(graph, Options(MEMORY, "always"))
    assert MEMORY.graph_cost(always).value == 192
    assert_same(graph, always, inputs_for(graph))


class Fussy:
    """A target in whose eyes a segment is cheap when it is one operation, and a model when it has many."""

    name, unit = "fussy", "sighs"

    def segment_cost(self, nodes, tensors):
        return Cost(float(len(nodes)))

    def combine(self, costs):
        return Cost(sum(c.value for c in costs))

    def graph_cost(self, graph):
        return Cost(-float(len(graph.nodes)))


def test_a_merge_that_makes_the_whole_model_dearer_is_left_with_its_reason():
    net = Net((3, 8, 8))
    graph = net.graph(net.conv(net.relu(net.conv(net.conv("x", 8, 3, name="a"), 4, 3, name="b")), 4, 1))
    new, (row,) = merge_graph(graph, Options(Fussy()))
    assert new.nodes == graph.nodes
    assert (row.decision, row.layers, row.removed, row.added) == ("left", ("a", "b"), (), ())
    assert row.reason == ("2 layers -> one 5x5 convolution costs less by itself, but makes the whole model dearer: "
                          "what is alive beside it counts there")
    new, (row,) = merge_graph(graph, Options(Fussy(), "always"))
    assert row.decision == "merged"


@settings(max_examples=80, deadline=None)
@given(cascades())
def test_the_peak_of_the_whole_model_never_rises(graph):
    net = replace(graph, nodes=(*graph.nodes, Node("again", Activation("relu"), ("x",), ("z",))), outputs=("y", "z"),
                  tensors={**graph.tensors, "z": Tensor("z", graph.shape("x"))})
    new, _ = merge_graph(net, Options(MEMORY))
    assert MEMORY.graph_cost(sized(new)) <= MEMORY.graph_cost(sized(net))
    assert_same(net, new, inputs_for(net))


def test_an_addition_counts_its_inputs_once():
    net = Net((4, 8))
    graph = net.graph(net.emit(Add(), "x", "x"))
    assert MEMORY.graph_cost(graph).value == 2 * 32 * 4
