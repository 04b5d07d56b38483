"""Builds the changed model: the user's own calls made again on copies of the layers, new layers where nodes are new.

Nothing of the user's model is touched: every layer is a copy with its own weights, so that training one model leaves
the other alone.  All new layers are plain Keras ones.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

from decascade.errors import FormatError
from decascade.formats.base import Document
from decascade.formats.keras.base import body, class_of, keras, output_names
from decascade.formats.keras.emit import emit
from decascade.formats.keras.emitter import Emitter
from decascade.formats.keras.graph import Scope
from decascade.formats.keras.plan import Item, Kept, Made, Plan, make_plan, written
from decascade.formats.keras.read import Part, Read
from decascade.ir.graph import Graph
from decascade.ir.names import Names
from decascade.ir.ops import Op


@dataclass(eq=False)
class Level:
    """A model that is being built: its tensors, the names its layers have, and the calls made so far."""

    tensors: dict[str, Any] = field(default_factory=dict[str, Any])
    names: set[str] = field(default_factory=set[str])
    promised: set[str] = field(default_factory=set[str])
    calls: list[tuple[Any, tuple[int, ...], Any]] = field(default_factory=list[tuple[Any, "tuple[int, ...]", Any]])

    def call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls a layer on symbolic tensors, and remembers it."""
        result = layer(*args, **kwargs)
        k = keras()
        reads = tuple(id(v) for v in k.tree.flatten((args, kwargs)) if isinstance(v, k.KerasTensor))
        self.calls.append((layer, reads, result))
        return result


def write_model(document: Document, graph: Graph) -> Any:
    """A new model for the graph.

    Raises:
        FormatError: a layer of the user's own that cannot be copied.
        GraphError: a new node that has no form in Keras.
    """
    read: Read = document.state
    operations = {node.name: node.op for node in document.graph.nodes}
    builder = _Builder(read, graph, make_plan(read, document.graph, graph), operations)
    model = builder.build(read.whole)
    builder.copy_state()
    return model


@dataclass(eq=False)
class _Builder:
    read: Read
    graph: Graph
    plan: Plan
    operations: Mapping[str, Op]
    copies: dict[int, Any] = field(default_factory=dict[int, Any])
    pairs: list[tuple[Any, Any]] = field(default_factory=list[tuple[Any, Any]])
    models: dict[int, Any] = field(default_factory=dict[int, Any])

    def build(self, scope: Scope) -> Any:
        """The model of a scope; calls of one nested model in which nothing is new share one."""
        unchanged = id(scope) not in self.plan.changed
        if unchanged and id(scope.model) in self.models:
            return self.models[id(scope.model)]
        level = Level(promised=set(output_names(scope.model)) if scope.parent is None else set())
        inputs = [_input(t) for t in body(scope.model).inputs]
        for name, tensor in zip(scope.inputs, inputs, strict=True):
            level.tensors.setdefault(name, tensor)
        items = self.plan.items[id(scope)]
        # names that go to new layers, as they make the outputs of those names now: an old one must give its own up
        taken = self._promised(scope, items)
        level.names = {t._keras_history[0].name for t in inputs} | {_name_of(i) for i in items} - taken
        with self._named(scope):
            for item in items:
                if isinstance(item, Made):
                    self._make(item, level, scope)
                else:
                    self._replay(item, level, taken)
        model = self._close(scope, level, inputs)
        if unchanged:
            self.models[id(scope.model)] = model
        self.pairs.append((model, scope.model))
        return model

    def _promised(self, scope: Scope, items: Sequence[Item]) -> set[str]:
        """Names of outputs that are not made by the layer of that name any more."""
        if scope.parent is not None or id(scope) not in self.plan.changed:
            return set()
        makers = {tensor: _name_of(item) for item in items for tensor in written(item)}
        ends = zip(scope.outputs, output_names(scope.model), strict=True)
        return {wanted for tensor, wanted in ends if makers.get(tensor, wanted) != wanted}

    def _named(self, scope: Scope) -> AbstractContextManager[Any]:
        """Layers of two nested models may have one name; in HDF5 the names of their weights must still differ."""
        k = keras()
        nested = scope.parent is not None or isinstance(scope.model, k.Sequential)
        return k.name_scope(scope.model.name) if nested else nullcontext()

    def _replay(self, item: Kept | Scope, level: Level, taken: set[str]) -> None:
        """Makes a call of the user's again, with the new tensors in the places of the old."""
        if isinstance(item, Scope):
            record, reads, writes, layer = item.record, item.inputs, item.outputs, self._nested(item, level, taken)
        else:
            record, reads, writes = item.call.record, item.reads, item.call.outputs
            layer = self._copy(item.call.operation, level, taken)
        k, now = keras(), iter([level.tensors[n] for n in reads])
        arguments = record.arguments

        def fill(value: Any) -> Any:
            return next(now) if isinstance(value, k.KerasTensor) else value

        args, kwargs = k.tree.map_structure(fill, (arguments.args, arguments.kwargs))
        results = k.tree.flatten(level.call(layer, *args, **kwargs))
        for name, tensor in zip(writes, results, strict=True):
            level.tensors[name] = tensor

    def _nested(self, scope: Scope, level: Level, taken: set[str]) -> Any:
        model = self.build(scope)
        if model.name in taken and all(model is not c[0] for c in level.calls):
            model.name = Names(level.names | taken, first=1).fresh(model.name)
        taken.add(model.name)
        level.names.add(model.name)
        return model

    def _copy(self, operation: Any, level: Level, taken: set[str]) -> Any:
        """The copy of a layer: one, however often it is called."""
        found = self.copies.get(id(operation))
        if found is None:
            name = operation.name
            if name in taken:
                name = Names(level.names | taken, first=1).fresh(name)
                level.names.add(name)
            found = self.copies[id(operation)] = copied(operation, name)
            self.pairs.append((found, operation))
        taken.add(found.name)
        return found

    def _make(self, item: Made, level: Level, scope: Scope) -> None:
        node = item.node
        part = self.read.parts.get(node.name) if node.origin else None
        emitter = Emitter(level, self.read.layout, self._dtype(node.outputs[0]), self._name(item, part, level, scope))
        given = [level.tensors[name] for name in node.inputs]
        same = part is not None and node.op is self.operations[node.name]
        level.tensors[node.output] = emit(emitter, node, given, part.function if part and same else None)

    def _name(self, item: Made, part: Part | None, level: Level, scope: Scope) -> str:
        """What writes an output of the model takes the name of the layer that did, if that is free."""
        ends = dict(zip(scope.outputs, output_names(scope.model), strict=True))
        wanted = ends.get(item.node.output)
        if wanted is None and part is not None and item.node.output in part.call.outputs:
            wanted = part.call.operation.name
        if wanted is not None and wanted not in level.names:
            return wanted
        # a name that an output shall have is not for what comes before it
        return item.node.name if item.node.name not in ends.values() else item.node.output

    def _dtype(self, tensor: str) -> Any:
        """The dtype policy of the layers that computed in the tensor's type, that of the tensor's own layer first."""
        dtype = self.graph.tensors[tensor].dtype
        calls = list(self.read.whole.calls())
        for call in (*(c for c in calls if tensor in c.outputs), *calls):
            policy: Any = getattr(call.operation, "dtype_policy", None)
            # the name of a policy, which every layer can store, unlike the policy; quantized ones and maps have no plain name
            if class_of(policy).__name__ in ("DTypePolicy", "FloatDTypePolicy") and policy.compute_dtype == dtype:
                return policy.name
        return dtype if dtype.startswith(("float", "bfloat")) else None

    def _close(self, scope: Scope, level: Level, inputs: Sequence[Any]) -> Any:
        """The finished model, of the kind that it was."""
        k, old = keras(), scope.model
        results = dict[str, Any]()
        for name, wanted in zip(scope.outputs, output_names(old), strict=True):
            tensor = level.tensors[name]
            made_by = tensor._keras_history[0].name
            if name not in results and made_by != wanted and wanted not in level.names and scope.parent is None:
                # the output keeps its name though another layer makes it now
                level.names.add(wanted)
                tensor = level.call(k.layers.Identity(name=wanted, dtype=str(tensor.dtype)), tensor)
            results.setdefault(name, tensor)
        outputs = [results[name] for name in scope.outputs]
        more = [n for n in self.graph.outputs if n not in scope.outputs] if scope.parent is None else []
        if not more and isinstance(old, k.Sequential) and (chain := _chain(level, inputs, outputs)) is not None:
            return k.Sequential([inputs[0], *chain], name=old.name)
        packed = k.tree.pack_sequence_as(body(old)._outputs_struct, outputs)
        packed = _with_more(packed, {name: level.tensors[name] for name in more})
        return k.Model(k.tree.pack_sequence_as(body(old)._inputs_struct, list(inputs)), packed, name=old.name)

    def copy_state(self) -> None:
        """Weights and trainable flags of every copy, those of models before those of the layers in them."""
        k = keras()
        for new, old in reversed(self.pairs):
            if isinstance(old, k.Model) and not old.trainable:
                new.trainable = False
        for new, old in self.pairs:
            if isinstance(old, k.layers.Layer) and id(old) in self.copies:
                if new.trainable != old.trainable:
                    new.trainable = old.trainable
                _copy_weights(new, old)


def _with_more(outputs: Any, more: dict[str, Any]) -> Any:
    """The outputs in their structure with further ones: entries of a dictionary, else at the end of a list."""
    if not more:
        return outputs
    if isinstance(outputs, dict):
        return {**cast("dict[str, Any]", outputs), **more}
    return [*outputs, *more.values()] if isinstance(outputs, list | tuple) else [outputs, *more.values()]


def _name_of(item: Item) -> str:
    """What its layer is called; nothing yet where it is new."""
    return item.call.operation.name if isinstance(item, Kept) else item.model.name if isinstance(item, Scope) else ""


def _input(tensor: Any) -> Any:
    k = keras()
    layer = tensor._keras_history[0]
    options: dict[str, Any] = {"sparse": True} if getattr(tensor, "sparse", False) else {}
    if getattr(layer, "optional", False):
        options["optional"] = True
    return k.Input(batch_shape=tuple(tensor.shape), dtype=str(tensor.dtype), name=layer.name, **options)


def _chain(level: Level, inputs: Sequence[Any], outputs: Sequence[Any]) -> list[Any] | None:
    """The layers in order where each reads the one before alone, as a Sequential needs it."""
    k, chain, at = keras(), list[Any](), inputs[0]
    if len({id(layer) for layer, _, _ in level.calls}) < len(level.calls):
        return None
    for layer, reads, result in level.calls:
        if reads != (id(at),) or not isinstance(layer, k.layers.Layer) or k.tree.is_nested(result):
            return None
        chain.append(layer)
        at = result
    return chain if len(inputs) == 1 and at is outputs[0] and chain else None


def copied(operation: Any, name: str) -> Any:
    """A layer or operation of the same class and configuration, with weights of its own.

    Raises:
        FormatError: a class of the user's whose configuration does not make another one.
    """
    k = keras()
    if type(operation) is k.layers.Lambda:
        return _copied_lambda(operation, name)
    if not isinstance(operation, k.layers.Layer):
        # an operation has no weights; what matters is a call record of its own
        twin = copy.copy(operation)
        twin._inbound_nodes, twin._outbound_nodes = [], []
        return twin
    kind = class_of(operation)
    classes: list[type] = [type(layer) for layer in operation._flatten_layers()]
    own = {c.__name__: c for c in classes if not c.__module__.startswith("keras.")}
    try:
        config = operation.get_config()
        if name != operation.name:
            config["name"] = name
        with k.saving.custom_object_scope(own):
            return kind.from_config(config)
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise FormatError(
            f"layer {operation.name} of class {kind.__name__} cannot be copied: give the class a get_config() and "
            f"from_config() that make another one ({words})"
        ) from None


def _copied_lambda(layer: Any, name: str) -> Any:
    """Of a live model: the user's own function object, which is not stored and not loaded."""
    options = {"output_shape": getattr(layer, "_output_shape", None), "mask": layer.mask, "arguments": layer.arguments}
    return type(layer)(layer.function, name=name, dtype=layer.dtype_policy, trainable=layer.trainable, **options)


def _copy_weights(new: Any, old: Any) -> None:
    pairs = list(zip(new.variables, old.variables, strict=False))
    if len(new.variables) != len(old.variables) or any(a.shape != b.shape for a, b in pairs):
        raise FormatError(
            f"layer {old.name} of class {type(old).__name__} cannot be copied: its copy has weights "
            f"{[tuple(w.shape) for w in new.weights]}, it has {[tuple(w.shape) for w in old.weights]}"
        )
    for ours, theirs in pairs:
        ours.assign(theirs)
