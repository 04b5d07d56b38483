"""An ONNX model with sizes for what it leaves open, as its user gave them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from decascade.errors import FormatError
from decascade.formats.input_shapes import InputShapes, settled, spread
from decascade.formats.onnx.model import OnnxModel
from decascade.ir.graph import Dim, Shape


def sized(model: OnnxModel, given: InputShapes) -> OnnxModel:
    """The model with these input shapes: a named size is the same wherever the name stands.

    What the file states of tensors between is left out, since it may follow from the old sizes; inference finds it again.

    Raises:
        FormatError: a shape that is not the input's, or one name with two sizes.
    """
    shell: Any = import_module("onnx").ModelProto()
    shell.CopyFrom(model.shell)
    weights = {tensor.name for tensor in shell.graph.initializer}
    inputs = [info for info in shell.graph.input if info.name not in weights]
    numbers: dict[str, int] = {}
    for info, shape in zip(inputs, spread([i.name for i in inputs], given), strict=True):
        if shape is not None:
            _put(info, shape, numbers)
    del shell.graph.value_info[:]
    for dim in _dims((*inputs, *shell.graph.output)):
        if dim.dim_param in numbers:
            dim.dim_value = numbers[dim.dim_param]
    return OnnxModel(shell, model.weights, model.external)


def _put(info: Any, shape: Shape, numbers: dict[str, int]) -> None:
    tensor = info.type.tensor_type
    stated = tuple(_stated(dim, axis) for axis, dim in enumerate(tensor.shape.dim)) if tensor.HasField("shape") else None
    sizes = settled(info.name, stated, shape)
    if stated is None:
        for _ in sizes:
            tensor.shape.dim.add()
    for dim, size in zip(tensor.shape.dim, sizes, strict=True):
        if not isinstance(size, int):
            continue
        if dim.dim_param and numbers.setdefault(dim.dim_param, size) != size:
            raise FormatError(f"the size {dim.dim_param} is given as {numbers[dim.dim_param]} and as {size}: it is one size")
        dim.dim_value = size


def _stated(dim: Any, axis: int) -> Dim:
    return int(dim.dim_value) if dim.HasField("dim_value") and dim.dim_value >= 0 else str(dim.dim_param) or f"axis {axis}"


def _dims(infos: Iterable[Any]) -> Iterable[Any]:
    return (dim for info in infos if info.type.HasField("tensor_type") for dim in info.type.tensor_type.shape.dim)
