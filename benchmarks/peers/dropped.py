"""Whole blocks dropped: of each sum of two branches the costlier one goes and the skip stays (a projection where there is one).

All choices within the budget that need every one of their drops are judged as they stand; the best few are trained for a short
while, and what is then best is trained for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import combinations

from decascade.cost.folding import folded
from decascade.ir.graph import Graph, Node
from decascade.ir.interpret import needed_nodes
from decascade.ir.ops import Add, Identity
from peers.task import Made, Meter, Task, recovered, trained

TRIED, SHARE = 3, 0.05
"""How many choices are trained for a short while, and each one's share of the budget."""
RATE = 2e-3
STEP = 0.25
"""Processor seconds that a step is taken to cost there."""


def dropped(task: Task, speedup: float, meter: Meter) -> Made:
    found = [(drops, without(task.exact, drops)) for drops in minimal(task, task.budget(speedup))]
    found.sort(key=lambda pair: task.looked(pair[1]).divergence)
    best = found[:TRIED]
    if len(best) > 1:
        steps = max(int(SHARE * meter.budget / STEP), 4)
        tried = [(drops, trained(task, graph, steps, rate=RATE)) for drops, graph in best]
        best = sorted(tried, key=lambda pair: task.looked(pair[1]).divergence)
    drops, graph = best[0]
    return recovered(task, graph, meter, f"dropped: {', '.join(drops)}; of {len(found)} choices")


def minimal(task: Task, budget: float) -> Iterator[tuple[str, ...]]:
    """Sets of blocks, by the names of their sums, that bring the cost down to the budget, none of them needlessly."""
    names, enough = blocks(task.exact), list[frozenset[str]]()
    for count in range(1, len(names) + 1):
        for drops in combinations(names, count):
            if any(known <= frozenset(drops) for known in enough):
                continue
            if task.macs(without(task.exact, drops)) <= budget:
                enough.append(frozenset(drops))
                yield drops


def blocks(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes if isinstance(node.op, Add) and len(node.inputs) == 2]


def without(graph: Graph, drops: Iterable[str]) -> Graph:
    """The graph without the longer branch of each of these sums."""
    chosen = set(drops)
    nodes = [_skipped(graph, node) if node.name in chosen else node for node in graph.nodes]
    joined = replace(graph, nodes=tuple(nodes))
    return folded(joined.with_nodes(needed_nodes(joined, set(graph.inputs), graph.outputs)))


def _skipped(graph: Graph, node: Node) -> Node:
    shorter = min(node.inputs, key=lambda name: len(needed_nodes(graph, set(graph.inputs), (name,))))
    return replace(node, op=Identity(), inputs=(shorter,))
