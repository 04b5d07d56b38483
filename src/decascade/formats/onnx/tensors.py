"""That the tensors a message holds are what their headers say."""

from __future__ import annotations

from importlib import import_module
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.errors import FormatError
from decascade.formats.onnx.external import inner_tensors, plain_dtype, tensor_bytes
from decascade.formats.onnx.stated import check_elements

_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


def check_tensors(model: Any) -> None:
    """Look at every tensor of a ModelProto, those of attributes, subgraphs and functions too, before anything is made of it.

    Raises:
        FormatError: sizes below 0, data in two fields, an element type that is not known, data that do not fill the shape.
        LimitExceededError: a shape of more than `LIMITS.elements`.
    """
    for tensor in model.graph.initializer:
        check_tensor(tensor, f"initializer {tensor.name}")
    for tensor in inner_tensors(model):
        check_tensor(tensor, f"constant {tensor.name or '(no name)'}")


def check_tensor(tensor: Any, what: str) -> None:
    """As `check_tensors`, of one."""
    shape = tuple(int(n) for n in tensor.dims)
    if any(n < 0 for n in shape):
        raise FormatError(f"{what} has the size {min(shape)}: the file is damaged")
    check_elements(what, shape)
    external = tensor.data_location == import_module("onnx").TensorProto.EXTERNAL
    held = [name for name in _FIELDS if len(getattr(tensor, name))] + ["external_data"] * external
    if len(held) > 1:
        raise FormatError(f"{what} has data in {held[0]} and in {held[1]}, and nothing says which counts: the file is damaged")
    if not external:
        _check_filled(tensor, what, shape)


def _check_filled(tensor: Any, what: str, shape: tuple[int, ...]) -> None:
    if not tensor.data_type:
        raise FormatError(f"{what} has no element type: the file is damaged")
    if tensor.data_type == import_module("onnx").TensorProto.STRING:
        if len(tensor.string_data) != prod(shape):
            told = f"{len(tensor.string_data)} strings, its shape {shape} needs {prod(shape)}"
            raise FormatError(f"{what} holds {told}: the file is damaged")
    elif plain_dtype(tensor.data_type) is not None and tensor.HasField("raw_data"):
        needed = tensor_bytes(tensor)
        if len(tensor.raw_data) != needed:
            told = f"{len(tensor.raw_data)} bytes, its shape {shape} needs {needed}"
            raise FormatError(f"{what} holds {told}: the file is damaged")
    else:
        array_of(tensor, what)


def array_of(tensor: Any, what: str) -> NDArray[Any]:
    """The data of a tensor that the message holds.

    Raises:
        FormatError: an element type that is not known, or data that do not fill the shape.
    """
    try:
        return np.asarray(import_module("onnx.numpy_helper").to_array(tensor))
    except (ValueError, TypeError, OverflowError):
        told = f"does not hold the data of its shape {tuple(tensor.dims)}"
        raise FormatError(f"{what} {told}: the file is damaged") from None
    except KeyError:
        told = f"has element type {tensor.data_type}, which the installed onnx does not know"
        raise FormatError(f"{what} {told}: update onnx, or the file is damaged") from None
