"""What is said of an operation once: its shape rule, its meaning, its text, and its traits.

Every module beside this one holds an operation, or a family of them, with a `Definition` for each.  `ir.shapes`,
`ir.interpret` and `ir.text` ask the definition; whoever needs a property of an operation asks `ir.ops.traits`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.axis import Axis
from decascade.ir.dims import Shape

AnyArray = NDArray[Any]
F64 = NDArray[np.float64]
ShapeRule = Callable[[Any, Sequence[Shape | None]], Shape | None]
Trait = bool | Callable[[Any], bool]
"""A property of all operations of a class, or one that their fields decide."""


def no_text(_: Any) -> Sequence[str]:
    return ()


def no_axes(_: Any, rank: int) -> tuple[Axis, ...] | None:
    """An operation whose outputs do not all see the same window of the input."""
    del rank


def at_its_own_position(_: Any, rank: int) -> tuple[Axis, ...] | None:
    """Output position p sees the input's position p alone."""
    return (Axis(),) * rank


def no_weights(_: Any) -> Mapping[str, AnyArray]:
    return {}


def without_weights(op: Any, arrays: Mapping[str, AnyArray]) -> Any:
    """For operations that store nothing.

    Raises:
        ValueError: arrays are given all the same.
    """
    if arrays:
        raise ValueError(f"{type(op).__name__} has no weights, it is given {', '.join(arrays)}")
    return op


@dataclass(frozen=True)
class Definition:
    """One class of operations with one output.

    `shape`: the output's shape from those of the inputs, where None is not even a rank.  It raises GraphError for what does
    not fit.  `meaning`: the output from the inputs, in float64 (in any type if `moves`).  `inputs`: how many it takes, at
    least and at most.  `text`: its fields that are not at their default, for `ir.text`.  `words`: what a report calls it.

    Traits:
        linear          affine in its inputs
        moves           every entry of the output is an entry of an input, whatever the values
        view            the entries stay in their order too, so that no runtime computes anything
        pointwise       each output position depends on the same position of one input, everywhere in the same way
        any_size        the same operation is meant on a map of another size
        per_channel     output channel c depends on input channel c alone, and there are as many
        layer           counts as a layer of a cascade: it stores a kernel, averages, or spreads samples out
        activation      takes an activation behind it into itself in all runtimes
        joins           runtimes compute it together with the layer before it, or not at all
        folds           as what a convolution takes it up without being merged with another (empty: it does not)
        axes            per spatial axis the positions that an output position sees; None where that differs between outputs
        weights         the arrays that it stores, by name; `with_weights` exchanges some of them
    """

    shape: ShapeRule
    meaning: Callable[[Any, Sequence[AnyArray]], AnyArray]
    words: str | Callable[[Any], str]
    inputs: tuple[int, int | None] = (1, 1)
    text: Callable[[Any], Sequence[str]] = no_text
    linear: Trait = False
    moves: bool = False
    view: bool = False
    pointwise: Trait = False
    any_size: bool = False
    per_channel: Trait = False
    layer: bool = False
    activation: bool = False
    joins: bool = False
    folds: str = ""
    axes: Callable[[Any, int], tuple[Axis, ...] | None] = no_axes
    weights: Callable[[Any], Mapping[str, AnyArray]] = no_weights
    with_weights: Callable[[Any, Mapping[str, AnyArray]], Any] = without_weights
