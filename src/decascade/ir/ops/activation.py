"""Element-wise functions: the operation, its kinds in float64, and what is known of each kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.axis import Axis
from decascade.algebra.conv import Array
from decascade.errors import GraphError
from decascade.ir.dims import Shape
from decascade.ir.ops.definition import AnyArray, Definition, Trait, at_its_own_position
from decascade.ir.ops.rules import array_text, unary

F64 = NDArray[np.float64]

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


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


@dataclass(frozen=True)
class Kind:
    """A function of the array and its numbers; `params` says in words what the numbers are.

    `monotone`: x ≤ y implies f(x) ≤ f(y) wherever f is defined.  `total`: it is defined everywhere.  `homogeneous`:
    f(s·x) = s·f(x) for s > 0.  `piecewise`: linear pieces alone, which round nothing but the product with a slope.
    `steepest`: its largest slope, rounded up; None where there is none.  `element_wise`: each entry by itself.
    """

    function: Callable[..., F64]
    params: tuple[str, ...] = ()
    monotone: Trait = False
    total: bool = True
    homogeneous: bool = False
    piecewise: bool = False
    steepest: float | Callable[[Any], float] | None = None
    element_wise: bool = True


def _relu(x: F64) -> F64:
    return np.maximum(x, 0)


def _clip(x: F64, lo: float, hi: float) -> F64:
    return np.minimum(np.maximum(x, lo), hi)


def _leaky_relu(x: F64, alpha: float) -> F64:
    return np.where(x > 0, x, alpha * x)


def _prelu(x: F64, slope: NDArray[np.floating[Any]]) -> F64:
    column = slope.astype(np.float64).reshape(-1, *(1,) * (x.ndim - 2))
    return np.where(x > 0, x, column * x)


def _elu(x: F64, alpha: float) -> F64:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _selu(x: F64) -> F64:
    return _SELU_SCALE * _elu(x, _SELU_ALPHA)


def _sigmoid(x: F64) -> F64:
    # exp of what cannot overflow, and no cancellation in the lower tail
    return np.exp(-np.logaddexp(0, -x))


def _hard_sigmoid(x: F64, alpha: float, beta: float) -> F64:
    return np.clip(alpha * x + beta, 0, 1)


def _hard_swish(x: F64) -> F64:
    return x * _hard_sigmoid(x, 1 / 6, 0.5)


def _silu(x: F64) -> F64:
    return x * _sigmoid(x)


def _gelu(x: F64) -> F64:
    special: Any = import_module("scipy.special")
    return 0.5 * x * special.erfc(-x / np.sqrt(2))


def _gelu_tanh(x: F64) -> F64:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _softplus(x: F64) -> F64:
    return np.logaddexp(0, x)


def _softsign(x: F64) -> F64:
    return x / (1 + np.abs(x))


def _softmax(x: F64, axis: float) -> F64:
    powers = np.exp(x - x.max(axis=int(axis), keepdims=True))
    return powers / powers.sum(axis=int(axis), keepdims=True)


def _not_falling(op: Activation) -> bool:
    """Of kinds with a number that is a slope."""
    return op.params[0] >= 0


def _slope_or_one(op: Activation) -> float:
    return max(1.0, abs(op.params[0]))


def _own_slope(op: Activation) -> float:
    return abs(op.params[0])


def _largest_slope(op: Activation) -> float:
    return 1.0 if op.slope is None else max(1.0, float(np.abs(op.slope).max()))


KINDS: Mapping[str, Kind] = {
    "relu": Kind(_relu, monotone=True, homogeneous=True, piecewise=True, steepest=1.0),
    "clip": Kind(_clip, ("lo", "hi"), monotone=True, piecewise=True, steepest=1.0),
    "leaky_relu": Kind(
        _leaky_relu, ("alpha",), monotone=_not_falling, homogeneous=True, piecewise=True, steepest=_slope_or_one
    ),
    "prelu": Kind(_prelu, homogeneous=True, piecewise=True, steepest=_largest_slope),
    "elu": Kind(_elu, ("alpha",), monotone=_not_falling, steepest=_slope_or_one),
    "selu": Kind(_selu, monotone=True, steepest=1.76),
    "sigmoid": Kind(_sigmoid, monotone=True, steepest=0.25),
    "tanh": Kind(np.tanh, monotone=True, steepest=1.0),
    "hard_sigmoid": Kind(_hard_sigmoid, ("alpha", "beta"), monotone=_not_falling, steepest=_own_slope),
    "hard_swish": Kind(_hard_swish, steepest=1.5),
    "silu": Kind(_silu, steepest=1.1),
    "gelu": Kind(_gelu, steepest=1.13),
    "gelu_tanh": Kind(_gelu_tanh, steepest=1.13),
    "softplus": Kind(_softplus, monotone=True, steepest=1.0),
    "softsign": Kind(_softsign, monotone=True, steepest=1.0),
    "exp": Kind(np.exp, monotone=True),
    "abs": Kind(np.abs, piecewise=True, steepest=1.0),
    "neg": Kind(np.negative, piecewise=True, steepest=1.0),
    "sqrt": Kind(np.sqrt, monotone=True, total=False),
    "softmax": Kind(_softmax, ("axis",), element_wise=False),
}
"""Every kind that `Activation.kind` may name."""


def check_activation(op: Activation, channels: int | None, rank: int) -> None:
    """Kind known, right count of numbers, slope of one entry per channel, softmax axis within the rank.

    Raises:
        GraphError: one of these does not hold.
    """
    kind = KINDS.get(op.kind)
    if kind is None:
        raise GraphError(f"unknown activation kind {op.kind!r}: expected one of {', '.join(KINDS)}")
    if len(op.params) != len(kind.params):
        wanted = f"({', '.join(kind.params)})"
        raise GraphError(f"{op.kind} takes {len(kind.params)} numbers {wanted}, it has {op.params}")
    if (op.kind == "prelu") != (op.slope is not None):
        raise GraphError("prelu needs a slope" if op.kind == "prelu" else f"{op.kind} takes no slope")
    if op.slope is not None and (op.slope.ndim != 1 or channels not in (None, len(op.slope))):
        raise GraphError(f"prelu slope of shape {op.slope.shape} for {channels} channels: give one number per channel")
    if op.kind == "softmax" and not (-rank <= op.params[0] < rank and op.params[0] == int(op.params[0])):
        raise GraphError(f"softmax axis {op.params[0]} is outside the {rank} axes of its input")


def activate(op: Activation, x: F64) -> F64:
    """The activation on x (N, C, *S) in float64; the op must have passed `check_activation`."""
    function = KINDS[op.kind].function
    return function(x, op.slope) if op.slope is not None else function(x, *op.params)


def kind_of(op: Activation) -> Kind:
    return KINDS[op.kind]


def _shape(op: Activation, x: Shape) -> Shape:
    check_activation(op, x[1] if len(x) > 1 and isinstance(x[1], int) else None, len(x))
    return x


def _meaning(op: Activation, arrays: Sequence[AnyArray]) -> AnyArray:
    return activate(op, arrays[0])


def _text(op: Activation) -> list[str]:
    numbers = [f"{p:g}" for p in op.params]
    return [" ".join([op.kind, *numbers]), *([f"slope {array_text(op.slope)}"] if op.slope is not None else [])]


def _words(op: Activation) -> str:
    if op.kind == "clip":
        lo, hi = op.params[:2]
        return "relu6" if (lo, hi) == (0, 6) else f"clip {lo:g} to {hi:g}"
    return op.kind.replace("_", " ")


def _element_wise(op: Activation) -> bool:
    return kind_of(op).element_wise


def _axes(op: Activation, rank: int) -> tuple[Axis, ...] | None:
    over_positions = not _element_wise(op) and int(op.params[0]) % (rank + 2) > 1
    return None if over_positions else at_its_own_position(op, rank)


def _weights(op: Activation) -> Mapping[str, AnyArray]:
    return {} if op.slope is None else {"slope": op.slope}


def _with_weights(op: Activation, arrays: Mapping[str, AnyArray]) -> Activation:
    return replace(op, slope=arrays.get("slope", op.slope))


ACTIVATION = Definition(
    unary(_shape), _meaning, _words, text=_text, pointwise=_element_wise, any_size=True, per_channel=_element_wise, joins=True,
    axes=_axes, weights=_weights, with_weights=_with_weights,
)
