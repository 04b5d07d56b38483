"""Every training-time block collapses to the fewest layers that its border allows, with nothing that knows its name."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from decascade.checking.cascades import check_replacement
from decascade.cost import target_named
from decascade.formats.torch.format import FORMAT, read
from decascade.ir.interpret import run
from decascade.ir.ops import Affine, BiasMap, Conv, Pad
from decascade.regions.merge import Options, merge_graph
from formats.torch_blocks import BLOCKS, build, size

torch = pytest.importorskip("torch")
nn = torch.nn
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")

CASES = [(name, rank) for name, block in BLOCKS.items() for rank in block.ranks]


@pytest.mark.parametrize(("name", "rank"), CASES)
def test_block_collapses(name: str, rank: int) -> None:
    block, module = BLOCKS[name], build(name, rank)
    shape = (2, block.channels, *size(rank))
    document = read(module, shape)
    assert not document.notes
    graph, cascades = merge_graph(document.graph, Options(target=target_named("macs"), policy="always"))
    assert {c.decision for c in cascades} == {"merged"}
    kinds = [type(node.op) for node in graph.nodes]
    assert kinds.count(Conv) == 1, kinds
    # what the position of the bias needs: a map, or a channel of ones
    assert set(kinds) <= ({Conv} if block.border == "free" else {Conv, BiasMap, Pad}), kinds
    assert {c.border for c in cascades} == {block.border}
    for cascade in cascades:
        assert check_replacement(document.graph, graph, cascade.entry, cascade.exit, name) is not None
    _same(module, graph, FORMAT.write(document, graph), shape)


def _same(module: Any, graph: Any, new: Any, shape: tuple[int, ...]) -> None:
    """The merged block in float32 against the block in float64, within what rounding explains at each position.

    γ(n+3)·(|W| ⊛ |x| + |b|) with n terms in a sum, and three roundings more for storing W, b and a map or channel.
    """
    name = graph.inputs[0]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    with torch.no_grad():
        exact = copy.deepcopy(module).double()(torch.tensor(x).double()).numpy()
    found = FORMAT.run(new, {name: x})["output"]
    terms = max(int(np.prod(node.op.weight.shape[1:])) for node in graph.nodes if isinstance(node.op, Conv))
    allowed = (terms + 4) * 2.0**-24 * run(absolute(graph), {name: np.abs(x)})["output"]
    assert found.shape == exact.shape
    assert np.all(np.abs(found - exact) <= allowed), float((np.abs(found - exact) / allowed).max())


def absolute(graph: Any) -> Any:
    """The graph with every weight, bias and constant made positive."""

    def positive(op: Any) -> Any:
        if isinstance(op, Conv):
            return Conv(np.abs(op.weight), np.abs(op.bias64), op.stride, op.dilation, op.padding, op.groups)
        return BiasMap(np.abs(op.values)) if isinstance(op, BiasMap) else op

    return replace(graph, nodes=tuple(replace(node, op=positive(node.op)) for node in graph.nodes))


@pytest.mark.parametrize("name", ["RepVGG", "DBB padded before the norm", "SESR", "ExpandNet 3", "BSConv-U", "MBConv"])
def test_block_collapses_through_export(name: str) -> None:
    module = build(name, 2)
    shape = (2, BLOCKS[name].channels, *size(2))
    document = read(torch.export.export(module, (torch.zeros(shape),)))
    graph, _ = merge_graph(document.graph, Options(target=target_named("macs"), policy="always"))
    assert sum(isinstance(node.op, Conv) for node in graph.nodes) == 1
    _same(module, graph, FORMAT.write(document, graph), shape)


@pytest.mark.parametrize("name", [name for name, block in BLOCKS.items() if block.border == "bias" and 2 in block.ranks])
@pytest.mark.parametrize("policy", ["always", "profitable"])
def test_bias_needs_no_second_convolution_on_large_maps(name: str, policy: Any) -> None:
    """A constant for each place would store more than the cascade there, and a kernel per class is no single layer."""
    document = read(build(name, 2), (1, BLOCKS[name].channels, 96, 80))
    graph, (cascade, *_) = merge_graph(document.graph, Options(target=target_named("macs"), policy=policy))
    if cascade.decision == "merged" or policy == "always":
        assert sum(isinstance(node.op, Conv) for node in graph.nodes) == 1
        assert {type(node.op) for node in graph.nodes} <= {Conv, Pad, Affine}


@pytest.mark.parametrize("name", BLOCKS)
def test_block_collapses_at_unknown_size(name: str) -> None:
    module = build(name, BLOCKS[name].ranks[0])
    document = read(module)
    graph, _ = merge_graph(document.graph, Options(target=target_named("macs"), policy="always"))
    kinds = [type(node.op) for node in graph.nodes]
    assert kinds == ([Conv] if BLOCKS[name].border == "free" else [Pad, Conv])
    shape = (2, BLOCKS[name].channels, *size(BLOCKS[name].ranks[0]))
    _same(module, graph, FORMAT.write(document, graph), shape)


@pytest.mark.parametrize("name", BLOCKS)
def test_block_that_is_left_alone_is_not_touched(name: str) -> None:
    rank = BLOCKS[name].ranks[0]
    module = build(name, rank)
    shape = (2, BLOCKS[name].channels, *size(rank))
    document = read(module, shape)
    new = FORMAT.write(document, document.graph)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    before, after = (FORMAT.run(model, {document.graph.inputs[0]: x}) for model in (module, new))
    np.testing.assert_array_equal(after["output"], before["output"])
    assert set(new.state_dict()) <= set(module.state_dict())


def test_naive_border_is_noticed() -> None:
    """The check sees what every published merge of MBConv gets wrong: the shift behind the zero padding."""
    module = build("MBConv", 2)
    document = read(module, (2, 4, *size(2)))
    graph, _ = merge_graph(document.graph, Options(target=target_named("macs"), policy="always"))
    conv = next(node.op for node in graph.nodes if isinstance(node.op, Conv))
    x = np.random.default_rng(0).standard_normal((2, 4, *size(2)))
    expected = run(document.graph, {"x": x})["output"]
    inner = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    if conv.in_channels == 4:
        naive = conv(x)
        middle = expected[inner] - naive[inner]
        assert np.ptp(middle, axis=(0, 2, 3)).max() < 1e-9
        assert np.ptp(expected - naive, axis=(0, 2, 3)).max() > 1e-2
