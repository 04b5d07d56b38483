"""The tables of a .tflite file as plain values.  Nothing in the file is executed: it is a flatbuffer, read by its schema."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from decascade.errors import FormatError, MissingPackageError
from decascade.frameworks import needed

TYPES: Mapping[int, tuple[str, Any]] = {
    0: ("float32", np.float32), 2: ("int32", np.int32), 3: ("uint8", np.uint8), 4: ("int64", np.int64),
    7: ("int16", np.int16), 9: ("int8", np.int8),
}
"""Element types of the schema, by number."""
OPTIONAL = -1
"""The index of an input that is left out."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """`scales` is empty where it is not quantised; `data` is None for what is computed."""

    name: str
    shape: tuple[int, ...]
    kind: str
    scales: NDArray[np.float32]
    zeros: tuple[int, ...]
    axis: int
    data: NDArray[Any] | None


@dataclass(frozen=True, eq=False)
class Operator:
    """One operation by its name in the schema, tensors by index, and its options by name."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class File:
    """The first subgraph of a file."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_file(data: bytes, name: str) -> File:
    """Parse a file.

    Raises:
        UsageError: no schema is installed.  FormatError: it is not a TFLite file, or is cut off or damaged.
    """
    schema = _schema()
    if len(data) < 8 or data[4:8] != b"TFL3":
        raise FormatError(f"{name}: not a TFLite file (it has no TFL3 mark)")
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
        return _file(schema, model)
    except FormatError as error:
        raise FormatError(f"{name}: {error}") from None
    except (TypeError, ValueError, IndexError, KeyError, AttributeError, ArithmeticError, MemoryError, struct.error) as error:
        raise FormatError(f"{name}: a damaged TFLite file ({' '.join(str(error).split())[:120]})") from None


def read_path(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        FormatError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror})") from None


def _schema() -> Any:
    """The module that flatc made of TensorFlow's schema."""
    try:
        return needed("ai_edge_litert.schema_py_generated", "reading a .tflite file")
    except MissingPackageError as missing:
        try:
            return import_module("tensorflow.lite.python.schema_py_generated")
        except ImportError:
            raise missing from None


def _file(schema: Any, model: Any) -> File:
    if not model.subgraphs:
        raise FormatError("the file holds no graph")
    if len(model.subgraphs) > 1:
        raise FormatError(f"the file holds {len(model.subgraphs)} subgraphs (control flow): only plain graphs are streamed")
    graph = model.subgraphs[0]
    numbers = cast(dict[str, Any], vars(schema.BuiltinOperator))
    names = {int(v): k for k, v in numbers.items() if not k.startswith("_")}
    tensors = tuple(_tensor(t, model.buffers) for t in graph.tensors)
    operators = tuple(_operator(o, model.operatorCodes, names) for o in graph.operators or ())
    found = File(tensors, operators, _indices(graph.inputs), _indices(graph.outputs))
    used = [*found.inputs, *found.outputs, *(i for o in operators for i in (*o.inputs, *o.outputs) if i != OPTIONAL)]
    wrong = [i for i in used if not 0 <= i < len(tensors)]
    if wrong:
        raise FormatError(f"tensor {wrong[0]} is used, and there are {len(tensors)}")
    return found


def _indices(values: Any) -> tuple[int, ...]:
    return () if values is None else tuple(int(v) for v in values)


def _tensor(t: Any, buffers: Any) -> Tensor:
    name = t.name.decode("utf-8", "replace") if isinstance(t.name, bytes) else str(t.name or "")
    shape = _indices(t.shape)
    kind, dtype = TYPES.get(t.type, (f"type {t.type}", None))
    raw = buffers[t.buffer].data
    data = None
    if raw is not None and len(raw) and dtype is not None:
        data = np.frombuffer(bytes(np.asarray(raw, np.uint8)), dtype)
        if data.size != int(np.prod(shape)):
            raise FormatError(f"tensor {name} of shape {list(shape)} has {data.size} stored values")
        data = data.reshape(shape)
    q = t.quantization
    scales = np.asarray(q.scale, np.float32) if q is not None and q.scale is not None else np.zeros(0, np.float32)
    zeros = _indices(q.zeroPoint) if q is not None else ()
    return Tensor(name, shape, kind, scales, zeros, int(q.quantizedDimension) if q is not None else 0, data)


def _operator(o: Any, codes: Any, names: Mapping[int, str]) -> Operator:
    code = codes[o.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    kind = names.get(number, f"operation {number}")
    if kind == "CUSTOM":
        custom = code.customCode
        kind = f"CUSTOM {custom.decode('utf-8', 'replace') if isinstance(custom, bytes) else custom}"
    options = {} if o.builtinOptions is None else cast(dict[str, Any], vars(o.builtinOptions))
    return Operator(kind, _indices(o.inputs), _indices(o.outputs), options)
