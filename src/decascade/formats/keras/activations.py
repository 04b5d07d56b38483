"""Keras' activations, as layers and as functions, in the graph's words and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from decascade.errors import GraphError
from decascade.formats.keras.base import Layout, class_of, graph_axis, keras, native_axis, to_array
from decascade.ir.ops import Activation, Identity

Element = Activation | Identity
_ALIKE = ("relu", "selu", "sigmoid", "tanh", "softplus", "softsign", "silu")


def read_function(function: Any, rank: int, layout: Layout) -> Element | None:
    """What `activation=function` does to a tensor of this rank; None where it is not known."""
    k = keras()
    if isinstance(function, k.layers.Layer):
        return read_layer(function, rank, layout)
    table = k.activations
    if function is None or function is table.linear:
        return Identity()
    for name in _ALIKE:
        if function is getattr(table, name):
            return Activation(name)
    if function is table.softmax:
        return Activation("softmax", (float(graph_axis(-1, rank, layout)),))
    known: dict[str, Activation] = {
        "relu6": Activation("clip", (0.0, 6.0)),
        "elu": Activation("elu", (1.0,)),
        "hard_sigmoid": Activation("hard_sigmoid", (1 / 6, 0.5)),
        "hard_silu": Activation("hard_swish"),
        "gelu": Activation("gelu"),
        "exponential": Activation("exp"),
        "leaky_relu": Activation("leaky_relu", (0.2,)),
    }
    return next((op for name, op in known.items() if function is getattr(table, name, None)), None)


def read_layer(layer: Any, rank: int, layout: Layout) -> Element | None:
    """What an activation layer does; None where it is not known."""
    layers = keras().layers
    readers: dict[type, Callable[[Any, int, Layout], Element | None]] = {
        layers.Activation: lambda one, n, order: read_function(one.activation, n, order),
        layers.ReLU: _relu,
        layers.LeakyReLU: lambda one, n, order: Activation("leaky_relu", (float(one.negative_slope),)),
        layers.PReLU: _prelu,
        layers.ELU: lambda one, n, order: Activation("elu", (float(one.alpha),)),
        layers.Softmax: _softmax,
    }
    reader = readers.get(class_of(layer))
    return None if reader is None else reader(layer, rank, layout)


def _relu(layer: Any, rank: int, layout: Layout) -> Activation | None:
    most, slope = layer.max_value, float(layer.negative_slope or 0)
    if layer.threshold or (slope and most is not None):
        return None
    if slope:
        return Activation("leaky_relu", (slope,))
    return Activation("relu") if most is None else Activation("clip", (0.0, float(most)))


def _prelu(layer: Any, rank: int, layout: Layout) -> Activation | None:
    slope = to_array(layer.alpha)
    at = 0 if layout == "channels_first" or rank < 3 else slope.ndim - 1
    if slope.size != slope.shape[at]:
        return None
    return Activation("prelu", slope=slope.reshape(-1))


def _softmax(layer: Any, rank: int, layout: Layout) -> Activation | None:
    axes: list[Any] = np.ravel(layer.axis).tolist()
    return Activation("softmax", (float(graph_axis(int(axes[0]), rank, layout)),)) if len(axes) == 1 else None


def write_layer(op: Activation, rank: int, layout: Layout, options: dict[str, Any]) -> Any:
    """A plain Keras layer for an activation of the graph; `options` are its name and dtype.

    A PReLU still wants its slope as a weight.

    Raises:
        GraphError: Keras has no layer for it.
    """
    layers = keras().layers
    match op.kind, op.params:
        case "clip", (0.0, hi) if np.isfinite(hi):
            return layers.ReLU(max_value=hi, **options)
        case "leaky_relu", (slope,):
            return layers.LeakyReLU(negative_slope=slope, **options)
        case "elu", (alpha,):
            return layers.ELU(alpha=alpha, **options)
        case "prelu", _:
            return layers.PReLU(shared_axes=[native_axis(a, rank, layout) for a in range(2, rank)] or None, **options)
        case "softmax", (axis,):
            return layers.Softmax(axis=native_axis(int(axis) % rank, rank, layout), **options)
        case "hard_sigmoid", (alpha, beta) if abs(alpha - 1 / 6) < 1e-12 and beta == 0.5:
            return layers.Activation("hard_sigmoid", **options)
        case _:
            pass
    names = {"hard_swish": "hard_silu", "gelu": "gelu", "exp": "exponential", **{n: n for n in _ALIKE}}
    if op.kind in names:
        return layers.Activation(names[op.kind], **options)
    if op.kind == "clip" and op.params[0] == 0:
        return layers.Activation("relu", **options)
    if op.kind == "neg":
        return layers.Rescaling(-1.0, **options)
    raise GraphError(f"Keras has no layer for the activation {op.kind} {op.params}")
