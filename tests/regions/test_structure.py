"""What regions are made of: branches, skips, concatenations, shuffles, pools, pads, flattens, dead code, unknown sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from decascade.algebra.conv import Conv
from decascade.cost import target_named
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.ops import (
    Add,
    BiasMap,
    Concat,
    Dense,
    Flatten,
    GlobalPool,
    Identity,
    Pad,
    Pool,
    Select,
    Slice,
)
from decascade.regions.chains import find_chains
from decascade.regions.merge import Cascade, Options, merge_graph, sized
from laws import Net, assert_same, inputs_for


def merged(graph: Graph, policy: str = "always", target: str = "macs", **more) -> tuple[Graph, tuple[Cascade, ...]]:
    new, rows = merge_graph(graph, Options(target_named(target), policy, **more))
    for seed in range(2):
        assert_same(graph, new, inputs_for(graph, seed, batch=1 + seed, unknown=9 + 4 * seed))
    return new, rows


def one_conv(graph: Graph, policy: str = "always", **more) -> Conv:
    """The merged graph is a single convolution."""
    new, _ = merged(graph, policy, **more)
    (node,) = new.nodes
    assert isinstance(node.op, Conv)
    return node.op


# -- branches


def test_a_residual_is_a_delta_kernel():
    net = Net((4, 8, 8))
    layer = one_conv(net.graph(net.add("x", net.conv("x", 4, 3, pad=1))), "profitable")
    assert layer.kernel == (3, 3)


@pytest.mark.parametrize("signs", [(), (1, -1), (-1, 1)])
def test_parallel_convolutions_of_several_sizes(signs):
    """RepVGG and its kin: 3×3 beside 1×1, each with a normalisation, and a skip."""
    net = Net((4, 8, 8))
    wide = net.affine(net.conv("x", 4, 3, pad=1, bias=False))
    point = net.affine(net.conv("x", 4, 1, bias=False))
    graph = net.graph(net.add(net.add(wide, point, signs=signs), net.affine("x")))
    layer = one_conv(graph, "profitable")
    assert (layer.kernel, layer.padding) == ((3, 3), ((1, 1), (1, 1)))


def test_one_tensor_added_to_itself():
    net = Net((4, 8, 8))
    graph = net.graph(net.conv(net.add("x", "x"), 4, 3))
    assert np.array_equal(one_conv(graph).weight, 2 * graph.nodes[1].op.weight.astype(np.float64))


def test_nested_skips():
    net = Net((4, 9, 9))
    inner = net.add("x", net.conv("x", 4, 3, pad=1, bias=False))
    graph = net.graph(net.add("x", net.conv(inner, 4, 1)))
    assert one_conv(graph).kernel == (3, 3)


def test_concatenation_and_split_and_shuffle():
    """Two paths concatenated, channels shuffled, the halves taken apart, convolved and summed."""
    net = Net((4, 9, 9))
    both = net.emit(Concat(1), net.conv("x", 3, 3), net.conv("x", 5, 3))
    mixed = net.emit(Select(np.array([0, 4, 1, 5, 2, 6, 3, 7])), both)
    halves = [net.conv(net.emit(Select(np.arange(i, i + 4)), mixed), 6, 2) for i in (0, 4)]
    layer = one_conv(net.graph(net.add(*halves)))
    assert (layer.kernel, layer.in_channels, layer.out_channels) == ((4, 4), 4, 6)


def test_a_channel_that_is_picked_twice():
    net = Net((3, 9))
    assert one_conv(net.graph(net.conv(net.emit(Select(np.array([2, 0, 2, 2])), "x"), 4, 3))).in_channels == 3


def test_a_shuffle_between_depthwise_layers_keeps_the_groups():
    net = Net((4, 9, 9))
    a = net.conv("x", 4, 3, groups=4)
    b = net.emit(Select(np.array([1, 0, 3, 2])), a)
    layer = one_conv(net.graph(net.emit(Select(np.array([1, 0, 3, 2])), net.conv(b, 4, 3, groups=4))))
    assert layer.groups == 4


def test_branches_that_do_not_pay_together_are_merged_each():
    """Two chains of two inside a parallel unit; what joins them is an addition that stays."""
    net = Net((2, 8, 8))
    paths = []
    for _ in range(2):
        middle = net.conv("x", 32, 1, bias=False)
        paths.append(net.conv(middle, 2, 1, bias=False))
    graph = net.graph(net.add(*paths))
    assert one_conv(graph).kernel == (1, 1)
    net = Net((2, 8, 8))
    deep = net.conv(net.conv("x", 32, 1, bias=False), 16, 1, bias=False)
    wide = net.conv(net.conv("x", 2, 9, pad=4, bias=False, groups=2), 16, 1, bias=False)
    graph = net.graph(net.add(deep, wide))
    new, rows = merged(graph, "profitable")
    assert [row.decision for row in rows if row.layers == ("conv0", "conv1")] == ["merged"]
    assert any(row.decision == "left" for row in rows)
    assert target_named("macs").graph_cost(new) < target_named("macs").graph_cost(graph)


def test_branches_that_pay_more_alone_than_together():
    """2 → 32 → 2 beside a depthwise 5×5: one dense 5×5 costs less than all of it, the two branches by themselves still less."""
    net = Net((2, 8, 8))
    deep = net.conv(net.conv("x", 32, 1, bias=False), 2, 1, bias=False)
    graph = net.graph(net.add(deep, net.conv("x", 2, 5, pad=2, groups=2, bias=False)))
    new, rows = merged(graph, "profitable")
    assert [type(n.op) for n in new.nodes] == [Conv, Conv, Add]
    assert target_named("macs").graph_cost(new).value == 64 * (4 + 50)
    assert [r.layers for r in rows if r.decision == "merged"] == [("conv0", "conv1")]
    assert one_conv(graph, "always").kernel == (5, 5)


def test_an_output_inside_a_branch_stays():
    net = Net((4, 8, 8))
    inner = net.conv("x", 4, 1, name="inner")
    graph = net.graph(net.add("x", net.conv(inner, 4, 1, name="outer")), inner)
    new, _ = merged(graph)
    assert new.nodes[0].name == "inner"
    net = Net((4, 8, 8))
    inner = net.conv("x", 4, 1, name="inner")
    graph = net.graph(net.add("x", net.conv(inner, 4, 1, name="outer")), net.relu(inner))
    assert merged(graph)[0].nodes[0].name == "inner"


def test_chains_of_a_graph():
    """Every linear node is in one chain; a parallel unit holds chains of its own; activations cut."""
    net = Net((4, 9, 9))
    a = net.conv("x", 4, 3, name="a")
    b = net.conv(a, 4, 3, pad=1, name="b")
    c = net.conv(b, 4, 1, name="c")
    d = net.add(a, c)
    e = net.relu(d)
    graph = net.graph(net.conv(e, 4, 3, name="f"))
    first, second = find_chains(graph)
    assert [[n.name for n in unit.nodes] for unit in first.units] == [["a"], ["b", "c", "add3"]]
    assert [[n.name for n in chain.nodes] for chain in first.units[1].inner] == [["b", "c"]]
    assert [n.name for n in second.nodes] == ["f"]
    assert [n.name for n in first.nodes] == ["a", "b", "c", "add3"]


# -- several readers, outputs in the middle


def test_a_tensor_that_others_read_stays():
    """first → second → third with an activation on second's output: first and second merge, third cannot join them."""
    net = Net((3, 10, 10))
    a = net.conv("x", 16, 3, name="first")
    b = net.conv(a, 4, 3, name="second")
    c = net.conv(b, 4, 3, name="third")
    graph = net.graph(c, net.relu(b))
    new, rows = merged(graph)
    assert [n.name for n in new.nodes] == ["second_merged", "third", "activation3"]
    assert [(r.decision, r.layers) for r in rows] == [("merged", ("first", "second")), ("left", ("second", "third"))]
    assert new.nodes[1] is graph.nodes[2]


def test_several_inputs_and_outputs():
    x = Net((3, 8, 8))
    a = x.conv("x", 8, 3, name="a")
    graph = x.graph(x.conv(a, 4, 3, name="b"))
    more = {name: Tensor(name, ("N", width, 4, 4)) for name, width in (("z", 4), ("sum", 4), ("y", 2))}
    both = Node("sum", Add(), ("b", "z"), ("sum",))
    tail = Node("tail", Conv(x.weights(2, 4, 1, 1)), ("sum",), ("y",))
    graph = replace(graph, nodes=(*graph.nodes, both, tail), inputs=("x", "z"), outputs=("y", "b"),
                    tensors={**graph.tensors, **more})
    new, _ = merge_graph(graph, Options(target_named("macs"), "always"))
    assert [type(n.op) for n in new.nodes] == [Conv, Add, Conv]
    rng = np.random.default_rng(0)
    assert_same(graph, new, {"x": rng.standard_normal((2, 3, 8, 8)), "z": rng.standard_normal((2, 4, 4, 4))})


def test_a_graph_that_is_one_operation_or_none():
    conv, relu = Net((3, 8, 8)), Net((3, 8, 8))
    for graph in (Net((3, 8, 8)).graph("x"), conv.graph(conv.conv("x", 4, 3)), relu.graph(relu.relu("x"))):
        new, rows = merged(graph)
        assert (new.nodes, rows) == (graph.nodes, ())


def test_dead_code_goes_and_nothing_else():
    net = Net((3, 8, 8))
    a = net.relu(net.conv("x", 4, 3))
    net.conv(net.relu(net.conv("x", 4, 3, name="dead")), 4, 3, name="deader")
    graph = net.graph(a)
    new, _ = merged(graph)
    assert [n.name for n in new.nodes] == ["conv0", "activation1"]
    assert all(any(n is m for m in graph.nodes) for n in new.nodes)


def test_identities_inside_a_merge_go_and_others_stay():
    net = Net((3, 8, 8))
    a = net.emit(Identity(), net.conv("x", 8, 3))
    graph = net.graph(net.conv(net.emit(Identity(), a), 4, 3))
    assert one_conv(graph).kernel == (5, 5)
    net = Net((3, 8, 8))
    graph = net.graph(net.relu(net.emit(Identity(), net.conv("x", 8, 3))))
    new, rows = merged(graph)
    assert (new.nodes, rows) == (graph.nodes, ())


# -- pools, pads, slices


def test_an_average_behind_a_convolution():
    """conv 3×3 → 2×2 average is one 4×4 of stride 2, 2.25 times cheaper."""
    net = Net((4, 10, 10))
    graph = net.graph(net.average(net.conv("x", 4, 3, pad=1), 2))
    layer = one_conv(graph, "profitable")
    assert (layer.kernel, layer.stride) == ((4, 4), (2, 2))
    cost = target_named("macs").graph_cost
    assert cost(graph).value == 2.25 * cost(merged(graph)[0]).value


@pytest.mark.parametrize("count", [True, False])
def test_an_average_that_hangs_over_the_edge(count):
    net = Net((2, 11))
    graph = net.graph(net.average(net.conv("x", 2, 3), 3, stride=2, pad=1, count=count))
    new, (row,) = merged(graph)
    assert row.decision == "merged"
    assert row.border == "ring"
    assert all(not isinstance(n.op, Pool) for n in new.nodes)


@pytest.mark.parametrize("stride", [1, 2])
def test_an_average_of_the_input_that_hangs_over_the_edge(stride):
    """Nothing but the number of samples under the window tells the border classes apart."""
    net = Net((2, 9, 10))
    graph = net.graph(net.conv(net.average("x", 3, stride=stride, pad=1), 4, 2, bias=False))
    new, (row,) = merged(graph, max_growth=64.0)
    assert (row.decision, row.border) == ("merged", "ring")
    assert all(not isinstance(n.op, Pool) for n in new.nodes)


def test_a_global_average_before_a_dense_layer():
    net = Net((3, 5, 6))
    mean = net.emit(GlobalPool("avg", keepdims=False), net.conv("x", 8, 3, pad=1))
    new, (row,) = merged(net.graph(net.dense(mean, 4)))
    assert row.decision == "merged"
    assert {type(n.op) for n in new.nodes} <= {Dense, Flatten}
    net = Net((3, 5, 6))
    kept = net.emit(Flatten(), net.emit(GlobalPool("avg"), net.conv("x", 8, 3)))
    merged(net.graph(net.dense(kept, 4)))


def test_a_maximum_is_no_linear_layer():
    net = Net((3, 8, 8))
    top = net.emit(Pool("max", (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), net.conv("x", 4, 3))
    graph = net.graph(net.conv(top, 4, 3))
    new, rows = merged(graph)
    assert (new.nodes, rows) == (graph.nodes, ())


def test_pads_crops_and_slices_go_into_the_padding():
    net = Net((3, 9, 9))
    padded = net.emit(Pad(((1, 2), (0, 1))), "x")
    conv = net.conv(padded, 4, 3)
    part = net.emit(Slice(2, 1, 6), net.emit(Slice(3, 0, 7), conv))
    new, (row,) = merged(net.graph(part))
    assert row.border == "free"
    assert [type(n.op) for n in new.nodes] == [Conv]
    assert new.nodes[0].op.padding == ((0, -2), (0, 0))


def test_a_pad_with_another_value_is_not_linear():
    net = Net((3, 9, 9))
    graph = net.graph(net.conv(net.emit(Pad(((1, 1), (1, 1)), 0.5), net.conv("x", 3, 1)), 4, 3))
    new, rows = merged(graph)
    assert (new.nodes, rows) == (graph.nodes, ())


def test_a_concatenation_over_space_is_not_merged():
    net = Net((3, 9))
    graph = net.graph(net.conv(net.emit(Concat(2), net.conv("x", 3, 1), net.conv("x", 3, 1)), 4, 3))
    new, rows = merged(graph)
    assert (new.nodes, rows) == (graph.nodes, ())


def test_a_bias_map_cuts():
    net = Net((3, 9))
    graph = net.graph(net.conv(net.emit(BiasMap(np.ones((3, 9))), net.conv("x", 3, 1)), 4, 3))
    assert merged(graph)[0].nodes == graph.nodes


# -- one, two and three axes; dense layers


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("pad", [0, 1])
def test_one_two_and_three_axes(rank, pad):
    net = Net((2, *(7,) * rank))
    new, (row,) = merged(net.graph(net.conv(net.conv("x", 6, 3, pad=pad), 2, 3, pad=pad)))
    assert row.border == ("ring" if pad else "free")
    assert max(n.op.kernel for n in new.nodes if isinstance(n.op, Conv)) == (5,) * rank


def test_three_dense_layers_with_a_normalisation_between():
    net = Net((10,))
    name = net.dense(net.affine(net.dense("x", 20)), 5)
    new, (row,) = merged(net.graph(net.dense(name, 3)), "profitable")
    assert [type(n.op) for n in new.nodes] == [Dense]
    assert row.reason == "4 layers -> one dense layer"


def test_a_residual_of_dense_layers_on_the_last_axis():
    net = Net((7, 6))
    graph = net.graph(net.add("x", net.dense(net.dense("x", 12), 6)))
    new, _ = merged(graph)
    assert [type(n.op) for n in new.nodes] == [Dense]


# -- sizes that are not known


def test_a_free_border_at_unknown_sizes():
    net = Net((3, "H", "W"))
    new, (row,) = merged(net.graph(net.conv(net.conv("x", 8, 3, pad=1, stride=2), 4, 3)))
    assert (row.border, [type(n.op) for n in new.nodes]) == ("free", [Conv])
    assert new.nodes[0].op.padding == ((1, 1), (1, 1))
    assert new.shape(new.outputs[0])[1] == 4


@pytest.mark.parametrize("stride", [1, 2])
def test_a_bias_only_border_at_unknown_sizes(stride):
    net = Net((3, "H", "W"))
    new, (row,) = merged(net.graph(net.conv(net.conv("x", 8, 1, stride=stride), 4, 3, pad=1)))
    assert (row.border, [type(n.op) for n in new.nodes]) == ("bias", [Pad, Conv])


def test_a_bias_behind_the_padding_needs_no_ones():
    """BN → padded 3×3 → 1×1 at unknown size: the biases of the last two are not cut."""
    net = Net((3, "H", "W"))
    name = net.conv(net.conv(net.affine("x"), 8, 3, pad=1), 4, 1)
    new, (row,) = merged(net.graph(name))
    assert (row.border, row.decision, new.nodes[-1].op.kernel) == ("bias", "merged", (3, 3))


def test_one_axis_known_and_one_not():
    net = Net((3, 8, "W"))
    new, (row,) = merged(net.graph(net.conv(net.conv("x", 8, 3), 4, 3)))
    assert (row.border, len(new.nodes)) == ("free", 1)
    net = Net((3, 8, "W"))
    new, (row,) = merged(net.graph(net.conv(net.conv("x", 8, 1), 4, 3, pad=1)))
    assert (row.border, [type(n.op) for n in new.nodes]) == ("bias", [Pad, Conv])


def test_a_pool_and_an_upset_size_are_costed_at_a_nominal_one():
    """Costs of unknown sizes are those of a 64×64 input; a shape that does not fit it is costed as it stands."""
    net = Net((3, "H", "W"))
    graph = net.graph(net.conv("x", 4, 3))
    assert sized(graph).shape("conv0") == ("N", 4, 62, 62)
    net = Net((3, "H"))
    graph = net.graph(net.emit(Slice(2, 0, 100), "x", name="part"))
    assert sized(graph).shape("part") == graph.shape("part")


def test_progress_is_told():
    net = Net((3, 8, 8))
    told = []
    merge_graph(net.graph(net.conv(net.conv("x", 4, 3), 4, 3)), Options(target_named("macs")), lambda *step: told.append(step))
    assert told[0] == ("finding and costing cascades", 0.0)
    assert told[-1] == ("finding and costing cascades", 1.0)


def test_names_that_are_taken_are_not_taken_again():
    net = Net((3, 8, 8))
    a = net.relu(net.conv("x", 4, 3, name="a_merged"))
    graph = net.graph(net.conv(net.conv(a, 16, 3, name="b"), 4, 3, name="a"))
    new, _ = merged(graph)
    assert [n.name for n in new.nodes] == ["a_merged", "activation1", "a_merged_2"]
