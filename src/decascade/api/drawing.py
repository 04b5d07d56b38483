"""From the graphs before and after to the nodes that a report draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from decascade.cost import TARGETS, Target
from decascade.cost.count import parameters
from decascade.cost.macs import Macs
from decascade.ir.graph import Graph, Node
from decascade.ir.ops.traits import words
from decascade.regions.merge import Cascade
from decascade.report.facts.parts import GraphFacts, NodeFacts, Size


def graph_facts(before: Graph, after: Graph, cascades: Sequence[Cascade], target: Target) -> GraphFacts:
    """Both graphs as they are drawn; their sizes should be numbers, for the costs.

    A measured target has no cost of a single operation without another measurement: then it is multiply-accumulates.
    """
    target = target if isinstance(target, tuple(TARGETS.values())) else Macs()
    kept = _kept_rows(cascades)
    old, new = _nodes(before, _rows(cascades, "removed"), kept, target), _nodes(after, _rows(cascades, "added"), kept, target)
    places = {(n.name, n.kind): i for i, n in enumerate(old)}
    return GraphFacts(old, tuple(replace(n, same=places.get((n.name, n.kind))) for n in new), target.unit)


def _rows(cascades: Sequence[Cascade], field: str) -> dict[str, tuple[int, ...]]:
    """Per node name the rows that remove it, or add it."""
    found: dict[str, tuple[int, ...]] = {}
    for i, cascade in enumerate(cascades):
        for name in getattr(cascade, field):
            found[name] = (*found.get(name, ()), i)
    return found


def _kept_rows(cascades: Sequence[Cascade]) -> dict[str, tuple[int, ...]]:
    """Per layer name the rows that left it alone."""
    found: dict[str, tuple[int, ...]] = {}
    for i, cascade in enumerate(cascades):
        for layer in cascade.layers if cascade.decision == "left" else ():
            found[layer] = (*found.get(layer, ()), i)
    return found


def _nodes(
    graph: Graph, edited: Mapping[str, tuple[int, ...]], left: Mapping[str, tuple[int, ...]], target: Target
) -> tuple[NodeFacts, ...]:
    rows, place = list[NodeFacts](), dict[str, int]()
    for name in graph.inputs:
        place[name] = len(rows)
        rows.append(NodeFacts(name, "input", (), (), _shape(graph, name), 0.0, 0))
    for node in graph.nodes:
        layers = tuple(dict.fromkeys(node.origin))
        stays = (row for layer in (layers or (node.name,)) for row in left.get(layer, ()))
        cascades = tuple(dict.fromkeys((*edited.get(node.name, ()), *stays)))
        reads = tuple(dict.fromkeys(place[name] for name in node.inputs))
        cost = float(target.segment_cost((node,), graph.tensors).value)
        shape, stored = _shape(graph, node.output), int(parameters(node))
        rows.append(NodeFacts(node.name, kind(node), layers, reads, shape, cost, stored, cascades))
        place.update((name, len(rows) - 1) for name in node.outputs)
    rows += [NodeFacts(name, "output", (), (place[name],), _shape(graph, name), 0.0, 0) for name in graph.outputs]
    return tuple(rows)


def _shape(graph: Graph, name: str) -> tuple[Size, ...] | None:
    shape = graph.shape(name)
    return None if shape is None else tuple(n if isinstance(n, str) else int(n) for n in shape)


def kind(node: Node) -> str:
    """The operation in words: "depthwise 3x3 convolution, stride 2"."""
    return words(node.op)
