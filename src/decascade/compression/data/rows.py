"""Samples that lie in a file, in memory or in several pieces, read a few rows at a time.

Files are read, not mapped: what was read stays in the system's cache and never counts as this process's memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any, Protocol
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from decascade.errors import UsageError

AnyArray = NDArray[Any]
CHUNK = 2**24
"""Bytes that are read or written at once."""


class Rows(Protocol):
    """Samples on the first axis; `take` copies some of them, in the order asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def take(self, indices: NDArray[np.int64]) -> AnyArray: ...


@dataclass(frozen=True, eq=False)
class Held:
    """An array in memory, or one that is mapped because its rows are not contiguous."""

    array: AnyArray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def take(self, indices: NDArray[np.int64]) -> AnyArray:
        return np.ascontiguousarray(self.array[indices])


class Filed:
    """Rows in a file: one after the other from the byte `start` on, or each where `start` says."""

    def __init__(self, path: Path, start: int | NDArray[np.int64], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path, self.start, self.shape, self.dtype = path, start, shape, dtype
        self._width = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        self._file: Any = None
        self._lock = Lock()

    def take(self, indices: NDArray[np.int64]) -> AnyArray:
        """The rows in this order; neighbours are read in one go.

        Raises:
            UsageError: the file has become shorter, or cannot be read any more.
        """
        out = np.empty((len(indices), *self.shape[1:]), self.dtype)
        if not out.nbytes:
            return out
        at = self.start[indices] if isinstance(self.start, np.ndarray) else self.start + indices * self._width
        view = bytes_of(out)
        gaps = np.flatnonzero(np.diff(at) != self._width)
        edges: list[int] = [0, *(gaps + 1).tolist(), len(indices)]
        with self._lock:
            for first, stop in pairwise(edges):
                self._read(int(at[first]), int(indices[first]), view[first * self._width : stop * self._width])
        return out

    def _read(self, at: int, row: int, into: memoryview) -> None:
        try:
            if self._file is None:
                self._file = self.path.open("rb", buffering=0)
                finalize(self, self._file.close)
            self._file.seek(at)
            done = 0
            while done < len(into):
                count = self._file.readinto(into[done:])
                if not count:
                    raise UsageError(f"data {self.path} ends before sample {row}: it was cut off while it was in use")
                done += int(count)
        except OSError as error:
            raise UsageError(f"data {self.path} cannot be read any more: {error.strerror or error}") from None


def bytes_of(array: AnyArray) -> memoryview:
    """The memory of a contiguous array."""
    flat: Any = array.reshape(-1).view(np.uint8)
    return memoryview(flat)


class Stacked:
    """Several pieces one after the other, of one sample shape and type."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self.parts: tuple[Rows, ...] = tuple(parts)
        self._ends = np.cumsum([part.shape[0] for part in parts], dtype=np.int64)
        self.shape: tuple[int, ...] = (int(self._ends[-1]), *parts[0].shape[1:])
        self.dtype = parts[0].dtype

    def take(self, indices: NDArray[np.int64]) -> AnyArray:
        out = np.empty((len(indices), *self.shape[1:]), self.dtype)
        which = np.searchsorted(self._ends, indices, side="right")
        for number, part in enumerate(self.parts):
            mine = np.flatnonzero(which == number)
            if len(mine):
                out[mine] = part.take(indices[mine] - (int(self._ends[number]) - part.shape[0]))
        return out


def stacked(parts: Sequence[Rows], names: Sequence[str]) -> Rows:
    """The pieces as one; `names` are what they are called in messages.

    Raises:
        UsageError: samples of different shapes or types.
    """
    first = parts[0]
    for part, name in zip(parts, names, strict=True):
        if part.shape[1:] != first.shape[1:] or part.dtype != first.dtype:
            raise UsageError(
                f"the samples in {name} are {part.dtype}{list(part.shape[1:])}, those in {names[0]} "
                f"{first.dtype}{list(first.shape[1:])}: give data of one shape and type"
            )
    return first if len(parts) == 1 else Stacked(parts)
