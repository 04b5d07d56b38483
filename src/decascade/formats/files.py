"""Checks on files that every format shares.  A file is looked at before any framework is asked to open it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from decascade.errors import FormatError
from decascade.reading.paths import regular_file

Container = Literal["hdf5", "zip", "protobuf"]

_HDF5, _ZIP = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"
_KNOWN: Sequence[tuple[bytes, Container | None, str]] = (
    (_HDF5, "hdf5", "HDF5 data (a Keras .h5 file?)"),
    (_ZIP, "zip", "a zip archive (a .keras or .pt2 file?)"),
    (b"PK\x05\x06", "zip", "an empty zip archive"),
    (b"version https://git-lfs", None, "a git-lfs pointer: fetch the file itself with git lfs pull"),
    (b"\x1f\x8b", None, "gzip data: unpack it first"),
    (b"\x80\x02", None, "a pickle, which is never loaded"),
    (b"\x80\x04", None, "a pickle, which is never loaded"),
    (b"<!DOCTYPE", None, "an HTML page: the download went wrong"),
    (b"<html", None, "an HTML page: the download went wrong"),
)
_WORDS: dict[Container, str] = {"hdf5": "HDF5 data", "zip": "zip archive", "protobuf": "ONNX model"}


def checked_file(path: str | Path) -> Path:
    """The path of a file that is there, is not empty and may be read.

    Raises:
        FormatError: it is missing, a folder, not a regular file, empty, or may not be read.
    """
    path = regular_file(path, wanted="model file", error=FormatError)
    if path.stat().st_size == 0:
        raise FormatError(f"{path} is empty: the model was not written, or not fetched, to its end")
    return path


def checked_container(path: str | Path, wanted: Container) -> Path:
    """`checked_file`, and the first bytes are not those of something else than `wanted`.

    HDF5 and zip are told by their first bytes; protobuf has none of its own, so it is only told from what it is not.

    Raises:
        FormatError: as `checked_file`; or another container, named as far as it can be told.
    """
    path = checked_file(path)
    with path.open("rb") as file:
        head = file.read(24)
    for magic, container, words in _KNOWN:
        if head.startswith(magic) and container != wanted:
            raise FormatError(f"{path} holds no {_WORDS[wanted]} but {words}")
    if wanted != "protobuf" and not any(head.startswith(m) for m, container, _ in _KNOWN if container == wanted):
        raise FormatError(f"{path} holds no {_WORDS[wanted]}: it is truncated, or of another format than its name says")
    return path
