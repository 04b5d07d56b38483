"""The rows of a network as a program: nodes that make one row at a time from rows of other nodes.

A node is an operation of the graph, or a part of one: a mean over a whole map is a row of running totals and its division.
Operations that only relabel values are gone, and padding is part of the window of what follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from decascade.stream.graph import SAME_ROW, Graph, Map, Op, Window
from decascade.stream.ops.elementwise import Constant, Product, Sum, Table
from decascade.stream.ops.pool import Mean


@dataclass(frozen=True, eq=False)
class Totals:
    """Row y: the sums of each channel over rows 0 … y, int32."""

    mean: Mean
    map: Map


@dataclass(frozen=True, eq=False)
class Divided:
    """The mean of the last row of totals."""

    mean: Mean
    map: Map


@dataclass(frozen=True)
class Edge:
    """Rows that a node needs of another one: `taps` of them from the first of its window on, `dilation` apart."""

    source: int
    window: Window
    taps: int = 1
    dilation: int = 1


@dataclass(frozen=True, eq=False)
class Node:
    """`row_bytes` of one row; `rows` of them.  `within`: the node whose ring this one writes into, in place.

    `map` is the map of the graph that its rows are rows of.
    """

    work: Op | Totals | Divided | None
    map: int
    rows: int
    row_bytes: int
    edges: tuple[Edge, ...] = ()
    within: int | None = None


@dataclass(frozen=True)
class Goal:
    """So many rows of a node, before the next goal is begun."""

    node: int
    rows: int


@dataclass(frozen=True, eq=False)
class Program:
    """Node 0 is the input.  The last goal of each output is what is pulled."""

    graph: Graph
    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]
    goals: tuple[Goal, ...]

    def buffer(self, node: int) -> int:
        """The node that owns the ring which a node writes into."""
        while (within := self.nodes[node].within) is not None:
            node = within
        return node


def program_of(graph: Graph, kept: tuple[int, ...] = ()) -> Program:
    """Nodes in the order of the graph; `kept`: maps made as a whole before anything goes on, in that order."""
    found: dict[int, int] = {graph.input: 0}
    source = graph.maps[graph.input]
    nodes = [Node(None, graph.input, source.rows, source.row_size)]
    for op in graph.ops:
        out = graph.maps[op.output]
        if isinstance(op, Mean):
            nodes.append(_totals(graph, op, found[op.inputs[0]]))
            last = nodes[-1].rows - 1
            edge = Edge(len(nodes) - 1, Window(0, last, last))
            nodes.append(Node(Divided(op, graph.maps[op.inputs[0]]), op.output, 1, out.row_size, (edge,)))
        else:
            nodes.append(Node(op, op.output, out.rows, out.row_size, _edges(graph, op, found)))
        found[op.output] = len(nodes) - 1
    nodes = _in_place(nodes, {found[o] for o in graph.outputs} | {found[k] for k in kept})
    outputs = tuple(found[o] for o in graph.outputs)
    wholes = [Goal(found[k], graph.maps[k].rows) for k in kept]
    return Program(graph, tuple(nodes), outputs, (*wholes, *(Goal(o, nodes[o].rows) for o in outputs)))


def _totals(graph: Graph, op: Mean, source: int) -> Node:
    taken = graph.maps[op.inputs[0]]
    return Node(Totals(op, taken), op.output, taken.rows, 4 * taken.shape[2], (Edge(source, SAME_ROW),))


def _edges(graph: Graph, op: Op, found: Mapping[int, int]) -> tuple[Edge, ...]:
    edges = list[Edge]()
    for i, window in zip(op.inputs, op.windows(graph.maps), strict=True):
        dilation = max(1, getattr(getattr(op, "geometry", None), "dilation", (1, 1))[0])
        taps = (window.high - window.low) // (window.div * dilation) + 1
        if window.div > 1:
            taps += 1
        edges.append(Edge(found[i], window, taps, dilation))
    return tuple(edges)


def _in_place(nodes: list[Node], kept: set[int]) -> list[Node]:
    """Rows that only an element by element operation reads are computed where its own row goes."""
    uses: dict[int, list[int]] = {}
    for index, node in enumerate(nodes):
        for edge in node.edges:
            uses.setdefault(edge.source, []).append(index)
    done = list(nodes)
    for index, node in enumerate(nodes):
        if not isinstance(node.work, Sum | Product | Table):
            continue
        able = [e.source for e in node.edges if _replaceable(nodes, e, index, uses) and e.source not in kept and e.source]
        if able:
            done[max(able)] = replace(done[max(able)], within=index)
    return done


def _replaceable(nodes: list[Node], edge: Edge, user: int, uses: Mapping[int, list[int]]) -> bool:
    source, target = nodes[edge.source], nodes[user]
    if isinstance(source.work, Constant | Totals) or uses[edge.source] != [user]:
        return False
    return edge.window == SAME_ROW and source.rows == target.rows and source.row_bytes == target.row_bytes
