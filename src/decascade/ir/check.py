"""The verifier: what every graph must satisfy, checked after each rewrite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from decascade.errors import GraphError
from decascade.ir.graph import Graph
from decascade.ir.shapes import compatible, infer_node, show


def check(graph: Graph) -> None:
    """Node names and written tensors are unique, the order is one that runs, every tensor has an entry, every
    operation has its inputs and outputs and fits their shapes, and every graph output is there.

    Raises:
        GraphError: the first of these that does not hold, in one line that names the node or tensor.
    """
    _unique("node name", (node.name for node in graph.nodes))
    _unique("graph input", graph.inputs)
    _unique("graph output", graph.outputs)
    _check_entries(graph)
    _check_order(graph)
    for node in graph.nodes:
        for name, found in zip(node.outputs, infer_node(node, graph.tensors), strict=True):
            stated = graph.tensors[name].shape
            if not compatible(stated, found):
                raise GraphError(f"{node.name}: writes {name} of shape {show(found)}, stated as {show(stated)}")


def _unique(what: str, names: Iterable[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise GraphError(f"{what} {twice[0]} occurs more than once")


def _check_entries(graph: Graph) -> None:
    wrong = [(key, tensor.name) for key, tensor in graph.tensors.items() if key != tensor.name]
    if wrong:
        raise GraphError(f"tensor entry {wrong[0][0]} describes a tensor called {wrong[0][1]}")
    for node in graph.nodes:
        if not node.outputs:
            raise GraphError(f"{node.name} writes nothing")
        for name in (*node.inputs, *node.outputs):
            if name not in graph.tensors:
                raise GraphError(f"{node.name} has {name}, which has no tensor entry")
    for name in (*graph.inputs, *graph.outputs):
        if name not in graph.tensors:
            raise GraphError(f"graph input or output {name} has no tensor entry")


def _check_order(graph: Graph) -> None:
    writer: dict[str, str] = {}
    ready = set(graph.inputs)
    later = {name: node.name for node in graph.nodes for name in node.outputs}
    for node in graph.nodes:
        for name in node.inputs:
            if name not in ready and name in later:
                raise GraphError(f"{node.name} reads {name} before {later[name]} writes it")
            if name not in ready:
                raise GraphError(f"{node.name} reads {name}, which nothing writes")
        for name in node.outputs:
            if name in ready:
                by = writer.get(name, "the graph's inputs")
                raise GraphError(f"tensor {name} is written by both {by} and {node.name}")
            writer[name] = node.name
            ready.add(name)
    for name in graph.outputs:
        if name not in ready:
            raise GraphError(f"graph output {name} is written by no node")
