"""The survey of a model: every worthwhile candidate with its fit and its sensitivity, from which plans are chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, inf, prod
from typing import Any, Protocol

from decascade.compression.deadline import Deadline
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
    smallest,
    supported,
    thinned,
)
from decascade.compression.plan.choice import Choice, Plan
from decascade.compression.plan.cover import Option, choose, largest_saving
from decascade.compression.plan.measuring import left_out, measure
from decascade.compression.plan.sensitivity import sensitivities
from decascade.compression.segments import Segment
from decascade.compression.students.hidden import hidden_width
from decascade.compression.students.moments import Moments, collect
from decascade.compression.torch_graph.graph import Lowered
from decascade.cost import Cost, Target
from decascade.errors import UsageError
from decascade.ir.graph import Graph
from decascade.typing import Clock

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
MOST_OF_LAST = 0.6
"""Share of the time until everything has to be over that the least of all fits may take by forecast: sensitivities come after,
and a machine's load changes."""
FEW = 8
"""Samples that a forecast is made from."""


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
    cut: bool = False
    """Whether a time limit left students out."""

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
        try:
            chosen = choose(options, cost, budget, self.target.unit)
        except UsageError as error:
            more = ", or give more time: the time limit left students out" if self.cut else ""
            raise UsageError(f"{error}{more}") from None
        after = cost - sum(options[i].saving for i in chosen)
        choices = tuple(_choice(self.fitted[i], self.sensitivities[i]) for i in chosen)
        return Plan(self.target.name, self.target.unit, self.before, after, choices, self.span)


def survey(
    graph: Graph, target: Target, before: float, samples: Samples, outputs: tuple[Output, ...], span: int, seed: int,
    progress: Progress, seconds: float | None = None, last: Deadline | None = None,
) -> Survey:
    """Fit every candidate of a graph and measure how sensitive the outputs are to the best of each segment.  Where
    `seconds` do not suffice, fits and sensitivities rest on fewer samples, and segments get fewer students; by `last` it is
    over, and what cannot be done by then is left out, segments too; `notes` tell.

    Raises:
        UsageError: a target whose costs do not add up, too few samples, or less time than the smallest fit takes.
    """
    check_additive(target)
    last = last or Deadline()
    soft = Deadline(now=last.now) if seconds is None else Deadline(min(last.now() + seconds, last.end), last.now)
    known = measure(graph, target, span, None if seconds is None else MEASURING * soft.left, progress)
    unmeasured = left_out(graph, target, span) if known else ()
    found = supported(candidates(graph, target, span, known), samples.count)
    made = _Fits(graph, samples, seed, progress, Lowered(graph), soft, last)
    for i, some in enumerate(rounds := list(passes(found))):
        made.go_through(some, i, len(rounds))
    first = list(_first(samples, min(made.size, AT_ONCE)))
    left = None if seconds is None else soft.left
    measured = sensitivities(made.lowered, made.kept, first, outputs, progress, left, lambda: last.over)
    kept = [(one, value) for one, value in zip(made.kept, measured, strict=True) if value < inf]
    notes = (*unmeasured, *_shortened(made.used, samples.count, made.fits, len(found)),
             *_unmeasured(len(made.kept) - len(kept), len(made.kept)))
    return Survey(graph, target, before, tuple(f for f, _ in kept), tuple(v for _, v in kept), span, notes, made.curves,
                  cut=made.fits < len(found) or len(kept) < len(made.kept))


@dataclass(eq=False)
class _Fits:
    """Students fitted pass by pass: by `soft` as many as there are, by `last` at least some."""

    graph: Graph
    samples: Samples
    seed: int
    progress: Progress
    lowered: Lowered
    soft: Deadline
    last: Deadline
    kept: list[Fitted] = field(default_factory=list[Fitted])
    curves: dict[Segment, tuple[WidthError, ...]] = field(default_factory=dict[Segment, tuple[WidthError, ...]])
    fits: int = 0

    def __post_init__(self) -> None:
        self.size, self.used = batch_size(self.graph, self.samples.count), self.samples.count
        self.start = self.last.now()
        self.whole = self.soft.left

    def go_through(self, found: Sequence[Candidate], index: int, count: int) -> None:
        """One pass over the data, for the candidates that there is time for."""
        some = self._affordable(found, MOST_OF_LAST / (count - index))
        if not some:
            return
        limit = _Limit.of_pass(self.start, self.whole, index, count, self.last.now)
        stream = _Stream(self.samples, self.size, needed(some), limit.collecting, self.progress, self.last.now)
        moments, fitted = self._collected(some, stream), list[Fitted]()
        for one in fit_all(some, moments, lambda: self.last.now() > limit.fitting):
            fitted.append(one)
            self.progress("fitting students", (index + len(fitted) / len(some)) / count)
            if self.last.over:
                break
        self.curves |= _widths(fitted)
        self.used, self.fits = min(self.used, stream.taken), self.fits + len(fitted)
        self.kept += thinned(fitted, KEEP)

    def _affordable(self, found: Sequence[Candidate], part: float) -> Sequence[Candidate]:
        """All candidates where their pass will end in this part of the time that is left, else those with the smallest fits,
        half as many each time; none where others have been fitted.

        Raises:
            UsageError: not even one can be fitted, and no other was.
        """
        if self.last.end == inf:
            return found
        while True:
            takes = self._forecast(found)
            if takes <= part * self.last.left:
                return found
            if len(found) == 1 or self.last.over:
                if self.kept:
                    return ()
                late = takes / part - self.last.left
                raise UsageError(
                    f"the time limit is too short: the {len(found)} smallest of the fits alone take about {takes:.1f} s on"
                    f" this machine, as busy as it is, and {self.last.left:.1f} s are left: give at least {ceil(late)} s more"
                )
            found = smallest(found, len(found) // 2)

    def _forecast(self, some: Sequence[Candidate]) -> float:
        """Seconds that the pass for these candidates takes at least, by what a few samples take."""
        few = next(iter(self.samples.batches(min(FEW, self.size))))
        start = self.last.now()
        self._collected(some, [few])
        return (self.last.now() - start) * needed(some) / min(FEW, self.size)

    def _collected(self, some: Sequence[Candidate], batches: Iterable[Mapping[str, Any]]) -> Moments:
        requests = [request for candidate in some for request in candidate.student.requests()]
        return collect(runner(self.lowered), batches, requests, sizes_of(self.graph), self.samples.count, self.seed)


@dataclass(frozen=True)
class _Limit:
    """When, on the clock, a pass over the data is to stop collecting, and when to stop fitting."""

    collecting: float = inf
    fitting: float = inf

    @classmethod
    def of_pass(cls, start: float, seconds: float, index: int, count: int, clock: Clock) -> _Limit:
        """What is left of the time that fits may take is shared equally by the passes that are left."""
        if seconds == inf:
            return cls()
        now = clock()
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
    now: Clock
    taken: int = 0

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        self.taken = 0
        for batch in self.samples.batches(self.size):
            yield batch
            self.taken = min(self.taken + self.size, self.samples.count)
            self.progress("collecting moments", self.taken / self.samples.count)
            if self.now() > self.end and self.taken >= self.least:
                return


def _shortened(used: int, samples: int, fits: int, found: int) -> tuple[str, ...]:
    """What the time limit took away."""
    notes = list[str]()
    if used < samples:
        notes.append(f"the time limit left time to fit students on {used:,} of {samples:,} samples")
    if fits < found:
        notes.append(f"the time limit left time to fit {fits:,} of {found:,} students; the plan chooses among them")
    return tuple(notes)


def _unmeasured(missing: int, fitted: int) -> tuple[str, ...]:
    return (f"the time limit left time to measure the sensitivity of {fitted - missing:,} of {fitted:,} fitted students; the"
            " others are left out",) if missing else ()


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
