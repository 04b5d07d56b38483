"""External data of an ONNX model: found first, checked all, and only then read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.errors import FormatError, UnsafeModelError


@dataclass(frozen=True)
class External:
    """Where the data of one tensor lies."""

    name: str
    file: Path
    offset: int
    nbytes: int

    def array(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """The data, mapped from the file and not copied."""
        if not self.nbytes:
            return np.zeros(shape, dtype)
        return np.memmap(self.file, dtype.newbyteorder("<"), "r", self.offset, shape)


@dataclass(frozen=True)
class Externals:
    """All external data of a model: of the main graph's initializers by name, of all other tensors in order."""

    main: Mapping[str, External]
    inner: tuple[External | None, ...]

    def __bool__(self) -> bool:
        return bool(self.main) or any(self.inner)

    def inline(self, proto: Any) -> None:
        """Put the data of tensors in attributes, subgraphs and functions into the message itself."""
        for tensor, entry in zip(inner_tensors(proto), self.inner, strict=True):
            if entry is not None:
                put_raw(tensor, entry)


def put_raw(tensor: Any, entry: External) -> None:
    """Replace the reference by the data."""
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = entry.array(np.dtype(np.uint8), (entry.nbytes,)).tobytes()


def external_tensors(proto: Any, folder: Path | None, what: str) -> Externals:
    """Every tensor of the model, in attributes and subgraphs too, that has external data; checked, nothing read.

    Raises:
        UnsafeModelError: a location that is absolute, climbs with "..", or leaves `folder` through a link.
        FormatError: a missing or too short data file; no folder to look in.
    """
    external = import_module("onnx").TensorProto.EXTERNAL

    def located(tensor: Any) -> External | None:
        return _checked(tensor, folder, what) if tensor.data_location == external else None

    main = {tensor.name: located(tensor) for tensor in proto.graph.initializer}
    inner = tuple(located(tensor) for tensor in inner_tensors(proto))
    return Externals({name: entry for name, entry in main.items() if entry is not None}, inner)


def inner_tensors(proto: Any) -> Iterator[Any]:
    """The tensors of attributes, subgraphs and functions, in order."""
    yield from _node_tensors(proto.graph.node)
    for function in proto.functions:
        yield from _node_tensors(function.node)


# UNDEFINED (what older writers leave), TENSOR, GRAPH, TENSORS, GRAPHS of onnx.AttributeProto.AttributeType
_TENSOR_BEARING = frozenset({0, 4, 5, 9, 10})


def _node_tensors(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type not in _TENSOR_BEARING:
                continue
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield from graph.initializer
                yield from _node_tensors(graph.node)


def _checked(tensor: Any, folder: Path | None, what: str) -> External:
    where = f"{what}: the data of {tensor.name or 'a tensor'}"
    if folder is None:
        raise FormatError(f"{where} is external and there is no folder to find it in: give the path of the file instead")
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if len(entries) < len(tensor.external_data):
        raise FormatError(f"{where} has an entry with one key twice, and nothing says which counts: the file is damaged")
    file = _inside(entries.get("location", ""), folder, where)
    if not file.is_file():
        raise FormatError(f"{where} should be in {file}, which is not there: keep the files together")
    size = file.stat().st_size
    try:
        offset = int(entries.get("offset") or 0)
        needed = tensor_bytes(tensor)
        length = int(entries.get("length") or (size - offset if needed is None else needed))
    except ValueError:
        raise FormatError(f"{where} has an offset or length that is no number: the file is damaged") from None
    if length < 0 or offset < 0 or (needed is not None and length != needed):
        raise FormatError(f"{where} should take {needed} bytes, its entry says {length} at {offset}: the file is damaged")
    if size < offset + length:
        raise FormatError(f"{where} ends at byte {offset + length} of {file}, which has {size}: it is truncated")
    return External(tensor.name, file, offset, length)


def tensor_bytes(tensor: Any) -> int | None:
    """Bytes that a tensor of this shape and element type takes; None for an element type that is not NumPy's own."""
    dtype = plain_dtype(tensor.data_type)
    return None if dtype is None else prod(tensor.dims) * dtype.itemsize


_PLAIN = ("FLOAT", "UINT8", "INT8", "UINT16", "INT16", "INT32", "INT64", "BOOL", "FLOAT16", "DOUBLE", "UINT32", "UINT64")


@cache
def plain_dtype(data_type: int) -> np.dtype[Any] | None:
    """The NumPy type of an ONNX element type; None for strings, bfloat16, 8-bit floats and packed integers."""
    proto: Any = import_module("onnx").TensorProto
    if data_type not in {getattr(proto, name) for name in _PLAIN}:
        return None
    return np.dtype(import_module("onnx.helper").tensor_dtype_to_np_dtype(data_type))


def _inside(location: str, folder: Path, what: str) -> Path:
    """The file at `location`, which must lie in `folder` in every reading of the path.

    Raises:
        UnsafeModelError: it does not.
    """
    repair = "external data must lie in the model's own folder; move it there, or save the model again from its source"
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    absolute = posix.is_absolute() or windows.is_absolute() or bool(windows.drive or windows.root)
    if not location or absolute or ".." in posix.parts or ".." in windows.parts:
        raise UnsafeModelError(f"{what} is at {location!r}, outside the model's folder: {repair}")
    file = folder / location
    if not file.resolve().is_relative_to(folder.resolve()):
        raise UnsafeModelError(f"{what} is at {location!r}, a link that leaves the model's folder: {repair}")
    return file
