"""The tables of stored tensors in a .pt2 archive: sizes, strides and lengths are checked before torch makes room for any.

Torch takes each record for a flat tensor and looks at it with the sizes and strides of the table; for an empty record it
makes zeros of the sizes that are stated.  So every tensor must lie within its record; a record may be longer, since torch
stores the whole memory of which a buffer is a slice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, cast

from decascade.errors import FormatError, LimitExceededError, UnsafeModelError
from decascade.formats.torch.common import one_line
from decascade.limits import LIMITS

_RECORD = re.compile(r"(weight|tensor)_\d+", re.ASCII)
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 9: 4, 10: 8, 11: 16, 12: 1, 13: 2, 28: 2,
          29: 1, 30: 1, 31: 1, 32: 1, 33: 1, 34: 4, 35: 8}  # fmt: skip
"""Bytes of an element, by torch._export.serde.schema.ScalarType."""
_STRIDED = 7
"""torch._export.serde.schema.Layout.Strided."""


def check_stored(table: Mapping[str, Any], lengths: Mapping[str, int], told: str, repair: str) -> None:
    """The table's tensors fit their records (`lengths`: bytes by name of the record) and the limits.

    Raises:
        UnsafeModelError: a pickle, or something that is no record of the archive.
        LimitExceededError: more elements or bytes than `decascade.limits` allows.
        FormatError: sizes, strides or lengths that do not fit together.
    """
    config = table.get("config", {})
    if not isinstance(config, dict):
        raise FormatError(f"{told} is damaged: its table of tensors is none; export it again")
    kinds = dict[str, int]()
    views = set[tuple[str, int, int]]()
    for name, found in cast(dict[str, Any], config).items():
        entry = cast(dict[str, Any], found if isinstance(found, dict) else {})
        record = str(entry.get("path_name", ""))
        if not record or entry.get("use_pickle") is not False or not _RECORD.fullmatch(record):
            raise UnsafeModelError(f"{told} stores {name} as a pickle ({record}), which is never loaded: {repair}")
        if record not in lengths:
            raise FormatError(f"{told} lacks {record}, in which {name} should be stored: export it again")
        try:
            size, end = _extent(entry["tensor_meta"])
            kind = kinds.setdefault(record, entry["tensor_meta"]["dtype"])
            if kind != entry["tensor_meta"]["dtype"]:
                raise ValueError(f"{record} is of two element types")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            words = one_line(error)
            raise FormatError(f"{told} is damaged: tensor {name} has no usable sizes ({words}); export it again") from None
        _within(told, name, size, end)
        if end > lengths[record] or lengths[record] % _BYTES[kind]:
            words = f"tensor {name} takes {end:,} bytes of {record}, which holds {lengths[record]:,}"
            raise FormatError(f"{told} is damaged: {words}; export it again")
        views.add((record, size, end))
    if (held := sum(size for _, size, _ in views)) > LIMITS.unpacked_bytes:
        words = f"{held:,} bytes of weights, {LIMITS.unpacked_bytes:,} are the limit (unpacked_bytes)"
        raise LimitExceededError(f"{told} states {words}: {repair}")


def _extent(meta: Mapping[str, Any]) -> tuple[int, int]:
    """Bytes of a tensor, and the byte of its record at which it ends."""
    if meta["layout"] != _STRIDED:
        raise ValueError(f"layout {meta['layout']} is not strided")
    if meta["device"].get("type") not in ("cpu", "cuda", "mps", "xpu"):
        raise ValueError("it is on no usual device")
    item = _BYTES[meta["dtype"]]
    sizes, strides = _whole(meta["sizes"]), _whole(meta["strides"])
    (offset,) = _whole([meta["storage_offset"]])
    if len(sizes) != len(strides):
        raise ValueError(f"{len(sizes)} sizes, {len(strides)} strides")
    count = prod(sizes)
    last = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True)) if count else -1
    return count * item, (last + 1) * item


def _whole(values: Sequence[Any]) -> list[int]:
    found = [value["as_int"] for value in values]
    for value in found:
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{str(value)[:40]} is no size")
    return found


def _within(told: str, name: str, size: int, end: int) -> None:
    most = LIMITS.unpacked_bytes
    if (taken := max(size, end)) > most:
        raise LimitExceededError(f"{told}: tensor {name} takes {taken:,} bytes, {most:,} are the limit (unpacked_bytes)")
