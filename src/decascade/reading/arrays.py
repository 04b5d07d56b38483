"""Arrays in .npy and .npz files: their headers, checked against what the file really holds before anything is allocated.

Nothing is unpickled.  The layout of both is that of numpy.lib.format.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import numpy as np
from numpy.typing import NDArray

from decascade.errors import DecascadeError, LimitExceededError, UsageError
from decascade.limits import LIMITS
from decascade.reading.paths import regular_file

SUFFIXES = (".npz", ".npy")
_AXES = 32
_VERSIONS = ((1, 0), (2, 0), (3, 0))


@dataclass(frozen=True)
class Stored:
    """One array in a file.  `start`: the byte at which its values begin in the file; None where they are compressed.

    `member` is its entry in an .npz, in which `offset` bytes of header stand before the values.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int
    start: int | None
    member: ZipInfo | None = None

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def stored_arrays(path: str | Path, what: str) -> dict[str, Stored]:
    """What a .npy file (its array is "x") or an .npz file holds, by name.

    Raises:
        UsageError: no regular file, no such file, a header that is broken or says more than there is, Python objects.
        LimitExceededError: the compressed arrays are larger than `LIMITS.unpacked_bytes` together.
    """
    path = regular_file(path, what, f"{what} file")
    try:
        with path.open("rb") as file:
            plain = path.suffix.lower() == ".npy" or file.read(6) == np.lib.format.MAGIC_PREFIX
        found = {"x": _single(path)} if plain else _members(path)
    except DecascadeError:
        raise
    except Exception as error:  # whatever the decoders of a broken file raise
        raise UsageError(f"{what} {path} cannot be read: {_words(error)}") from None
    _check_total(f"{what} {path}", [array for array in found.values() if array.start is None],
                 "store it with numpy.savez, not compressed, or in several files")
    return found


def load_arrays(path: str | Path, what: str) -> dict[str, NDArray[Any]]:
    """All arrays of a file, in memory.

    Raises:
        UsageError: as `stored_arrays`, or values that are damaged.
        LimitExceededError: they are larger than `LIMITS.unpacked_bytes` together.
    """
    found, path = stored_arrays(path, what), Path(path)
    _check_total(f"{what} {path}", list(found.values()), "give fewer samples")
    try:
        return {name: _loaded(path, array) for name, array in found.items()}
    except Exception as error:  # a damaged stream, a file that is cut off as it is read
        raise UsageError(f"{what} {path} cannot be read: {_words(error)}") from None


def pieces(stream: IO[bytes], array: Stored, size: int) -> Iterator[bytes]:
    """The values of an array from its open member, at most `size` bytes at a time.

    Raises:
        EOFError: there are fewer than its header says.
    """
    stream.seek(array.offset)
    done = 0
    while done < array.nbytes:
        piece = stream.read(min(size, array.nbytes - done))
        if not piece:
            raise EOFError(f"{array.name} ends after {done} of {array.nbytes} bytes")
        done += len(piece)
        yield piece


def _loaded(path: Path, array: Stored) -> NDArray[Any]:
    if array.start is not None:
        flat = np.fromfile(path, array.dtype, prod(array.shape), offset=array.start)
    else:
        assert array.member is not None
        with ZipFile(path) as archive, archive.open(array.member) as stream:
            flat = np.frombuffer(bytearray(b"".join(pieces(stream, array, 1 << 24))), array.dtype)
    return flat.reshape(array.shape, order="F" if array.fortran else "C")


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or "it is truncated"


def _check_total(label: str, arrays: list[Stored], repair: str) -> None:
    total = sum(array.nbytes for array in arrays)
    if total > LIMITS.unpacked_bytes:
        raise LimitExceededError(f"{label} unpacks to {total:,} bytes, {LIMITS.unpacked_bytes:,} are the limit: {repair}")


def _single(path: Path) -> Stored:
    with path.open("rb") as file:
        shape, fortran, dtype = _header(file)
        start = file.tell()
    return _checked(Stored("x", shape, dtype, fortran, start, start), path.stat().st_size - start)


def _members(path: Path) -> dict[str, Stored]:
    with ZipFile(path) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        names = [info.filename.removesuffix(".npy") for info in members]
        if len(set(names)) < len(names):
            raise ValueError(f"it holds two arrays {next(n for n in names if names.count(n) > 1)}: keep one")
        return {name: _member(path, archive, info, name) for name, info in zip(names, members, strict=True)}


def _member(path: Path, archive: ZipFile, info: ZipInfo, name: str) -> Stored:
    if info.flag_bits & 1:
        raise ValueError(f"{name} is encrypted: store it without a password")
    with archive.open(info) as stream:
        shape, fortran, dtype = _header(stream)
        offset = stream.tell()
    start = _content(path, info) + offset if info.compress_type == ZIP_STORED else None
    held = info.file_size - offset if start is None else min(info.file_size - offset, path.stat().st_size - start)
    return _checked(Stored(name, shape, dtype, fortran, offset, start, info), held)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, column-major order and type of the array that a stream holds."""
    version = np.lib.format.read_magic(stream)
    if version not in _VERSIONS:
        raise ValueError(f"its .npy format is {version[0]}.{version[1]}: store it with numpy.save")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd literals, which are refused below
        first = version == (1, 0)
        shape, fortran, dtype = (np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0)(stream)
    return tuple(shape), bool(fortran), dtype


def _checked(array: Stored, held: int) -> Stored:
    shape, dtype = array.shape, array.dtype
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded: save plain numbers")
    if dtype.subdtype is not None or dtype.fields is not None or not dtype.itemsize:
        raise ValueError(f"{array.name} is of type {dtype}: save plain numbers")
    if len(shape) > _AXES or any(n < 0 for n in shape) or prod(n for n in shape if n) > max(held, LIMITS.elements):
        raise ValueError(f"its header is broken: {array.name} has the shape {str(shape)[:80]}")
    if array.nbytes > held:
        told = f"{array.name} has {array.nbytes:,} bytes by its header, {max(held, 0):,} are there"
        raise ValueError(f"it is truncated, or its header is broken: {told}")
    return array


def _content(path: Path, info: ZipInfo) -> int:
    """Where a stored member's bytes begin: behind its local header, whose last two fields are lengths."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        name, extra = np.frombuffer(file.read(4), "<u2").tolist()
    return info.header_offset + 30 + int(name) + int(extra)
