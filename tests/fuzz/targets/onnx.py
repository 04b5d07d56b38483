"""The ONNX reader, and the merge and writing of what it read."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from decascade.cost.macs import Macs
from decascade.formats.onnx.format import FORMAT
from decascade.regions.candidates import Options
from decascade.regions.merge import merge_graph
from fuzz.harness import Target

_NUMBERS = (0, 1, -1, 2, 3, 7, 64, 255, 2**15, 2**31 - 1, -(2**31), 2**31, 2**62, 2**63 - 1, -(2**63))
_TEXTS = ("", "x", "y", "w", "N", "\x1b[31m", "..", "/etc/passwd", "é" * 40, "Conv", "Relu", "Loop", "Concat", "Expand")


def read(path: Path) -> None:
    document = FORMAT.read(path)
    merged, _ = merge_graph(document.graph, Options(Macs()))
    FORMAT.save(FORMAT.write(document, merged), path.with_name("written.onnx"))


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One change of a field somewhere in the message."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise ValueError from None
    messages = list(_messages(model))
    if not messages:
        raise ValueError
    message = rng.choice(messages)
    set_fields = [field for field, _ in message.ListFields()]
    fields = set_fields if set_fields and rng.random() < 0.7 else list(message.DESCRIPTOR.fields)
    field = rng.choice(fields)
    try:
        _change(message, field, messages, rng)
        return model.SerializeToString()
    except (TypeError, UnicodeError, DecodeError):
        raise ValueError from None


def _messages(message: Any) -> list[Any]:
    found = [message]
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if _repeated(field) else [value]:
                found += _messages(inner)
    return found


def _repeated(field: Any) -> bool:
    return bool(field.is_repeated)


def _change(message: Any, field: Any, messages: list[Any], rng: random.Random) -> None:
    value = getattr(message, field.name)
    if rng.random() < 0.15:
        message.ClearField(field.name)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        same = [m for m in messages if m.DESCRIPTOR is field.message_type]
        if not _repeated(field):
            value.CopyFrom(_copy(rng.choice(same))) if same else value.SetInParent()
        elif len(value) and rng.random() < 0.5:
            del value[rng.randrange(len(value))]
        elif same:
            value.add().CopyFrom(_copy(rng.choice(same)))
    elif _repeated(field):
        k = rng.randrange(len(value) + 1)
        if rng.random() < 0.6 and len(value):
            del value[min(k, len(value) - 1)]
        if rng.random() < 0.8:
            value.insert(k, _scalar(field, rng, message))
    else:
        setattr(message, field.name, _scalar(field, rng, message))


def _copy(source: Any) -> Any:
    made = type(source)()
    made.CopyFrom(source)
    return made


def _scalar(field: Any, rng: random.Random, message: Any) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return rng.choice((*_TEXTS, *_strings(message)))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return rng.randbytes(rng.choice((0, 1, 4, 8, 108, 1024)))
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return rng.choice((0.0, -1.0, 1e-40, 1e38, float("inf"), float("nan")))
    if field.type == FieldDescriptor.TYPE_ENUM:
        return rng.choice(field.enum_type.values).number
    bits = 32 if field.type == FieldDescriptor.TYPE_INT32 else 64
    number = rng.choice((*_NUMBERS, rng.randrange(30)))
    low = 0 if field.type in (FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_UINT32) else -(2 ** (bits - 1))
    return min(max(number, low), 2 ** (bits - 1) - 1)


def _strings(message: Any) -> list[str]:
    return [v for _, value in message.ListFields() for v in ([value] if isinstance(value, str) else []) if v]


TARGET = Target("onnx", ".onnx", read, mutate)
