"""A Keras model as a graph: its calls translated layer by layer, in the graph's channels-first view."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from decascade.errors import GraphError
from decascade.formats.keras.base import Layout, body, graph_shape, keras, quiet, to_array, to_first, to_native
from decascade.formats.keras.graph import Call, Scope, walk
from decascade.formats.keras.layers import Chain, Step, Use, read
from decascade.formats.keras.ops import read_operation
from decascade.ir.graph import Dim, Graph, Node, Shape, Tensor
from decascade.ir.names import Names
from decascade.ir.ops import Evaluate, Foreign
from decascade.ir.shapes import compatible, infer, infer_graph

_AXES = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}


@dataclass(frozen=True, eq=False)
class Part:
    """What a node of the graph is in Keras: a call, and where it is but the layer's activation, that function."""

    call: Call
    function: Any = None


@dataclass(eq=False)
class Read:
    """A model that was read: its calls, its layout, remarks for the user."""

    whole: Scope
    layout: Layout
    notes: tuple[str, ...] = ()
    parts: dict[str, Part] = field(default_factory=dict[str, Part])


@dataclass(eq=False)
class _Reader:
    layout: Layout
    names: Names
    tensors: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    nodes: list[Node] = field(default_factory=list[Node])
    parts: dict[str, Part] = field(default_factory=dict[str, Part])
    foreign: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    read: dict[Any, Chain | str] = field(default_factory=dict[Any, "Chain | str"])

    def add(self, call: Call) -> None:
        chain = self._chain(call)
        if isinstance(chain, str):
            self.foreign.append((call.path, chain))
            chain = [Step(Foreign(type(call.operation).__name__, _evaluation(call, self.layout)))]
        self._append(call, chain)

    def _append(self, call: Call, chain: Chain) -> None:
        reads, made = call.inputs, list[str]()
        dtype = self.tensors[call.outputs[0]].dtype
        # the layer's own name goes to its kernel, of two kernels to none
        several = len(chain) > 1
        for index, step in enumerate(chain):
            part = step.part if several else ""
            name = self.names.node(f"{call.path}/{part}") if part else self.names.own(call.path)
            writes = call.outputs
            if index + 1 < len(chain):
                inner = self.names.tensor(f"{call.path}/{step.part or 'linear'}")
                self.tensors[inner] = Tensor(inner, None, dtype)
                writes = (inner,)
            native = Part(call, step.function)
            self.nodes.append(Node(name, step.op, reads, writes, (call.path,), native=native))
            self.parts[name] = native
            made.append(name)
            reads = writes
        call.nodes = tuple(made)

    def _chain(self, call: Call) -> Chain | str:
        """The layer's chain, if its shapes come out as Keras says."""
        shapes = [self.tensors[n].shape for n in call.inputs]
        result = self.tensors[call.outputs[0]].shape
        known = tuple(s for s in shapes if s is not None)
        if not known or result is None or len(known) < len(shapes) or len(call.outputs) != 1:
            return "it has several outputs, or no inputs"
        if any(getattr(t, "_keras_mask", None) is not None for t in call.record.input_tensors):
            return "it is given a mask"
        use = Use(call.operation, known, result, self.layout)
        if not isinstance(call.operation, keras().layers.Layer):
            chain = read_operation(use, call.record)
        elif extra := _extra(call):
            return f"it is called with {extra}"
        else:
            # a layer that is called twice is the same operations twice, so that they can be trained as one
            key = (id(call.operation), known, result)
            chain = self.read[key] = self.read[key] if key in self.read else read(use)
        return chain if isinstance(chain, str) else self._checked(chain, known, result)

    def _checked(self, chain: Chain, shapes: Sequence[Shape], result: Shape) -> Chain | str:
        found: Sequence[Shape | None] = shapes
        try:
            for step in chain:
                found = infer(step.op, found) if not isinstance(step.op, Foreign) else found
        except GraphError as error:
            return str(error)
        return chain if compatible(found[0], result) else f"its output is {result}, not {found[0]} as expected"


def _remarks(foreign: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Layers that stay as they are, with the reason; those that differ in their names and in numbers are told together."""
    groups = dict[str, list[tuple[str, str]]]()
    for path, reason in foreign:
        groups.setdefault(re.sub(r"\d+", "", reason), []).append((path, reason))
    for group in groups.values():
        (first, reason), last = group[0], group[-1][0]
        if len(group) == 1:
            yield f"{first} is carried through as it is: {reason}"
        else:
            alike = "" if all(r == reason for _, r in group) else f", {first} for one"
            yield f"{len(group)} layers, {first} to {last}, are carried through as they are{alike}: {reason}"


def _extra(call: Call) -> str:
    """Arguments of a call besides its tensors: training=True, masks, initial states."""
    arguments = call.record.arguments
    tensors = {id(t) for t in call.record.input_tensors}
    given = ((k, v) for k, v in arguments.kwargs.items() if id(v) not in tensors and v is not None)
    extra = [f"{k}={v}" for k, v in given if (k, v) != ("training", False)]
    if extra:
        return ", ".join(extra)
    flat = keras().tree.flatten(arguments.args)
    return "arguments that are no tensors" if any(id(v) not in tensors and v is not None for v in flat) else ""


def _evaluation(call: Call, layout: Layout) -> Evaluate:
    """The layer itself, run by Keras in its own precision."""

    def evaluate(arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        k = keras()
        given = {
            id(t): k.ops.convert_to_tensor(to_native(a, layout), dtype=t.dtype)
            for t, a in zip(call.record.input_tensors, arrays, strict=True)
        }
        arguments = call.record.arguments

        def fill(value: Any) -> Any:
            return given.get(id(value), value)

        args, kwargs = k.tree.map_structure(fill, (arguments.args, arguments.kwargs))
        if "training" in signature(call.operation.call).parameters:
            # as a model passes it on when it runs; some layers augment their data unless told otherwise
            kwargs = {**kwargs, "training": False}
        with quiet():
            results = k.tree.flatten(call.operation(*args, **kwargs))
        return [to_first(np.array(to_array(r)), layout) for r in results]

    return evaluate


def read_model(model: Any) -> tuple[Graph, Read]:
    """The graph of a model.

    Raises:
        FormatError: the model is no graph of layers.
    """
    whole = walk(model)
    layout = main_layout(whole)
    taken = {name for scope in whole.scopes() for name in scope.names.values()} | {call.path for call in whole.calls()}
    reader = _Reader(layout, Names(taken, first=1))
    _add_tensors(whole, reader)
    for call in whole.calls():
        reader.add(call)
    notes = list(_remarks(reader.foreign))
    if getattr(model, "compiled", False):
        notes.append("the model was compiled; the result is not: call compile() on it before training it further")
    graph = Graph(tuple(reader.nodes), whole.inputs, tuple(dict.fromkeys(whole.outputs)), reader.tensors, model.name,
                  frozenset(_layer_names(model)))
    return infer_graph(graph), Read(whole, layout, tuple(notes), reader.parts)


def _layer_names(model: Any) -> Iterator[str]:
    """The names of all layers, of those in nested models and blocks too, and the keys of the outputs."""
    yield from (layer.name for layer in model._flatten_layers())
    outputs: Any = body(model)._outputs_struct
    yield from map(str, cast("dict[Any, Any]", outputs)) if isinstance(outputs, dict) else ()


def main_layout(whole: Scope) -> Layout:
    """The layout of most layers that have one; Keras' own default where none has."""
    orders = Counter(getattr(call.operation, "data_format", None) for call in whole.calls())
    del orders[None]
    found = orders.most_common(1)[0][0] if orders else keras().config.image_data_format()
    return "channels_first" if found == "channels_first" else "channels_last"


def _add_tensors(whole: Scope, reader: _Reader) -> None:
    """An entry per KerasTensor; unknown sizes of the inputs get names, others follow from those."""
    inputs = {id(t) for t in body(whole.model).inputs}
    symbols = Names(first=1)
    for scope in whole.scopes():
        known = [t for call in scope.items for t in (*call.record.input_tensors, *call.record.output_tensors)]
        for tensor in (*body(scope.model).inputs, *known):
            name = scope.names[id(tensor)]
            if name not in reader.tensors:
                shape = _named(tensor, name, reader.layout, symbols if id(tensor) in inputs else None)
                reader.tensors[name] = Tensor(name, shape, str(tensor.dtype))


def _named(tensor: Any, name: str, layout: Layout, symbols: Names | None) -> Shape:
    shape = tuple(tensor.shape)
    if not shape:
        return ()
    spatial = list(range(1, len(shape) - 1) if layout == "channels_last" and len(shape) > 2 else range(2, len(shape)))
    dims = list[Dim]()
    for axis, size in enumerate(shape):
        if size is not None:
            dims.append(int(size))
        elif axis == 0:
            dims.append("N")
        elif symbols is not None and axis in spatial and len(spatial) in _AXES:
            dims.append(symbols.fresh(_AXES[len(spatial)][spatial.index(axis)]))
        else:
            dims.append(f"{name}.{axis}")
    return graph_shape(dims, layout)
