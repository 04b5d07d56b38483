"""Every activation kind as a function of a torch tensor, as `ir.ops.activation` defines it in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from decascade.ir.ops import Activation

Unary = Callable[[Any], Any]
Make = Callable[..., Callable[..., Any]]


def activation(torch: Any, op: Activation) -> Callable[..., Any]:
    """The function of x, and of the slope where the kind has one; the op must have passed `check_activation`."""
    return MAKERS[op.kind](torch, torch.nn.functional, *op.params)


def _clip(torch: Any, F: Any, lo: float, hi: float) -> Unary:
    return lambda x: torch.clamp(x, lo, hi)


def _leaky_relu(torch: Any, F: Any, alpha: float) -> Unary:
    return lambda x: F.leaky_relu(x, alpha)


def _elu(torch: Any, F: Any, alpha: float) -> Unary:
    return lambda x: F.elu(x, alpha)


def _hard_sigmoid(torch: Any, F: Any, alpha: float, beta: float) -> Unary:
    return lambda x: torch.clamp(alpha * x + beta, 0, 1)


def _gelu_tanh(torch: Any, F: Any) -> Unary:
    return lambda x: F.gelu(x, approximate="tanh")


def _softplus(torch: Any, F: Any) -> Unary:
    # torch's own softplus is the identity from 20 on, which float64 can tell from the function
    return lambda x: F.softplus(x, threshold=40)


def _softmax(torch: Any, F: Any, axis: float) -> Unary:
    return lambda x: torch.softmax(x, int(axis))


def _named(name: str, functional: bool = False) -> Make:
    """torch's own function of that name."""

    def make(torch: Any, F: Any) -> Callable[..., Any]:
        return getattr(F if functional else torch, name)

    return make


MAKERS: Mapping[str, Make] = {
    "relu": _named("relu"),
    "clip": _clip,
    "leaky_relu": _leaky_relu,
    "prelu": _named("prelu", True),
    "elu": _elu,
    "selu": _named("selu", True),
    "sigmoid": _named("sigmoid"),
    "tanh": _named("tanh"),
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": _named("hardswish", True),
    "silu": _named("silu", True),
    "gelu": _named("gelu", True),
    "gelu_tanh": _gelu_tanh,
    "softplus": _softplus,
    "softsign": _named("softsign", True),
    "exp": _named("exp"),
    "abs": _named("abs"),
    "neg": _named("neg"),
    "sqrt": _named("sqrt"),
    "softmax": _softmax,
}
"""One row per kind of `ir.ops.activation.KINDS`."""
