"""Readers of element-wise functions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from decascade.formats.onnx.layers import Matches, Reader, channel_vector, known_shape, one
from decascade.formats.onnx.nodes import Native
from decascade.formats.onnx.view import View
from decascade.ir.ops import Activation, Identity

_FLOAT_MAX = float(np.finfo(np.float32).max)
_PLAIN = {
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Exp": "exp",
    "Abs": "abs",
    "Neg": "neg",
    "Sqrt": "sqrt",
    "HardSwish": "hard_swish",
}


def _read_plain(view: View, native: Native) -> Matches:
    return one(native, Activation(_PLAIN[native.kind]))


def _read_leaky_relu(view: View, native: Native) -> Matches:
    return one(native, Activation("leaky_relu", (native.get("alpha", 0.01),)))


def _read_elu(view: View, native: Native) -> Matches:
    return one(native, Activation("elu", (native.get("alpha", 1.0),)))


def _read_selu(view: View, native: Native) -> Matches:
    """With the two constants of the paper; others are not read."""
    alpha, gamma = native.get("alpha", 1.67326319217681884765625), native.get("gamma", 1.05070102214813232421875)
    usual = abs(alpha - 1.6732632) < 1e-6 and abs(gamma - 1.0507010) < 1e-6
    return one(native, Activation("selu") if usual else None)


def _read_hard_sigmoid(view: View, native: Native) -> Matches:
    return one(native, Activation("hard_sigmoid", (native.get("alpha", 0.2), native.get("beta", 0.5))))


def _read_gelu(view: View, native: Native) -> Matches:
    kinds = {"none": "gelu", "tanh": "gelu_tanh"}
    kind = kinds.get(native.get("approximate", "none"))
    return one(native, None if kind is None else Activation(kind))


def _read_swish(view: View, native: Native) -> Matches:
    return one(native, Activation("silu") if native.get("alpha", 1.0) == 1 else None)


def _read_clip(view: View, native: Native) -> Matches:
    """Bounds as attributes (below opset 11) or constant scalars; either may be missing."""
    bounds = [native.get("min"), native.get("max")]
    for k in (1, 2):
        if native.input(k):
            bound = view.constant(native.input(k))
            if bound is None or bound.size != 1:
                return None
            bounds[k - 1] = float(bound.reshape(()))
    low, high = (-np.inf if bounds[0] is None else bounds[0]), (np.inf if bounds[1] is None else bounds[1])
    low, high = (-np.inf if low <= -_FLOAT_MAX else low), (np.inf if high >= _FLOAT_MAX else high)
    if low > high or low == np.inf or high == -np.inf:
        return None
    if (low, high) == (-np.inf, np.inf):
        return one(native, Identity())
    return one(native, Activation("relu") if (low, high) == (0, np.inf) else Activation("clip", (low, high)))


def _read_prelu(view: View, native: Native) -> Matches:
    """A constant slope per channel, or one for all."""
    slope, shape = view.constant(native.input(1)), known_shape(view, native.inputs[0])
    if slope is None or shape is None:
        return None
    vector = channel_vector(slope, shape)
    if vector is None:
        return None
    if slope.size == 1:
        return one(native, Activation("leaky_relu", (float(vector[0]),)))
    return one(native, Activation("prelu", (), vector))


def _read_softmax(view: View, native: Native) -> Matches:
    """Below opset 13 it runs over all axes from `axis` on: read where that is one axis."""
    shape = view.shapes.get(native.inputs[0])
    if shape is None:
        return None
    axis = native.get("axis", -1 if view.opset >= 13 else 1)
    if not -len(shape) <= axis < len(shape):
        return None
    axis %= len(shape)
    if view.opset < 13 and any(n != 1 for n in shape[axis + 1 :]):
        return None
    return one(native, Activation("softmax", (float(axis),)))


READERS: Mapping[str, Reader] = {
    **dict.fromkeys(_PLAIN, _read_plain),
    "LeakyRelu": _read_leaky_relu,
    "PRelu": _read_prelu,
    "Elu": _read_elu,
    "Selu": _read_selu,
    "HardSigmoid": _read_hard_sigmoid,
    "Gelu": _read_gelu,
    "Swish": _read_swish,
    "Clip": _read_clip,
    "Softmax": _read_softmax,
}
