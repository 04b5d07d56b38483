"""Sensitivity: how far the model's output moves with one candidate alone swapped in (DESIGN §3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from itertools import groupby
from math import inf
from time import monotonic
from typing import Any

from decascade.compression.divergence import Output, divergence
from decascade.compression.plan.candidates import Fitted
from decascade.compression.torch_graph.graph import Lowered
from decascade.ir.graph import Graph
from decascade.ir.names import Names

Progress = Callable[[str, float], None]
STAGE = "measuring sensitivities"


def sensitivities(
    lowered: Lowered, fitted: Sequence[Fitted], batches: Sequence[Any], outputs: tuple[Output, ...], progress: Progress,
    seconds: float | None = None, over: Callable[[], bool] = lambda: False,
) -> list[float]:
    """The divergence of the model's outputs for every candidate, in their order, averaged over the batches.

    A batch runs through the original once; for a candidate only what comes after its segment runs again.  With `seconds`,
    no batch after the first is begun that would not end in time; a candidate that the first has not come to when it is `over`
    has no number, but infinity.
    """
    torch: Any = import_module("torch")
    total, done, start, used = [0.0] * len(fitted), 0, monotonic(), 0
    with torch.no_grad():
        for batch in batches:
            spent = monotonic() - start
            if seconds is not None and used and spent + spent / used > seconds:
                break
            used += 1
            values = _everything(lowered, batch)
            for segment, some in groupby(enumerate(fitted), key=lambda pair: pair[1].candidate.student.site.segment):
                inside = {name for node in lowered.graph.nodes if node.name in segment.nodes for name in node.outputs}
                around = {name: value for name, value in values.items() if name not in inside}
                before = _before(lowered.graph, segment.nodes, around)
                for i, one in some:
                    if used == 1 and done and over():
                        total[i] = inf
                        continue
                    found = _alone(one, lowered.graph).run({segment.entry: values[segment.entry]}, [segment.exit])
                    moved = lowered.run({**before, **found}, [o.compared for o in outputs])
                    total[i] += float(divergence(outputs, values, moved))
                    done += 1
                    progress(STAGE, done / (len(fitted) * len(batches)))
    return [value / max(used, 1) for value in total]


def _everything(lowered: Lowered, batch: Any) -> dict[str, Any]:
    graph = lowered.graph
    names = [name for node in graph.nodes for name in node.outputs]
    return {**batch, **lowered.run(batch, [*graph.inputs, *names])}


def _before(graph: Graph, nodes: Sequence[str], values: dict[str, Any]) -> dict[str, Any]:
    """Of the values those that do not depend on these nodes."""
    moved = set[str]()
    for node in graph.nodes:
        if node.name in nodes or moved.intersection(node.inputs):
            moved.update(node.outputs)
    return {name: value for name, value in values.items() if name not in moved}


def _alone(one: Fitted, graph: Graph) -> Lowered:
    """The student by itself, from its segment's entry to its exit."""
    segment = one.candidate.student.site.segment
    nodes, tensors = one.nodes("student", Names(graph.tensors))
    alone = replace(graph, inputs=(segment.entry,), outputs=(segment.exit,), nodes=())
    return Lowered(alone.with_nodes(nodes, tensors))
