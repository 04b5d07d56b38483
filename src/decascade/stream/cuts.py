"""Where to stop streaming and make a whole map: wide rows early on are streamed, deep cascades of small maps are cut.

Between two maps that are kept as a whole, only these two and the rings between them are held.  A dynamic programme over the
articulation points of the graph, maps through which every path leads, finds the cuts whose largest segment is smallest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from decascade.stream.graph import Graph
from decascade.stream.program import program_of
from decascade.stream.schedule import depths, simulate

Scratch = Callable[[int], int]
"""Bytes of scratch of the operation at an index."""
MOST_POINTS = 96
"""Articulation points that are considered; the evenly spaced ones of more."""


def articulation_points(graph: Graph) -> list[int]:
    """Indices of operations after which nothing but their own map is still needed."""
    last = {i: k for k, op in enumerate(graph.ops) for i in op.inputs} | dict.fromkeys(graph.outputs, len(graph.ops))
    live, points = {graph.input}, list[int]()
    for k, op in enumerate(graph.ops):
        live = {i for i in (*live, op.output) if last.get(i, -1) > k}
        if live == {op.output} and op.output not in graph.outputs:
            points.append(k)
    step = -(-len(points) // MOST_POINTS) if points else 1
    return points[::step]


def best_cuts(graph: Graph, scratch: Scratch, most: int) -> tuple[int, ...]:
    """Maps to keep as a whole so that the largest segment is smallest; none where nothing stays below `most` bytes."""
    points = [-1, *articulation_points(graph), len(graph.ops) - 1]
    best: dict[int, tuple[int, int]] = {-1: (0, -1)}
    for at, end in enumerate(points[1:], start=1):
        options = list[tuple[int, int]]()
        for start in reversed(points[:at]):
            if start in best and (bound := max(best[start][0], _wholes(graph, start, end))) < most:
                limit = min((size for size, _ in options), default=most)
                if bound < limit:
                    options.append((max(best[start][0], _segment(graph, start, end, scratch)), start))
        if options:
            best[end] = min(options)
    end = points[-1]
    if end not in best or best[end][0] >= most:
        return ()
    cuts = list[int]()
    while (start := best[end][1]) != -1:
        cuts.append(graph.ops[start].output)
        end = start
    return tuple(reversed(cuts))


def _size(graph: Graph, index: int) -> int:
    return graph.maps[index].rows * graph.maps[index].row_size


def _wholes(graph: Graph, start: int, end: int) -> int:
    """Bytes of the whole maps at both ends of a segment: the input comes by rows, the output goes by rows."""
    first = _size(graph, graph.ops[start].output) if start >= 0 else 0
    return first + (_size(graph, graph.ops[end].output) if end < len(graph.ops) - 1 else 0)


def _segment(graph: Graph, start: int, end: int, scratch: Scratch) -> int:
    """Bytes held while the operations after `start` up to `end` run: whole maps, rings, the largest scratch."""
    source = graph.ops[start].output if start >= 0 else graph.input
    final = end == len(graph.ops) - 1
    outputs = graph.outputs if final else (graph.ops[end].output,)
    part = replace(graph, ops=graph.ops[start + 1 : end + 1], input=source, outputs=outputs)
    program = program_of(part)
    found = depths(program, simulate(program))
    whole = {0} if start >= 0 else set[int]()
    whole |= set() if final else {program.buffer(program.outputs[0])}
    rings = sum(program.nodes[b].row_bytes * depth for b, depth in found.items() if b not in whole)
    return _wholes(graph, start, end) + rings + max(scratch(k) for k in range(start + 1, end + 1))
