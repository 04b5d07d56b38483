"""Operations of `keras.ops` on symbolic tensors (x + y, relu(x), x * 2) in the graph's words, where they are simple."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from decascade.formats.keras.base import graph_axis, to_array
from decascade.formats.keras.layers import Chain, Step, Use, per_channel
from decascade.ir.ops import Activation, Add, Affine, Concat, Identity, Product
from decascade.ir.shapes import multiplies

_ACTIVATIONS: dict[str, Activation] = {
    "Relu": Activation("relu"),
    "Relu6": Activation("clip", (0.0, 6.0)),
    "Sigmoid": Activation("sigmoid"),
    "Tanh": Activation("tanh"),
    "Silu": Activation("silu"),
    "Softplus": Activation("softplus"),
    "Softsign": Activation("softsign"),
    "Selu": Activation("selu"),
    "HardSwish": Activation("hard_swish"),
    "HardSilu": Activation("hard_swish"),
    "HardSigmoid": Activation("hard_sigmoid", (1 / 6, 0.5)),
    "Exp": Activation("exp"),
    "Abs": Activation("abs"),
    "Absolute": Activation("abs"),
    "Sqrt": Activation("sqrt"),
    "Negative": Activation("neg"),
}


def read_operation(use: Use, record: Any) -> Chain | str:
    """The chain that an operation is, or the reason why it stays `Foreign`."""
    operation, kind = use.layer, type(use.layer).__name__
    unknown = f"keras.ops {kind} with these arguments is no operation that decascade knows"
    if not type(operation).__module__.startswith("keras."):
        return f"{kind} is no operation that decascade knows"
    args, kwargs = record.arguments.args, record.arguments.kwargs
    if kwargs:
        return unknown
    if kind == "Concatenate" and all(len(s) == use.rank for s in use.shapes):
        axis = graph_axis(operation.axis, use.rank, use.layout)
        return [Step(Concat(axis))] if axis else "it joins along the batch"
    if kind in ("Add", "Subtract", "Multiply", "Divide", "TrueDivide") and len(args) == 2:
        return _arithmetic(use, kind, args, {id(t) for t in record.input_tensors}) or unknown
    if len(args) != 1 or len(use.shapes) != 1:
        return unknown
    if kind == "Identity":
        return [Step(Identity())]
    if kind == "Gelu":
        return [Step(Activation("gelu_tanh" if operation.approximate else "gelu"))]
    if kind in ("LeakyRelu", "LeakyReLU"):
        return [Step(Activation("leaky_relu", (float(operation.negative_slope),)))]
    if kind == "Elu":
        return [Step(Activation("elu", (float(operation.alpha),)))]
    if kind == "Softmax" and isinstance(operation.axis, int):
        return [Step(Activation("softmax", (float(graph_axis(operation.axis, use.rank, use.layout)),)))]
    op = _ACTIVATIONS.get(kind)
    return unknown if op is None else [Step(op)]


def _arithmetic(use: Use, kind: str, args: Sequence[Any], tensors: set[int]) -> Chain | None:
    symbolic = [id(a) in tensors for a in args]
    if all(symbolic):
        if kind == "Multiply":
            return [Step(Product())] if multiplies(use.shapes) else None
        if use.shapes[0] != use.shapes[1] or kind not in ("Add", "Subtract"):
            return None
        return [Step(Add((1, -1) if kind == "Subtract" else ()))]
    constant = per_channel(_constant(args[symbolic.index(False)]), use)
    if constant is None or use.result != use.shapes[0]:
        return None
    one, none, first = np.ones_like(constant), np.zeros_like(constant), symbolic[0]
    if kind == "Add":
        return [Step(Affine(one, constant))]
    if kind == "Subtract":
        return [Step(Affine(one, -constant) if first else Affine(-one, constant))]
    if kind == "Multiply":
        return [Step(Affine(constant, none))]
    return [Step(Affine(1 / constant, none))] if first and constant.all() else None


def _constant(value: Any) -> Any:
    plain = (int, float, np.ndarray, np.number, list, tuple)
    return to_array(value) if not isinstance(value, plain) else np.asarray(value)
