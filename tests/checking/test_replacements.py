"""The check of one replacement: right ones pass on a bound from the arithmetic, wrong ones fail, however small the fault."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cascades import DEFAULT, random_cascade
from decascade.algebra.compose import compose
from decascade.algebra.conv import Conv
from decascade.checking.cascades import check_replacement, stored
from decascade.cost import target_named
from decascade.errors import VerificationError
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.ops import Activation, Add
from decascade.ir.shapes import infer_graph
from decascade.regions.merge import Options, merge_graph


def graph(*nodes: Node, size: tuple[int, ...] = (3, 12, 12)) -> Graph:
    names = {name for node in nodes for name in (*node.inputs, *node.outputs)}
    tensors = {name: Tensor(name, ("N", *size) if name == "x" else None) for name in names}
    return infer_graph(Graph(nodes, ("x",), ("y",), tensors))


def conv(rng: np.random.Generator, o: int, i: int, k: int, padding: int = 0) -> Conv:
    return Conv(rng.standard_normal((o, i, k, k)).astype("f4"), rng.standard_normal(o).astype("f4"), padding=padding)


def pair(rng: np.random.Generator, padding: int = 0) -> tuple[Conv, Conv, Graph]:
    first, second = conv(rng, 8, 3, 3, padding), conv(rng, 4, 8, 3, padding)
    return first, second, graph(Node("a", first, ("x",), ("m",), ("a",)), Node("b", second, ("m",), ("y",), ("b",)))


def merged(layer: Conv) -> Graph:
    return graph(Node("ab", layer, ("x",), ("y",)))


def test_right_merge_passes_and_reports_its_error(rng: np.random.Generator) -> None:
    first, second, before = pair(rng)
    facts = check_replacement(before, merged(compose(second, first)), "x", "y", "a → b")
    assert facts is not None
    assert 0 < facts.max_abs <= facts.allowed
    assert facts.max_rel < 1e-6
    assert facts.samples == 4


@pytest.mark.parametrize("fault", ["weight", "bias", "stride of one tap"])
def test_small_faults_are_found(rng: np.random.Generator, fault: str) -> None:
    first, second, before = pair(rng)
    right = compose(second, first)
    weight, bias = right.weight.copy(), right.bias64.copy()
    if fault == "weight":
        weight[2, 1, 0, 3] *= 1 + 1e-4
    elif fault == "bias":
        bias[3] += 1e-5
    else:
        weight[..., 0, 0], weight[..., 0, 1] = right.weight[..., 0, 1], right.weight[..., 0, 0]
    with pytest.raises(VerificationError, match=r"of a → b is off by .* at y\[\d, \d, \d+, \d+\], where rounding"):
        check_replacement(before, merged(Conv(weight, bias)), "x", "y", "a → b")


def test_merge_without_its_border_is_refused(rng: np.random.Generator) -> None:
    first, second, before = pair(rng, padding=1)
    naive = compose(second, replace_bias(first))
    with pytest.raises(VerificationError, match=r"\d+ of 2304 values are wrong"):
        check_replacement(before, merged(naive), "x", "y", "a → b")


def replace_bias(layer: Conv) -> Conv:
    return Conv(layer.weight, None, layer.stride, layer.dilation, layer.padding, layer.groups)


def test_wrong_output_shape(rng: np.random.Generator) -> None:
    first, second, before = pair(rng)
    right = compose(second, first)
    with pytest.raises(VerificationError, match=r"output shape \(4, 4, 10, 10\) instead of \(4, 4, 8, 8\)"):
        check_replacement(before, merged(Conv(right.weight, right.bias, padding=1)), "x", "y", "a → b")


def test_segment_with_exponential_is_not_judged(rng: np.random.Generator) -> None:
    layer = conv(rng, 3, 3, 1)
    nodes = Node("a", layer, ("x",), ("m",), ("a",)), Node("e", Activation("exp"), ("m",), ("y",), ("e",))
    assert check_replacement(graph(*nodes), graph(*nodes), "x", "y", "a") is None


def test_activations_carry_the_bound_along(rng: np.random.Generator) -> None:
    layer, relu = conv(rng, 5, 3, 3), Activation("leaky_relu", (0.1,))
    old = graph(Node("a", layer, ("x",), ("m",), ("a",)), Node("r", relu, ("m",), ("y",), ("r",)))
    new = graph(Node("a2", layer, ("x",), ("m",)), Node("r", relu, ("m",), ("y",), ("r",)))
    assert check_replacement(old, new, "x", "y", "a") is not None
    off = Conv(layer.weight.astype("f8") * (1 + 1e-5), layer.bias)
    with pytest.raises(VerificationError):
        check_replacement(old, graph(Node("a2", off, ("x",), ("m",)), Node("r", relu, ("m",), ("y",), ("r",))), "x", "y", "a")


def test_stored_rounds_new_nodes_only(rng: np.random.Generator) -> None:
    first = Conv(rng.standard_normal((3, 3, 1, 1)))
    made, kept = Node("new", first, ("x",), ("m",)), Node("old", first, ("m",), ("k",), ("old",))
    new, old, _ = stored(graph(made, kept, Node("s", Add(), ("m", "k"), ("y",)))).nodes
    assert new.op.weight.dtype == np.float32
    assert old.op is first


@pytest.mark.parametrize("seed", range(40))
def test_random_merges_pass(seed: int) -> None:
    before = random_cascade(np.random.default_rng(seed), replace(DEFAULT, size=(5, 9)))
    after, rows = merge_graph(before, Options(target_named("macs"), policy="always"))
    for row in rows:
        if row.decision == "merged":
            facts = check_replacement(before, after, row.entry, row.exit, "it")
            assert facts is not None
            assert facts.max_abs <= facts.allowed


def decayed(rng: np.random.Generator) -> Graph:
    """Two 1×1 layers of which weight decay switched most channels off: weights at 1e-41, as in published networks."""

    def layer(o: int, i: int) -> Conv:
        weight = rng.standard_normal((o, i, 1, 1)).astype("f4")
        bias = rng.standard_normal(o).astype("f4")
        dead = rng.random(o) < 0.7
        return Conv(np.where(dead[:, None, None, None], 1e-41 * weight, weight).astype("f4"),
                    np.where(dead, 1e-41 * bias, bias).astype("f4"))

    first, second = layer(48, 32), layer(40, 48)
    nodes = Node("a", first, ("x",), ("m",), ("a",)), Node("b", second, ("m",), ("y",), ("b",))
    return graph(*nodes, size=(32, 6, 6))


@pytest.mark.parametrize("seed", range(5))
def test_dead_channels_of_subnormal_weights(seed: int) -> None:
    before = decayed(np.random.default_rng(seed))
    after, rows = merge_graph(before, Options(target_named("macs")))
    (row,) = (r for r in rows if r.decision == "merged")
    assert len(after.nodes) == 2  # the live channels alone make it through the middle
    assert after.nodes[0].op.weight.shape[0] < 30
    facts = check_replacement(before, after, row.entry, row.exit, "it")
    assert facts is not None
    assert facts.max_abs <= facts.allowed


def test_what_is_neglected_is_no_excuse_for_faults() -> None:
    """A fault of a millionth of a live weight is found all the same."""
    before = decayed(np.random.default_rng(0))
    after, (row, *_) = merge_graph(before, Options(target_named("macs")))
    first = after.nodes[0].op
    weight = first.weight.copy()
    weight[0] *= 1 + 1e-5
    broken = replace(after, nodes=(replace(after.nodes[0], op=Conv(weight, first.bias)), *after.nodes[1:]))
    with pytest.raises(VerificationError, match="of it is off by"):
        check_replacement(before, broken, row.entry, row.exit, "it")
