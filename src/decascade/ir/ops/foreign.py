"""What is not understood."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from decascade.ir.dims import Shape
from decascade.ir.ops.definition import AnyArray, Definition

Evaluate = Callable[[Sequence[NDArray[Any]]], Sequence[NDArray[Any]]]


@dataclass(frozen=True, eq=False)
class Foreign:
    """An operation that is carried through untouched.  `evaluate`, where a format can give one, is its meaning in
    NumPy (arrays in the graph's layout), so that a graph that has it can still be interpreted."""

    kind: str
    evaluate: Evaluate | None = field(default=None, repr=False)


def _shape(_: Foreign, shapes: Sequence[Shape | None]) -> Shape | None:
    """Not known here: whoever makes the node keeps what the format knows of it."""
    del shapes


def _meaning(op: Foreign, arrays: Sequence[AnyArray]) -> AnyArray:
    """The first of its outputs; `interpret.evaluate` gives all of them."""
    assert op.evaluate is not None
    return op.evaluate(arrays)[0]


def _text(op: Foreign) -> list[str]:
    return [op.kind, *([] if op.evaluate else ["no meaning"])]


def _words(op: Foreign) -> str:
    return op.kind


FOREIGN = Definition(_shape, _meaning, _words, inputs=(0, None), text=_text, joins=True)
