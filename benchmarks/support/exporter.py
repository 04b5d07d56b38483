"""A graph as an ONNX model, with nothing but onnx.helper: independent of the project's own writer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from decascade.algebra.conv import Conv, ConvTranspose
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import Activation, Add, Affine, Concat, Dense, Flatten, GlobalPool, Identity, Pad, Pool

OPSET = 17
EPSILON = float(np.float32(1e-3))
"""Of normalisations; as it is stored."""


class _Out:
    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def constant(self, name: str, array: Any, dtype: Any = np.float32) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array, dtype), name))
        return name

    def node(self, kind: str, node: Node, inputs: list[str], output: str = "", suffix: str = "", **fields: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output or node.output], name=node.name + suffix, **fields))


def as_exported(graph: Graph) -> Graph:
    """The graph with the scales and shifts that its normalisations have once their parameters are stored."""

    def one(node: Node) -> Node:
        if not isinstance(node.op, Affine):
            return node
        scale, shift, mean, var = (a.astype(np.float64) for a in _normalisation(node.op))
        factor = scale / np.sqrt(var + EPSILON)
        return replace(node, op=Affine(factor, shift - factor * mean))

    return replace(graph, nodes=tuple(map(one, graph.nodes)))


def _normalisation(op: Affine) -> tuple[Any, Any, Any, Any]:
    """Scale, shift, mean and variance as of a normalisation that was trained, in float32."""
    var = np.linspace(0.5, 1.5, len(op.scale)).astype(np.float32)
    mean = np.linspace(-0.3, 0.3, len(op.scale)).astype(np.float32)
    scale = op.scale * np.sqrt(var.astype(np.float64) + EPSILON)
    return scale.astype(np.float32), (op.shift + op.scale * mean).astype(np.float32), mean, var


def export(graph: Graph) -> Any:
    """An `onnx.ModelProto` of opset 17.

    Raises:
        ValueError: an operation that it does not know.
    """
    out = _Out()
    for node in graph.nodes:
        _emit(out, node, graph)
    inputs, outputs = (
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(graph.shape(n) or ())) for n in names]
        for names in (graph.inputs, graph.outputs)
    )
    made = helper.make_graph(out.nodes, graph.name, inputs, outputs, out.weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


def _flat(pads: Any) -> list[int]:
    return [*(int(lo) for lo, _ in pads), *(int(hi) for _, hi in pads)]


def _emit(out: _Out, node: Node, graph: Graph) -> None:
    op, name, inputs = node.op, node.name, list(node.inputs)
    match op:
        case Conv() | ConvTranspose():
            names = [out.constant(f"{name}.w", op.weight)]
            names += [] if op.bias is None else [out.constant(f"{name}.b", op.bias)]
            kind = "Conv" if isinstance(op, Conv) else "ConvTranspose"
            out.node(kind, node, [*inputs, *names], group=op.groups, kernel_shape=op.kernel, strides=op.stride,
                     dilations=op.dilation, pads=_flat(op.padding))
        case Dense():
            names = [out.constant(f"{name}.w", op.layer.weight)]
            names += [out.constant(f"{name}.b", op.layer.bias)] if op.layer.bias is not None else []
            out.node("Gemm", node, [*inputs, *names], transB=1)
        case Affine():
            names = [out.constant(f"{name}.{i}", array) for i, array in enumerate(_normalisation(op))]
            out.node("BatchNormalization", node, [*inputs, *names], epsilon=EPSILON)
        case Pool(kind="avg"):
            if any(d != 1 for d in op.dilation):
                raise ValueError("a dilated average pool has no form in this opset")
            out.node("AveragePool", node, inputs, kernel_shape=op.kernel, strides=op.stride, pads=_flat(op.padding),
                     count_include_pad=int(op.count_padding))
        case GlobalPool(kind="avg", keepdims=True):
            out.node("GlobalAveragePool", node, inputs)
        case GlobalPool(kind="avg"):
            wide = f"{name}.wide"
            out.node("GlobalAveragePool", node, inputs, wide)
            out.node("Flatten", node, [wide], suffix=".flat", axis=1)
        case Pad():
            pads = [(0, 0), op.channels, *op.pads]
            names = [out.constant(f"{name}.pads", _flat(pads), np.int64), out.constant(f"{name}.value", op.value)]
            out.node("Pad", node, [*inputs, *names])
        case Add():
            _add(out, node, inputs, op.signs or (1,) * len(inputs))
        case Concat():
            out.node("Concat", node, inputs, axis=op.axis)
        case Flatten():
            _flatten(out, node, inputs, op.order, len(graph.shape(inputs[0]) or ()))
        case Identity():
            out.node("Identity", node, inputs)
        case Activation(kind="relu"):
            out.node("Relu", node, inputs)
        case Activation(kind="clip"):
            names = [out.constant(f"{name}.{i}", np.float32(v)) for i, v in enumerate(op.params)]
            out.node("Clip", node, [*inputs, *names])
        case Activation(kind="softmax", params=(1.0,)):
            out.node("Softmax", node, inputs, axis=1)
        case _:
            raise ValueError(f"no ONNX form of {op}")


def _add(out: _Out, node: Node, inputs: list[str], signs: tuple[int, ...]) -> None:
    if signs == (1, -1):
        out.node("Sub", node, inputs)
    elif all(s > 0 for s in signs):
        out.node("Add" if len(inputs) == 2 else "Sum", node, inputs)
    else:
        raise ValueError(f"no ONNX form of a sum with signs {signs}")


def _flatten(out: _Out, node: Node, inputs: list[str], order: str, rank: int) -> None:
    if order == "channels_last":
        turned = f"{node.name}.turned"
        out.node("Transpose", node, inputs, turned, ".turn", perm=[0, *range(2, rank), 1])
        inputs = [turned]
    out.node("Flatten", node, inputs, axis=1)
