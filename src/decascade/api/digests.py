"""Short texts that differ where models, data or options do: what a run folder compares a resumed run by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import numpy as np

from decascade.ir.graph import Graph

PLAIN = (str, bytes, int, float, complex, bool, type(None))


def graph_digest(graph: Graph) -> str:
    """Of what a model computes: operations, weights, names."""
    found = sha256()
    _feed(found, graph)
    return found.hexdigest()


def data_digest(data: object) -> str | None:
    """Of the samples; None where they come as a stream, which can be read only once."""
    found = sha256()
    return found.hexdigest() if _feed_data(found, data) else None


def option_digest(value: object) -> str | None:
    """Of an option that may be numbers, arrays, or the file that holds them; None where there is none."""
    if value is None:
        return None
    found = sha256()
    if not _feed_data(found, value):
        _feed(found, repr(value))
    return found.hexdigest()


def _feed_data(found: Any, data: object) -> bool:
    """Whether all of it could be read without being used up."""
    if isinstance(data, str | Path):
        _feed_path(found, Path(data))
        return True
    if isinstance(data, Mapping):
        pairs = sorted(cast("Mapping[Any, Any]", data).items(), key=lambda pair: str(pair[0]))
        return all(_feed_data(found, part) for pair in pairs for part in (np.array(str(pair[0])), pair[1]))
    if isinstance(data, list | tuple):
        parts = cast("list[Any]", data)
        _feed(found, len(parts))
        return bool(parts) and all(_feed_data(found, part) for part in parts)
    if hasattr(data, "shape"):
        return not _feed(found, np.asarray(data))
    return False


def _feed_path(found: Any, path: Path) -> None:
    """A file by its content, a folder by that of all files in it; what is missing or no file is complained of elsewhere."""
    if path.is_dir():
        for inner in sorted(p for p in path.rglob("*") if p.is_file()):
            found.update(f"{inner.relative_to(path)}\0".encode(errors="surrogateescape"))
            _feed_path(found, inner)
    elif path.is_file():
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                found.update(piece)


def _feed(found: Any, value: object) -> None:
    """Values of the graph, one after the other; of objects of a framework only the kind counts."""
    found.update(f"{type(value).__name__}\0".encode())
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(cast("Any", value))
        found.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    elif isinstance(value, PLAIN):
        found.update(repr(value).encode())
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[Any, Any]", value).items():
            _feed(found, key)
            _feed(found, item)
    elif isinstance(value, list | tuple):
        for item in cast("list[Any]", value):
            _feed(found, item)
    elif is_dataclass(value) and not isinstance(value, type):
        for part in fields(value):
            _feed(found, getattr(value, part.name))
