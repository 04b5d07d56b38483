"""torch → merge → torch.onnx.export → onnxruntime equals torch → torch.onnx.export → merge: values, and layer by layer.

One network holds every 2-D block of the literature, each behind a convolution and an activation of its own and with an
output of its own, so that two exports are enough.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import decascade as dc
from decascade.cost import target_named
from decascade.formats.onnx.format import FORMAT as ONNX
from decascade.formats.torch.format import FORMAT, read
from decascade.ir.graph import Graph
from decascade.ir.interpret import run
from decascade.ir.ops import Conv
from decascade.regions.merge import Options, merge_graph
from formats.test_torch_blocks import absolute
from formats.torch_blocks import BLOCKS, build

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
nn = torch.nn
pytestmark = pytest.mark.filterwarnings("ignore")

NAMES = [name for name, block in BLOCKS.items() if 2 in block.ranks]
SHAPE = (2, 3, 14, 17)


class Zoo(nn.Module):
    """relu(block(relu(1×1(x)))) for every block."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.points = nn.ModuleList(nn.Conv2d(3, BLOCKS[name].channels, 1) for name in NAMES)
        self.blocks = nn.ModuleList(build(name, 2) for name in NAMES)

    def forward(self, x: Any) -> Any:
        return tuple(torch.relu(b(torch.relu(p(x)))) for p, b in zip(self.points, self.blocks, strict=True))


def merged(graph: Graph) -> Graph:
    return merge_graph(graph, Options(target=target_named("macs"), policy="always"))[0]


def convolutions(graph: Graph, output: str) -> int:
    """How many convolutions an output is made by."""
    stack, seen = [output], set[str]()
    while stack:
        node = graph.producer.get(stack.pop())
        if node is not None and node.name not in seen:
            seen.add(node.name)
            stack += node.inputs
    return sum(isinstance(node.op, Conv) for node in graph.nodes if node.name in seen)


def exported(module: Any, path: Path) -> Path:
    torch.onnx.export(module, (torch.zeros(SHAPE),), str(path), dynamo=True, external_data=False, verbose=False)
    return path


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Graph, Any, Any, Graph]:
    """The network; merged in torch, exported and read; exported, read and merged."""
    folder, module = tmp_path_factory.mktemp("onnx"), Zoo().eval()
    document = read(module, SHAPE)
    first = ONNX.read(exported(FORMAT.write(document, merged(document.graph)), folder / "merged.onnx"))
    plain = ONNX.read(exported(module, folder / "plain.onnx"))
    graph = merged(plain.graph)
    return module, first.graph, first.native, ONNX.write(plain, graph), graph


def test_same_values(both: Any) -> None:
    """Each within what rounding explains: γ of all terms of the three layers on the way, times Σ|w||x|."""
    module, first, native, other, second = both
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    with torch.no_grad():
        exact = copy.deepcopy(module).double()(torch.tensor(x).double())
    for graph, model in ((first, native), (second, other)):
        found = ONNX.run(model, {graph.inputs[0]: x})
        large = run(absolute(first), {first.inputs[0]: np.abs(x)})
        terms = 2 * max(int(np.prod(n.op.weight.shape[1:])) for n in first.nodes if isinstance(n.op, Conv)) + 12
        for value, output, like in zip(exact, graph.outputs, first.outputs, strict=True):
            assert np.all(np.abs(found[output] - value.numpy()) <= terms * 2.0**-24 * large[like])


ASSIGNED = {"DBB", "DBB stride 2", "ECBSR"}
"""Blocks that pad by assigning into a tensor, which the exporter writes as ScatterND: no ONNX reader here knows that as a
padding, so it is carried through.  Merged before they are exported they are one convolution as well."""


def test_same_layers(both: Any) -> None:
    """One convolution before the block and one that the block is; the same on both ways."""
    module, first, _, _, second = both
    original = read(module, SHAPE).graph
    for name, start, a, b in zip(NAMES, original.outputs, first.outputs, second.outputs, strict=True):
        assert convolutions(first, a) == 2, name
        assert convolutions(second, b) == (convolutions(original, start) if name in ASSIGNED else 2), name


def test_a_torch_onnx_program_is_taken_and_given_back() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 3)).eval()
    x = torch.randn(2, 3, 8, 9)
    program = torch.onnx.export(module, (x,), dynamo=True, verbose=False)
    before = program.model_proto.SerializeToString()
    result = dc.merge(program)
    assert type(result.model) is torch.onnx.ONNXProgram
    assert [node.op_type for node in result.model.model_proto.graph.node] == ["Conv"]
    torch.testing.assert_close(result.model(x)[0], module(x), atol=1e-5, rtol=0)
    assert dc.verify(program, result.model).same
    assert program.model_proto.SerializeToString() == before
    assert dc.inspect(result.model).cascades == ()


def test_a_torch_onnx_program_can_be_saved(tmp_path: Path) -> None:
    program = torch.onnx.export(nn.Conv2d(3, 4, 1).eval(), (torch.zeros(1, 3, 4, 4),), dynamo=True, verbose=False)
    dc.merge(program).save(tmp_path / "small.onnx")
    assert dc.verify(program, tmp_path / "small.onnx").same
