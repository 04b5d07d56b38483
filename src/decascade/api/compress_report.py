"""The report of compress: one row per student, beside those of the exact tier; the plan, the front, the curves of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from decascade.compression.pipeline import Closeness, Work
from decascade.compression.plan.choice import Choice, Plan
from decascade.compression.plan.survey import Survey
from decascade.cost import Cost, target_named
from decascade.ir.graph import Graph, Node
from decascade.regions.merge import Cascade
from decascade.report.facts.parts import StudentFacts, WidthPoint
from decascade.report.facts.report import Measure


def student_rows(work: Work, plan: Plan, exact: Sequence[Cascade], student: Graph, distilled: bool) -> list[Cascade]:
    """The students of a plan as rows of a report; `exact` are the rows of the exact tier that ran before."""
    return [_row(work, choice, exact, student, distilled) for choice in plan.choices]


def _row(work: Work, choice: Choice, exact: Sequence[Cascade], student: Graph, distilled: bool) -> Cascade:
    removed = _originals(work, choice, exact)
    layers = _layers(work, removed)
    added = tuple(n.name for n in _between(student, choice.entry, choice.exit))
    reason = (
        f"{choice.student}: {choice.error:.1%} of the variance unexplained by the fit, sensitivity {choice.sensitivity:.2g}"
    )
    tier = "distilled" if distilled else "fitted"
    before, after = Cost(choice.before), Cost(choice.cost)
    return Cascade(layers, "merged", tier, reason, "", before, after, choice.entry, choice.exit, removed, added)


def _between(graph: Graph, entry: str, end: str) -> list[Node]:
    """The nodes that compute one tensor from another."""
    wanted, found = {end}, list[Node]()
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs) - {entry}:
            found.append(node)
            wanted.update(node.inputs)
    return found[::-1]


def _originals(work: Work, choice: Choice, exact: Sequence[Cascade]) -> tuple[str, ...]:
    """The nodes of the model as it was read that a segment of the exact graph stands for."""
    known = {node.name for node in work.original.nodes}
    found = list[str]()
    for name in choice.nodes:
        found += [name] if name in known else [old for row in exact if name in row.added for old in row.removed]
    return tuple(dict.fromkeys(found))


def student_facts(work: Work, plan: Plan, exact: Sequence[Cascade], survey: Survey | None) -> tuple[StudentFacts, ...]:
    """The chosen students; where they were chosen in this run, also the others whose sensitivity was measured, and of every
    segment the error of a hidden layer against its width."""
    chosen = {(c.entry, c.exit, c.student): c for c in plan.choices}
    others = [] if survey is None else [c for c in survey.choices() if (c.entry, c.exit, c.student) not in chosen]
    widths = {} if survey is None else {(s.entry, s.exit): found for s, found in survey.widths.items()}
    facts, told = list[StudentFacts](), set[tuple[str, str]]()
    for choice in (*plan.choices, *others):
        ends = (choice.entry, choice.exit)
        curve = () if ends in told else widths.get(ends, ())
        told.add(ends)
        points = tuple(WidthPoint(w.width, w.fitted, w.held_out, w.cost) for w in curve)
        layers, is_chosen = _layers(work, _originals(work, choice, exact)), (*ends, choice.student) in chosen
        facts.append(StudentFacts(
            layers, choice.student, is_chosen, choice.before, choice.cost, choice.error, choice.sensitivity, points,
        ))
    return tuple(facts)


def _layers(work: Work, nodes: Sequence[str]) -> tuple[str, ...]:
    """The user's layers that nodes of the model as it was read stand for."""
    names = {node.name: node for node in work.original.nodes}
    return tuple(dict.fromkeys(layer for name in nodes for layer in names[name].origin or (name,)))


def measures(stages: Mapping[str, Closeness], unit: str) -> tuple[Measure, ...]:
    """Divergence, agreement and accuracy on held-out samples; `stages`: "fitted", and "distilled" where it was."""
    found = list[Measure]()
    for stage, close in stages.items():
        note = f"{close.samples} held-out samples"
        found.append(Measure(stage, "divergence", unit, None, close.divergence, note=note))
        if close.agreement is not None:
            found.append(Measure(stage, "agreement", "%", None, 100 * close.agreement, "higher", note))
        if close.accuracy is not None and close.original_accuracy is not None:
            changed = f"{close.changed[0]} became right, {close.changed[1]} wrong"
            accuracies = 100 * close.original_accuracy, 100 * close.accuracy
            found.append(Measure(stage, "accuracy", "%", *accuracies, "higher", changed))
    return tuple(found)


def without(rows: Sequence[Cascade], students: Sequence[Cascade]) -> list[Cascade]:
    """The exact tier's rows but for those whose result a student replaced."""
    gone = {name for row in students for name in row.removed}
    return [row for row in rows if not gone.intersection(row.removed)] + [replace(row) for row in students]


def memory_note(original: Graph, student: Graph) -> tuple[str, ...]:
    """A line where the student needs more memory than the original: another target's plan may not notice."""
    target = target_named("memory")
    before, after = (target.graph_cost(graph).value for graph in (original, student))
    if not after > before:
        return ()
    return (
        f"activations take {after:,.0f} bytes at their peak instead of {before:,.0f}, and layers of few channels per group"
        f" can be slow: where that counts, --limit memory={before:.0f}, or a measured --target (onnxruntime, litert, cortex-m)",
    )
