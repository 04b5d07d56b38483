"""Arithmetic on sizes that may be symbols: a size that is only known when the model runs stays comparable.

A derived size is written (f*H+c)//s, one canonical form per value, so that two branches of equal geometry end in equal
names and a crop undoes a pad.  What has no such form is "?", which is not known to equal anything, itself included.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import gcd

Dim = int | str
"""A size, or the name of a size that is only known when the model runs (the batch, a height)."""
Shape = tuple[Dim, ...]
UNKNOWN = "?"
"""A size of which nothing is known."""

# Only what stands in brackets is taken apart: a model's own symbol may be called anything, "H+1" included.
_DERIVED = re.compile(r"\((?:(\d+)\*)?(\w+|\{.*\})([+-]\d+)?\)(?://(\d+))?")


def _parse(name: str) -> tuple[str, int, int, int]:
    """Base, factor, offset and divisor of a symbol."""
    found = _DERIVED.fullmatch(name)
    if found is None:
        return name, 1, 0, 1
    factor, base, offset, divisor = found.groups()
    return base.removeprefix("{").removesuffix("}"), int(factor or 1), int(offset or 0), int(divisor or 1)


def _name(base: str, factor: int, offset: int, divisor: int) -> str:
    common = gcd(factor, divisor)
    # floor((g·f·n + c) / (g·s)) = floor((f·n + floor(c/g)) / s)
    factor, offset, divisor = factor // common, offset // common, divisor // common
    if (factor, offset, divisor) == (1, 0, 1):
        return base
    base = base if re.fullmatch(r"\w+", base) else f"{{{base}}}"
    inner = (f"{factor}*" if factor > 1 else "") + base + (f"{offset:+d}" if offset else "")
    return f"({inner})" + (f"//{divisor}" if divisor > 1 else "")


def shifted(dim: Dim, offset: int) -> Dim:
    """dim + offset."""
    return strided(dim, offset, 1)


def strided(dim: Dim, offset: int, divisor: int) -> Dim:
    """floor((dim + offset) / divisor)."""
    if isinstance(dim, int):
        return (dim + offset) // divisor
    if dim == UNKNOWN:
        return UNKNOWN
    base, factor, inner, inner_divisor = _parse(dim)
    # floor((floor(n/s) + c) / t) = floor((n + s·c) / (s·t)) for integers
    return _name(base, factor, inner + inner_divisor * offset, inner_divisor * divisor)


def scaled(dim: Dim, factor: int) -> Dim:
    """dim · factor, factor ≥ 1."""
    if isinstance(dim, int):
        return dim * factor
    if dim == UNKNOWN or factor == 1:
        return dim
    base, own, offset, divisor = _parse(dim)
    return _name(base, own * factor, offset * factor, 1) if divisor == 1 else _name(dim, factor, 0, 1)


def total(dims: Sequence[Dim]) -> Dim:
    """The sum; a symbol where at most one is a symbol."""
    symbols = [d for d in dims if isinstance(d, str)]
    known = sum(d for d in dims if isinstance(d, int))
    if len(symbols) > 1:
        return UNKNOWN
    return shifted(symbols[0], known) if symbols else known


def product(dims: Sequence[Dim]) -> Dim:
    """The product; a symbol where at most one is a symbol."""
    symbols = [d for d in dims if isinstance(d, str)]
    known = 1
    for d in dims:
        known *= d if isinstance(d, int) else 1
    if len(symbols) > 1:
        return UNKNOWN
    return scaled(symbols[0], known) if symbols else known


def unified(a: Dim, b: Dim) -> Dim | None:
    """The more telling of two names for one size; None where both are numbers and differ."""
    if isinstance(a, int) and isinstance(b, int):
        return a if a == b else None
    if isinstance(a, int) or b == UNKNOWN:
        return a
    return b if isinstance(b, int) or a == UNKNOWN else a


def show(shape: Shape | None) -> str:
    """A shape in a message: (N, 3, 32, 32)."""
    return "unknown" if shape is None else f"({', '.join(map(str, shape))})"


def joined(a: Shape, b: Shape) -> Shape | None:
    """Two descriptions of one shape as one, `unified` size by size; None where they contradict each other."""
    if len(a) != len(b):
        return None
    both = [unified(m, n) for m, n in zip(a, b, strict=True)]
    return None if None in both else tuple(d for d in both if d is not None)
