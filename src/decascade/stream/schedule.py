"""The demand-driven schedule: what is asked for last is begun last, and a row is made only when a row that needs it is.

`simulate` does what the generated C does, step by step; ring depths are read off it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from decascade.stream.program import Edge, Program


@dataclass(frozen=True)
class Step:
    """Node `node` makes its row `row`; `reads`: (node, row) that it reads.  `goal`: which goal it is done for."""

    node: int
    row: int
    reads: tuple[tuple[int, int], ...]
    goal: int


@dataclass(frozen=True, eq=False)
class Trace:
    """All steps in order."""

    steps: tuple[Step, ...]


def needed(program: Program, edge: Edge, row: int) -> range:
    """The rows of the source that exist among those that a row needs."""
    return edge.window.rows(row, program.nodes[edge.source].rows)


def simulate(program: Program) -> Trace:
    """The steps of one inference."""
    made = [0] * len(program.nodes)
    steps = list[Step]()
    for number, goal in enumerate(program.goals):
        while made[goal.node] < goal.rows:
            steps.extend(_make(program, made, goal.node, number))
    return Trace(tuple(steps))


def _make(program: Program, made: list[int], node: int, goal: int) -> Iterator[Step]:
    """One row of a node, and before it whatever it lacks, deepest first."""
    stack = [node]
    while stack:
        top = stack[-1]
        row = made[top]
        missing = _missing(program, made, top, row)
        if missing is not None:
            stack.append(missing)
            continue
        stack.pop()
        reads = tuple((e.source, y) for e in program.nodes[top].edges for y in needed(program, e, row))
        yield Step(top, row, reads, goal)
        made[top] += 1


def _missing(program: Program, made: list[int], node: int, row: int) -> int | None:
    for edge in program.nodes[node].edges:
        if made[edge.source] <= min(edge.window.last(row), program.nodes[edge.source].rows - 1):
            return edge.source
    return None


def depths(program: Program, trace: Trace) -> dict[int, int]:
    """Rows that every ring holds: the largest age of a row that is read, by the node that owns the ring."""
    latest: dict[int, int] = {}
    found: dict[int, int] = {}
    for step in trace.steps:
        for source, row in step.reads:
            buffer = program.buffer(source)
            found[buffer] = max(found[buffer], latest[buffer] - row + 1)
        buffer = program.buffer(step.node)
        latest[buffer] = step.row
        found.setdefault(buffer, 1)
        for source, row in step.reads:
            other = program.buffer(source)
            if other == buffer and row != step.row:
                found[buffer] = max(found[buffer], latest[buffer] - row + 1)
    if len(program.outputs) > 1:
        found |= {program.buffer(o): program.nodes[o].rows for o in program.outputs}
    return found
