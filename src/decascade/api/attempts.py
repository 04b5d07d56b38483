"""One attempt of compress: a plan, the student it makes, its recovery; and the search over several of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil, inf
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from decascade.api.common import InputRange, InputShape, Progress, check_seed, read_model, resolved
from decascade.api.finding import Asked, find
from decascade.api.limits import Limit, check_floor, check_limits, within
from decascade.api.runs import RunFolder
from decascade.checking.models import Subject
from decascade.checking.samples import from_data
from decascade.compression.data.batches import Dataset, Scaling, load_dataset
from decascade.compression.data.scaling import warn_of_range
from decascade.compression.deadline import Deadline
from decascade.compression.distill.train import Distilled, DistillOptions, distill
from decascade.compression.divergence import outputs_of
from decascade.compression.pipeline import Closeness, Work, closeness, exact_tier
from decascade.compression.plan.assemble import put_in
from decascade.compression.plan.budget import largest_speedup
from decascade.compression.plan.candidates import Fitted, blank, proposals, replaced
from decascade.compression.plan.choice import Plan
from decascade.compression.plan.cover import Option, largest_saving
from decascade.compression.plan.survey import Survey, check_additive
from decascade.cost import Cost, Target
from decascade.cost.base import Measuring
from decascade.errors import LimitError, UsageError
from decascade.ir.graph import Graph
from decascade.regions.merge import Cascade, Options, sized
from decascade.report.facts.parts import Curve, FrontPoint

SPAN = 4
"""Layers of the longest segment that one student may replace."""
FIT = 2048
"""Samples that fits and sensitivities are computed on."""
HELD_OUT = 2000
"""Samples that results are judged by; at most a fifth of all."""
ROUNDS = 4
"""Attempts of the search for the largest speedup within a drop."""
SURVEY = 0.3
"""Share of a limited time that the survey may take where students are trained afterwards."""
SURVEY_ALONE = 0.5
"""The same where they are not."""
AFTER = 0.25
"""What it takes to judge, check and write a result and to end, as a share of what it took to start, read and prepare: 0.2 to
0.3 of it with Keras models of 20,000 and 80,000 weights, on a machine at hand and on one with a load of 13."""
FITTING = 0.25
"""Share of what is then left of a limited time that fitting the chosen students again may take."""
JUDGING = 0.08
"""Share of what is then left that a look at the held-out samples may take, before and after training each."""
LATER = 1.3
"""How much longer what comes after training may take than it took before, on a machine whose load changes."""
LAST = 2.0
"""Seconds that are kept for the report, and for the program to end."""
SMALL = 0.05
"""Share of a limit that these may take where little time was given."""
LEAST = 3.0
"""Seconds below which nothing is trained."""
STEP = 1.15
"""From one speedup of a sweep to the next."""
CLOSER = 1.03
"""From one budget to the next, where a limit is not kept."""
SIZED = 8
"""Samples that the ranges of a file are taken from whose size is measured."""
MOST = 8.0
"""The largest speedup that is searched."""


@dataclass(frozen=True)
class Goal:
    """What is asked of a compressed model: one of a speedup, a budget in the target's unit, a largest drop in points, a
    plan."""

    speedup: float | None = None
    budget: float | None = None
    max_drop: float | None = None
    plan: Plan | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) != 1:
            told = " and ".join(name.replace("_", "-") for name in given) + " are given" if given else "none is given"
            raise UsageError(f"give one of speedup, budget, max-drop and plan: {told}")
        if self.speedup is not None and not 1 <= self.speedup < inf:
            raise UsageError(f"speedup = {self.speedup:g}: give how many times cheaper, from 1 on")
        if self.budget is not None and not 0 < self.budget < inf:
            raise UsageError(f"budget = {self.budget:g}: give a cost above 0 in the target's unit")
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise UsageError(f"max-drop = {self.max_drop:g}: give points of accuracy, from 0 to 100")

    def asked(self) -> dict[str, Any]:
        """What a run folder remembers."""
        plan = None if self.plan is None else self.plan.to_json()
        return {"speedup": self.speedup, "budget": self.budget, "max_drop": self.max_drop, "plan": plan}


@dataclass(frozen=True, eq=False)
class Job:
    """A model, its data and what is to be done with them, read and checked."""

    subject: Subject
    work: Work
    train: Dataset
    held: Dataset
    options: DistillOptions
    merged: tuple[Cascade, ...] = ()
    """What the exact and the proven tier made of each cascade, before anything was fitted."""
    notes: tuple[str, ...] = ()

    def within(self, limits: Sequence[Limit], graph: Graph) -> tuple[Limit, ...]:
        """The limits as the files of a result show them."""
        if not limits:
            return ()
        places = np.arange(min(SIZED, self.held.count))
        arrays = {name: np.asarray(tensor) for name, tensor in self.held.tensors(places).items()}
        return within(limits, self.subject, graph, from_data(graph, arrays))

    def closeness(self, student: Graph, seconds: float | None = None) -> Closeness:
        """How close a student is on the held-out samples, on as many as there is time for."""
        labels = self.held.targets(np.arange(self.held.count))
        return closeness(self.work.exact, student, self.held, self.work.outputs, labels, seconds)


@dataclass(frozen=True, eq=False)
class Attempt:
    """What came of a plan: the student, how close it is at each stage, and how training went."""

    plan: Plan
    graph: Graph
    stages: Mapping[str, Closeness]
    distilled: Distilled | None = None
    curves: tuple[Curve, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def closeness(self) -> Closeness:
        """At the end."""
        return list(self.stages.values())[-1]


def begin(
    model: object, data: object, *, target: str | Target, loss: str, span: int, scaling: Scaling | None,
    input_shape: InputShape | None, seed: int, cache: Path | None = None, options: DistillOptions | None = None,
    input_range: InputRange | None = None, progress: Progress | None = None,
) -> Job:
    """Read a model and data for it; run the exact tier, and given a range the proven one.

    Raises:
        FormatError: a model that cannot be read.
        UsageError: an option out of its domain, or data that does not fit.
    """
    found = checked_target(target, span, seed, progress)
    return prepared(
        Subject(*read_model(model, input_shape)), data, target=found, loss=loss, span=span, scaling=scaling, seed=seed,
        cache=cache, options=options, input_range=input_range, progress=progress,
    )


def checked_target(target: str | Target, span: int, seed: int, progress: Progress | None) -> Target:
    """The target, and that span and seed are in their domains.

    Raises:
        UsageError: they are not, or the target's costs do not add up.
    """
    check_seed(seed)
    if span < 1:
        raise UsageError(f"span = {span}: give how many layers a student may replace, from 1 on")
    found = resolved(target, progress)
    check_additive(found)
    return found


def prepared(
    subject: Subject, data: object, *, target: Target, loss: str, span: int, scaling: Scaling | None, seed: int,
    cache: Path | None = None, options: DistillOptions | None = None, input_range: InputRange | None = None,
    progress: Progress | None = None,
) -> Job:
    """The same for a model that is read already.

    Raises:
        UsageError: data that does not fit.
    """
    given = load_dataset(data, subject.graph, subject.from_native, scaling=scaling, cache=cache, least=16, seed=seed)
    told = warn_of_range(subject.graph, given)
    train, held = given.split(min(HELD_OUT, max(given.count // 5, 1)), seed)
    outputs = outputs_of(subject.graph, loss, given.labels is not None)
    merged = find(subject, Options(target), Asked(input_range=input_range, seed=seed), progress)
    work = Work(subject.graph, merged.graph, target, train.first(FIT), outputs, span, seed)
    return Job(subject, work, train, held, options or DistillOptions(), merged.cascades, (*given.notes, *told, *merged.notes))


class Surveyed:
    """The survey of a job's model, made when it is first asked for.  `end`: when all has to be over, on the counter; `share`:
    the part of that time that it may take; `last`: when it has to be over in any case."""

    def __init__(
        self, job: Job, end: float | None, progress: Progress, share: float = SURVEY, last: Deadline | None = None,
    ) -> None:
        self.job, self.work, self.end, self.progress = job, job.work, end, progress
        self.part, self.last = share, last

    @cached_property
    def survey(self) -> Survey:
        return self.work.survey(self.progress, _share(self.end, self.part), self.last)

    @property
    def fits(self) -> Sequence[Fitted]:
        """What the survey has fitted, if there was one."""
        return () if self.made is None else self.made.fitted

    @property
    def made(self) -> Survey | None:
        """The survey, if there was one."""
        return self.survey if "survey" in vars(self) else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the survey has to say, if there was one."""
        return () if self.made is None else self.made.notes

    def planned(self, goal: Goal, folder: RunFolder, limits: Sequence[Limit] = ()) -> Plan:
        """The plan for a speedup or a budget: the one in the run's folder, else a new one."""
        known = folder.plan()
        if known is not None:
            return known
        budget = self.work.before / goal.speedup if goal.speedup is not None else goal.budget
        assert budget is not None  # a largest drop is searched for
        made = self._within(budget, limits)
        folder.keep(made)
        return made

    def _within(self, budget: float, limits: Sequence[Limit]) -> Plan:
        """The plan for the largest budget, from this one down by `CLOSER` each time, whose result keeps the limits.

        Raises:
            LimitError: none does.
        """
        made = self.survey.plan(budget)
        graph = self._shaped(made) if limits else self.work.exact
        while limits:
            limits = self.job.within(limits, graph)
            if not any(limit.over(graph) for limit in limits):
                break
            budget = min(budget, made.after) / CLOSER
            if self.work.before / budget > self.survey.most:
                check_limits(limits, graph, "plan for this model")
            made = self.survey.plan(budget)
            graph = self._shaped(made)
        return made

    def _shaped(self, plan: Plan) -> Graph:
        """The plan's result with the weights that the survey found."""
        chosen = {(choice.entry, choice.exit, choice.student) for choice in plan.choices}
        graph = self.work.exact
        for fitted in self.survey.fitted:
            student = fitted.candidate.student
            if (student.site.segment.entry, student.site.segment.exit, student.label) in chosen:
                graph = put_in(graph, fitted)
        return exact_tier(graph, self.work.target)


def end_of_work(limit: float, end: Deadline) -> Deadline:
    """When fits have to be over so that a result can be judged, checked and written before the `end` of a `limit` in seconds,
    by what it took to get here.

    Raises:
        UsageError: there is no time for that.
    """
    spent = limit - (end.end - end.now())
    after = AFTER * spent + min(LAST, SMALL * limit)
    last = end.before(after)
    if last.over:
        raise UsageError(
            f"the time limit is too short: {spent:.0f} s went into starting and reading on this machine, as busy as it is, and"
            f" to check and write a result takes about {after:.0f} s more: give at least {ceil(2 * (spent + after))} s"
        )
    return last


def check_reach(job: Job, limits: Sequence[Limit]) -> None:
    """That no limit is below the cheapest that students could make of the model, before any is fitted.

    Raises:
        LimitError: one is; says what the cheapest would take.
    """
    graph = job.work.exact
    check_floor(limits, graph)
    for limit in limits:
        target = limit.target
        if isinstance(target, Measuring) or target.combine([Cost(1.0), Cost(1.0)]).value < 2.0:
            continue
        students = [(s, *(target.segment_cost(*run).value for run in (replaced(s.site), blank(s))))
                    for s in proposals(graph, job.work.span)]
        saving = largest_saving([
            Option(frozenset(student.site.segment.nodes), before - after, 0.0) for student, before, after in students
        ])
        least = target.graph_cost(sized(graph)).value - saving
        if least > limit.most:
            raise LimitError(f"no plan for this model keeps the limit {target.name} = {limit.most:,.0f} {target.unit}: the"
                             f" cheapest students would take {least:,.0f}; nothing was written")


def swept(job: Job, survey: Survey, progress: Progress) -> tuple[FrontPoint, ...]:
    """The front of plans: what the fitted students lose at one speedup after the other, up to the largest there is."""
    points, speedup = [FrontPoint(job.work.target.graph_cost(job.work.exact).value, 0.0, words="exact merges alone")], 1.0
    most = min(survey.most, MOST)
    while (speedup := speedup * STEP) <= most:
        plan = survey.plan(job.work.before / speedup)
        if not plan.choices:
            continue
        close = job.closeness(job.work.student(plan, silent))
        agreed = "" if close.agreement is None else f", agreement {close.agreement:.1%}"
        points.append(FrontPoint(plan.after, close.divergence, words=f"{plan.speedup:.2f} times cheaper{agreed}"))
        progress("sweeping budgets", speedup / most)
    return tuple(points)


def attempt(
    job: Job, plan: Plan, folder: RunFolder, distilled: bool, end: float | None, progress: Progress,
    finish: Callable[[Graph], object] = lambda _: None, known: Sequence[Fitted] = (),
) -> Attempt:
    """Carry a plan out.  `end`: when it has to be over, on the performance counter.  `finish`: what will be done with the
    result; where there is an end it is done once with the student as it was fitted, to know how long it takes here and now.
    `known`: students that were fitted already, taken as they are where no time is left to fit them again."""
    student = job.work.student(plan, progress, _share(end, FITTING), known)
    began, judging = perf_counter(), _share(end, JUDGING)
    stages = {"fitted": job.closeness(student, judging)}
    if not distilled or not plan.choices:
        return Attempt(plan, student, stages)
    if end is None:
        limit = None
    else:
        finish(student)
        limit = end - perf_counter() - LATER * (perf_counter() - began) - LAST
        if limit < LEAST:
            return Attempt(plan, student, stages, notes=("the time limit left no time to distil; the student is as fitted",))
    found = distill(
        student, job.work.exact, job.train, replace(job.options, seed=job.work.seed), held=job.held, outputs=job.work.outputs,
        time_limit=limit, folder=folder.training, resume=folder.training is not None, progress=progress,
    )
    graph = exact_tier(found.graph, job.work.target)
    stages["distilled"] = job.closeness(graph, judging)
    return Attempt(plan, graph, stages, found, _curves(found), found.notes)


def _share(end: float | None, share: float) -> float | None:
    """Seconds that are a share of what is left."""
    return None if end is None else share * max(end - perf_counter(), 0.0)


def _curves(found: Distilled) -> tuple[Curve, ...]:
    share = tuple(100 * point.share for point in found.history)
    curves = [Curve("held-out loss", share, tuple(p.held for p in found.history), "% of the training")]
    if all(point.agreement is not None for point in found.history):
        agreed = tuple(100 * (point.agreement or 0.0) for point in found.history)
        curves.append(Curve("held-out agreement", share, agreed, "% of the training", "%"))
    return tuple(curves)


def searched(
    job: Job, surveyed: Surveyed, max_drop: float, folder: RunFolder, distilled: bool, progress: Progress,
) -> Attempt:
    """The cheapest student found that loses at most `max_drop` points on the held-out samples.

    Raises:
        UsageError: the data has no labels, or the output is not of classes.
    """
    if job.held.labels is None:
        raise UsageError("max-drop is measured on labels: give data with y, or a speedup instead")
    survey, end, rounds = surveyed.survey, surveyed.end, iter(range(ROUNDS, 0, -1))

    def try_one(speedup: float) -> Attempt:
        inside = folder.inside(f"attempt-{speedup:.4f}")
        plan = inside.plan()
        if plan is None:
            plan = survey.plan(job.work.before / speedup)
            inside.keep(plan)
        share = None if end is None else perf_counter() + (end - perf_counter()) / next(rounds)
        return attempt(job, plan, inside, distilled, share, progress, known=survey.fitted)

    found = largest_speedup(try_one, lambda a: (a.closeness.drop or 0.0) <= max_drop, min(survey.most, MOST), ROUNDS)
    if found is None:
        exact = Plan(job.work.target.name, job.work.target.unit, job.work.before, job.work.before, (), job.work.span)
        return attempt(job, exact, RunFolder(), False, None, progress)
    return found[1]


def silent(stage: str, share: float) -> None:
    """Progress that nobody watches."""
