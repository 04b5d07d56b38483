"""The calls of a Keras model, nested models opened: what runs in which order, and the names its tensors get.

A `Call` is one use of one layer or operation; a `Scope` is one use of a model.  A layer called twice is two calls of
the same object, a nested model called twice two scopes with calls of the same objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from decascade.errors import FormatError
from decascade.formats.keras.base import body, is_plain_model, keras, layer_at, output_names
from decascade.ir.names import Names


@dataclass(eq=False)
class Call:
    """One call of a layer: its record in Keras, the graph's tensors it reads and writes, the graph's nodes it became."""

    operation: Any
    record: Any
    path: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...] = ()


@dataclass(eq=False)
class Scope:
    """One call of a model (`record` None: the whole).  `names`: the graph's name of each of its KerasTensors."""

    model: Any
    record: Any
    path: str
    parent: Scope | None
    items: list[Call | Scope] = field(default_factory=list["Call | Scope"])
    names: dict[int, str] = field(default_factory=dict[int, str])

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(self.names[id(t)] for t in body(self.model).inputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(self.names[id(t)] for t in body(self.model).outputs)

    def calls(self) -> Iterator[Call]:
        """Every call in it, those of nested models included, in order."""
        for item in self.items:
            if isinstance(item, Call):
                yield item
            else:
                yield from item.calls()

    def scopes(self) -> Iterator[Scope]:
        """This scope and all that it holds, outer ones first."""
        yield self
        for item in self.items:
            if isinstance(item, Scope):
                yield from item.scopes()


def _names() -> Names:
    return Names(first=1)


@dataclass
class _Walk:
    tensors: Names = field(default_factory=_names)
    paths: Names = field(default_factory=_names)


def walk(model: Any) -> Scope:
    """The calls of a model in an order in which they run.

    Raises:
        FormatError: a model that Keras does not know as a graph: subclassed, or a Sequential that was not built.
    """
    check_graph(model)
    whole, work = Scope(model, None, "", None), _Walk()
    for tensor in body(model).inputs:
        whole.names[id(tensor)] = work.tensors.fresh(tensor._keras_history[0].name)
    for tensor, name in zip(body(model).outputs, output_names(model), strict=True):
        if id(tensor) not in whole.names:
            whole.names[id(tensor)] = work.tensors.fresh(name)
    _fill(whole, work)
    return whole


def check_graph(model: Any) -> None:
    """Raises:
    FormatError: the model is no graph of layers."""
    k = keras()
    if is_plain_model(model):
        return
    if isinstance(model, k.Sequential):
        if not model.layers:
            raise FormatError(f"Sequential model {model.name} has no layers: add some")
        raise FormatError(
            f"Sequential model {model.name} is not built, its input shape is unknown: start it with keras.Input(shape), or "
            "call model.build(input_shape)"
        )
    raise FormatError(
        f"model {model.name} ({type(model).__name__}) runs its own call() in Python, so its layers are no graph: make it "
        "with keras.Model(inputs, outputs), or keras.Sequential"
    )


def _fill(scope: Scope, work: _Walk) -> None:
    for record in _records(scope.model):
        operation = record.operation
        path = work.paths.fresh(f"{scope.path}/{operation.name}" if scope.path else operation.name)
        for index, tensor in enumerate(record.output_tensors):
            if id(tensor) not in scope.names:
                scope.names[id(tensor)] = work.tensors.fresh(path if index == 0 else f"{path}:{index}")
        if _opens(operation, record):
            inner = Scope(operation, record, path, scope)
            for tensor, outer in zip(body(operation).inputs, record.input_tensors, strict=True):
                inner.names[id(tensor)] = scope.names[id(outer)]
            # what comes out of a nested model has the name that the outer model has for it
            for tensor, outer in zip(body(operation).outputs, record.output_tensors, strict=True):
                inner.names[id(tensor)] = scope.names[id(outer)]
            scope.items.append(inner)
            _fill(inner, work)
        else:
            names = scope.names
            reads = tuple(names[id(t)] for t in record.input_tensors)
            writes = tuple(names[id(t)] for t in record.output_tensors)
            scope.items.append(Call(operation, record, path, reads, writes))


def _opens(operation: Any, record: Any) -> bool:
    """Whether the call of a nested model is the calls of its layers: it is given tensors alone, and makes each output."""
    if not is_plain_model(operation):
        return False
    ends = [id(t) for t in (*body(operation).inputs, *body(operation).outputs)]
    if len(ends) > len(set(ends)):
        return False
    flat = [v for v in keras().tree.flatten((record.arguments.args, record.arguments.kwargs)) if v is not None]
    return len(flat) == len(record.input_tensors) == len(body(operation).inputs)


def _records(model: Any) -> Iterable[Any]:
    """The calls between a model's inputs and outputs, each after those it depends on."""
    graph = body(model)
    given = {id(tensor) for tensor in graph.inputs}
    done, order = set[int](), list[Any]()
    for output in graph.outputs:
        stack = [output]
        while stack:
            tensor = stack[-1]
            _, record = layer_at(tensor)
            if id(tensor) in given or id(record) in done:
                stack.pop()
                continue
            waiting = [t for t in record.input_tensors if id(t) not in given and id(layer_at(t)[1]) not in done]
            if waiting:
                stack.extend(reversed(waiting))
                continue
            stack.pop()
            done.add(id(record))
            order.append(record)
    return order
