"""Mends, on a copy, what Keras 2 wrote into a configuration and Keras 3 rejects, in HDF5 files and in archives alike.

Keys that layers no longer take, modules that were moved, the input's shape in the first layer of a Sequential, and slashes in
names.
"""

from __future__ import annotations

import copy
from typing import Any, cast

from decascade.errors import FormatError
from decascade.formats.keras.gate.config import as_dict, objects

_SEPARABLE = {"DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D"}
_MODELS = {"Functional": "keras.src.models.functional", "Model": "keras.src.models.model", "Sequential": "keras"}
_GONE: dict[str, dict[str, Any]] = {
    **{f"Conv{n}DTranspose": {"groups": 1} for n in (1, 2, 3)},
    **{name: {"time_major": False} for name in ("LSTM", "GRU", "SimpleRNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")},
    **{f"SpatialDropout{n}D": {"trainable": True, "noise_shape": None} for n in (1, 2, 3)},
    "Discretization": {"trainable": True},
}
"""Keys that layers no longer take, and the value at which the layer does the same without."""
_FROM = ("keras.src.engine.", "keras.engine.", "tf_keras.src.engine.")
"""Where the classes of models were: in TensorFlow's Keras from 2.12 to 2.15, and in the package that followed it."""


def check_meaning(config: Any, version: str, file: str) -> None:
    """`version`: of the Keras that wrote the configuration.

    Raises:
        FormatError: a name in it stood for another function then.
    """
    for part in objects(config) if version.startswith(("1.", "2.")) else ():
        inner = as_dict(part.get("config")) or {}
        for key in ("activation", "recurrent_activation"):
            if "hard_sigmoid" in (inner.get(key), (as_dict(inner.get(key)) or {}).get("config")):
                raise FormatError(
                    f"{file}: layer {inner.get('name', '?')} uses hard_sigmoid of Keras {version}, clip(0.2 x + 0.5, 0, 1), by "
                    "which name Keras 3 knows another function, relu6(x + 3) / 6: put Rescaling(0.2, 0.5) and "
                    "ReLU(max_value=1) in its place where the model is made"
                )


def mended(config: dict[str, Any]) -> dict[str, Any]:
    """A copy that Keras 3 accepts."""
    config = copy.deepcopy(config)
    for part in objects(config):
        inner = as_dict(part.get("config"))
        _mend_module(part)
        if part.get("class_name") == "Sequential":
            _mend_sequential(part)
        elif inner is not None:
            _mend_layer(str(part.get("class_name")), inner)
        if inner is not None and isinstance(inner.get("layers"), list):
            _mend_names(inner)
            _mend_calls(inner)
    return config


def _mend_module(part: dict[str, Any]) -> None:
    kind, module = part.get("class_name"), str(part.get("module"))
    if isinstance(kind, str) and kind in _MODELS and module.startswith(_FROM):
        part["module"] = _MODELS[kind]


def _mend_names(model: dict[str, Any]) -> None:
    """Names may not have slashes any more, by which TensorFlow told the parts of a network."""
    named = [(part, as_dict(part.get("config")) or part) for part in _layers(model)]
    taken = {str(inner.get("name")) for _, inner in named}
    changed = dict[str, str]()
    for part, inner in [*named, ({}, model)]:
        name = inner.get("name")
        if isinstance(name, str) and "/" in name:
            new = name.replace("/", "_")
            while new in taken:
                new += "_"
            taken.add(new)
            changed[name] = inner["name"] = new
            if part.get("name") == name:
                part["name"] = new
    for row in _references(model) if changed else ():
        row[0] = changed.get(row[0], row[0])


def _mend_calls(model: dict[str, Any]) -> None:
    """Keras 2 counted the making of a nested Sequential as its first call, Keras 3 does not."""
    rows = _references(model)
    for part in _layers(model):
        if part.get("class_name") == "Sequential":
            calls = [row for row in rows if row[0] == part.get("name")]
            nodes: Any = part.get("inbound_nodes")
            if isinstance(nodes, list) and any(row[1] >= len(cast("list[Any]", nodes)) for row in calls):
                for row in calls:
                    row[1] -= 1


def _layers(model: dict[str, Any]) -> list[dict[str, Any]]:
    return [part for part in map(as_dict, model["layers"]) if part is not None]


def _references(model: dict[str, Any]) -> list[list[Any]]:
    """The lists that begin with the name of a layer, a node and a tensor, by which layers refer to each other."""
    stack: list[Any] = [model.get("input_layers"), model.get("output_layers")]
    stack += [part.get("inbound_nodes") for part in _layers(model)]
    found = list[list[Any]]()
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            row = cast("list[Any]", value)
            if len(row) >= 3 and isinstance(row[0], str) and all(type(n) is int for n in row[1:3]):
                found.append(row)
            stack.extend(row)
        elif (part := as_dict(value)) is not None:
            stack.extend(part.values())
    return found


def _mend_layer(name: str, inner: dict[str, Any]) -> None:
    axis: Any = inner.get("axis")
    if name == "BatchNormalization" and isinstance(axis, list) and len(cast("list[Any]", axis)) == 1:
        inner["axis"] = axis[0]
    if name != "InputLayer":
        inner.pop("batch_input_shape", None)
    if name in _SEPARABLE:
        _mend_separable(name, inner)
    for gone, usual in _GONE.get(name, {}).items():
        if gone in inner and inner[gone] == usual:
            del inner[gone]
    if name.startswith("Random"):
        inner.pop("rng_type", None)
    if name == "LeakyReLU" and "alpha" in inner:
        inner["negative_slope"] = inner.pop("alpha")


def _mend_separable(name: str, inner: dict[str, Any]) -> None:
    stray = [k for k in inner if k == "groups" or (k.startswith("kernel_") and k != "kernel_size")]
    for key in stray:
        del inner[key]
    if name.startswith("Depthwise"):
        inner.pop("filters", None)


def _mend_sequential(part: dict[str, Any]) -> None:
    """Keras 2 gave the input's shape to the first layer; before that, the configuration was a bare list."""
    if isinstance(part["config"], list):
        part["config"] = {"name": "sequential", "layers": part["config"]}
    layers: list[Any] = (as_dict(part["config"]) or {}).get("layers") or []
    first = as_dict(layers[0]) if layers else None
    inner = as_dict(first.get("config")) if first is not None else None
    if first is None or inner is None or first.get("class_name") == "InputLayer":
        return
    shape = inner.pop("batch_input_shape", None)
    if shape is not None and first.get("class_name") not in ("Sequential", "Functional", "Model"):
        name = f"{inner.get('name', 'first')}_input"
        inputs: dict[str, Any] = {"batch_shape": shape, "dtype": _dtype_name(inner), "name": name}
        layers.insert(0, {"class_name": "InputLayer", "config": inputs})


def _dtype_name(inner: dict[str, Any]) -> str:
    dtype = inner.get("dtype", "float32")
    # of a mixed policy the inputs are float32 all the same
    return dtype if isinstance(dtype, str) and not dtype.startswith("mixed") else "float32"
