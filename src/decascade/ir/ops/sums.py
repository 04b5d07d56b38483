"""Tensors joined entry by entry: `Add` and `Product`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from decascade.errors import GraphError
from decascade.ir import dims
from decascade.ir.dims import UNKNOWN, Shape, show
from decascade.ir.ops.definition import AnyArray, Definition, at_its_own_position


@dataclass(frozen=True)
class Add:
    """Sum of two or more tensors of equal shape; `signs` are ±1, one per input (empty: all +)."""

    signs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Product:
    """Element-wise product of two or more tensors of equal rank; along axes of size 1 a tensor is repeated."""


def _add_shape(op: Add, shapes: Sequence[Shape | None]) -> Shape | None:
    count = len(shapes)
    if len(op.signs) not in (0, count) or any(s not in (1, -1) for s in op.signs):
        raise GraphError(f"Add signs {op.signs} for {count} inputs: give +1 or -1 per input, or none")
    known = [s for s in shapes if s is not None]
    joined = known[0] if known else None
    for shape in known[1:]:
        joined = None if joined is None else dims.joined(joined, shape)
        if joined is None:
            raise GraphError(f"Add inputs differ in shape: {', '.join(map(show, shapes))}")
    return joined


def _add(op: Add, arrays: Sequence[AnyArray]) -> AnyArray:
    signs = op.signs or (1,) * len(arrays)
    return reduce(np.add, (a if s > 0 else -a for a, s in zip(arrays, signs, strict=True)))


def _add_text(op: Add) -> list[str]:
    return ["".join("+" if s > 0 else "-" for s in op.signs)] if any(s < 0 for s in op.signs) else []


def multiplies(shapes: Sequence[Shape | None]) -> bool:
    """Whether tensors of these shapes make a `Product` beyond doubt: a size that is not known could be 1 and be repeated."""
    known = [shape for shape in shapes if shape is not None]
    if not 2 <= len(shapes) == len(known) or len({len(shape) for shape in known}) > 1 or len({shape[0] for shape in known}) > 1:
        return False
    return all(len({*sizes} - {1}) <= 1 and UNKNOWN not in sizes for sizes in zip(*(s[1:] for s in known), strict=True))


def _product_shape(_: Product, shapes: Sequence[Shape | None]) -> Shape | None:
    if any(shape is None for shape in shapes):
        return None
    known = [shape for shape in shapes if shape is not None]
    if len({len(shape) for shape in known}) > 1:
        raise GraphError(f"Product inputs differ in rank: {', '.join(map(show, shapes))}")
    joined: Shape = (1,) * len(known[0])
    for shape in known:
        fields = list(zip(joined, shape, strict=True))
        if any(isinstance(a, int) and isinstance(b, int) and a != b and 1 not in (a, b) for a, b in fields):
            raise GraphError(f"Product inputs differ in shape: {', '.join(map(show, shapes))}")
        # what is not known could be 1: beside a larger number it does not matter
        joined = tuple(b if a == 1 or (isinstance(b, int) and b != 1) else a for a, b in fields)
    return joined


def _product(_: Product, arrays: Sequence[AnyArray]) -> AnyArray:
    return reduce(np.multiply, arrays)


ADD = Definition(
    _add_shape, _add, "sum", inputs=(2, None), text=_add_text, linear=True, any_size=True, activation=True, folds="skip",
    axes=at_its_own_position,
)
PRODUCT = Definition(_product_shape, _product, "product", inputs=(2, None))
