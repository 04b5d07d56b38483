"""What a node becomes in C: its kernel, the constants of its layer, the bytes of scratch that it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Emitted:
    """`kernel`: a template's name, also the C type of the layer; `fields`: its initialiser, with `{name}` for the layer's name.

    `arrays`: constants as (suffix, C type, values).  `by_row`: the kernel takes the number of the row instead of scratch.
    """

    kernel: str
    fields: tuple[str, ...]
    arrays: tuple[tuple[str, str, NDArray[np.int64]], ...] = ()
    scratch: int = 0
    by_row: bool = False
    reads: bool = True


def array_text(ctype: str, name: str, values: NDArray[np.int64]) -> str:
    """A constant array; words as they are stored."""
    if ctype == "uint32_t":
        words = [f"0x{int(v) & 0xFFFFFFFF:x}u" for v in values]
    else:
        words = ["(-2147483647 - 1)" if int(v) == -(1 << 31) else str(int(v)) for v in values]
    lines = [", ".join(words[i : i + 16]) for i in range(0, len(words), 16)]
    body = ",\n    ".join(lines)
    return f"static const {ctype} {name}[{len(words)}] = {{\n    {body}\n}};"


def words(low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.int64]:
    """Two values of 16 bits in one word."""
    return (low & 0xFFFF) | ((high & 0xFFFF) << 16)


def numbers(*values: int) -> tuple[str, ...]:
    return tuple(str(int(v)) for v in values)


def joined(values: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Columns side by side, row by row."""
    return np.stack([np.asarray(v, np.int64) for v in values], axis=1).reshape(-1)
