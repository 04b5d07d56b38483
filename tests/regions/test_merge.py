"""The exact tier on random cascades: the same function, never dearer, within the cap, and true words about what was done."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascades import Options as Cascading
from cascades import cascades, random_input
from decascade.algebra.compose import compose
from decascade.algebra.conv import Conv
from decascade.cost import target_named
from decascade.ir.graph import Graph, Node
from decascade.ir.interpret import run
from decascade.ir.ops import Dense
from decascade.regions.merge import Cascade, Options, merge_graph, sized
from laws import Net, assert_rows_are_true, assert_same, inputs_for


def merged(graph: Graph, policy: str = "always", target: str = "macs", **more) -> tuple[Graph, tuple[Cascade, ...]]:
    return merge_graph(graph, Options(target_named(target), policy, **more))


@settings(max_examples=300, deadline=None)
@given(cascades(Cascading(size=(2, 12), size_3d=(1, 6))), st.sampled_from(["always", "profitable"]),
       st.sampled_from(["macs", "memory"]), st.sampled_from([16, 3, 1]))
def test_merged_is_the_same_function_within_the_cap_and_never_dearer(graph, policy, target, cap):
    new, rows = merged(graph, policy, target, max_growth=float(cap))
    assert_same(graph, new, random_input(graph, np.random.default_rng(0)))
    assert_rows_are_true(graph, new, rows, target, cap)
    if policy == "profitable":
        cost = target_named(target).graph_cost
        assert cost(sized(new)) <= cost(sized(graph))


@settings(max_examples=60, deadline=None)
@given(cascades())
def test_border_refuse_leaves_every_correction_alone(graph):
    new, rows = merged(graph, border="refuse")
    assert_same(graph, new, random_input(graph, np.random.default_rng(0)))
    assert all(row.border == "free" for row in rows if row.decision == "merged")


@settings(max_examples=60, deadline=None)
@given(cascades())
def test_merging_again_changes_nothing_that_pays(graph):
    once, _ = merged(graph, "profitable")
    twice, _ = merged(once, "profitable")
    cost = target_named("macs").graph_cost
    assert cost(twice) <= cost(once)
    assert_same(graph, twice, random_input(graph, np.random.default_rng(0)))


def test_the_naive_merge_of_the_same_layers_is_wrong():
    """One composed 5×5 with added pads and no correction, beside the merge: the tests above can fail."""
    net = Net((3, 8, 8))
    graph = net.graph(net.conv(net.conv("x", 8, 3, pad=1), 4, 3, pad=1))
    first, second = (node.op for node in graph.nodes)
    naive = replace(graph, nodes=(Node("naive", compose(second, first), ("x",), graph.outputs),))
    x = inputs_for(graph)
    right, wrong = run(graph, x)[graph.outputs[0]], run(naive, x)[graph.outputs[0]]
    off = np.abs(right - wrong)
    assert off.max() > 0.2 * np.abs(right).max()
    assert off[..., 1:-1, 1:-1].max() < 1e-13
    with pytest.raises(AssertionError, match="allowed"):
        assert_same(graph, naive, x)
    assert_same(graph, merged(graph)[0], x)


def test_a_weight_that_is_slightly_off_is_seen():
    """The tolerance is not generous: a change of one weight by 1e-10 is found."""
    net = Net((3, 8, 8))
    graph = net.graph(net.conv(net.conv("x", 8, 3, pad=1), 4, 3))
    new, _ = merged(graph)
    (node,) = new.nodes
    weight = node.op.weight.copy()
    weight[0, 0, 0, 0] *= 1 + 1e-10
    broken = replace(node, op=Conv(weight, node.op.bias, 1, 1, node.op.padding))
    with pytest.raises(AssertionError, match="allowed"):
        assert_same(graph, replace(new, nodes=(broken,)), inputs_for(graph))


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_new_tensors_have_the_element_type_of_the_model(dtype):
    net = Net((3, 8, 8), dtype)
    graph = net.graph(net.conv(net.conv("x", 8, 3, pad=1), 4, 3, pad=1))
    new, _ = merged(graph)
    assert len(new.nodes) > 1
    assert {tensor.dtype for tensor in new.tensors.values()} == {dtype}
    assert_same(graph, new, inputs_for(graph))


def test_a_graph_that_is_not_well_formed_after_a_merge_is_not_given_out(monkeypatch):
    """The verifier looks at every result."""
    from decascade.errors import GraphError
    from decascade.regions import candidates

    def broken(form, kernels, builder):
        builder.add(Dense(Conv(np.ones((1, 1)))), [builder.entry], (), last=True)
        return True

    net = Net((3, 8, 8))
    graph = net.graph(net.conv(net.conv("x", 8, 3), 4, 3))
    whole = candidates.write_form
    monkeypatch.setattr(candidates, "write_form", lambda form, kernels, builder: (
        broken if builder.label != "sketch" else whole)(form, kernels, builder))
    with pytest.raises(GraphError, match="conv1_merged"):
        merged(graph)
