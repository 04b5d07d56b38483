"""merge: replace every cascade, verify, hand out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from decascade.api.common import Border, InputShape, Policy, Progress, check_seed, limits_of, merge_options, read_model
from decascade.api.places import check_output
from decascade.api.reporting import cascade_facts, corrections, make_report
from decascade.checking.cascades import check_replacement
from decascade.checking.models import Subject, compare
from decascade.checking.plan import plan, work
from decascade.checking.samples import Range
from decascade.cost import Target
from decascade.errors import VerificationError
from decascade.formats.base import Format
from decascade.ir.graph import Graph
from decascade.output import Item, write_all
from decascade.regions.merge import Cascade, merge_graph
from decascade.regions.proven import merge_on_box
from decascade.report.facts import ErrorFacts, Report, VerificationFacts

LARGE = 1e8
"""Multiply-accumulates from which on a replacement is checked on one sample instead of four."""


@dataclass(eq=False)
class MergeResult:
    """`model`: the merged native model, of the kind that was given.  `report`: what was done and what was left, and why."""

    model: Any
    report: Report
    format: Format
    source: Path | None = None

    def save(self, path: str | Path, *, force: bool = False, report: str | Path | None = None) -> None:
        """Write the model (and, where a path is given, the report as JSON), whole or not at all.

        Raises:
            OutputError: the place is the input, exists already (without `force`), or cannot be written to.
        """
        place, listed = Path(path), None if report is None else Path(report)
        check_output(self.format, place, self.source, force, listed)
        done = replace(self.report, output=str(place))
        items = [Item(place, lambda temporary: self.format.save(self.model, temporary))]
        if listed is not None:
            items.append(Item(listed, done.to_json))
        write_all(items)
        self.report = done


def merge(
    model: object, *, target: str | Target = "macs", policy: Policy = "profitable", border: Border = "exact",
    max_growth: float = 16.0, input_range: Sequence[float] | None = None, input_shape: InputShape | None = None,
    prove_seconds: float = 20.0, verify: bool = True, seed: int = 0, progress: Progress | None = None,
) -> MergeResult:
    """Replace every cascade by the cheapest layers that compute the same, borders included: on every input, or, given an
    `input_range`, on every input within it (tier "proven": activations that are proved linear there are merged through).

    `policy` "always" takes the fewest layers whatever they cost, within `max_growth` times the stored parameters.
    `border` "refuse" leaves alone what would need its border corrected.  `input_range`: the lowest and the highest value of
    all inputs; the verification's random inputs are drawn from it too.  `prove_seconds`: time for the proofs.
    `input_shape`: as for `inspect`.  The given model is never changed.

    Raises:
        FormatError: a model that cannot be read.
        UsageError: an option out of its domain, or a model that nothing here can run, so that it cannot be verified.
        VerificationError: the result is not the same function; a bug in decascade, and no result is given.
    """
    start = perf_counter()
    options, limits = merge_options(target, policy, border, max_growth), limits_of(input_range)
    check_seed(seed)
    form, document = read_model(model, input_shape)
    reference, notes = document.graph, tuple[str, ...]()
    if input_range is None:
        graph, cascades = merge_graph(document.graph, options, progress)
    else:
        proven = merge_on_box(document.graph, (limits.lo, limits.hi), options, prove_seconds, progress=progress, seed=seed)
        graph, cascades, reference, notes = proven.graph, proven.cascades, proven.reference, proven.notes
    native = form.write(document, graph)
    errors, verification = [None] * len(cascades), None
    if verify:
        subject = Subject(form, document)
        try:
            errors = _check_cascades(reference, graph, cascades, seed, 1 if work(subject) > LARGE else 4)
            changed = graph.nodes != document.graph.nodes
            verification = _check_model(subject, native, limits, seed, changed, progress)
        except VerificationError as error:
            raise VerificationError(f"{error}; nothing was written") from error
    facts = tuple(cascade_facts(c, options.target.unit, e) for c, e in zip(cascades, errors, strict=True))
    report = make_report("merge", model, form, document, graph, options.target, facts, verification,
                     corrections(graph, cascades), start)
    report = replace(report, notes=(*report.notes, *notes))
    return MergeResult(native, report, form, document.source)


def _check_cascades(
    before: Graph, after: Graph, cascades: Sequence[Cascade], seed: int, samples: int
) -> list[ErrorFacts | None]:
    """One entry per cascade; None for those left, and those whose ends a rewrite around them has moved."""
    both = before.tensors.keys() & after.tensors.keys()
    return [
        check_replacement(before, after, c.entry, c.exit, " → ".join(c.layers), seed, samples)
        if c.decision == "merged" and {c.entry, c.exit} <= both else None
        for c in cascades
    ]


def _check_model(
    subject: Subject, native: object, limits: Range, seed: int, changed: bool, progress: Progress | None
) -> VerificationFacts:
    rng = np.random.default_rng(seed)
    chosen = plan(subject, limits, rng, changed)
    found = compare(subject, Subject(subject.format, subject.format.read(native)), chosen, rng, progress)
    if not found.same:
        raise VerificationError(f"the merged model is {found.complaint} (please report this)")
    return found
