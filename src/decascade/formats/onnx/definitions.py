"""That an ONNX model defines every name once.

Where a file defines a name twice, readers differ in which definition counts; a check that compares two models would then
compare what neither the file's author nor its user had in mind.  ONNX asks for static single assignment, also against the
names of outer graphs that a subgraph sees (ONNX's `docs/IR.md`, "Names Within a Graph").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from decascade.errors import FormatError, LimitExceededError
from decascade.formats.onnx.nodes import STANDARD
from decascade.limits import LIMITS

_Scopes = tuple[set[str], ...]


def check_definitions(model: Any) -> None:
    """Refuse a ModelProto in which anything is defined twice, in its main graph, subgraphs and local functions.

    Raises:
        FormatError: a name that is defined twice, or within a subgraph and outside of it.
        LimitExceededError: subgraphs nested deeper than `LIMITS.nesting`.
    """
    _check_opsets(model.opset_import, "the model")
    _check_once("local function", (_identity(f) for f in model.functions), "the model")
    _check_once("output", (o.name for o in model.graph.output), "the model")
    _check_graph(model.graph, (), "the model")
    for function in model.functions:
        place = f"local function {_identity(function)}"
        _check_opsets(function.opset_import, place)
        attributes = (*function.attribute, *(a.name for a in function.attribute_proto))
        _check_once("attribute", attributes, place)
        _check_once("input", function.input, place)
        _check_once("output", function.output, place)
        _check_nodes(function.node, ({*function.input},), place)


def _identity(function: Any) -> str:
    """What a call finds a function by (ONNX's `docs/IR.md`, "Functions")."""
    domain = "" if function.domain in STANDARD else function.domain
    return f"{domain or 'ai.onnx'}::{function.name}" + (f":{function.overload}" if function.overload else "")


def _check_opsets(entries: Iterable[Any], place: str) -> None:
    found: dict[str, int] = {}
    for entry in entries:
        domain = "" if entry.domain in STANDARD else entry.domain
        if found.setdefault(domain, entry.version) != entry.version:
            told = f"two opsets, {found[domain]} and {entry.version}, for the domain {domain or 'ai.onnx'}"
            raise FormatError(f"{place} states {told}: the file is damaged")


def _check_once(kind: str, names: Iterable[str], place: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            told = f"{place} has two definitions of {kind} {name or '(no name)'}, and nothing says which counts"
            raise FormatError(f"{told}: the file is damaged")
        seen.add(name)


def _check_graph(graph: Any, outer: _Scopes, place: str) -> None:
    """`outer`: the names that the graph sees from outside, one set per graph around it."""
    if len(outer) > LIMITS.nesting:
        told = f"subgraphs nested deeper than {LIMITS.nesting}, which is the limit"
        raise LimitExceededError(f"{place} has {told}: flatten them, or split the model")
    inputs = [i.name for i in graph.input]
    initializers = [*(t.name for t in graph.initializer), *(s.values.name for s in graph.sparse_initializer)]
    _check_once("input", inputs, place)
    _check_once("initializer", initializers, place)
    there = {*inputs, *initializers}  # a name may be both: an input with a default value
    _check_shadowing(there, outer, place)
    _check_nodes(graph.node, (*outer, there), place)


def _check_nodes(nodes: Iterable[Any], scopes: _Scopes, place: str) -> None:
    """`scopes`: the names that are there before the nodes, those of their own graph last; it grows with their outputs."""
    there = scopes[-1]
    for index, node in enumerate(nodes):
        name = node.name or f"{node.op_type}_{index}"
        _check_once("attribute", (a.name for a in node.attribute), f"node {name}")
        for attribute, graph in _subgraphs(node):
            _check_graph(graph, scopes, f"subgraph {attribute} of node {name}")
        written = [output for output in node.output if output]
        _check_shadowing(written, scopes[:-1], place)
        for output in written:
            if output in there:
                inside = "" if place == "the model" else f" in {place}"
                told = f"tensor {output} is written twice{inside}, the second time by node {name}"
                raise FormatError(f"{told}: the file is damaged")
            there.add(output)


def _subgraphs(node: Any) -> Iterator[tuple[str, Any]]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.name, attribute.g
        for graph in attribute.graphs:
            yield attribute.name, graph


def _check_shadowing(names: Iterable[str], outer: _Scopes, place: str) -> None:
    for name in names:
        if any(name in scope for scope in outer):
            raise FormatError(f"{place} defines {name}, which the graph around it defines too: give one of them another name")
