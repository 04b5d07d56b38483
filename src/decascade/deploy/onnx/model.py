"""Any graph as a fresh ONNX model: float32, channels-first as the graph is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from decascade.algebra.conv import Conv
from decascade.deploy.tflite.conv import ungrouped
from decascade.deploy.tools import module
from decascade.errors import FormatError, UsageError
from decascade.formats.onnx.emit import Emitter
from decascade.formats.onnx.emit_ops import emit
from decascade.formats.onnx.model import OnnxModel
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.moves import joined_moves
from decascade.ir.ops import Dense, Foreign
from decascade.ir.shapes import show

OPSET = 17
USE = "export to ONNX"


def onnx_of(graph: Graph, batch: int | None = 1, opset: int = OPSET) -> OnnxModel:
    """A model that computes the graph; its inputs and outputs have the graph's names, shapes and float32.

    `batch` None leaves the batch open.  Symbols of open sizes stay.

    Raises:
        UsageError: an operation that is not understood, or that ONNX has no form for.
    """
    helper, graph = module("onnx", USE).helper, joined_moves(graph)
    tensors = {name: replace(t, dtype="float32") for name, t in graph.tensors.items()}
    emitter = Emitter(opset, tensors)
    nodes = list[Any]()
    for node in graph.nodes:
        nodes += _emitted(emitter, node, tensors)
    inputs, outputs = (
        [helper.make_tensor_value_info(name, 1, _shape(tensors[name], batch)) for name in names]
        for names in (graph.inputs, graph.outputs)
    )
    body = helper.make_graph(nodes, graph.name, inputs, outputs, emitter.headers)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], producer_name="decascade")
    model.ir_version = 8
    return OnnxModel(model, emitter.weights, False)


def _emitted(emitter: Emitter, node: Node, tensors: dict[str, Tensor]) -> Sequence[Any]:
    op = node.op
    if isinstance(op, Foreign):
        raise UsageError(f"{node.name}: {op.kind} is not understood, so it cannot be exported from here")
    if isinstance(op, Dense) and op.layer.groups > 1:
        node = replace(node, op=Dense(Conv(ungrouped(op.layer), op.layer.bias)))
    try:
        return emit(emitter, node, tensors)
    except FormatError as error:
        raise UsageError(str(error)) from None


def _shape(tensor: Tensor, batch: int | None) -> list[int | str]:
    if tensor.shape is None:
        raise UsageError(f"{tensor.name} has shape {show(None)}: give the model a stated shape")
    first = "N" if batch is None else batch
    return [first, *tensor.shape[1:]]
