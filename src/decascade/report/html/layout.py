"""Where the nodes and edges of the drawn graphs go: rows by longest path, columns, and tracks beside them for long edges.

Both graphs share their rows: a node that was kept stands at the same height in both, so that they can be read side by
side.  Between two rows there is nothing but edges, so an edge never runs over a node: it leaves its node downwards, runs
down in a column that is free there or in a track beside one, and enters its reader from above.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from decascade.report.facts.parts import GraphFacts, NodeFacts

NODE, GUTTER, TRACK = 176, 24, 12
"""Widths in pixels: of a node, of the space between two columns, and of each track in it."""


@dataclass(frozen=True)
class Layout:
    """Per node its row and the middle of its column; `edges`: (from, to, x), x the place of the vertical part of an edge
    that passes rows; `width`: of the whole picture.  Pixels."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    edges: tuple[tuple[int, int, int | None], ...]
    width: int


def layouts(graphs: GraphFacts) -> tuple[Layout, Layout]:
    """The layouts of the graphs before and after."""
    before, after = _shared_rows(graphs.before, graphs.after)
    return _layout(graphs.before, before), _layout(graphs.after, after)


def _shared_rows(before: Sequence[NodeFacts], after: Sequence[NodeFacts]) -> tuple[list[int], list[int]]:
    """Longest paths in the two graphs laid over each other; each by itself where that has a cycle."""
    place = [n.same if n.same is not None else len(before) + i for i, n in enumerate(after)]
    if len(set(place)) == len(place):
        edges = [(u, v) for v, n in enumerate(before) for u in n.inputs]
        edges += [(place[u], place[v]) for v, n in enumerate(after) for u in n.inputs]
        rows = _longest(len(before) + len(after), edges)
        if rows is not None:
            return _dense(rows[: len(before)], [rows[p] for p in place])
    found = [_longest(len(nodes), [(u, v) for v, n in enumerate(nodes) for u in n.inputs]) or list(range(len(nodes)))
             for nodes in (before, after)]
    return found[0], found[1]


def _longest(count: int, edges: Iterable[tuple[int, int]]) -> list[int] | None:
    """Per node the length of the longest path to it; None where there is a cycle."""
    readers, waits = [list[int]() for _ in range(count)], [0] * count
    for u, v in dict.fromkeys(edges):
        readers[u].append(v)
        waits[v] += 1
    rows, ready, done = [0] * count, [i for i in range(count) if not waits[i]], 0
    while ready:
        u = ready.pop()
        done += 1
        for v in readers[u]:
            rows[v] = max(rows[v], rows[u] + 1)
            waits[v] -= 1
            if not waits[v]:
                ready.append(v)
    return rows if done == count else None


def _dense(*parts: list[int]) -> tuple[list[int], list[int]]:
    """The same order of rows without empty ones."""
    place = {row: i for i, row in enumerate(sorted({row for part in parts for row in part}))}
    first, second = ([place[row] for row in part] for part in parts)
    return first, second


def _layout(nodes: Sequence[NodeFacts], rows: Sequence[int]) -> Layout:
    lanes = _lanes(nodes, rows)
    taken = set(zip(lanes, rows, strict=True))
    routes, tracks = dict[tuple[int, int], tuple[int, int]](), list[tuple[int, int, int, int, int]]()
    edges = [(u, v) for v, n in enumerate(nodes) for u in n.inputs]
    # edges that stay in their column first: they are straight
    for u, v in sorted(edges, key=lambda e: (lanes[e[0]] != lanes[e[1]], rows[e[1]] - rows[e[0]])):
        between = range(rows[u] + 1, rows[v])
        if not between:
            continue
        for lane in dict.fromkeys((lanes[v], lanes[u])):
            if taken.isdisjoint((lane, row) for row in between):
                taken.update((lane, row) for row in between)
                routes[u, v] = (lane, -1)
                break
        else:
            tracks.append((min(lanes[u], lanes[v]), rows[u], rows[v], u, v))
    widths = _assign(tracks, routes)
    return _placed(rows, lanes, edges, routes, widths)


def _lanes(nodes: Sequence[NodeFacts], rows: Sequence[int]) -> list[int]:
    """A column per node: the leftmost of those that it reads, where that is free, else the next: branches go to the right,
    and what joins them comes back."""
    lanes, taken = [0] * len(nodes), set[tuple[int, int]]()
    for v in sorted(range(len(nodes)), key=lambda i: (rows[i], i)):
        lane = min((lanes[u] for u in nodes[v].inputs), default=0)
        while (lane, rows[v]) in taken:
            lane += 1
        lanes[v] = lane
        taken.add((lane, rows[v]))
    return lanes


def _assign(tracks: list[tuple[int, int, int, int, int]], routes: dict[tuple[int, int], tuple[int, int]]) -> dict[int, int]:
    """A track for every long edge beside its column, first fit; the number of tracks per column."""
    ends: dict[int, list[int]] = {}
    for lane, start, end, u, v in sorted(tracks):
        used = ends.setdefault(lane, [])
        free = next((i for i, last in enumerate(used) if last <= start), len(used))
        used[free:free + 1] = [end]
        routes[u, v] = (lane, free)
    return {lane: len(used) for lane, used in ends.items()}


def _placed(
    rows: Sequence[int], lanes: Sequence[int], edges: Sequence[tuple[int, int]], routes: dict[tuple[int, int], tuple[int, int]],
    widths: dict[int, int],
) -> Layout:
    middle, x = list[int](), GUTTER // 2
    for lane in range(max((*lanes, *widths), default=0) + 1):
        middle.append(x + NODE // 2)
        x += NODE + GUTTER + TRACK * widths.get(lane, 0)

    def route(u: int, v: int) -> int | None:
        if (u, v) not in routes:
            return None
        lane, track = routes[u, v]
        return middle[lane] if track < 0 else middle[lane] + NODE // 2 + TRACK * (track + 1)

    return Layout(tuple(rows), tuple(middle[lane] for lane in lanes), tuple((u, v, route(u, v)) for u, v in edges), x)
