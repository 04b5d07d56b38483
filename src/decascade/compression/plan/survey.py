"""The survey of a model: every worthwhile candidate with its fit and its sensitivity, from which plans are chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, prod
from time import monotonic
from typing import Any, Protocol

from decascade.compression.divergence import Output
from decascade.compression.plan.assemble import runner
from decascade.compression.plan.candidates import (
    Candidate,
    Fitted,
    candidates,
    fit_all,
    needed,
    passes,
    proposals,
    sizes_of,
    supported,
    thinned,
)
from decascade.compression.plan.choice import Choice, Plan
from decascade.compression.plan.cover import Option, choose, largest_saving
from decascade.compression.plan.measuring import left_out, measure
from decascade.compression.plan.sensitivity import sensitivities
from decascade.compression.segments import Segment
from decascade.compression.students.hidden import hidden_width
from decascade.compression.students.moments import collect
from decascade.compression.torch_graph.graph import Lowered
from decascade.cost import Cost, Target
from decascade.errors import UsageError
from decascade.ir.graph import Graph

Progress = Callable[[str, float], None]
KEEP = 8
"""Candidates per segment whose sensitivity is measured."""
WATCHED = 192
"""Samples that sensitivities are measured on."""
AT_ONCE = 64
"""Samples per batch there: a limited time is kept to within a batch."""
ROOM = 256 * 2**20
"""Bytes of activations that a batch may take."""
MEASURING = 0.5
"""Share of a limited time that may go into measuring what students cost."""
FITTING = 0.75
"""Share of a limited time after which a segment that has a fitted student gets no more."""
COLLECTING = 0.5
"""Share of the time of a pass after which it takes no more samples than its fits need."""


class Samples(Protocol):
    """Calibration samples: `count` of them, in batches of graph inputs by name, as torch tensors; the same at every call."""

    @property
    def count(self) -> int: ...

    def batches(self, size: int) -> Iterator[Mapping[str, Any]]: ...


@dataclass(frozen=True)
class WidthError:
    """The best student with one hidden layer of `width` channels: the shares of the variance that it leaves unexplained on
    fitted and on held-out samples, and its cost."""

    width: int
    fitted: float
    held_out: float
    cost: float


@dataclass(frozen=True, eq=False)
class Survey:
    """What `survey` found.  `before` is the cost of the model that `graph` was made from; `widths`: per segment the error of a
    hidden layer against its width, narrowest first."""

    graph: Graph
    target: Target
    before: float
    fitted: tuple[Fitted, ...]
    sensitivities: tuple[float, ...]
    span: int
    notes: tuple[str, ...] = ()
    widths: Mapping[Segment, tuple[WidthError, ...]] = field(default_factory=dict[Segment, tuple[WidthError, ...]])

    def choices(self) -> tuple[Choice, ...]:
        """Every student whose sensitivity was measured, as a plan would name it."""
        return tuple(_choice(one, s) for one, s in zip(self.fitted, self.sensitivities, strict=True))

    @property
    def most(self) -> float:
        """The largest speedup that any plan has."""
        saved = largest_saving(self._options())
        return self.before / max(self.target.graph_cost(self.graph).value - saved, 1e-30)

    def _options(self) -> list[Option]:
        return [
            Option(frozenset(f.candidate.student.site.segment.nodes), f.candidate.saving, sensitivity)
            for f, sensitivity in zip(self.fitted, self.sensitivities, strict=True)
        ]

    def plan(self, budget: float) -> Plan:
        """The least sensitive choice whose cost is within the budget, in the target's unit.

        Raises:
            UsageError: nothing is that cheap.
        """
        options = self._options()
        cost = self.target.graph_cost(self.graph).value
        chosen = choose(options, cost, budget, self.target.unit)
        after = cost - sum(options[i].saving for i in chosen)
        choices = tuple(_choice(self.fitted[i], self.sensitivities[i]) for i in chosen)
        return Plan(self.target.name, self.target.unit, self.before, after, choices, self.span)


def survey(
    graph: Graph, target: Target, before: float, samples: Samples, outputs: tuple[Output, ...], span: int, seed: int,
    progress: Progress, seconds: float | None = None,
) -> Survey:
    """Fit every candidate of a graph and measure how sensitive the outputs are to the best of each segment.  Where
    `seconds` do not suffice, fits and sensitivities rest on fewer samples, and segments get fewer students; `notes` tell.

    Raises:
        UsageError: a target whose costs do not add up, or too few samples.
    """
    check_additive(target)
    start, size, lowered = monotonic(), batch_size(graph, samples.count), Lowered(graph)
    known = measure(graph, target, span, None if seconds is None else MEASURING * seconds, progress)
    unmeasured = left_out(graph, target, span) if known else ()
    seconds, start = None if seconds is None else max(seconds - (monotonic() - start), 0.0), monotonic()
    found = supported(candidates(graph, target, span, known), samples.count)
    kept, used, fits, rounds = list[Fitted](), samples.count, 0, list(passes(found))
    curves = dict[Segment, tuple[WidthError, ...]]()
    for i, some in enumerate(rounds):
        limit = _Limit.of_pass(start, seconds, i, len(rounds))
        requests = [request for candidate in some for request in candidate.student.requests()]
        stream = _Stream(samples, size, needed(some), limit.collecting, progress)
        moments = collect(runner(lowered), stream, requests, sizes_of(graph), samples.count, seed)
        fitted = list[Fitted]()
        for one in fit_all(some, moments, lambda end=limit.fitting: monotonic() > end):
            fitted.append(one)
            progress("fitting students", (i + len(fitted) / len(some)) / len(rounds))
        curves |= _widths(fitted)
        used, fits, kept = min(used, stream.taken), fits + len(fitted), [*kept, *thinned(fitted, KEEP)]
    left = None if seconds is None else max(seconds - (monotonic() - start), 0.0)
    measured = sensitivities(lowered, kept, list(_first(samples, min(size, AT_ONCE))), outputs, progress, left)
    notes = (*unmeasured, *_shortened(used, samples.count, fits, len(found)))
    return Survey(graph, target, before, tuple(kept), tuple(measured), span, notes, curves)


@dataclass(frozen=True)
class _Limit:
    """When, on the clock, a pass over the data is to stop collecting, and when to stop fitting."""

    collecting: float = inf
    fitting: float = inf

    @classmethod
    def of_pass(cls, start: float, seconds: float | None, index: int, count: int) -> _Limit:
        """What is left of the time that fits may take is shared equally by the passes that are left."""
        if seconds is None:
            return cls()
        now = monotonic()
        share = max(start + FITTING * seconds - now, 0.0) / (count - index)
        return cls(now + COLLECTING * share, now + share)


@dataclass(eq=False)
class _Stream:
    """The batches of samples until `end`, but no fewer than `least` samples; `taken` of them so far."""

    samples: Samples
    size: int
    least: int
    end: float
    progress: Progress
    taken: int = 0

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        self.taken = 0
        for batch in self.samples.batches(self.size):
            yield batch
            self.taken = min(self.taken + self.size, self.samples.count)
            self.progress("collecting moments", self.taken / self.samples.count)
            if monotonic() > self.end and self.taken >= self.least:
                return


def _shortened(used: int, samples: int, fits: int, found: int) -> tuple[str, ...]:
    """What the time limit took away."""
    notes = list[str]()
    if used < samples:
        notes.append(f"the time limit left time to fit students on {used:,} of {samples:,} samples")
    if fits < found:
        notes.append(f"the time limit left time to fit {fits:,} of {found:,} students; the plan chooses among them")
    return tuple(notes)


def chosen_candidates(graph: Graph, plan: Plan) -> list[Candidate]:
    """The candidates of a graph that a plan names, with the costs that the plan gives them.

    Raises:
        UsageError: the plan is of another model.
    """
    wanted = {(choice.entry, choice.exit, choice.student): choice for choice in plan.choices}
    found = dict[tuple[str, str, str], Candidate]()
    for student in proposals(graph, plan.span):
        segment = student.site.segment
        key = (segment.entry, segment.exit, student.label)
        if key in wanted:
            found.setdefault(key, Candidate(student, wanted[key].cost, wanted[key].before))
    missing = sorted(wanted - found.keys())
    if missing:
        entry, exit_, student = missing[0]
        raise UsageError(f"the plan has '{student}' from {entry} to {exit_}, which this model has not: make the plan anew")
    return list(found.values())


def check_additive(target: Target) -> None:
    """That the cost of a model is the sum over its layers, which plans under a budget rest on.

    Raises:
        UsageError: it is not.
    """
    if target.combine([Cost(1.0), Cost(1.0)]).value < 2.0:
        raise UsageError(
            f"target {target.name} is a peak, not a sum over layers: a budget needs one that adds up (macs, for one)"
        )


def batch_size(graph: Graph, count: int) -> int:
    """Samples per batch: as many as keep all activations within `ROOM`, and at least eight batches."""
    numbers = sum(prod(size) for size in sizes_of(graph).values())
    return max(1, min(256, count // 8, ROOM // (4 * max(numbers, 1))))


def _first(samples: Samples, size: int) -> Iterator[Mapping[str, Any]]:
    """The batches that sensitivities are measured on."""
    for i, batch in enumerate(samples.batches(size)):
        if i * size >= WATCHED:
            return
        yield batch


def _widths(fitted: Sequence[Fitted]) -> dict[Segment, tuple[WidthError, ...]]:
    """Per segment the students with one hidden layer, the best of each width."""
    best = dict[Segment, dict[int, WidthError]]()
    for one in sorted(fitted, key=lambda f: -f.fit.error):
        width, segment = hidden_width(one.candidate.student), one.candidate.student.site.segment
        if width is not None:
            best.setdefault(segment, {})[width] = WidthError(width, one.fit.fitted_error, one.fit.error, one.candidate.cost)
    return {segment: tuple(found[n] for n in sorted(found)) for segment, found in best.items()}


def _choice(fitted: Fitted, sensitivity: float) -> Choice:
    candidate = fitted.candidate
    segment = candidate.student.site.segment
    return Choice(
        segment.entry, segment.exit, segment.nodes, candidate.student.label, candidate.cost, candidate.before, fitted.fit.error,
        sensitivity,
    )
