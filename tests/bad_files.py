"""Bad files of the kinds that users give beside a model: what makes each, and the words that it must be refused with."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Make = Callable[[Path], object]
Rows = Mapping[str, tuple[Make, str]]


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """A .npy file with this header."""
    text = header.encode("latin-1") + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + data


def described(descr: str = "'<f4'", shape: str = "(2, 3)", fortran: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


def written(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


def saved(array: Any) -> Make:
    return lambda path: np.savez(path, x=array) if path.suffix == ".npz" else np.save(path, array)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path)


def twice(path: Path) -> None:
    import warnings

    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        for value in (0, 1):
            archive.writestr("x.npy", npy(described("'|u1'", "(1,)"), bytes([value])))


def member(content: bytes) -> Make:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", content)

    return make


PATHS: Rows = {
    "missing": (lambda _path: None, "does not exist: check the name"),
    "folder": (Path.mkdir, "is a folder: give the"),
    "pipe": (os.mkfifo, "is not a regular file: give a"),
    "device": (device, "is not a regular file: give a"),
    "link to itself": (loop, "Too many levels of symbolic links"),
}
"""For every path that is given."""

HEADERS: Rows = {
    "empty": (written(b""), "cannot be read"),
    "no magic": (written(b"hello" * 40), "cannot be read"),
    "header cut off": (written(npy(described())[:40]), "cannot be read"),
    "no literal": (written(npy("__import__('os').system('id')")), "cannot be read"),
    "deep literal": (written(npy("(" * 5000)), "cannot be read"),
    "odd literal": (written(npy(described(shape="(1or 2,)"))), "cannot be read"),
    "version 9": (written(npy(described(), version=b"\x09\x00")), "its .npy format is 9.0: store it with numpy.save"),
    "huge": (written(npy(described(shape=f"({1 << 40},)"))), "its header is broken: x has the shape (1099511627776,)"),
    "beyond 64 bits": (written(npy(described(shape=f"({1 << 70}, {1 << 70})"))), "its header is broken"),
    "huge and empty": (written(npy(described(shape=f"({1 << 62}, 0)"))), "its header is broken: x has the shape"),
    "negative": (written(npy(described(shape="(-1, 3)"))), "its header is broken: x has the shape (-1, 3)"),
    "too many axes": (written(npy(described(shape=str((1,) * 60)), bytes(4))), "its header is broken: x has the shape"),
    "wrong length": (written(npy(described(), bytes(23))), "x has 24 bytes by its header, 23 are there"),
    "column-major, cut off": (written(npy(described(fortran="True"), bytes(5))), "24 bytes by its header, 5 are there"),
    "objects": (saved(np.array([{}], object)), "it holds Python objects, which are never loaded: save plain numbers"),
    "records": (saved(np.zeros(3, [("a", "f4"), ("b", "i4")])), "save plain numbers"),
    "no bytes each": (written(npy(described("'|V0'", f"({1 << 40},)"))), "cannot be read"),
}
"""For every array file, as a .npy and as the member of an .npz."""

NUMBERS: Rows = {
    "words": (saved(np.full((20, 1, 8, 8), "a")), "is of type <U1: give numbers"),
    "bytes": (saved(np.full((20, 1, 8, 8), b"a")), "is of type |S1: give numbers"),
    "dates": (saved(np.zeros((20, 1, 8, 8), "M8[D]")), "is of type datetime64[D]: give numbers"),
    "complex": (saved(np.zeros((20, 1, 8, 8), complex)), "is of type complex128: give numbers"),
    "one number": (saved(np.float32(3)), "is a single number"),
    "nan": (saved(np.full((20, 1, 8, 8), np.nan, np.float32)), "20 of 20 samples of"),
    "infinite": (saved(np.full((20, 1, 8, 8), -np.inf)), "20 of 20 samples of"),
    "no samples": (saved(np.zeros((0, 1, 8, 8), np.float32)), "samples"),
    "another shape": (saved(np.zeros((20, 1, 9), np.float32)), "shape (1, 9)"),
}
"""For data: what is read, and is no data for a model of (N, 1, 8, 8)."""


def changed(good: str, **fields: Any) -> Make:
    """A JSON object with other values in some of its fields."""
    return lambda path: path.write_text(json.dumps({**json.loads(good), **fields}))


TEXTS: Rows = {
    "empty": (written(b""), ""),
    "not UTF-8": (written(b'{"version": "\xff"}'), "it is not UTF-8 text (byte 0xff at 13): store it as UTF-8"),
    "too large": (lambda path: (path.touch(), os.truncate(path, (1 << 28) + 1)), "is larger than"),
}
"""For every text file."""

JSON: Rows = TEXTS | {
    "no JSON": (written(b"hello"), "Expecting value"),
    "deep": (written(b"[" * 100_000), "nested deeper than 64"),
    "deep and closed": (written(b'{"a":' * 500 + b"1" + b"}" * 500), "nested deeper than 64"),
    "a number of 5000 digits": (written(b'{"schema": ' + b"9" * 5000 + b"}"), "a whole number of 5000 digits"),
    "NaN": (written(b'{"version": NaN}'), "NaN is no number in JSON"),
    "Infinity": (written(b'{"version": -Infinity}'), "-Infinity is no number in JSON"),
    "a key twice": (written(b'{"version": 1, "version": 1}'), "the key 'version' stands twice"),
    "half a character": (written(b'{"version": "\\ud800"}'), "half of a surrogate pair"),
    "a list": (written(b"[1]"), ""),
    "a number": (written(b"3"), ""),
    "null": (written(b"null"), ""),
}
"""For plans and reports."""

TABLES: Rows = TEXTS | {
    "a field of 200 kB": (written(b"layer,cost\n" + b"x" * 200_000 + b",1\n"), "field larger than field limit (131072)"),
    "a head of 200 kB": (written(b"layer,cost," + b"x" * 200_000 + b"\n"), "field larger than field limit (131072)"),
    "no columns": (written(b"a,b\n1,2\n"), "has no columns layer and cost"),
    "a cost of NaN": (written(b"layer,cost\na,nan\n"), "cost 'nan' is no number from 0 on"),
    "a cost without end": (written(b"layer,cost\na," + b"1" * 1000 + b"\n"), "is no number from 0 on"),
    "two costs": (written(b"layer,cost\na,1\na,2\n"), "line 3: a second cost for `a` (1 and 2): keep one of them"),
}
