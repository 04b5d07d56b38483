"""Batches that come one after the other, written to disk as they come, so that they can be shuffled and read again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, cast

import numpy as np

from decascade.compression.data.files import store
from decascade.compression.data.rows import AnyArray, Filed, Rows, bytes_of
from decascade.errors import UsageError


def spooled(batches: Iterable[Any], cache: Path, inputs: Sequence[str], limit: int | None) -> dict[str, Rows]:
    """The samples of all batches by name; a batch is an array, a pair (x, y), a sequence per input, or a mapping.

    Stops after `limit` samples, which a stream without an end needs.

    Raises:
        UsageError: batches that are no arrays, differ in shape or type, or cannot be kept.
    """
    spool = _Spool(inputs, limit)
    number = next(n for n in count() if not (cache / f"stream{n}.rows").exists())
    # columns of one batch belong together, so all go into one file, batch after batch
    path = cache / f"stream{number}.rows"
    store(path, spool.pieces(batches))
    return spool.columns(path)


class _Spool:
    def __init__(self, inputs: Sequence[str], limit: int | None) -> None:
        self.inputs, self.limit = inputs, limit
        self.kinds = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]()
        self.blocks = dict[str, list[tuple[int, int]]]()
        self.done, self.offset = 0, 0

    def pieces(self, batches: Iterable[Any]) -> Iterator[memoryview]:
        for number, batch in enumerate(batches):
            arrays = self._named(batch, number)
            room = None if self.limit is None else self.limit - self.done
            rows = {len(a) for a in arrays.values()}
            if len(rows) != 1:
                raise UsageError(f"batch {number} of the data has parts of {' and '.join(map(str, sorted(rows)))} samples")
            for name, array in arrays.items():
                part = np.ascontiguousarray(array[:room])
                self._note(name, part, number)
                yield bytes_of(part)
            self.done += min(rows) if room is None else min(*rows, room)
            if self.done == self.limit:
                return

    def columns(self, path: Path) -> dict[str, Rows]:
        if not self.done:
            raise UsageError("the data holds no samples: the iterable gave no batches")
        return {name: self._column(path, name) for name in self.blocks}

    def _column(self, path: Path, name: str) -> Rows:
        shape, dtype = self.kinds[name]
        width = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        starts = np.concatenate([offset + width * np.arange(rows) for offset, rows in self.blocks[name]])
        return Filed(path, starts, (len(starts), *shape), dtype)

    def _note(self, name: str, part: AnyArray, number: int) -> None:
        kind = (part.shape[1:], part.dtype)
        known = self.kinds.setdefault(name, kind)
        if kind != known:
            told = [f"{dtype}{list(shape)}" for shape, dtype in (kind, known)]
            raise UsageError(
                f"batch {number} of the data has samples {name} {told[0]}, earlier ones {told[1]}: give one shape and type"
            )
        self.blocks.setdefault(name, []).append((self.offset, len(part)))
        self.offset += part.nbytes

    def _named(self, batch: Any, number: int) -> dict[str, AnyArray]:
        if isinstance(batch, Mapping):
            found = {str(k): v for k, v in cast("Mapping[Any, Any]", batch).items()}
        elif isinstance(batch, tuple | list):
            parts = list(cast("Sequence[Any]", batch))
            names = [*(self.inputs if len(self.inputs) > 1 else ("x",)), "y"]
            if len(parts) > len(names):
                raise UsageError(f"batch {number} of the data has {len(parts)} parts: give arrays for {', '.join(names)}")
            found = dict(zip(names, parts, strict=False))
        else:
            found = {"x": batch}
        arrays = {name: _plain(value) for name, value in found.items()}
        wrong = next((name for name, a in arrays.items() if a.dtype.hasobject or not a.ndim), None)
        if wrong is not None or (self.kinds and set(arrays) != set(self.kinds)):
            raise UsageError(f"batch {number} of the data is no array of samples, or has other parts than those before it")
        return arrays


def _plain(value: Any) -> AnyArray:
    """An array of a framework's tensor as well."""
    value = value.detach().cpu() if hasattr(value, "detach") else value
    try:
        return np.asarray(value)
    except (TypeError, ValueError):
        return np.array(None, object)
