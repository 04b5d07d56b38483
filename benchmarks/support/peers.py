"""The optimisers, each as file in, file out, in this process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import onnxscript.optimizer
import onnxsim
import onnxslim
import openvino
from openvino._offline_transformations import apply_moc_transformations

import decascade

LEVELS = onnxruntime.GraphOptimizationLevel
OURS = ("decascade profitable", "decascade always")
OPENVINO = "OpenVINO"
THREADS = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}

Tool = Callable[[Path, Path], Any]


def session(source: Path | bytes, level: Any = LEVELS.ORT_ENABLE_ALL, write: Path | None = None) -> Any:
    """An onnxruntime session on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = level
    if write is not None:
        options.optimized_model_filepath = str(write)
    return onnxruntime.InferenceSession(
        source if isinstance(source, bytes) else str(source), options, providers=["CPUExecutionProvider"])


def _ort(level: Any, source: Path, target: Path) -> None:
    session(source, level, target)


def _onnxsim(source: Path, target: Path) -> None:
    onnx.save(onnxsim.simplify(onnx.load(str(source)))[0], str(target))


def _onnxslim(source: Path, target: Path) -> None:
    # without the table that it prints where it is given the target
    onnx.save(onnxslim.slim(str(source)), str(target))


def _onnxscript(source: Path, target: Path) -> None:
    onnx.save(onnxscript.optimizer.optimize(onnx.load(str(source))), str(target))


def _openvino(source: Path, target: Path) -> Any:
    """It cannot write ONNX: read, transformed and compiled."""
    core = openvino.Core()
    return core.compile_model(core.read_model(str(source)), "CPU", THREADS)


def _decascade(policy: Any, verify: bool, source: Path, target: Path) -> Any:
    result = decascade.merge(source, policy=policy, verify=verify)
    result.save(target, force=True)
    return result.report


TOOLS: dict[str, Tool] = {
    "ORT basic": partial(_ort, LEVELS.ORT_ENABLE_BASIC),
    "ORT extended": partial(_ort, LEVELS.ORT_ENABLE_EXTENDED),
    "ORT all": partial(_ort, LEVELS.ORT_ENABLE_ALL),
    "onnxsim": _onnxsim,
    "onnxslim": _onnxslim,
    "onnxscript": _onnxscript,
    OPENVINO: _openvino,
    "decascade profitable": partial(_decascade, "profitable", False),
    "decascade always": partial(_decascade, "always", False),
}
VERIFIED: dict[str, Tool] = {
    "decascade profitable": partial(_decascade, "profitable", True),
    "decascade always": partial(_decascade, "always", True),
}


def openvino_layers(source: Path) -> tuple[int, int]:
    """Compute layers and MACs of the graph as OpenVINO's common transformations leave it."""
    model = openvino.Core().read_model(str(source))
    apply_moc_transformations(model, cf=True, smart_reshape=False)
    layers = macs = 0
    for node in model.get_ops():
        kind = node.get_type_name()
        if kind in ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul"):
            weight = list(node.input(1).get_partial_shape().to_shape())
            positions = list(node.output(0).get_partial_shape().to_shape())
            if "Backprop" in kind:
                positions = list(node.input(0).get_partial_shape().to_shape())
            rows = positions[:-1] if kind == "MatMul" else positions[2:]
            size = 1
            for n in (*weight, *rows):
                size *= n
            layers, macs = layers + 1, macs + size
    return layers, macs
