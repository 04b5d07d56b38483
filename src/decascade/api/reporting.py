"""From what a command found to the report that it gives."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter
from typing import Literal

from decascade.api.drawing import graph_facts
from decascade.api.finding import Found
from decascade.checking.models import Subject
from decascade.checking.samples import open_sizes
from decascade.cost import Cost, Target
from decascade.cost.measured import Measured
from decascade.formats.base import Format
from decascade.ir.graph import Graph
from decascade.ir.ops.traits import layer_of
from decascade.regions.merge import NOMINAL, Cascade, sized
from decascade.report.facts.report import CascadeFacts, CostFacts, ErrorFacts, Layers, Report, VerificationFacts
from decascade.version import __version__

PACKAGES = {"onnx": ("onnx", "onnx-ir", "onnxruntime"), "keras": ("keras", "tensorflow-cpu", "tensorflow"), "torch": ("torch",)}
"""Whose versions a report names."""


def cascade_facts(cascade: Cascade, unit: str, error: ErrorFacts | None) -> CascadeFacts:
    c = cascade
    return CascadeFacts(c.layers, c.decision, c.tier, c.reason, c.border, cost_facts(c.before, c.after, unit), error)


def cost_facts(before: Cost, after: Cost | None, unit: str) -> CostFacts:
    if after is None:
        return CostFacts(before.value, None, unit, before.parameters, None)
    return CostFacts(before.value, after.value, unit, before.parameters, after.parameters)


def make_report(
    action: Literal["inspect", "merge", "compress"], subject: Subject, found: Found, target: Target,
    cascades: tuple[CascadeFacts, ...], verification: VerificationFacts | None, start: float,
) -> Report:
    """The report of one command, which began when the performance counter said `start`."""
    document, before, after = subject.document, sized(subject.graph), sized(found.graph)
    counts = [sum(layer_of(n.op) is not None for n in g.nodes) for g in (before, after)]
    extra = corrections(found.graph, found.cascades)
    sizes = f"sizes that the model leaves open are costed as {NOMINAL}"
    notes = (*document.notes, *([sizes] if open_sizes(subject.graph) else []), *found.notes)
    cost = cost_facts(target.graph_cost(before), target.graph_cost(after), target.unit)
    if isinstance(target, Measured):
        notes = (*notes, *discrepancy(cost, found.cascades))
    name = document.source.name if document.source is not None else f"live {subject.format.name} model"
    return Report(
        action=action, model=name, output=None, target=target.name,
        cost=cost,
        layers=Layers(counts[0], counts[1] - extra, extra), cascades=cascades, verification=verification,
        validity=found.validity, certificates=tuple(c.facts() for c in found.certificates),
        versions=_versions(subject.format), seconds=round(perf_counter() - start, 3), notes=notes,
        graphs=graph_facts(before, after, found.cascades, target),
    )


def discrepancy(cost: CostFacts, cascades: Sequence[Cascade]) -> tuple[str, ...]:
    """What the single layers of the replaced parts say of the whole model, beside what the whole model says."""
    changed = [(c.before.value, c.after.value) for c in cascades if c.decision == "merged" and c.after is not None]
    saved = sum(before - after for before, after in changed)
    if not saved or not cost.after or saved >= cost.before:
        return ()
    predicted, measured = cost.before / (cost.before - saved), cost.before / cost.after
    off = abs(predicted / measured - 1)
    return (f"single layers predict {predicted:.3g} × faster, whole models measure {measured:.3g} × ({off:.1%} apart)",)


def corrections(graph: Graph, cascades: Sequence[Cascade]) -> int:
    """Small convolutions of the merged graph that only correct the border of a merged one."""
    kernels = {n.name for n in graph.nodes if layer_of(n.op) is not None}
    return sum(max(len(kernels.intersection(c.added)) - 1, 0) for c in cascades if c.border == "ring")


def _versions(form: Format) -> dict[str, str]:
    found = {"decascade": __version__}
    for package in ("numpy", *PACKAGES.get(form.name, ())):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
