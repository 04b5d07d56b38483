"""Segments: the single-entry single-exit subgraphs that a student may replace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from decascade.compression.torch_graph.ops import passes_gradient
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import Activation, Product
from decascade.ir.ops.traits import layer_of


@dataclass(frozen=True)
class Segment:
    """Everything between two tensors: whatever reads `entry` on the way to `exit` reads nothing else from outside, and
    nothing but `exit` leaves.  `nodes` are node names in graph order."""

    entry: str
    exit: str
    nodes: tuple[str, ...]


def find_segments(graph: Graph, span: int = 6) -> tuple[Segment, ...]:
    """All segments of at most `span` convolution or dense layers, at least one, without foreign or pinned nodes and products.

    None ends with an element-wise activation, and none starts where an activation alone reads: a student is fitted on what
    the activation reads, and the activation stays.  Ordered by entry and exit as the graph runs.  Linear in the number of
    nodes for a given span: growth from an entry stops where it would hold more than twice `span` layers (branches that do
    not meet again within reach).
    """
    place = {name: i + 1 for i, node in enumerate(graph.nodes) for name in node.outputs}
    entries = [name for name in (*graph.inputs, *place) if not all(_bends(node) for node in graph.consumers[name])]
    return tuple(segment for entry in entries for segment in _from(graph, entry, place.get(entry, 0), span))


def _replaceable(node: Node) -> bool:
    """Whether a student may take its place: its gradient is known, it does not multiply values, and it is not pinned."""
    return passes_gradient(node.op) and not isinstance(node.op, Product) and not node.pinned


def _bends(node: Node) -> bool:
    return isinstance(node.op, Activation)


def nodes_of(graph: Graph, segment: Segment) -> Sequence[Node]:
    """The nodes of a segment in graph order."""
    names = set(segment.nodes)
    return [node for node in graph.nodes if node.name in names]


def _from(graph: Graph, entry: str, start: int, span: int) -> Iterator[Segment]:
    inside, layers = dict[str, Node](), 0
    for node in graph.nodes[start:]:
        fits = all(name == entry or name in inside for name in node.inputs)
        if not fits or not node.inputs or len(node.outputs) > 1 or not _replaceable(node):
            continue
        layers += layer_of(node.op) is not None
        if layers > 2 * span:
            return
        inside[node.output] = node
        if _bends(node):
            continue
        found = _segment(graph, entry, node, inside)
        if found is not None and 1 <= sum(layer_of(n.op) is not None for n in found[1]) <= span:
            yield found[0]


def _segment(graph: Graph, entry: str, last: Node, inside: dict[str, Node]) -> tuple[Segment, list[Node]] | None:
    """The segment that ends with `last`, and its nodes, unless something else leaves it."""
    needed, stack = set[str](), [last]
    while stack:
        node = stack.pop()
        if node.name not in needed:
            needed.add(node.name)
            stack += [inside[name] for name in node.inputs if name != entry]
    ordered = [node for node in inside.values() if node.name in needed]
    for node in ordered[:-1]:
        leaves = any(reader.name not in needed for reader in graph.consumers[node.output])
        if leaves or node.output in graph.outputs:
            return None
    names = tuple(node.name for node in ordered)
    return Segment(entry, last.output, names), ordered
