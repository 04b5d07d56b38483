"""The element-wise functions that `Activation` names, in float64, and how many numbers each takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.errors import GraphError
from decascade.ir.ops import Activation

F64 = NDArray[np.float64]

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


@dataclass(frozen=True)
class Kind:
    """A function of the array and its numbers; `params` says in words what the numbers are."""

    function: Callable[..., F64]
    params: tuple[str, ...] = ()


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


KINDS: Mapping[str, Kind] = {
    "relu": Kind(_relu),
    "clip": Kind(_clip, ("lo", "hi")),
    "leaky_relu": Kind(_leaky_relu, ("alpha",)),
    "prelu": Kind(_prelu),
    "elu": Kind(_elu, ("alpha",)),
    "selu": Kind(_selu),
    "sigmoid": Kind(_sigmoid),
    "tanh": Kind(np.tanh),
    "hard_sigmoid": Kind(_hard_sigmoid, ("alpha", "beta")),
    "hard_swish": Kind(_hard_swish),
    "silu": Kind(_silu),
    "gelu": Kind(_gelu),
    "gelu_tanh": Kind(_gelu_tanh),
    "softplus": Kind(_softplus),
    "softsign": Kind(_softsign),
    "exp": Kind(np.exp),
    "abs": Kind(np.abs),
    "neg": Kind(np.negative),
    "sqrt": Kind(np.sqrt),
    "softmax": Kind(_softmax, ("axis",)),
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
