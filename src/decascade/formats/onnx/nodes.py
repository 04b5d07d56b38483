"""The nodes of an ONNX graph as the reader looks at them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any

from decascade.ir.names import Names

STANDARD = ("", "ai.onnx")
"""The two spellings of ONNX's own operator domain."""


@dataclass(frozen=True, eq=False)
class Native:
    """A node of the file.  `name` is its own, or one made up where it has none or not alone.

    `captured`: tensors of the outer graph that its subgraphs read.
    """

    index: int
    name: str
    kind: str
    standard: bool
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    proto: Any = field(repr=False)
    captured: tuple[str, ...] = ()

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        """Attribute values: numbers, lists of numbers, strings, tensors."""
        value: Any = import_module("onnx.helper").get_attribute_value
        return {a.name: _text(value(a)) for a in self.proto.attribute if not a.ref_attr_name}

    def get(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    def input(self, k: int) -> str:
        """The k-th input, "" where it is left out."""
        return self.inputs[k] if k < len(self.inputs) else ""

    @property
    def reads(self) -> tuple[str, ...]:
        """All tensors that it needs."""
        return (*(name for name in self.inputs if name), *self.captured)

    @property
    def writes(self) -> tuple[str, ...]:
        return tuple(name for name in self.outputs if name)


def tensor_names(graph: Any) -> set[str]:
    """Every name that a graph or a subgraph in it gives to a tensor, those included of which only the type is said."""
    found = {value.name for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer)}
    for node in graph.node:
        found.update(node.input, node.output)
        for attribute in node.attribute:
            for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                found |= tensor_names(inner)
    return found


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def natives_of(graph: Any) -> tuple[Native, ...]:
    """The nodes of a graph in the file's order."""
    names = Names((node.name for node in graph.node), first=1)
    found: list[Native] = []
    for index, node in enumerate(graph.node):
        name = names.own(node.name) if node.name else names.node(f"{node.op_type}_{index}")
        captured = _captured(node) if any(a.type in (5, 10) for a in node.attribute) else ()
        standard = node.domain in STANDARD
        found.append(Native(index, name, node.op_type, standard, tuple(node.input), tuple(node.output), node, captured))
    return tuple(found)


def _captured(node: Any) -> tuple[str, ...]:
    """What the subgraphs of a node read from outside of them."""
    found: dict[str, None] = {}
    for attribute in node.attribute:
        for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
            inside = {i.name for i in graph.input} | {t.name for t in graph.initializer}
            for inner in graph.node:
                found.update(dict.fromkeys(n for n in (*inner.input, *_captured(inner)) if n and n not in inside))
                inside.update(inner.output)
            found.update(dict.fromkeys(o.name for o in graph.output if o.name and o.name not in inside))
    return tuple(found)
