"""The student model: the chosen students put in, each fitted again on what the model before it now gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

from decascade.compression.plan.candidates import Candidate, Fitted, sizes_of
from decascade.compression.students.moments import Run, collect
from decascade.compression.torch_graph.graph import Lowered
from decascade.ir.check import check
from decascade.ir.graph import Graph
from decascade.ir.names import Names

Progress = Callable[[str, float], None]
STAGE = "fitting the chosen students"


def assemble(
    graph: Graph, chosen: Sequence[Candidate], batches: Iterable[Mapping[str, Any]], samples: int, seed: int,
    progress: Progress, known: Sequence[Fitted] = (), late: Callable[[], bool] = lambda: False,
) -> Graph:
    """The graph with these candidates in place of their segments.

    They are fitted in the order in which they run: on the activations of the student so far, towards the original's, so
    that each makes up for what those before it do wrong (asymmetric reconstruction, Zhang et al. 2015).  One pass over the
    data each.  When it is `late`, those that are `known` with weights already are taken as they are.
    """
    order = {node.name: i for i, node in enumerate(graph.nodes)}
    student, original = graph, runner(Lowered(graph))
    before = {_key(one.candidate): one for one in known}
    for done, candidate in enumerate(sorted(chosen, key=lambda c: order[c.student.site.segment.nodes[0]])):
        fitted = before.get(_key(candidate)) if before and late() else None
        if fitted is None:
            requests = candidate.student.requests()
            moments = collect(runner(Lowered(student)), batches, requests, sizes_of(graph), samples, seed, original)
            fitted = Fitted(candidate, candidate.student.fit(moments))
        student = put_in(student, fitted)
        progress(STAGE, (done + 1) / len(chosen))
    check(student)
    return student


def _key(candidate: Candidate) -> tuple[str, str, str]:
    segment = candidate.student.site.segment
    return segment.entry, segment.exit, candidate.student.label


def runner(lowered: Lowered) -> Run:
    """Runs batches of graph inputs through a lowered graph without gradients."""
    torch: Any = import_module("torch")

    def run(batch: Any, wanted: Sequence[str]) -> Mapping[str, Any]:
        with torch.no_grad():
            return lowered.run(batch, wanted)

    return run


def put_in(graph: Graph, fitted: Fitted) -> Graph:
    """The graph with one fitted student in place of its segment.  Its nodes are called after the segment's last layer."""
    segment = fitted.candidate.student.site.segment
    kept = [node for node in graph.nodes if node.name not in segment.nodes]
    nodes, tensors = fitted.nodes(f"{segment.nodes[-1]}_student", Names.of(graph, fitted.candidate.student.site.graph))
    return graph.with_nodes([*kept, *nodes], tensors)
