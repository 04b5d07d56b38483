"""The operations of the graph: frozen values whose fields are their options.  Tensors are channels-first (N, C, *S).

A convolution is the algebra's own `Conv` or `ConvTranspose`.  What is not understood is `Foreign`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Array, Conv, ConvTranspose, Pads

Evaluate = Callable[[Sequence[NDArray[Any]]], Sequence[NDArray[Any]]]


@dataclass(frozen=True, eq=False)
class Dense:
    """y[..., o] = Σ_i W[o, i] x[..., i] + b[o] on the last axis; `layer` is a Conv over no axes."""

    layer: Conv


@dataclass(frozen=True, eq=False)
class Affine:
    """y[:, c] = scale[c]·x[:, c] + shift[c]: a batch normalisation with its stored epsilon, a scale, a shift."""

    scale: Array
    shift: Array


@dataclass(frozen=True)
class Pool:
    """Average or maximum over a window.

    `count_padding`: an average divides by the whole window also where it hangs over the edge.
    An average reads zeros there, a maximum minus infinity.
    """

    kind: Literal["avg", "max"]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Pads
    dilation: tuple[int, ...]
    count_padding: bool = False


@dataclass(frozen=True)
class GlobalPool:
    """Average or maximum over all spatial axes, which stay with size 1 (`keepdims`) or go."""

    kind: Literal["avg", "max"]
    keepdims: bool = True


@dataclass(frozen=True)
class Flatten:
    """(N, C, *S) → (N, C·ΠS).  `order` "channels_first" runs through (C, *S), "channels_last" through (*S, C)."""

    order: Literal["channels_first", "channels_last"] = "channels_first"


@dataclass(frozen=True)
class Pad:
    """Constant padding of the spatial axes by (before, after); negative numbers crop.

    `channels` does the same to the channel axis.
    """

    pads: Pads
    value: float = 0.0
    channels: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Add:
    """Sum of two or more tensors of equal shape; `signs` are ±1, one per input (empty: all +)."""

    signs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Product:
    """Element-wise product of two or more tensors of equal rank; along axes of size 1 a tensor is repeated."""


@dataclass(frozen=True)
class Concat:
    """Concatenation along `axis` (1 is the channel axis)."""

    axis: int = 1


@dataclass(frozen=True, eq=False)
class Select:
    """Channels picked by index, y[:, j] = x[:, indices[j]]: a slice, a split's part, a shuffle, a permutation."""

    indices: NDArray[np.int64]


@dataclass(frozen=True)
class Slice:
    """Positions start ≤ i < stop of one spatial axis (`axis` counts from 2)."""

    axis: int
    start: int
    stop: int


@dataclass(frozen=True)
class Upsample:
    """Nearest-neighbour repetition of every sample, `factor` times per spatial axis."""

    factor: tuple[int, ...]


@dataclass(frozen=True)
class Identity:
    """Identity, dropout at inference, linear activation, cast to the same type."""


@dataclass(frozen=True, eq=False)
class BiasMap:
    """Adds a constant of shape (C, *S) to every sample."""

    values: Array


@dataclass(frozen=True, eq=False)
class Activation:
    """An element-wise function of one input.  `kind` names it, `params` are its numbers.

    Kinds: relu; clip (lo, hi; ±inf allowed; ReLU6 is clip 0 6); leaky_relu (alpha); prelu (`slope`, (C,));
    elu (alpha); selu; sigmoid; tanh; hard_sigmoid (alpha, beta: max(0, min(1, alpha·x + beta)));
    hard_swish (x·max(0, min(1, x/6 + 1/2))); silu; gelu; gelu_tanh; softplus; softsign; exp; abs; neg; sqrt;
    softmax (over the axis `params[0]`, the one kind that is not element-wise).
    """

    kind: str
    params: tuple[float, ...] = ()
    slope: Array | None = None


@dataclass(frozen=True, eq=False)
class Foreign:
    """An operation that is carried through untouched.  `evaluate`, where a format can give one, is its meaning in
    NumPy (arrays in the graph's layout), so that a graph that has it can still be interpreted."""

    kind: str
    evaluate: Evaluate | None = field(default=None, repr=False)


Op = (
    Conv | ConvTranspose | Dense | Affine | Pool | GlobalPool | Flatten | Pad | Add | Product | Concat | Select | Slice
    | Upsample | Identity | BiasMap | Activation | Foreign
)
