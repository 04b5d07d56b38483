"""Looks through the JSON configuration of a Keras file before Keras may see it.

Refused (`UnsafeModelError`): layers that store code or read other files, functions that are no modelling functions of
Keras, classes from modules that are not Keras'.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from decascade.errors import FormatError, UnsafeModelError
from decascade.formats.keras.base import keras

_CODE = {"Lambda", "__lambda__"}
_BY_NAME = {"TFOpLambda", "SlicingOpLambda", "ClassMethod", "InstanceMethod", "InstanceProperty", "TensorFlowOpLayer"}
_OUTSIDE = {"TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}
# where the classes and functions of a model live; keras.utils, keras.saving and the like only make sense in programs
_PARTS = {
    "activations", "constraints", "dtype_policies", "initializers", "layers", "losses", "metrics", "mixed_precision",
    "models", "ops", "optimizers", "quantizers", "random", "regularizers",
}
TENSORFLOW_INITIALIZERS = "tensorflow.python.ops.init_ops_v2"
_INITIALIZERS = {"Constant", "Ones", "Zeros"}
"""Of TensorFlow, in published nets of Keras 2; Keras has the same."""
_LEGACY_CLASSES = {"Functional", "Model", "Sequential", "InputLayer"}


def scan(config: Any, file: str, training: bool = False) -> None:
    """Checks a whole model configuration.

    How nested models were compiled may name classes that are not there, unless it is used (`training`); code it may not hold.

    Raises:
        UnsafeModelError: it holds code, names code outside Keras, or reads other files; says which layer and what to do.
        FormatError: it is no configuration of a model.
    """
    if not isinstance(config, dict) or "class_name" not in config or "config" not in config:
        raise FormatError(f"{file}: its configuration describes no Keras model: save it again with model.save")
    for part in objects(config):
        _check_code(part, file)
    for part in objects(config, "" if training else "compile_config"):
        _check_class(part, file)


def objects(value: Any, without: str = "") -> Iterator[dict[str, Any]]:
    """Every dictionary in the configuration, without those under a key; a stack, since the depth is the file's choice."""
    stack: list[Any] = [value]
    while stack:
        value = stack.pop()
        if (part := as_dict(value)) is not None:
            yield part
            stack.extend(v for k, v in part.items() if k != without)
        elif isinstance(value, list):
            stack.extend(cast("list[Any]", value))


def as_dict(value: Any) -> dict[str, Any] | None:
    """A JSON object; None for any other value."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _called(part: dict[str, Any]) -> str:
    return str((as_dict(part.get("config")) or {}).get("name", part.get("class_name")))


def _check_code(part: dict[str, Any], file: str) -> None:
    name, called = part.get("class_name"), _called(part)
    if "vocabulary" in part and isinstance(part["vocabulary"], str):
        raise UnsafeModelError(
            f"{file}: layer {part.get('name', '?')} reads its vocabulary from {part['vocabulary']!r}, outside the model "
            "file: load it yourself and pass the live model"
        )
    if not isinstance(name, str):
        return
    if name in _CODE:
        raise UnsafeModelError(
            f"{file}: layer {called} is a Lambda, Python code stored in the file; it was not run: write it as a layer, "
            "or load the model yourself and pass the live model"
        )
    if name in _BY_NAME:
        raise UnsafeModelError(
            f"{file}: layer {called} ({name}) calls a TensorFlow function by name, which was not run; Keras 3 does not know "
            "it, and decascade no layer that does the same: rebuild the model with Keras layers"
        )
    if name in _OUTSIDE:
        raise UnsafeModelError(
            f"{file}: layer {called} ({name}) runs a program from outside the file; it was not run: load the model "
            "yourself and pass the live model"
        )


def _check_class(part: dict[str, Any], file: str) -> None:
    name, called = part.get("class_name"), _called(part)
    module, registered = part.get("module"), part.get("registered_name")
    if not isinstance(name, str) or "config" not in part or _registered(registered, name):
        return
    if module is None:
        # the old HDF5 form names layers alone; the layers of a model are the dictionaries with a name in their config
        is_layer = {"name", "trainable"} <= (as_dict(part["config"]) or {}).keys()
        known = name in _LEGACY_CLASSES or hasattr(keras().layers, name)
        if registered is None and (known or not is_layer):
            return
        raise UnsafeModelError(_unknown(file, called, str(registered or name)))
    if module == TENSORFLOW_INITIALIZERS and name in _INITIALIZERS:
        return
    if not _is_keras(str(module), function=name == "function"):
        what = part["config"] if name == "function" else name
        raise UnsafeModelError(_unknown(file, called, f"{module}.{what}"))


def _registered(registered: Any, name: str) -> bool:
    """Whether the user made the class known to Keras in this process."""
    find = keras().saving.get_registered_object
    return find(name) is not None or (isinstance(registered, str) and find(registered) is not None)


def _is_keras(module: str, function: bool) -> bool:
    if module == "builtins":
        # Keras looks such a name up among its own activations, losses, …
        return True
    parts = module.split(".")
    if parts[0] == "tf_keras":
        # the package that went on with Keras 2; only the name is of use, see keras_mend
        return parts[1:3] == ["src", "engine"] and not function
    if parts[0] != "keras" or len(parts) == 1:
        return module == "keras" and not function
    if parts[1] == "src" and len(parts) > 2:
        if parts[2] == "applications":
            # layers of the published nets; the functions of that name fetch weights
            return not function
        # Keras 2 kept its models in engine
        return parts[2] in _PARTS or parts[2] == "engine"
    return parts[1] in _PARTS


def _unknown(file: str, called: str, what: str) -> str:
    return (
        f"{file}: layer {called} is of class {what}, which is not Keras' own, and no module was imported to find it: load "
        "the model yourself with keras.saving.load_model(path, custom_objects=...) and pass the live model"
    )
