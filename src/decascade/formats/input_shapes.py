"""Shapes of inputs as a user gives them, for models that do not state them or leave sizes open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from decascade.errors import FormatError
from decascade.ir.graph import Shape

InputShapes = Sequence[Any] | Mapping[str, Sequence[Any]]
"""One shape (batch first), one per input, or by name; None, -1 or a string is a size that is not known."""


def spread(names: Sequence[str], given: InputShapes | None) -> list[Shape | None]:
    """A shape per input from what the user gave: one shape, a list of shapes, or shapes by name.

    Raises:
        FormatError: as many shapes as inputs, or a name that is no input.
    """
    if given is None:
        return [None] * len(names)
    if isinstance(given, Mapping):
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise FormatError(f"input_shape names {', '.join(unknown)}, the inputs are {', '.join(names)}")
        return [_shape(given[name]) if name in given else None for name in names]
    nested = bool(given) and all(isinstance(item, Sequence) and not isinstance(item, str) for item in given)
    shapes = list(given) if nested else [given]
    if len(shapes) != len(names):
        raise FormatError(f"{len(shapes)} input shapes for the {len(names)} inputs {', '.join(names)}: give one per input")
    return [_shape(shape) for shape in shapes]


def _shape(given: Sequence[Any]) -> Shape:
    symbols = {2: ("H", "W"), 1: ("L",), 3: ("D", "H", "W")}.get(len(given) - 2, ())
    dims = list[int | str]()
    for index, size in enumerate(given):
        if size is None or size == -1:
            size = "N" if index == 0 else symbols[index - 2] if 2 <= index < 2 + len(symbols) else f"d{index}"
        elif isinstance(size, str):
            size = str(size)
        elif int(size) < 1:
            raise FormatError(f"input_shape {tuple(given)} has the size {size}: sizes are 1 or more, or None where not known")
        dims.append(size if isinstance(size, str) else int(size))
    return tuple(dims)


def settled(name: str, stated: Shape | None, given: Shape) -> Shape:
    """What a model states of an input, with the sizes that it leaves open as the user gave them.

    Raises:
        FormatError: another number of axes, or a size that the model states otherwise.
    """
    if stated is None:
        return given
    told = f"input {name} has the shape ({', '.join(map(str, stated))}), and input_shape says ({', '.join(map(str, given))})"
    if len(stated) != len(given):
        raise FormatError(f"{told}: give one size per axis, the batch first")
    if any(isinstance(n, int) and isinstance(m, int) and n != m for n, m in zip(stated, given, strict=True)):
        raise FormatError(f"{told}: only sizes that the model leaves open can be given")
    return tuple(m if isinstance(m, int) else n for n, m in zip(stated, given, strict=True))
