"""Every form in which a region can be written down: reached by name through a merge, and exact on random regions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascades import cascades, random_input
from decascade.algebra.border import find_border
from decascade.algebra.conv import Conv, ConvTranspose
from decascade.algebra.program import Program
from decascade.cost import target_named
from decascade.cost.count import parameters
from decascade.ir.graph import Graph
from decascade.ir.names import Names
from decascade.ir.ops import Add, Affine, BiasMap, Concat, Dense, Flatten, Op, Pad, Slice, Upsample
from decascade.regions.candidates import FORMS
from decascade.regions.forms import Builder, write_form
from decascade.regions.kernels import Composed, Sketched
from decascade.regions.lower import lower
from decascade.regions.merge import Cascade, Options, merge_graph
from laws import Net, assert_same, inputs_for


def merged(graph: Graph, policy: str = "always", target: str = "macs", **more) -> tuple[Graph, tuple[Cascade, ...]]:
    new, rows = merge_graph(graph, Options(target_named(target), policy, **more))
    assert_same(graph, new, inputs_for(graph))
    return new, rows


def kinds(graph: Graph) -> set[type[Op]]:
    return {type(node.op) for node in graph.nodes}


def one(graph: Graph, policy: str = "always", **more) -> tuple[Graph, Cascade]:
    new, (row,) = merged(graph, policy, **more)
    assert row.decision == "merged"
    return new, row


# -- by name


def test_conv():
    """No padding between: one kernel.  Strides, dilations and groups along."""
    net = Net((4, 14, 13))
    graph = net.graph(net.conv(net.conv("x", 8, 3, pad=1, stride=(2, 1), groups=2), 6, (3, 1), dilation=2, groups=2))
    new, row = one(graph)
    assert (row.border, row.reason) == ("free", "2 layers -> one 11x3 convolution")
    assert kinds(new) == {Conv}
    assert (new.nodes[0].op.groups, new.nodes[0].op.stride) == (2, (2, 1))


def test_shift():
    """1×1 with bias and as many outputs as inputs, then a padded 3×3: the bias as a padding value."""
    net = Net((4, 9, 9))
    new, row = one(net.graph(net.conv(net.conv("x", 4), 4, 3, pad=1)))
    assert row.border == "bias"
    assert row.reason == "2 layers -> one 3x3 convolution, the inner bias carried by a constant added to its input"
    assert [type(n.op) for n in new.nodes] == [Affine, Conv]


def test_shift_of_a_batch_normalisation_before_a_padded_convolution():
    """ReLU → BN → conv of pre-activation networks: the BN's scale goes into the kernel, its shift before it."""
    net = Net((4, 9, 9))
    new, row = one(net.graph(net.conv(net.affine("x"), 4, 3, pad=1)))
    assert (row.border, [type(n.op) for n in new.nodes]) == ("bias", [Affine, Conv])
    assert np.all(new.nodes[0].op.scale == 1)


def test_ones():
    """More outputs than inputs have no padding value, and a size that is not known has no map."""
    net = Net((4, "H", "W"))
    new, row = one(net.graph(net.conv(net.conv("x", 12), 4, 3, pad=1)))
    assert row.border == "bias"
    assert row.reason == "2 layers -> one 3x3 convolution, the inner bias carried by a channel of ones"
    assert [type(n.op) for n in new.nodes] == [Pad, Conv]
    assert (new.nodes[0].op.channels, new.nodes[0].op.value) == ((0, 1), 1.0)


def test_map():
    """A map so small that a constant for each of its places is the least to store."""
    net = Net((3, 4, 4))
    new, row = one(net.graph(net.conv(net.conv("x", 16), 4, 3, pad=1)))
    assert row.border == "bias"
    assert row.reason == "2 layers -> one 3x3 convolution, the inner bias carried by a constant map"
    assert [type(n.op) for n in new.nodes] == [Conv, BiasMap]
    assert new.nodes[1].op.values.shape == (4, 4, 4)


def test_ones_where_a_map_would_store_more_than_the_cascade():
    """The same 1×1 → 3×3 as for a map, on a larger one."""
    net = Net((3, 40, 40))
    new, row = one(net.graph(net.conv(net.conv("x", 16), 4, 3, pad=1)))
    assert row.reason == "2 layers -> one 3x3 convolution, the inner bias carried by a channel of ones"
    assert kinds(new) == {Pad, Conv}


def test_tiles():
    """Two padded 3-tap layers: three classes."""
    net = Net((2, 9))
    new, row = one(net.graph(net.conv(net.conv("x", 2, 3, pad=1), 2, 3, pad=1)))
    assert row.border == "ring"
    assert row.reason == "2 layers -> one 5 convolution, one kernel per border class (3 convolutions)"
    assert [type(n.op) for n in new.nodes] == [Slice, Conv, Conv, Slice, Conv, Concat]


def test_ones_in_a_frame():
    """A padded 1×1: its map ends one sample beyond the input, and so does the channel of ones."""
    net = Net((3, 60, 60))
    new, row = one(net.graph(net.conv(net.conv("x", 16, pad=1), 4, 3, pad=1)))
    assert row.border == "bias"
    assert row.reason == "2 layers -> one 3x3 convolution, the inner bias carried by a channel of ones"
    assert [type(n.op) for n in new.nodes] == [Pad, Pad, Conv]
    assert [n.op.pads for n in new.nodes[:2]] == [((1, 1), (1, 1)), ((0, 0), (0, 0))]
    assert new.nodes[2].op.padding == ((1, 1), (1, 1))


def test_shift_in_a_frame():
    """As many outputs as inputs: the padding value is added to the input in its frame."""
    net = Net((4, 60, 60))
    new, row = one(net.graph(net.conv(net.conv("x", 4, pad=1), 4, 3, pad=1)), "profitable")
    assert row.reason.endswith("the inner bias carried by a constant added to its input")
    assert [type(n.op) for n in new.nodes] == [Pad, Affine, Conv]


@pytest.mark.parametrize("size", [(48, 48), ("H", "W")])
def test_ones_of_a_separable_pair(size):
    """5×1 with bias, then 1×5 padded: the bias depends on the column alone."""
    net = Net((4, *size))
    new, row = one(net.graph(net.conv(net.conv("x", 4, (5, 1), pad=(2, 0)), 4, (1, 5), pad=(0, 2))))
    assert row.reason == "2 layers -> one 5x5 convolution, the inner bias carried by a channel of ones"
    assert [type(n.op) for n in new.nodes] == [Pad, Conv]


def test_tiles_of_a_bias_only_border():
    """Two padded 1×1s, whose maps end in different places, so that no channel of ones can stand for both, on a map so
    large that a constant per place is above the cap."""
    net = Net((3, 60, 60))
    new, row = one(net.graph(net.conv(net.conv(net.conv("x", 8, pad=1), 8, pad=1), 4, 3, pad=1)))
    assert row.border == "bias"
    assert row.reason == "3 layers -> one 3x3 convolution, one kernel per border class (25 convolutions)"
    assert kinds(new) == {Slice, Conv, Concat}


def test_strips():
    """Two padded 3×3 on a large map: the frame is corrected by four strips and four corners."""
    net = Net((3, 12, 12))
    new, row = one(net.graph(net.conv(net.conv("x", 16, 3, pad=1), 4, 3, pad=1)))
    assert row.border == "ring"
    assert row.reason == "2 layers -> one 5x5 convolution, corrected along the edges by thin convolutions (9 convolutions)"
    assert kinds(new) == {Conv, Slice, Pad, Add}
    assert sorted(n.op.kernel for n in new.nodes if isinstance(n.op, Conv)) == [
        (1, 1), (1, 1), (1, 1), (1, 1), (1, 5), (1, 5), (5, 1), (5, 1), (5, 5),
    ]


def test_strips_without_inner_bias_store_no_bias():
    net = Net((3, 12, 12))
    new, row = one(net.graph(net.conv(net.conv("x", 16, 3, pad=1, bias=False), 4, 3, pad=1)))
    assert "thin convolutions" in row.reason
    assert [n.name.split("/")[-1] for n in new.nodes if isinstance(n.op, Conv) and n.op.bias is not None] == ["whole"]


def test_an_axis_that_is_not_cut_has_no_strips():
    """Padded 3×1 layers: only rows are corrected, by two strips."""
    net = Net((3, 12, 12))
    name = net.conv(net.conv("x", 16, (3, 1), pad=(1, 0)), 4, (3, 1), pad=(1, 0))
    new, row = one(net.graph(name))
    assert row.border == "ring"
    assert sum(isinstance(n.op, Conv) for n in new.nodes) == 3


def test_corners_are_corrected_only_where_both_axes_cut_off_the_same():
    """Rows cut a map without a bias, columns one with: four strips, and no corner has anything to correct."""
    net = Net((3, 20, 20))
    name = net.conv("x", 12, (3, 1), pad=(1, 0), bias=False)
    name = net.conv(name, 12, (3, 1), pad=(1, 0))
    graph = net.graph(net.conv(name, 4, (1, 3), pad=(0, 1)))
    new, row = one(graph, max_growth=1.0)
    assert "corrected along the edges" in row.reason
    assert sorted(n.name.split("/")[-1] for n in new.nodes if "/strip" in n.name) == [
        "strip_0_x", "strip_2_x", "strip_x_0", "strip_x_2",
    ]


def test_scale():
    """What is left of a depthwise 1×1 and a normalisation is a scale and a shift per channel."""
    net = Net((4, 9, 9))
    new, row = one(net.graph(net.affine(net.conv("x", 4, groups=4))))
    assert (row.border, row.reason) == ("free", "scale and shift folded into one scale and shift per channel")
    assert kinds(new) == {Affine}


def test_a_depthwise_point_that_pads_is_no_scale():
    """The map grows at its far side alone: there the answer is the bias."""
    net = Net((4, 9))
    new, _ = one(net.graph(net.affine(net.conv("x", 4, groups=4, pad=[(0, 1)]))))
    assert kinds(new) == {Conv}


def test_dense():
    net = Net((12,))
    new, row = one(net.graph(net.dense(net.dense("x", 9), 5)))
    assert (row.border, row.reason) == ("free", "2 layers -> one dense layer")
    assert kinds(new) == {Dense}


def test_dense_on_the_last_axis():
    net = Net((7, 12))
    new, row = one(net.graph(net.dense(net.dense("x", 9), 5)))
    assert row.reason == "2 layers -> one dense layer"
    assert kinds(new) == {Dense}
    assert new.shape(new.outputs[0]) == ("N", 7, 5)


@pytest.mark.parametrize("order", ["channels_first", "channels_last"])
def test_flatten_and_dense_become_a_dense_layer_over_the_map(order):
    net = Net((3, 5, 4))
    flat = net.emit(Flatten(order), net.conv("x", 6, 3, pad=1))
    new, row = one(net.graph(net.dense(net.dense(flat, 20), 2)))
    assert row.reason == "4 layers -> one dense layer"
    assert kinds(new) == {Flatten, Dense}


def test_a_dense_layer_that_sees_part_of_the_map_is_a_convolution_and_a_flatten():
    """A crop before the flatten: the kernel is smaller than the map."""
    net = Net((3, 6, 6))
    crop = net.emit(Pad(((-1, -1), (0, -2))), "x")
    new, row = one(net.graph(net.dense(net.emit(Flatten(), crop), 2)))
    assert kinds(new) == {Conv, Flatten}
    assert row.reason == "padding folded into one 4x4 convolution"


def test_transposed():
    net = Net((4, 6, 6))
    up = net.transposed("x", 8, 2, bias=False, stride=2)
    new, row = one(net.graph(net.transposed(up, 3, 2, stride=2)))
    assert (row.border, row.reason) == ("free", "2 layers -> one 4x4 transposed convolution")
    assert kinds(new) == {ConvTranspose}
    assert new.nodes[0].op.stride == (4, 4)


def test_upsampling_and_a_convolution_without_padding():
    net = Net((4, 6, 6))
    new, row = one(net.graph(net.conv(net.emit(Upsample((2, 2)), "x"), 3, 3)))
    assert row.reason == "2 layers -> one 4x4 transposed convolution"
    assert kinds(new) == {ConvTranspose}


def test_low_rank_split():
    """A 1×1 bottleneck that somebody multiplied out is put back."""
    net = Net((32, 8, 8))
    weight = (net.weights(32, 2).astype(np.float64) @ net.weights(2, 32 * 9)).reshape(32, 32, 3, 3)
    graph = net.graph(net.emit(Conv(weight, net.vector(32), padding=1), "x", name="wide"))
    new, row = one(graph, "profitable")
    assert (row.border, row.reason) == ("free", "1 layer -> two, exactly: its kernel has low rank")
    assert [n.op.weight.shape for n in new.nodes] == [(2, 32, 3, 3), (32, 2, 1, 1)]
    assert (row.removed, row.added, row.layers) == (("wide",), ("wide_split/first", "wide_split/second"), ("wide",))
    assert (row.before.value, row.after.value) == (64 * 32 * 32 * 9, 64 * (2 * 32 * 9 + 32 * 2))
    assert len(merged(graph, "always")[0].nodes) == 1


def test_low_rank_split_of_a_dense_layer():
    net = Net((40,))
    weight = net.weights(30, 3).astype(np.float64) @ net.weights(3, 40)
    new, row = one(net.graph(net.emit(Dense(Conv(weight)), "x", name="wide")), "profitable")
    assert row.reason == "1 layer -> two, exactly: its kernel has low rank"
    assert [n.op.layer.weight.shape for n in new.nodes] == [(3, 40), (30, 3)]


def test_a_merge_whose_result_is_split_is_one_row():
    """Two wide layers of which the first has rank 2: merged, and so has the merged kernel."""
    net = Net((16, 8, 8))
    first = (net.weights(32, 2).astype(np.float64) @ net.weights(2, 16).astype(np.float64))[..., None, None]
    second = net.weights(16, 32, 1, 1).astype(np.float64)
    graph = net.graph(net.emit(Conv(second), net.emit(Conv(first), "x", name="a"), name="b"))
    new, row = one(graph, "profitable")
    assert row.reason == "2 layers -> one 1x1 convolution, split in two (low rank)"
    assert row.added == tuple(n.name for n in new.nodes)
    assert [n.op.weight.shape for n in new.nodes] == [(2, 16, 1, 1), (16, 2, 1, 1)]
    assert (row.after.value, row.after.parameters) == (64 * 64, 64)


def test_a_strip_that_only_meets_the_padding_answers_its_bias():
    """All columns that the outputs see are padding: corrections of the rows have taps there and nowhere else."""
    net = Net((2, 6, 1))
    graph = net.graph(net.conv(net.conv("x", 2, (3, 1), pad=(1, 0), name="a"), 2, (3, 2), pad=[(1, 1), (2, -1)], name="y"))
    border = find_border(lowered(graph))
    builder = Builder(graph, "x", "y", "new", Names.of(graph))
    assert write_form("strips", Composed(border), builder)
    assert_same(graph, graph.with_nodes(builder.nodes, builder.tensors), inputs_for(graph))


# -- on random regions, whether they pay or not


def lowered(graph: Graph) -> Program:
    program = lower(graph, graph.nodes, "x", "y")
    assert isinstance(program, Program)
    return program


def stored(builder: Builder) -> int:
    return sum(parameters(n) for n in builder.nodes)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(cascades(), st.data())
def test_every_form_of_a_region_is_exact_and_stores_no_more_than_was_costed(graph, data):
    border = find_border(lowered(graph))
    form = data.draw(st.sampled_from(FORMS[border.kind]))
    real, sketch = Builder(graph, "x", "y", "new", Names.of(graph)), Builder(graph, "x", "y", "sketch", Names.of(graph))
    if not write_form(form, Composed(border), real):
        assert form in ("shift", "ones", "strips"), "the other forms are always there where sizes are known"
        return
    assert_same(graph, graph.with_nodes(real.nodes, real.tensors), random_input(graph, np.random.default_rng(0)))
    assert write_form(form, Sketched(border), sketch)
    assert stored(real) <= stored(sketch)
