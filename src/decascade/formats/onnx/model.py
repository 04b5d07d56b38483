"""An ONNX model in memory: the protobuf without its large weights, and the weights as NumPy arrays beside it.

A protobuf copies its bytes on every access and frees nothing before it is freed whole; with the weights held once, as
arrays that the graph's operations look at, reading, rewriting and saving never hold the model more than about twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.errors import FormatError
from decascade.formats.files import checked_container
from decascade.formats.onnx.calls import check_calls
from decascade.formats.onnx.definitions import check_definitions
from decascade.formats.onnx.external import Externals, external_tensors, plain_dtype, put_raw, tensor_bytes
from decascade.formats.onnx.tensors import array_of, check_tensors
from decascade.output import side_name

AnyArray = NDArray[Any]
INLINE_BYTES = 1024
"""Initializers below this size stay in the protobuf: shape inference and onnxruntime want to see them."""
_MAX_MESSAGE = 2**31 - 2**20
"""A protobuf message may not reach 2 GiB; some room is left for the nodes."""
_DATA_FIELDS = (
    "raw_data",
    "float_data",
    "int32_data",
    "int64_data",
    "double_data",
    "uint64_data",
    "external_data",
    "data_location",
)


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """A model as decascade holds it; `proto()` gives the `onnx.ModelProto`.  Treat both parts as frozen.

    `shell`: a ModelProto whose large initializers have no data.  `weights`: the data of those, by name.
    `external`: the model was read with external data, and is saved so again.
    """

    shell: Any
    weights: Mapping[str, AnyArray]
    external: bool = False
    cache: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)

    @property
    def nbytes(self) -> int:
        """Size of the weights and all the rest, serialised."""
        return int(self.shell.ByteSize()) + sum(w.nbytes + 16 for w in self.weights.values())

    def proto(self) -> Any:
        """The whole model as one `onnx.ModelProto`.

        Raises:
            FormatError: it is too large for a protobuf message (2 GiB); save it to a file instead.
        """
        if self.nbytes > _MAX_MESSAGE:
            raise FormatError(f"a model of {self.nbytes / 2**30:.2f} GiB fits no ModelProto (2 GiB): save it to a file instead")
        proto = import_module("onnx").ModelProto()
        proto.CopyFrom(self.shell)
        for tensor in proto.graph.initializer:
            if tensor.name in self.weights:
                tensor.raw_data = bytes(_raw_view(self.weights[tensor.name]))
        return proto


def _raw_view(array: AnyArray) -> memoryview:
    """The array's bytes as ONNX stores them, row-major and little-endian; not copied where they lie so."""
    flat: Any = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
    return memoryview(flat)


def load_model(path: Path) -> OnnxModel:
    """Read a file.

    Raises:
        FormatError: missing, empty, truncated or not ONNX.
        UnsafeModelError: external data outside the model's folder; nothing of it is read.
    """
    path = checked_container(path, "protobuf")
    onnx: Any = import_module("onnx")
    decode_error: Any = import_module("google.protobuf.message").DecodeError
    try:
        proto = onnx.ModelProto.FromString(path.read_bytes())
    except decode_error:
        raise FormatError(f"{path} is no ONNX model, or is truncated: it does not parse as one") from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror or error}") from None
    _check_model(proto, str(path))
    externals = external_tensors(proto, path.parent, str(path))
    externals.inline(proto)
    weights: dict[str, AnyArray] = {}
    for tensor in proto.graph.initializer:
        array = _large_array(tensor, externals)
        if array is not None:
            weights[tensor.name] = array
            for name in _DATA_FIELDS:
                tensor.ClearField(name)
        elif tensor.name in externals.main:
            put_raw(tensor, externals.main[tensor.name])
    shell = onnx.ModelProto()
    shell.CopyFrom(proto)
    return OnnxModel(shell, weights, bool(externals))


def from_proto(proto: Any, folder: Path | None = None) -> OnnxModel:
    """A live `onnx.ModelProto`, which is not changed.  External data is looked for in `folder`.

    Raises:
        FormatError: it is no whole model; or it has external data and there is no folder.
        UnsafeModelError: external data outside the folder.
    """
    onnx: Any = import_module("onnx")
    _check_model(proto, "the model")
    externals = external_tensors(proto, folder, "the model")
    weights: dict[str, AnyArray] = {}
    shell = onnx.ModelProto()
    _copy_fields(proto, shell, "graph")
    _copy_fields(proto.graph, shell.graph, "initializer")
    externals.inline(shell)
    for tensor in proto.graph.initializer:
        array = _large_array(tensor, externals)
        header = shell.graph.initializer.add()
        if array is not None:
            weights[tensor.name] = array
            _copy_fields(tensor, header, *_DATA_FIELDS)
        else:
            header.CopyFrom(tensor)
            if tensor.name in externals.main:
                put_raw(header, externals.main[tensor.name])
    return OnnxModel(shell, weights, bool(externals))


def from_ir(model: Any) -> OnnxModel:
    """A live `onnx_ir.Model`, which is not changed.

    Raises:
        FormatError: it cannot be serialised; its external data is missing.
        UnsafeModelError: its external data lies outside the folder it names.
    """
    serde: Any = import_module("onnx_ir.serde")
    external: Any = import_module("onnx_ir").ExternalTensor
    tensors = [value.const_value for value in model.graph.initializers.values()]
    folders = {Path(t.base_dir or ".") for t in tensors if isinstance(t, external)}
    if len(folders) > 1:
        raise FormatError(f"the model's external data lies in {len(folders)} folders: save it to one file first")
    try:
        proto = serde.serialize_model(model)
    except (serde.SerdeError, ValueError, TypeError, RecursionError) as error:
        raise FormatError(f"the onnx_ir.Model cannot be serialised: {str(error).splitlines()[0]}") from None
    return from_proto(proto, folders.pop() if folders else None)


def _check_model(proto: Any, what: str) -> None:
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise FormatError(f"{what} holds no ONNX graph: it is another protobuf, or damaged")
    if not proto.graph.node:
        raise FormatError(f"{what} has a graph without a node: there is nothing to run in it")
    check_definitions(proto)
    check_calls(proto)
    check_tensors(proto)
    if proto.graph.sparse_initializer:
        name = proto.graph.sparse_initializer[0].values.name
        raise FormatError(f"{what} has a sparse initializer ({name}), which is not supported: store it dense")


def _copy_fields(source: Any, target: Any, *skip: str) -> None:
    """Every field that is set, but those in `skip`."""
    for descriptor, value in source.ListFields():
        name = descriptor.name
        if name in skip:
            continue
        if hasattr(value, "MergeFrom"):
            getattr(target, name).MergeFrom(value)
        else:
            setattr(target, name, value)


def keep_entries(entries: Any, kept: Sequence[Any]) -> None:
    """Thin out a repeated field to those of its entries in `kept`; left alone where nothing goes."""
    if len(kept) < len(entries):
        copies = [_copy(entry) for entry in kept]
        del entries[:]
        entries.extend(copies)


def _copy(entry: Any) -> Any:
    copied = type(entry)()
    copied.CopyFrom(entry)
    return copied


def _large_array(tensor: Any, externals: Externals) -> AnyArray | None:
    """The data of an initializer that is worth holding as an array; None for a small one, or of no NumPy type."""
    needed = tensor_bytes(tensor)
    dtype = plain_dtype(tensor.data_type)
    if needed is None or dtype is None or needed < INLINE_BYTES:
        return None
    shape = tuple(int(d) for d in tensor.dims)
    if tensor.name in externals.main:
        return externals.main[tensor.name].array(dtype, shape)
    if not tensor.HasField("raw_data"):
        array = array_of(tensor, f"initializer {tensor.name}")
    else:
        array = np.frombuffer(tensor.raw_data, dtype.newbyteorder("<")).reshape(shape)
    array.flags.writeable = False
    return array


def chunks(model: OnnxModel) -> Iterator[bytes | memoryview]:
    """The serialised model piece by piece, so that the weights are never all held a second time.

    A length-delimited field of a protobuf message is its tag, its length and its bytes (protobuf encoding guide).
    """
    onnx: Any = import_module("onnx")
    outer, inner = onnx.ModelProto(), onnx.GraphProto()
    _copy_fields(model.shell, outer, "graph")
    _copy_fields(model.shell.graph, inner, "initializer")
    body = inner.SerializeToString()
    entries = [(t.SerializeToString(), model.weights.get(t.name)) for t in model.shell.graph.initializer]
    number = _field(onnx.TensorProto, "raw_data")
    heads: list[tuple[bytes, bytes, AnyArray | None]] = []
    size = len(body)
    for header, array in entries:
        raw = b"" if array is None else _delimiter(number, array.nbytes)
        length = len(header) + len(raw) + (0 if array is None else array.nbytes)
        lead = _delimiter(_field(onnx.GraphProto, "initializer"), length)
        heads.append((lead, header + raw, array))
        size += len(lead) + length
    yield outer.SerializeToString()
    yield _delimiter(_field(onnx.ModelProto, "graph"), size)
    yield body
    for lead, header, array in heads:
        yield lead + header
        if array is not None:
            yield _raw_view(array)


def _field(message: Any, name: str) -> int:
    return int(message.DESCRIPTOR.fields_by_name[name].number)


def _delimiter(number: int, length: int) -> bytes:
    return _varint(number << 3 | 2) + _varint(length)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def save_model(model: OnnxModel, path: Path) -> None:
    """Write to exactly `path`; with the weights in a file beside it if the model came so or passes 2 GiB.  That file has a
    digest of what it holds in its name (`output.side_name`): no two contents have one name, so that none is written over."""
    if not model.external and model.nbytes < _MAX_MESSAGE:
        with path.open("wb") as file:
            file.writelines(chunks(model))
        return
    onnx: Any = import_module("onnx")
    shell = onnx.ModelProto()
    shell.CopyFrom(model.shell)
    part, digest = path.with_name(path.name + ".part"), sha256()
    spans = dict[str, tuple[int, int]]()
    with part.open("wb") as file:
        for tensor in shell.graph.initializer:
            array = model.weights.get(tensor.name)
            if array is None:
                continue
            for piece in (b"\0" * (-file.tell() % 4096), _raw_view(array)):  # page-aligned, so that readers can map it
                spans[tensor.name] = (file.tell(), array.nbytes)
                digest.update(piece)
                file.write(piece)
    data = path.with_name(side_name(path.name, digest.hexdigest()))
    if spans:
        part.rename(data)
    else:
        part.unlink()
    for tensor in shell.graph.initializer:
        if tensor.name in spans:
            offset, length = spans[tensor.name]
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in {"location": data.name, "offset": str(offset), "length": str(length)}.items():
                entry = tensor.external_data.add()
                entry.key, entry.value = key, value
    path.write_bytes(shell.SerializeToString())
