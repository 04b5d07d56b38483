"""Small ONNX models for the tests, and the two checks that all of them must pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from decascade.formats.base import Document
from decascade.formats.onnx.format import FORMAT
from decascade.ir.check import check
from decascade.ir.interpret import run
from decascade.ir.ops import Foreign

Array = np.ndarray[Any, Any]
N = helper.make_node
FLOAT, HALF, DOUBLE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE


def model(
    nodes: Sequence[Any],
    shape: Sequence[int | str | None],
    weights: Mapping[str, Array] | None = None,
    opset: int = 17,
    outputs: Sequence[str] = ("y",),
    kind: int = FLOAT,
    inputs: Mapping[str, Sequence[int | str | None]] | None = None,
) -> onnx.ModelProto:
    """A model of one input x (or those in `inputs`), checked where ONNX can tell the shapes of its outputs."""
    entries = [helper.make_tensor_value_info(n, kind, s) for n, s in (inputs or {"x": shape}).items()]
    ends = [helper.make_tensor_value_info(n, TensorProto.UNDEFINED, None) for n in outputs]
    stored = [numpy_helper.from_array(np.asarray(a), n) for n, a in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "g", entries, ends, stored)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 20 else 10)
    inferred = onnx.shape_inference.infer_shapes(made, data_prop=True).graph.output
    for end, found in zip(made.graph.output, inferred, strict=True):
        end.CopyFrom(found)
    if all(end.type.tensor_type.HasField("shape") for end in made.graph.output):
        onnx.checker.check_model(made)
    return made


def sample(proto: Any, sizes: Mapping[str, int] | None = None, seed: int = 0) -> dict[str, Array]:
    """Random inputs; a symbolic size is 2 unless `sizes` says otherwise."""
    rng = np.random.default_rng(seed)
    stored = {t.name for t in proto.graph.initializer}
    found = {}
    for entry in proto.graph.input:
        if entry.name in stored:
            continue
        tensor = entry.type.tensor_type
        shape = [d.dim_value or (sizes or {}).get(d.dim_param, 2) for d in tensor.shape.dim]
        found[entry.name] = rng.standard_normal(shape).astype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return found


def onnxruntime_outputs(proto: Any, feeds: Mapping[str, Array]) -> dict[str, Array]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def close(a: Array, b: Array, tolerance: float = 2e-5) -> None:
    assert a.shape == b.shape, (a.shape, b.shape)
    scale = max(1.0, float(np.abs(b).max(initial=0.0)))
    gap = float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0))
    assert gap <= tolerance * scale, f"off by {gap}, scale {scale}"


def read(proto: Any, sizes: Mapping[str, int] | None = None, tolerance: float = 2e-5) -> Document:
    """The model as read; its graph is well formed and means what onnxruntime says."""
    document = FORMAT.read(proto)
    check(document.graph)
    feeds = sample(proto, sizes)
    expected = onnxruntime_outputs(proto, feeds)
    found = run(document.graph, feeds)
    assert list(found) == [o.name for o in proto.graph.output]
    for name, value in expected.items():
        close(found[name], value, tolerance)
        shape = document.graph.shape(name)
        if shape is not None:
            assert len(shape) == value.ndim
            assert all(isinstance(a, str) or a == b for a, b in zip(shape, value.shape, strict=True)), (shape, value.shape)
    return document


def renewed(document: Document) -> Any:
    """The document's graph with every operation that is not Foreign said anew, as native model."""
    nodes = [
        node if isinstance(node.op, Foreign) else replace(node, name=f"{node.name}_new", origin=(), native=None)
        for node in document.graph.nodes
    ]
    return FORMAT.write(document, document.graph.with_nodes(nodes))


def rewrite(proto: Any, sizes: Mapping[str, int] | None = None, tolerance: float = 2e-5) -> Any:
    """The model with all its operations written anew; it is valid and the same function."""
    made = renewed(FORMAT.read(proto))
    onnx.checker.check_model(made, full_check=True)
    feeds = sample(proto, sizes)
    expected, found = onnxruntime_outputs(proto, feeds), onnxruntime_outputs(made, feeds)
    assert list(expected) == list(found)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        close(found[name], value, tolerance)
    return made


def ops(document: Document) -> list[str]:
    """The kinds of the graph's operations, in order; of a Foreign, its own kind in brackets."""
    return [f"[{n.op.kind}]" if isinstance(n.op, Foreign) else type(n.op).__name__ for n in document.graph.nodes]


def numbers(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)
