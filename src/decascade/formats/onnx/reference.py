"""One ONNX node in NumPy: by ONNX's own reference implementation, where that is right, and a few forms that it lacks.

What is left out was found to differ from onnxruntime: LRN, LpNormalization, transposed convolutions whose padding follows
from an output size, Resize with aligned corners and scales; and what is random, or has subgraphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.formats.onnx.nodes import Native

AnyArray = NDArray[Any]

_WITHOUT = frozenset(
    {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
    | {"Upsample", "LRN", "LpNormalization"}
)
_COERCED = frozenset({"Softmax", "LogSoftmax", "Hardmax"})
_BY_AXES = frozenset({"Squeeze", "Unsqueeze"})


def has_reference(native: Native, opset: int) -> bool:
    """Whether `run_node` may be asked; it can still fail on what it is given."""
    if not native.standard or native.kind in _WITHOUT or any(a.type in (5, 10) for a in native.proto.attribute):
        return False
    if native.kind == "ConvTranspose":
        return not native.get("output_shape") and not str(native.get("auto_pad")).startswith("SAME")
    if native.kind == "Resize":
        return native.get("coordinate_transformation_mode") != "align_corners" or bool(native.input(3))
    return native.kind != "Hardmax" or opset >= 13


def run_node(native: Native, opsets: Mapping[str, int], feeds: Mapping[str, AnyArray]) -> list[AnyArray]:
    """Its outputs, one per name that is not empty; in the element types that NumPy makes of those of `feeds`.

    Raises:
        Exception: whatever the reference implementation raises.
    """
    if opsets.get("", 0) < 13 and native.kind in _COERCED:
        return [_coerced(native, feeds[native.inputs[0]])]
    if opsets.get("", 0) < 13 and native.kind in _BY_AXES:
        return [_by_axes(native, feeds[native.inputs[0]])]
    reference: Any = import_module("onnx.reference")
    results = reference.ReferenceEvaluator(native.proto, opsets=dict(opsets)).run(None, dict(feeds))
    names = native.outputs if len(results) == len(native.outputs) else native.writes
    return [np.asarray(result) for result, name in zip(results, names, strict=False) if name]


def _coerced(native: Native, x: AnyArray) -> AnyArray:
    """Softmax before opset 13: over all axes from `axis` on, as one."""
    axis = native.get("axis", 1) % x.ndim
    rows = x.reshape(int(np.prod(x.shape[:axis])), -1)
    shifted = rows - rows.max(axis=1, keepdims=True)
    total = np.exp(shifted).sum(axis=1, keepdims=True)
    return (np.exp(shifted) / total if native.kind == "Softmax" else shifted - np.log(total)).reshape(x.shape)


def _by_axes(native: Native, x: AnyArray) -> AnyArray:
    """Squeeze and Unsqueeze before opset 13: the axes are an attribute."""
    axes = native.get("axes")
    if native.kind == "Squeeze":
        return np.squeeze(x, None if axes is None else tuple(axes))
    return np.expand_dims(x, tuple(axes))
