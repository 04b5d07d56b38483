"""merge: replace every cascade, verify, hand out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from decascade.api.common import Border, InputRange, InputShape, Policy, Progress, merge_options, read_model
from decascade.api.finding import Asked, Found, Tier, find, seals_of
from decascade.api.limits import Given, find_within, limits_of
from decascade.api.places import check_output
from decascade.api.reporting import cascade_facts, make_report
from decascade.checking.cascades import check_replacement
from decascade.checking.guards import check_guard, without_guard
from decascade.checking.models import Subject, compare
from decascade.checking.plan import Plan, plan, with_data, work
from decascade.checking.seals import to_text
from decascade.cost import Target
from decascade.errors import VerificationError
from decascade.formats.base import Format
from decascade.output import Item, write_all
from decascade.regions.guard import guarded
from decascade.report.facts.report import ErrorFacts, Report, VerificationFacts
from decascade.report.files import write_report

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
        """Write the model (and, where a path is given, the report: .json or .html), whole or not at all.

        Raises:
            OutputError: the place is the input, exists already (without `force`), or cannot be written to.
        """
        place, listed = Path(path), None if report is None else Path(report)
        check_output(self.format, place, self.source, force, listed)
        done = replace(self.report, output=str(place))
        items = [Item(place, lambda temporary: self.format.save(self.model, temporary))]
        if listed is not None:
            items.append(Item(listed, lambda temporary: write_report(done, temporary)))
        write_all(items)
        self.report = done


def merge(
    model: object, *, target: str | Target = "macs", policy: Policy = "profitable", border: Border = "exact",
    max_growth: float = 16.0, tier: Tier | None = None, input_range: InputRange | None = None, data: object = None,
    guard: bool = False, limit: Given | None = None, input_shape: InputShape | None = None, prove_seconds: float = 20.0,
    verify: bool = True, seed: int = 0, progress: Progress | None = None,
) -> MergeResult:
    """Replace every cascade by the cheapest layers that compute the same, borders included: on every input, or, given an
    `input_range`, on every input within it (tier "proven": activations that are proved linear there are merged through).

    `tier` "observed" also merges through activations that were linear on all samples of `data` (as for `verify`), without
    any proof; the result is verified on the data, and the report says how far it is off elsewhere.  "exact": no proofs,
    whatever range is given.  Data given with a range must lie in it, and help to find what is not linear.

    `guard`: the model gets a further output, its last, of shape (N, 1): 0 where the input lies within the range, above 0 where
    it does not.

    `limit`: costs that the result may not exceed, by target name, `{"memory": 65536}` or `["memory=64KiB"]`.

    `policy` "always" takes the fewest layers whatever they cost, within `max_growth` times the stored parameters.
    `border` "refuse" leaves alone what would need its border corrected.  `input_range`: see `InputRange`; the
    verification's random inputs are drawn from it too.  `prove_seconds`: time for the proofs.
    `input_shape`: as for `inspect`.  The given model is never changed.

    Raises:
        FormatError: a model that cannot be read.
        UsageError: an option out of its domain, or a model that nothing here can run, so that it cannot be verified.
        LimitError: no result keeps the limits.
        VerificationError: the result is not the same function; a bug in decascade, and no result is given.
    """
    start = perf_counter()
    options = merge_options(target, policy, border, max_growth, progress)
    asked = Asked(tier, input_range, data, prove_seconds, seed, guard)
    subject = Subject(*read_model(model, input_shape))
    form, document = subject.format, subject.document
    limits = limits_of(limit, progress)
    found = find_within(subject, options, asked, limits, progress) if limits else find(subject, options, asked, progress)
    graph = found.graph if not guard or found.box is None else guarded(found.graph, found.box)
    seal = found.seal(subject, graph.outputs[-1] if guard else "")
    native = form.write(document, graph)
    if found.claims or guard:
        native = form.annotated(native, to_text([*seals_of(subject), seal]))
    errors, verification, outside = [None] * len(found.cascades), None, None
    if verify:
        try:
            errors = _check_cascades(found, seed, 1 if work(subject) > LARGE else 4)
            verification, outside = _check_model(subject, native, found, seal.guard, seed, progress)
        except VerificationError as error:
            raise VerificationError(f"{error}; nothing was written") from error
    facts = tuple(cascade_facts(c, options.target.unit, e) for c, e in zip(found.cascades, errors, strict=True))
    report = make_report("merge", subject, found, options.target, facts, verification, start)
    report = replace(report, outside=outside)
    return MergeResult(native, report, form, document.source)


def _check_cascades(found: Found, seed: int, samples: int) -> list[ErrorFacts | None]:
    """One entry per cascade; None for those left, and those whose ends a rewrite around them has moved."""
    before, after = found.reference, found.graph
    both = before.tensors.keys() & after.tensors.keys()
    return [
        check_replacement(before, after, c.entry, c.exit, " → ".join(c.layers), seed, samples)
        if c.decision == "merged" and {c.entry, c.exit} <= both else None
        for c in found.cascades
    ]


def _check_model(
    subject: Subject, native: object, found: Found, guard: str, seed: int, progress: Progress | None
) -> tuple[VerificationFacts, VerificationFacts | None]:
    """The comparison that must hold: on random inputs, or, of what rests on data, on those; then also the one on random
    inputs, which need not."""
    rng, merged = np.random.default_rng(seed), Subject(subject.format, subject.format.read(native))
    if guard and found.box is not None:
        check_guard(merged, guard, found.box, rng)
        merged = without_guard(merged, guard)

    def compared(chosen: Plan) -> VerificationFacts:
        return compare(subject, merged, chosen, rng, progress)

    random = plan(subject, found.limits, rng, found.graph.nodes != subject.graph.nodes)
    facts = compared(with_data(subject, list(found.batches)) if found.observed else random)
    if not facts.same:
        raise VerificationError(f"the merged model is {facts.complaint} (please report this)")
    return facts, compared(random) if found.observed else None
