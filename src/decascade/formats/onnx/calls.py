"""How many operations an ONNX model has once its local functions are expanded, counted without expanding them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from decascade.errors import FormatError, LimitExceededError
from decascade.formats.onnx.nodes import STANDARD
from decascade.limits import LIMITS

_Key = tuple[str, str, str]


def check_calls(model: Any) -> None:
    """Hold a ModelProto of bounded subgraph depth to `LIMITS.nodes` and `LIMITS.nesting`.

    Raises:
        FormatError: a local function that calls itself, by way of others too.
        LimitExceededError: too many operations, or functions that call each other too deep.
    """
    functions = {_key(f.domain, f.name, f.overload): f for f in model.functions}
    counter = _Counter({key: tuple(_all_nodes(f.node)) for key, f in functions.items()})
    counter.total(_all_nodes(model.graph.node), "the model", ())
    for key in functions:  # also what nothing calls: shape inference and runtimes look at it
        counter.of(key, ())


def _key(domain: str, name: str, overload: str) -> _Key:
    return ("" if domain in STANDARD else domain), name, overload


def _all_nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    """Nodes, and those of their subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _all_nodes(graph.node)


class _Counter:
    """Every function is counted once; `found` holds what it comes to, with the depth of its calls."""

    def __init__(self, bodies: Mapping[_Key, tuple[Any, ...]]) -> None:
        self.bodies = bodies
        self.found: dict[_Key, tuple[int, int]] = {}

    def of(self, key: _Key, callers: tuple[_Key, ...]) -> tuple[int, int]:
        name = f"{key[0] or 'ai.onnx'}::{key[1]}"
        if key in callers:
            raise FormatError(f"local function {name} calls itself: no such model can be run; the file is damaged")
        if key not in self.found:
            _check_depth(f"local function {name}", len(callers) + 1)
            self.found[key] = self.total(self.bodies[key], f"local function {name}", (*callers, key))
        return self.found[key]

    def total(self, nodes: Iterable[Any], what: str, callers: tuple[_Key, ...]) -> tuple[int, int]:
        """Operations and depth of a body."""
        count = depth = 0
        for node in nodes:
            key = _key(node.domain, node.op_type, node.overload)
            more, deeper = self.of(key, callers) if key in self.bodies else (1, 0)
            count, depth = count + more, max(depth, deeper + (key in self.bodies))
            _check_depth(what, depth + len(callers))
        if count > LIMITS.nodes:
            told = f"{count:,} operations with its local functions expanded, {LIMITS.nodes:,} are the limit"
            raise LimitExceededError(f"{what} has {told}: split it")
        return count, depth


def _check_depth(what: str, depth: int) -> None:
    if depth > LIMITS.nesting:
        told = f"calls of local functions more than {LIMITS.nesting} deep, which is the limit"
        raise LimitExceededError(f"{what} has {told}: inline them (onnx.inliner)")
