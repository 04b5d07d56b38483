"""A model's configuration from a file, read as plain data and written anew from the lists in `gate.lists`.

Keras looks names of a configuration up: among its own symbols, in modules that it imports, among what was registered.  It
therefore never gets the file's configuration, but one that is written here: every module name in it is ours, every class name
is on a list, activations are the functions themselves.  Initializers, regularizers, constraints, seeds and how a model was
compiled are not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, cast

from decascade.errors import FormatError, LimitExceededError, UnsafeModelError
from decascade.formats.keras.base import keras
from decascade.formats.keras.gate import lists
from decascade.limits import LIMITS

Json = dict[str, Any]
_LIVE = "load the model yourself with keras.saving.load_model(path) and pass the live model"
_UNREAD = ("_initializer", "_regularizer", "_constraint")
_FUNCTIONS = frozenset({"activation", "recurrent_activation", "gate_activation"})
_LAYER, _LAYERS = frozenset({"layer", "backward_layer", "cell"}), frozenset({"cells"})
_RUNS_PROGRAMS = frozenset({"TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"})
_BY_NAME = frozenset(
    {"TFOpLambda", "SlicingOpLambda", "ClassMethod", "InstanceMethod", "InstanceProperty", "TensorFlowOpLayer"})


@dataclass
class Gate:
    """One reading.  `file` is named in every error."""

    file: str
    count: int = 0
    depth: int = 0

    def model(self, config: Any) -> Json:
        """The configuration of a whole model, as Keras may have it.

        Raises:
            FormatError: it describes no model.
            UnsafeModelError: something in it is on no list; says which layer, and what to do.
            LimitExceededError: a number in it is beyond all sizes, or there are too many layers.
        """
        part = as_dict(config)
        if part is None or "class_name" not in part or "config" not in part:
            raise FormatError(f"{self.file}: its configuration describes no Keras model: save it again with model.save")
        name = part["class_name"]
        if not isinstance(name, str) or name not in lists.MODELS:
            if isinstance(name, str):
                self.layer(part)  # says what is wrong with one that is on no list
            raise FormatError(f"{self.file}: the model is of class {name!r}: load it yourself and pass the live model")
        return self.layer(part)

    def layer(self, value: Any) -> Json:
        """A layer, a model or an operation, by its class."""
        part = as_dict(value)
        if part is None or not isinstance(part.get("class_name"), str):
            raise FormatError(f"{self.file}: building the model with Keras failed: a layer in its configuration has no class")
        self.count += 1
        if self.count > LIMITS.nodes:
            raise LimitExceededError(
                f"{self.file}: its configuration has more than {LIMITS.nodes:,} layers (limit nodes): {_LIVE}")
        name, module = self._known(part)
        inner = {} if part.get("config") is None else as_dict(part["config"])
        if inner is None:
            raise FormatError(f"{self.file}: the configuration of layer {called(part)} is no table: the file is damaged")
        read: Callable[[Json, Json], Json] = self._model if name in lists.MODELS else self._settings
        result: Json = {"module": module, "class_name": name, "registered_name": None, "config": read(inner, part)}
        if isinstance(part.get("shared_object_id"), int):
            result["shared_object_id"] = part["shared_object_id"]
        if "inbound_nodes" in part:
            if not isinstance(part.get("name"), str):
                raise FormatError(f"{self.file}: building the model with Keras failed: layer {called(part)} has no name")
            result["name"] = part["name"]
            result["inbound_nodes"] = [self._node(node, part) for node in self._list(part["inbound_nodes"], part)]
        return result

    def _known(self, part: Json) -> tuple[str, str]:
        """Class and module of ours for what a file calls by its own names."""
        given, module = str(part["class_name"]), part.get("module")
        registered = part.get("registered_name")
        name = lists.ALIASES.get(given, given)
        if registered not in (None, given):
            raise self._refusal(part, str(registered))
        if module is None and (home := _operation_home(given, part)):
            return given, home
        if given in lists.MODELS and (module is None or module in lists.MODELS[given]):
            return ("Sequential" if given == "Sequential" else "Model"), "keras"
        if name in lists.LAYERS and (module is None or module in lists.LAYER_MODULES) and _offered(name):
            return name, "keras.layers"
        if given in lists.APPLICATIONS and module in (None, lists.APPLICATIONS[given]):
            return given, lists.APPLICATIONS[given]
        if isinstance(module, str) and given in lists.OPERATIONS.get(module, frozenset[str]()):
            return given, module
        raise self._refusal(part, given if module is None else f"{module}.{given}")

    def _refusal(self, part: Json, what: str, owner: str = "") -> UnsafeModelError:
        """Says why something is not built.  `owner`: the layer that it belongs to, where it is none itself."""
        name, layer = part.get("class_name"), owner or called(part)
        if name in ("Lambda", "__lambda__"):
            return UnsafeModelError(
                f"{self.file}: layer {layer} is a Lambda, Python code stored in the file; it was not run: write it as a layer, "
                "or load the model yourself and pass the live model"
            )
        if name in _BY_NAME:
            return UnsafeModelError(
                f"{self.file}: layer {layer} ({name}) calls a TensorFlow function by name, which was not run; Keras 3 does not "
                "know it, and decascade no layer that does the same: rebuild the model with Keras layers"
            )
        if name in _RUNS_PROGRAMS:
            return UnsafeModelError(
                f"{self.file}: layer {layer} ({name}) runs a program from outside the file; it was not run: load the model "
                "yourself and pass the live model"
            )
        subject = f"layer {layer} is" if not owner else f"layer {layer}: its activation is"
        module = str(part.get("module"))
        if module.startswith(("keras.layers", "keras.ops", "keras.src.ops", "keras.src.layers")):
            return UnsafeModelError(
                f"{self.file}: {subject} of class {what}, which is not among those that are built from a file, as it may take "
                f"functions or read other files; nothing was run: {_LIVE}"
            )
        return UnsafeModelError(
            f"{self.file}: {subject} of class {what}, which is not Keras' own, and no module was imported to find it: load "
            "the model yourself with keras.saving.load_model(path, custom_objects=...) and pass the live model"
        )

    def _list(self, value: Any, part: Json) -> list[Any]:
        if not isinstance(value, list):
            raise FormatError(f"{self.file}: building the model with Keras failed: layer {called(part)} has {value!r:.40} for "
                              "a list")
        return cast("list[Any]", value)

    def _model(self, inner: Json, part: Json) -> Json:
        """A model's own settings: of a Sequential its layers, of a Functional these and where its tensors begin and end."""
        self.depth += 1
        if self.depth > LIMITS.nesting:
            raise LimitExceededError(
                f"{self.file}: models lie in models more than {LIMITS.nesting} deep (limit nesting): {_LIVE}")
        result: Json = {"name": self._plain(inner.get("name"), part)}
        result["layers"] = [self.layer(one) for one in self._list(inner.get("layers"), part)]
        if isinstance(inner.get("trainable"), bool):
            result["trainable"] = inner["trainable"]
        if part["class_name"] == "Sequential":
            result["build_input_shape"] = self._shape(inner.get("build_input_shape"), part)
            result.pop("trainable", None)  # Keras does not take it here
        else:
            for key in ("input_layers", "output_layers"):
                if key not in inner:
                    raise FormatError(f"{self.file}: building the model with Keras failed: model {called(part)} has no {key}")
                result[key] = self._plain(inner[key], part)
        self.depth -= 1
        return result

    def _settings(self, inner: Json, part: Json) -> Json:
        """A layer's settings: numbers and words, but for the layers, activations and dtypes at their known places."""
        result = dict[str, Any]()
        for key, value in inner.items():
            if key.endswith(_UNREAD) or key == "seed":
                continue
            if key in _FUNCTIONS:
                result[key] = self._function(value, part)
            elif key in _LAYER and value is not None:
                result[key] = self.layer(value)
            elif key in _LAYERS:
                result[key] = [self.layer(one) for one in self._list(value, part)]
            elif key == "dtype":
                result[key] = self._policy(value, part)
            elif key in ("batch_shape", "batch_input_shape"):
                result[key] = self._shape(value, part)
            else:
                result[key] = self._plain(value, part)
        if str(part["class_name"]).endswith("Lookup"):
            self._check_vocabulary(result, part)
        return result

    def _check_vocabulary(self, settings: Json, part: Json) -> None:
        for key in ("vocabulary", "idf_weights"):
            if isinstance(settings.get(key), str):
                raise UnsafeModelError(
                    f"{self.file}: layer {called(part)} reads its vocabulary from {settings[key]!r}, outside the model "
                    "file: load it yourself and pass the live model"
                )
        if settings.get("vocabulary") is None:
            raise UnsafeModelError(
                f"{self.file}: layer {called(part)} has its vocabulary in a file of its own, which is not unpacked: {_LIVE}")

    def _function(self, value: Any, part: Json) -> Any:
        """An activation: the function itself, or the configuration of a layer that may stand for one."""
        if value is None:
            return None
        one: Json = {"class_name": "function", "config": value} if isinstance(value, str) else as_dict(value) or {}
        kind, name, module = one.get("class_name"), one.get("config"), one.get("module")
        if kind == "function" and isinstance(name, str):
            if one.get("registered_name") in (None, "function", name):
                if module in (None, *lists.ACTIVATION_MODULES) and (found := _functions().get(name)) is not None:
                    return found
                if module in lists.OPERATION_MODULES and (found := _operations().get(name)) is not None:
                    return found
            raise self._refusal(one, name if module is None else f"{module}.{name}", called(part))
        if kind in lists.ACTIVATION_LAYERS:
            return self.layer(one)
        if isinstance(kind, str) and module is None and one.get("registered_name") in (None, kind):
            found = _functions().get(kind)  # Keras 2 wrote {"class_name": "relu", "config": {}} for some
            if found is not None and not one.get("config"):
                return found
        raise self._refusal(one, str(kind) if module is None else f"{module}.{kind}", called(part))

    def _policy(self, value: Any, part: Json) -> Any:
        """A dtype or a policy of dtypes, by name; a map of policies anew."""
        one = as_dict(value)
        if one is not None and one.get("class_name") == "DTypePolicyMap":
            inner = as_dict(one.get("config")) or {}
            table = {str(k): self._policy(v, part) for k, v in (as_dict(inner.get("policy_map")) or {}).items()}
            settings = {"default_policy": self._policy(inner.get("default_policy"), part), "policy_map": table}
            own = {"class_name": "DTypePolicyMap", "registered_name": None, "config": settings}
            return {"module": "keras.dtype_policies", **own}
        settings = as_dict((one or {}).get("config")) or {}
        match (one or {}).get("class_name"):
            case None:
                name = value
            case "QuantizedDTypePolicy":
                name = f"{settings.get('mode')}_from_{settings.get('source_name')}"
            case "DTypePolicy" | "FloatDTypePolicy" | "Policy":
                name = settings.get("name", "")
            case kind:
                name = str(kind)
        if name is not None and (not isinstance(name, str) or name not in lists.POLICIES):
            raise FormatError(
                f"{self.file}: layer {called(part)} has the dtype {name!r:.60}, which is not among Keras' own: {_LIVE}")
        return name

    def _shape(self, value: Any, part: Json) -> Any:
        """A stated shape, with sizes that a tensor may have."""
        shape = self._plain(value, part)
        if isinstance(shape, list) and all(n is None or type(n) is int for n in cast("list[Any]", shape)):
            sizes = [n for n in cast("list[int | None]", shape) if n is not None]
            if any(n < 1 for n in sizes):
                raise FormatError(
                    f"{self.file}: layer {called(part)} states the shape {shape}: give sizes of at least 1, or None where open")
            if prod(sizes) >= LIMITS.elements:
                raise LimitExceededError(
                    f"{self.file}: layer {called(part)} states the shape {shape}, {prod(sizes):,} numbers, more than the limit "
                    f"of {LIMITS.elements:,} (elements): {_LIVE}")
        return cast("Any", shape)

    def _plain(self, value: Any, part: Json) -> Any:
        """Numbers, words, lists and tables of these."""
        if isinstance(value, list):
            return [self._plain(one, part) for one in cast("list[Any]", value)]
        if (table := as_dict(value)) is not None:
            if table.get("class_name") in ("__tuple__", "TensorShape") and isinstance(table.get("items"), list):
                return self._plain(table["items"], part)
            if "class_name" in table:
                raise self._refusal(table, f"{table.get('module', '')}.{table['class_name']}".strip("."), called(part))
            return {key: self._plain(one, part) for key, one in table.items()}
        if isinstance(value, int) and abs(value) >= LIMITS.elements:
            raise LimitExceededError(
                f"{self.file}: layer {called(part)} has the number {_short(value)} in its configuration, beyond the limit of "
                f"{LIMITS.elements:,} (elements) on sizes: {_LIVE}")
        return value

    def _node(self, node: Any, part: Json) -> Any:
        """One call of a layer: tensors of other layers, with numbers and tables beside them."""
        tensors = list[Any]()
        if (given := as_dict(node)) is not None:
            result: Any = {
                "args": [self._argument(one, part, tensors) for one in self._list(given.get("args"), part)],
                "kwargs": {k: self._argument(v, part, tensors) for k, v in (as_dict(given.get("kwargs")) or {}).items()},
            }
        else:
            rows = self._list(node, part)
            rows = [rows] if rows and isinstance(rows[0], str) else rows
            result = [self._row(row, part) for row in rows]
            tensors = result
        if not tensors:
            raise UnsafeModelError(
                f"{self.file}: layer {called(part)} is called without a tensor, so that it would run while the model is built; "
                f"it was not run: {_LIVE}")
        return result

    def _row(self, row: Any, part: Json) -> list[Any]:
        """[layer, node, tensor, named arguments] of Keras 2."""
        values = self._list(row, part)
        if len(values) not in (3, 4) or not _reference(values[:3]) or (len(values) == 4 and as_dict(values[3]) is None):
            raise FormatError(
                f"{self.file}: building the model with Keras failed: layer {called(part)} is called with {row!r:.60}")
        named = (as_dict(values[3]) if len(values) == 4 else None) or {}
        return [*values[:3], {key: self._argument(one, part, []) for key, one in named.items()}]

    def _argument(self, value: Any, part: Json, tensors: list[Any]) -> Any:
        """An argument of a call; tensors that it holds are added to `tensors`."""
        if isinstance(value, list):
            return [self._argument(one, part, tensors) for one in cast("list[Any]", value)]
        table = as_dict(value)
        if table is None:
            if isinstance(value, str):
                raise UnsafeModelError(
                    f"{self.file}: layer {called(part)} is called with the name {value!r:.60}, which Keras would look up: "
                    f"{_LIVE}")
            return self._plain(value, part)
        inner = as_dict(table.get("config")) or {}
        match table.get("class_name"):
            case None if "class_name" not in table:
                return {key: self._argument(one, part, tensors) for key, one in table.items()}
            case "__keras_tensor__" if _reference(inner.get("keras_history")) and inner.get("dtype") in lists.DTYPES:
                tensors.append(inner)
                own: Json = {key: self._plain(inner.get(key), part) for key in ("shape", "dtype", "keras_history")}
                return {"class_name": "__keras_tensor__", "config": own}
            case "__numpy__" | "__tensor__" if inner.get("dtype") in lists.DTYPES:
                own = {"value": self._plain(inner.get("value"), part), "dtype": inner["dtype"]}
                return {"class_name": table["class_name"], "config": own}
            case "__ellipsis__":
                return {"class_name": "__ellipsis__", "config": {}}
            case "__slice__":
                own = {key: self._argument(inner.get(key), part, tensors) for key in ("start", "stop", "step")}
                return {"class_name": "__slice__", "config": own}
            case _:
                raise self._refusal(table, f"{table.get('module', '')}.{table['class_name']}".strip("."), called(part))


def as_dict(value: Any) -> dict[str, Any] | None:
    """A JSON object; None for any other value."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every dictionary in the configuration; a stack, since the depth is the file's choice."""
    stack: list[Any] = [value]
    while stack:
        value = stack.pop()
        if (part := as_dict(value)) is not None:
            yield part
            stack.extend(part.values())
        elif isinstance(value, list):
            stack.extend(cast("list[Any]", value))


def called(part: Json) -> str:
    """The name by which a user knows a layer."""
    name = (as_dict(part.get("config")) or {}).get("name", part.get("name", part.get("class_name")))
    return f"{name!s:.80}"


def check_depth(config: Any, file: str) -> None:
    """Raises:
    LimitExceededError: lists and tables lie in each other too deep."""
    level: list[Any] = [config]
    for _ in range(LIMITS.nesting):
        tables = [part.values() for part in map(as_dict, level) if part is not None]
        rows = [cast("list[Any]", one) for one in level if isinstance(one, list)]
        level = [one for inner in (*tables, *rows) for one in inner]
        if not level:
            return
    raise LimitExceededError(f"{file}: its configuration is nested more than {LIMITS.nesting} deep (limit nesting): {_LIVE}")


def _short(value: int) -> str:
    return str(value) if abs(value) < 10**30 else f"of {value.bit_length()} bits"


def _reference(value: Any) -> bool:
    """Whether it is [layer, node, tensor]."""
    row = cast("list[Any]", value) if isinstance(value, list) else []
    return len(row) == 3 and isinstance(row[0], str) and all(type(n) is int and n >= 0 for n in row[1:])


def _operation_home(name: str, part: Json) -> str | None:
    """The module of an operation that HDF5 stores by its name alone (`x + y` is "Add"); None for a layer, which states more.

    Keras takes such an Add for the layer of that name and then refuses its call.
    """
    inner, nodes = as_dict(part.get("config")) or {}, part.get("inbound_nodes")
    if "trainable" in inner or not (isinstance(nodes, list) and nodes and as_dict(cast("list[Any]", nodes)[0]) is not None):
        return None
    found = [module for module, names in lists.OPERATIONS.items() if name in names]
    return found[0] if len(found) == 1 else None


def _offered(layer: str) -> bool:
    """Whether the Keras at hand has a layer of the list; older ones lack some."""
    return hasattr(keras().layers, layer)


def _functions() -> dict[str, Any]:
    source = keras().activations
    return {name: getattr(source, name) for name in lists.ACTIVATIONS if hasattr(source, name)}


def _operations() -> dict[str, Any]:
    source = keras().ops
    return {name: getattr(source, name) for name in lists.OPERATION_ACTIVATIONS if hasattr(source, name)}
