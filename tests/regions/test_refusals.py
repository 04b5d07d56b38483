"""Every reason why a cascade is left alone, in its words; and that the words are true of the graph that comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from decascade.algebra.conv import Conv
from decascade.cost import target_named
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.ops import Add, Dense, Flatten, Foreign, GlobalPool, Identity, Select, Slice, Upsample
from decascade.regions.candidates import Candidate, Segment, candidate
from decascade.regions.lower import Refusal, lower
from decascade.regions.merge import Cascade, Options, merge_graph, sized
from decascade.regions.transposed import fold, layers_of
from laws import Net, assert_same, inputs_for


def options(policy: str = "always", target: str = "macs", **more) -> Options:
    return Options(target_named(target), policy, **more)


def left(graph: Graph, chosen: Options) -> list[Cascade]:
    """The rows of what was left; the graph that came out is the same function."""
    new, rows = merge_graph(graph, chosen)
    assert_same(graph, new, inputs_for(graph))
    return [row for row in rows if row.decision == "left"]


def whole(graph: Graph, chosen: Options | None = None) -> Candidate | Refusal:
    """The answer for all nodes of a graph as one segment."""
    return candidate(graph, sized(graph), Segment("x", graph.outputs[0], graph.nodes), chosen or options())


def two(net: Net, kernel: int = 3, pad: int = 1, middle: int = 8, bias: bool = True) -> Graph:
    name = net.conv("x", middle, kernel, pad=kernel // 2, bias=bias, name="a")
    return net.graph(net.conv(name, 4, 3, pad=pad, name="b"))


OPEN = "a map whose size is not known before the model runs (fix it with --input-shape)"

# -- borders


def test_a_ring_at_a_size_that_is_not_known():
    graph = two(Net((3, "H", "W")))
    (row,) = left(graph, options())
    assert row.reason == ("zero padding between the layers needs a correction along the border, and the size of the map is "
                          "not known before the model runs (fix it with --input-shape)")
    assert (row.layers, row.after, row.entry, row.exit, row.removed, row.added) == (("a", "b"), None, "x", "b", (), ())


def test_a_ring_where_only_the_height_is_not_known():
    (row,) = left(two(Net((3, "H", 8))), options())
    assert "the size of the map is not known before the model runs" in row.reason


def test_a_free_border_at_a_size_that_is_not_known_is_merged():
    assert left(two(Net((3, "H", "W")), pad=0), options()) == []


@pytest.mark.parametrize(("kernel", "kind"), [(3, "ring"), (1, "bias")])
def test_border_refuse(kernel, kind):
    (row,) = left(two(Net((3, 8, 8)), kernel), options(border="refuse"))
    assert row.reason == f"zero padding between the layers needs a {kind} correction, and --border refuse forbids it"
    assert left(two(Net((3, 8, 8)), kernel), options()) == []


def test_border_refuse_merges_what_needs_no_correction():
    assert left(two(Net((3, 8, 8)), 1, bias=False), options(border="refuse")) == []
    assert left(two(Net((3, 8, 8)), 3, pad=0), options(border="refuse")) == []


@pytest.mark.parametrize("middle", [2, 3, 9])
def test_the_cap_counts_where_no_single_layer_carries_the_bias(middle):
    """A bias-only border without a channel of ones (the map between ends inside the input): map or tiles, or the cap."""
    net = Net((3, 30))
    graph = net.graph(net.conv(net.conv("x", middle, 2, name="a"), 4, 1, pad=[(2, 0)], stride=2, name="b"))
    assert left(graph, options(max_growth=100.0)) == []
    (row,) = left(graph, options(max_growth=0.2))
    assert "convolution with its border corrections would store" in row.reason


# -- the cap


def test_the_growth_cap_with_its_numbers():
    """64 → 1 → 64 stores 128 numbers; one layer would store 4096."""
    net = Net((64, 6, 6))
    graph = net.graph(net.conv(net.conv("x", 1, bias=False, name="a"), 64, bias=False, name="b"))
    (row,) = left(graph, options())
    assert row.reason == ("one 1x1 convolution would store 32.0x the parameters of the cascade, "
                          "above the cap of 16x (--max-growth)")
    found = whole(graph)
    assert isinstance(found, Refusal)
    assert found.numbers == {"growth": 32.0, "cap": 16.0}
    assert left(graph, options(max_growth=32.0)) == []
    (row,) = left(graph, options(max_growth=31.5))
    assert "32.0x" in row.reason
    assert "31.5x" in row.reason


def test_the_growth_cap_counts_border_corrections():
    graph = two(Net((3, 12, 12)))
    (row,) = left(graph, options(max_growth=0.5))
    assert row.reason.startswith("one 5x5 convolution with its border corrections would store 1.")
    assert row.reason.endswith("x the parameters of the cascade, above the cap of 0.5x (--max-growth)")


def test_the_growth_cap_of_transposed_convolutions():
    net = Net((32, 6, 6))
    up = net.transposed("x", 1, 2, bias=False, stride=2)
    graph = net.graph(net.transposed(up, 32, 2, stride=2, bias=False))
    (row,) = left(graph, options())
    assert row.reason == ("one transposed convolution would store 64.0x the parameters of the cascade, "
                          "above the cap of 16x (--max-growth)")


# -- what costs more


@pytest.mark.parametrize(
    ("graph", "target", "reason"),
    [
        (
            lambda: two(Net((4, 10, 10)), 3, 0, 4), "macs",
            "one 5x5 convolution would cost 1.08x: 23,616 MACs -> 25,600 MACs",
        ),
        (
            lambda: two(Net((4, 8, 8)), 1, 0, 1, bias=False), "macs",
            "one 3x3 convolution would cost 3.34x: 1,552 MACs -> 5,184 MACs",
        ),
    ],
)
def test_dearer_with_its_numbers(graph: Callable[[], Graph], target, reason):
    (row,) = left(graph(), options("profitable", target))
    assert row.reason == reason
    assert row.after is not None
    assert row.after.value > row.before.value


def test_a_dense_layer_that_would_cost_more():
    net = Net((20,))
    (row,) = left(net.graph(net.dense(net.dense("x", 2, bias=False), 30, bias=False)), options("profitable"))
    assert row.reason == "one dense layer would cost 6.00x: 100 MACs -> 600 MACs"


def test_the_same_cost_and_more_to_store():
    """Memory: the peak is that of the input and the output either way."""
    net = Net((4, 16, 16))
    graph = net.graph(net.conv(net.conv("x", 1, 1, bias=False, name="a"), 4, 1, bias=False, name="b"))
    (row,) = left(graph, options("profitable", "memory"))
    assert row.reason.startswith("one 1x1 convolution would cost")


def test_a_transposed_convolution_that_would_cost_more():
    net = Net((8, 6, 6))
    graph = net.graph(net.transposed(net.transposed("x", 1, 3, bias=False, stride=2), 8, 3, stride=2))
    (row,) = left(graph, options("profitable", max_growth=40.0))
    assert row.reason.startswith("one 7x7 transposed convolution would cost ")
    assert "MACs -> " in row.reason


# -- what stands in the way


def test_an_output_in_the_middle():
    net = Net((3, 8, 8))
    a = net.conv("x", 8, 3, name="first")
    graph = net.graph(a, net.conv(a, 4, 3, name="second"))
    (row,) = left(graph, options())
    assert row.reason == "the output of first is an output of the model and has to stay"
    assert row.layers == ("first", "second")


def test_another_reader_in_the_middle():
    net = Net((3, 8, 8))
    a = net.conv("x", 8, 3, name="first")
    b = net.conv(a, 4, 3, name="second")
    graph = net.graph(b, net.relu(a))
    (row,) = left(graph, options())
    assert row.reason == "the output of first is also read by activation2 and has to stay"


def test_a_pinned_layer_gives_its_own_reason():
    net = Net((3, 8, 8))
    a = net.conv("x", 8, 3, name="first", pinned="first is called twice")
    graph = net.graph(net.conv(a, 4, 3, name="second"))
    (row,) = left(graph, options())
    assert (row.reason, row.layers) == ("first is called twice", ("first", "second"))
    new, _ = merge_graph(graph, options())
    assert new.nodes == graph.nodes


def test_an_activation_between_is_no_cascade():
    net = Net((3, 8, 8))
    graph = net.graph(net.conv(net.relu(net.conv("x", 8, 3)), 4, 3))
    new, rows = merge_graph(graph, options())
    assert (new.nodes, rows) == (graph.nodes, ())


def test_a_run_that_ends_in_a_flatten():
    net = Net((3, 6, 6))
    graph = net.graph(net.emit(Flatten(), net.conv(net.conv("x", 8, 3), 4, 3)))
    found = whole(graph)
    assert found == Refusal("the run ends in a flatten: what comes before it is merged, the flatten stays")
    new, (row,) = merge_graph(graph, options())
    assert [type(n.op) for n in new.nodes] == [Conv, Flatten]
    assert row.decision == "merged"


def test_two_paths_of_different_strides():
    """Two paths whose strides differ meet where a 1-wide map hides it."""
    net = Net((4, 1))
    a = net.conv("x", 4, 1, stride=2, name="a")
    b = net.conv("x", 4, 1, name="b")
    graph = net.graph(net.add(a, b))
    for policy, reason in (("always", "two branches have strides 2 and 1"),
                           ("profitable", "two paths from x to the output have different strides")):
        assert whole(graph, options(policy)) == Refusal(reason, graph.outputs[0])
        new, _ = merge_graph(graph, options(policy))
        assert_same(graph, new, inputs_for(graph))


# -- what has no program


def refused(graph: Graph) -> str:
    found = lower(graph, graph.nodes, "x", graph.outputs[0])
    assert isinstance(found, Refusal)
    assert_same(graph, merge_graph(graph, options())[0], inputs_for(graph))
    return found.reason


def test_a_dense_layer_on_the_last_axis_beside_one_on_the_channels():
    net = Net((5, 6))
    graph = net.graph(net.dense(net.conv("x", 5, 3, pad=1), 6))
    assert refused(graph) == "a dense layer on the last axis of a tensor with more axes mixes with layers on the channel axis"


def test_a_map_of_unknown_size_is_not_averaged_flattened_or_sliced():
    net = Net((4, "L"))
    graph = net.graph(net.emit(GlobalPool("avg"), net.conv("x", 4, 3), name="mean"))
    assert refused(graph) == f"mean averages over {OPEN}"
    net = Net((4, "L"))
    graph = net.graph(net.average("x", 3, stride=1, pad=1))
    assert refused(graph) == f"pool0 averages over {OPEN}"
    net = Net((4, "L"))
    graph = net.graph(net.emit(Slice(2, 1, 5), net.conv("x", 4, 3), name="part"))
    assert refused(graph) == f"part slices {OPEN}"
    net = Net((4, "L"))
    graph = net.graph(net.emit(Flatten(), net.conv("x", 4, 3), name="flat"))
    assert refused(graph) == f"flat flattens {OPEN}"


def test_an_average_that_counts_its_padding_needs_no_size():
    net = Net((4, "L"))
    graph = net.graph(net.average(net.conv("x", 4, 3), 2, count=True))
    assert left(graph, options()) == []


def test_a_shape_that_is_not_known():
    net = Net((4, 8))
    graph = net.graph(net.conv(net.conv("x", 4, 3), 4, 3))
    unknown = replace(graph, tensors={**graph.tensors, "conv0": Tensor("conv0", None)})
    found = lower(unknown, graph.nodes, "x", "conv1")
    assert found == Refusal("the shape of conv0 is not known (an --input-shape may tell)", "conv0")


def test_an_operation_without_a_form():
    graph = Net((4, 8)).graph()
    node = Node("odd", Foreign("Odd"), ("x",), ("odd",))
    found = lower(replace(graph, tensors={**graph.tensors, "odd": Tensor("odd", ("N", 4, 8))}), [node], "x", "odd")
    assert found == Refusal("odd has no convolution form here", "odd")


# -- transposed convolutions


def stacked(net: Net, *steps: Callable[[Net, str], str]) -> Graph:
    name = "x"
    for step in steps:
        name = step(net, name)
    return net.graph(name)


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        (
            [lambda n, x: n.conv(x, 4, 3, stride=2), lambda n, x: n.transposed(x, 4, 2, stride=2)],
            "a strided convolution before a transposed one",
        ),
        (
            [lambda n, x: n.transposed(x, 4, 3, stride=2, bias=False), lambda n, x: n.conv(x, 4, 3, stride=2)],
            "a strided convolution beside a transposed one is neither a convolution nor a transposed one",
        ),
        (
            [lambda n, x: n.transposed(x, 4, 3, stride=2, crop=1), lambda n, x: n.transposed(x, 4, 3, stride=2)],
            "the padding of the first layer cuts off values that the merged layer would use",
        ),
        (
            [lambda n, x: n.conv(x, 4, 3), lambda n, x: n.transposed(x, 4, 3, stride=2)],
            "the padding of the first layer cuts off values that the merged layer would use",
        ),
        (
            [lambda n, x: n.transposed(x, 4, 3, stride=2), lambda n, x: n.transposed(x, 4, 3, stride=2)],
            "the bias of the first layer reaches the output unevenly",
        ),
        (
            [lambda n, x: n.transposed(x, 4, 3, stride=2, crop=1, bias=False), lambda n, x: n.conv(x, 4, 3, pad=1)],
            "the padding of the first layer cuts off values that the merged layer would use",
        ),
        (
            [lambda n, x: n.conv(x, 4, 3, pad=1), lambda n, x: n.conv(x, 4, 3, pad=1),
             lambda n, x: n.transposed(x, 4, 2, stride=2)],
            "zero padding between layers beside a transposed convolution",
        ),
    ],
)
def test_pairs_that_are_no_transposed_convolution(steps, reason):
    graph = stacked(Net((4, 9, 9)), *steps)
    folded = fold(layers_of(graph, graph.nodes))
    assert isinstance(folded, Refusal)
    assert folded.reason == reason
    assert reason in {row.reason for row in left(graph, options())}


def test_a_skip_beside_a_transposed_convolution():
    net = Net((4, 6, 6))
    up = net.transposed("x", 4, 2, stride=2)
    graph = net.graph(net.emit(Add(), up, net.emit(Upsample((2, 2)), "x"), name="join"))
    found = whole(graph)
    assert found == Refusal("join and a transposed convolution do not make one layer", "join")
    graph = net.graph(net.emit(Select(np.array([1, 0])), up, name="pick"))
    assert layers_of(graph, graph.nodes[-1:]) == Refusal("pick and a transposed convolution do not make one layer", "pick")


def test_layers_of_one_chain_with_every_kind_of_step():
    net = Net((4, 6, 6))
    name = net.emit(Identity(), net.affine(net.emit(Upsample((2, 2)), net.conv("x", 4, bias=False)), shift=False))
    graph = net.graph(net.conv(name, 3, 3))
    new, (row,) = merge_graph(graph, options())
    assert row.reason == "5 layers -> one 4x4 transposed convolution"
    assert_same(graph, new, inputs_for(graph))


def test_nothing_is_linear_about_a_second_output():
    graph = Net((4, 8)).graph()
    dense = Dense(Conv(np.ones((8, 8))))
    tensors = {**graph.tensors, **{n: Tensor(n, ("N", 4, 8)) for n in ("a", "b", "y")}}
    foreign = Node("two", Foreign("Two", lambda arrays: [arrays[0], arrays[0]]), ("x",), ("a", "b"))
    made = replace(graph, nodes=(foreign, Node("d", dense, ("a",), ("y",))), outputs=("y", "b"), tensors=tensors)
    new, rows = merge_graph(made, options())
    assert (new.nodes, rows) == (made.nodes, ())
