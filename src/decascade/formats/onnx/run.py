"""Running an ONNX model in onnxruntime, on one thread."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from decascade.errors import FormatError, UsageError
from decascade.formats.onnx.model import OnnxModel, keep_entries
from decascade.frameworks import needed

Level = Literal["disable", "basic", "extended", "all"]
_LARGE = 2**26
"""Above this the weights are fed as inputs, so that onnxruntime does not hold the model a second and third time."""


def session(model: OnnxModel, level: Level = "disable", threads: int = 1) -> Any:
    """An onnxruntime session on the whole model.

    Raises:
        FormatError: onnxruntime is not installed, or does not accept the model.
    """
    return _session(model.proto(), level, threads)


def run_model(model: OnnxModel, inputs: Mapping[str, NDArray[Any]], level: Level = "disable") -> dict[str, NDArray[Any]]:
    """Outputs by name; arrays in any element type, cast to what the model takes.

    Raises:
        UsageError: an input is missing, or unknown, or of a wrong shape.
        FormatError: onnxruntime is not installed, or fails.
    """
    key = f"session:{level}"
    if key not in model.cache:
        fed = sum(w.nbytes for w in model.weights.values()) > _LARGE
        model.cache[key] = (_session(_with_fed_weights(model) if fed else model.proto(), level, 1), fed)
    found, fed = model.cache[key]
    wanted = {i.name: i.type for i in found.get_inputs()}
    names = [name for name in wanted if not (fed and name in model.weights)]
    for name in names:
        if name not in inputs:
            raise UsageError(f"input {name} is missing: give an array for it")
    unknown = [name for name in inputs if name not in names]
    if unknown:
        raise UsageError(f"the model has no input {unknown[0]}: its inputs are {', '.join(names)}")
    feeds = {name: np.ascontiguousarray(inputs[name], _element(wanted[name])) for name in names}
    if fed:
        feeds |= {name: array for name, array in model.weights.items() if name in wanted}
    outputs = [o.name for o in found.get_outputs()]
    try:
        return dict(zip(outputs, found.run(outputs, feeds), strict=True))
    except Exception as error:  # onnxruntime's errors have no common base
        raise FormatError(f"onnxruntime cannot run the model: {_first_line(error)}") from None


def _session(proto: Any, level: Level, threads: int) -> Any:
    runtime = needed("onnxruntime", "running an ONNX model")
    levels = runtime.GraphOptimizationLevel
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 4
    options.graph_optimization_level = {
        "disable": levels.ORT_DISABLE_ALL,
        "basic": levels.ORT_ENABLE_BASIC,
        "extended": levels.ORT_ENABLE_EXTENDED,
        "all": levels.ORT_ENABLE_ALL,
    }[level]
    try:
        return runtime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise FormatError(f"onnxruntime does not accept the model: {_first_line(error)}") from None


def _with_fed_weights(model: OnnxModel) -> Any:
    """The model with its large weights as inputs."""
    helper: Any = import_module("onnx.helper")
    proto = import_module("onnx").ModelProto()
    proto.CopyFrom(model.shell)
    small = [t for t in proto.graph.initializer if t.name not in model.weights]
    large = [t for t in proto.graph.initializer if t.name in model.weights]
    listed = {i.name for i in proto.graph.input}
    proto.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in large if t.name not in listed
    )
    keep_entries(proto.graph.initializer, small)
    return proto


def _element(kind: str) -> Any:
    """The NumPy type of an onnxruntime type, "tensor(float16)"."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return np.dtype({"float": "float32", "double": "float64", "string": "object"}.get(name, name))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
