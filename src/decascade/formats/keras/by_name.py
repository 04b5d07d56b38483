"""Calls of TensorFlow functions that Keras 2 recorded, such as `a + b` or `tf.nn.relu(x)`, as the layers that compute the same.

Keras 2 stored the function's name and its arguments (TFOpLambda); Keras 3 cannot load that.  The name is looked up in the
tables below, and nothing is called by it.  What is not in them, or was called with other arguments, stays as it is, and the
gate refuses it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from decascade.errors import FormatError
from decascade.formats.keras.gate.config import as_dict, objects

Layer = tuple[str, dict[str, Any]]
"""Class and configuration, without what all layers have."""

_CONSTANT = "_CONSTANT_VALUE"
_CALLS = "TFOpLambda"
_LARGEST = 3e38


@dataclass
class _Call:
    """One call: its tensors [layer, node, index], the numbers beside them in their place, and its named arguments."""

    tensors: list[list[Any]]
    first: float | None
    second: float | None
    options: dict[str, Any]

    def only(self, **usual: Any) -> bool:
        """Whether all named arguments are the usual ones."""
        return all(k in usual and v == usual[k] for k, v in self.options.items())


def translated(config: Any) -> tuple[Any, set[str]]:
    """A copy of a model's configuration in which known calls are layers, and the names of these layers."""
    config, names = copy.deepcopy(config), set[str]()
    for part in objects(config):
        if part.get("class_name") == _CALLS and _translate(part):
            names.add(str(part["name"]))
    return config, names


def check_ranks(model: Any, names: set[str], file: str) -> None:
    """Tensors of unequal ranks line up at their last axes in TensorFlow and at their first in layers of Keras.

    Raises:
        FormatError: such tensors meet in a layer that was a call.
    """
    for layer in model._flatten_layers(include_self=False, recursive=True):
        inputs: Any = layer.input if layer.name in names else None
        ranks = sorted({len(t.shape) for t in cast("list[Any]", inputs)}) if isinstance(inputs, list) else []
        if len(ranks) > 1:
            raise FormatError(
                f"{file}: layer {layer.name} combines tensors of {' and '.join(map(str, ranks))} axes, which TensorFlow and "
                "Keras line up differently: rebuild the model with Keras layers"
            )


def _translate(part: dict[str, Any]) -> bool:
    inner = as_dict(part.get("config")) or {}
    call, rule = _call(part.get("inbound_nodes")), _RULES.get(str(inner.get("function")))
    found = rule(call) if rule is not None and call is not None else None
    if found is None or call is None:
        return False
    kind, own = found
    part["class_name"] = kind
    part["config"] = {k: v for k, v in inner.items() if k != "function"} | own
    part["inbound_nodes"] = [[[*t, {}] for t in call.tensors]]
    part.pop("build_config", None)
    if "module" in part:
        part["module"], part["registered_name"] = "keras.layers", None
    return True


def _call(nodes: Any) -> _Call | None:
    """The first argument is a tensor, a list of them or a constant, and carries the named ones; `y` is the second of two."""
    if not isinstance(nodes, list) or len(cast("list[Any]", nodes)) != 1:
        return None
    node = cast("list[Any]", nodes)[0]
    rows = cast("list[Any]", node if isinstance(node, list) and node and isinstance(node[0], list) else [node])
    if not all(isinstance(r, list) and len(cast("list[Any]", r)) == 4 and isinstance(r[3], dict) for r in rows):
        return None
    options = {k: v for k, v in rows[0][3].items() if k != "name"}
    second = options.pop("y", None)
    tensors, first = [r[:3] for r in rows if r[0] != _CONSTANT], None
    if len(tensors) < len(rows):
        first = _number(rows[0][2])
        if first is None or len(rows) > 1:
            return None
    if isinstance(second, list) and len(cast("list[Any]", second)) == 3 and isinstance(second[0], str):
        tensors.append(cast("list[Any]", second))
        second = None
    elif second is not None and (second := _number(second)) is None:
        return None
    return _Call(tensors, first, second, options)


def _number(value: Any) -> float | None:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain and -_LARGEST <= value <= _LARGEST else None


def _two(layer: str, with_number: Callable[[float, bool], Layer | None]) -> Callable[[_Call], Layer | None]:
    """An operation on two tensors, or on one and a number, of which it is told whether it comes first."""

    def rule(call: _Call) -> Layer | None:
        if not call.only():
            return None
        match len(call.tensors), call.first, call.second:
            case 2, None, None:
                return layer, {}
            case 1, None, float(number):
                return with_number(number, False)
            case 1, float(number), None:
                return with_number(number, True)
            case _:
                return None

    return rule


def _one(layer: str, own: dict[str, Any], **usual: Any) -> Callable[[_Call], Layer | None]:
    return lambda call: (layer, own) if _single(call) and call.only(**usual) else None


def _single(call: _Call) -> bool:
    return len(call.tensors) == 1 and call.first is None and call.second is None


def _scaled(scale: float, offset: float) -> Layer:
    return "Rescaling", {"scale": scale, "offset": offset}


def _divided(number: float, first: bool) -> Layer | None:
    return None if first or number == 0 else _scaled(1 / number, 0.0)


def _at_least(number: float, _first: bool) -> Layer | None:
    return ("ReLU", {}) if number == 0 else None


def _leaky(call: _Call) -> Layer | None:
    slope = _number(call.options.pop("alpha", 0.2))
    return ("LeakyReLU", {"negative_slope": slope}) if _single(call) and slope is not None and call.only() else None


def _clip(call: _Call) -> Layer | None:
    lo, hi = (_number(call.options.pop(f"clip_value_{end}", None)) for end in ("min", "max"))
    return ("ReLU", {"max_value": hi}) if _single(call) and lo == 0 and hi is not None and hi >= 0 and call.only() else None


def _softmax(call: _Call) -> Layer | None:
    axis = call.options.pop("axis", None)
    axis = -1 if axis is None else axis
    return ("Softmax", {"axis": axis}) if _single(call) and isinstance(axis, int) and call.only() else None


def _concat(call: _Call) -> Layer | None:
    axis, plain = call.options.pop("axis", None), call.first is None and call.second is None
    fits = plain and len(call.tensors) > 1 and isinstance(axis, int) and axis != 0
    return ("Concatenate", {"axis": axis}) if fits and call.only() else None


def _mean(call: _Call) -> Layer | None:
    axes, keep = call.options.pop("axis", None), call.options.pop("keepdims", None)
    if not _single(call) or axes not in ([1, 2], [2, 1]) or keep not in (None, False, True) or not call.only():
        return None
    return "GlobalAveragePooling2D", {"keepdims": bool(keep), "data_format": "channels_last"}


def _pad(call: _Call) -> Layer | None:
    pads = call.options.pop("paddings", None)
    if not _single(call) or not _all_pairs(pads) or len(pads) not in (3, 4) or pads[0] != [0, 0] or pads[-1] != [0, 0]:
        return None
    if not call.only(mode="CONSTANT", constant_values=0):
        return None
    inside = pads[1:-1]
    return ("ZeroPadding1D", {"padding": inside[0]}) if len(inside) == 1 else (
        "ZeroPadding2D", {"padding": inside, "data_format": "channels_last"})


def _all_pairs(value: Any) -> bool:
    return isinstance(value, list) and all(_counts(p) and len(p) == 2 for p in cast("list[Any]", value))


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in cast("list[Any]", value))


def _pool(layer: str) -> Callable[[_Call], Layer | None]:
    def rule(call: _Call) -> Layer | None:
        size, stride, padding = (call.options.pop(k, None) for k in ("ksize", "strides", "padding"))
        sides = [[v, v] if type(v) is int else v for v in (size, stride)]
        if not _single(call) or padding not in ("SAME", "VALID") or not call.only(data_format="NHWC"):
            return None
        if not all(_counts(v) and len(v) == 2 and 0 not in v for v in sides):
            return None
        own = {"pool_size": sides[0], "strides": sides[1], "padding": padding.lower(), "data_format": "channels_last"}
        return layer, own

    return rule


def _resize(call: _Call) -> Layer | None:
    size, method = call.options.pop("size", None), call.options.pop("method", "bilinear")
    if not _single(call) or method not in ("bilinear", "nearest") or not _counts(size) or len(size) != 2 or 0 in size:
        return None
    own = {"height": size[0], "width": size[1], "interpolation": method, "data_format": "channels_last"}
    return ("Resizing", own) if call.only(preserve_aspect_ratio=False, antialias=False) else None


def _reshape(call: _Call) -> Layer | None:
    shape = call.options.pop("shape", None)
    fits = _single(call) and isinstance(shape, list) and shape[:1] == [-1] and _counts(shape[1:]) and 0 not in shape
    return ("Reshape", {"target_shape": cast("list[int]", shape)[1:]}) if fits and call.only() else None


def _permute(call: _Call) -> Layer | None:
    order = call.options.pop("perm", None)
    fits = _single(call) and _counts(order) and order[:1] == [0] and sorted(order) == list(range(len(order))) and len(order) > 1
    return ("Permute", {"dims": order[1:]}) if fits and call.only(conjugate=False) else None


_ADD = _two("Add", lambda number, _: _scaled(1.0, number))
_RULES: dict[str, Callable[[_Call], Layer | None]] = {
    "__operators__.add": _ADD, "math.add": _ADD,
    "math.subtract": _two("Subtract", lambda number, first: _scaled(-1.0, number) if first else _scaled(1.0, -number)),
    "math.multiply": _two("Multiply", lambda number, _: _scaled(number, 0.0)),
    "math.truediv": _two("", _divided), "math.divide": _two("", _divided),
    "math.maximum": _two("Maximum", _at_least), "math.minimum": _two("Minimum", lambda _number, _first: None),
    "math.negative": _one("Rescaling", {"scale": -1.0, "offset": 0.0}),
    "nn.relu": _one("ReLU", {}), "nn.relu6": _one("ReLU", {"max_value": 6.0}), "nn.leaky_relu": _leaky,
    "nn.silu": _one("Activation", {"activation": "silu"}, beta=1.0),
    "nn.swish": _one("Activation", {"activation": "silu"}, beta=1.0),
    "math.sigmoid": _one("Activation", {"activation": "sigmoid"}), "math.tanh": _one("Activation", {"activation": "tanh"}),
    "nn.elu": _one("Activation", {"activation": "elu"}), "nn.selu": _one("Activation", {"activation": "selu"}),
    "math.softplus": _one("Activation", {"activation": "softplus"}),
    "nn.softmax": _softmax, "clip_by_value": _clip, "concat": _concat, "math.reduce_mean": _mean, "reduce_mean": _mean,
    "pad": _pad, "compat.v1.pad": _pad, "nn.max_pool2d": _pool("MaxPooling2D"), "nn.avg_pool2d": _pool("AveragePooling2D"),
    "image.resize": _resize, "reshape": _reshape, "compat.v1.transpose": _permute, "transpose": _permute,
}
