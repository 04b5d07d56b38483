"""compress and its stages: a plan of students under a budget, their fit, their recovery by distillation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np

from decascade.api.attempts import (
    SPAN,
    SURVEY,
    SURVEY_ALONE,
    Attempt,
    Goal,
    Job,
    Surveyed,
    attempt,
    begin,
    check_reach,
    checked_target,
    end_of_work,
    prepared,
    searched,
    silent,
    swept,
)
from decascade.api.common import InputRange, InputShape, Progress, check_seconds, read_model
from decascade.api.compress_report import measures, memory_note, student_facts, student_rows, without
from decascade.api.digests import data_digest, graph_digest, option_digest
from decascade.api.finding import Found
from decascade.api.limits import Given, Limit, check_limits, limits_of
from decascade.api.merging import MergeResult
from decascade.api.reporting import cascade_facts, make_report
from decascade.api.runs import RunFolder
from decascade.checking.models import Subject, compare
from decascade.checking.plan import with_data
from decascade.checking.samples import from_data
from decascade.compression.data.batches import Scaling
from decascade.compression.deadline import Deadline
from decascade.compression.distill.train import Distilled, DistillOptions
from decascade.compression.plan.choice import Plan
from decascade.cost import Target
from decascade.errors import UsageError, VerificationError
from decascade.ir.graph import Graph
from decascade.report.facts.parts import CompressionFacts, FrontPoint
from decascade.report.facts.report import Report

CHECKED = 8
"""Held-out samples on which the written model is compared with the student."""


@dataclass(eq=False)
class CompressResult(MergeResult):
    """`model`: the compressed native model.  `plan`: the students that were put in.  `distilled`: the student as a torch module
    that can be trained on, with its loss (see `fit.distill.Distilled`); None where nothing was trained."""

    plan: Plan = field(kw_only=True)
    attempt: Attempt = field(kw_only=True, repr=False)
    run: RunFolder = field(kw_only=True, repr=False)

    @property
    def distilled(self) -> Distilled | None:
        return self.attempt.distilled

    def done(self) -> None:
        """The result is saved: what the run folder holds is not needed any more."""
        self.run.remove()


def plan(
    model: object, data: object, *, speedup: float | None = None, budget: float | None = None, target: str | Target = "macs",
    loss: str = "auto", span: int = SPAN, scaling: Scaling | None = None, input_range: InputRange | None = None,
    input_shape: InputShape | None = None, seed: int = 0, progress: Progress | None = None,
) -> Plan:
    """Which segments to replace by which students so that the model costs `budget` (or is `speedup` times cheaper) and its
    outputs move least.  Nothing is trained.  The plan can be saved (`to_json`) and given to `compress`.

    Raises:
        FormatError: a model that cannot be read.
        UsageError: an option out of its domain, data that does not fit, or a budget out of reach.
    """
    goal = Goal(speedup, budget)
    job = begin(model, data, target=target, loss=loss, span=span, scaling=scaling, input_shape=input_shape, seed=seed,
                input_range=input_range, progress=progress)
    return Surveyed(job, None, progress or silent).planned(goal, RunFolder())


def compress(
    model: object, data: object, *, speedup: float | None = None, budget: float | None = None, max_drop: float | None = None,
    plan: Plan | str | Path | None = None, target: str | Target = "macs", loss: str = "auto", span: int = SPAN,
    scaling: Scaling | None = None, time_limit: float | None = None, distilled: bool = True,
    training: DistillOptions | None = None, sweep: bool = False, run: str | Path | None = None,
    remember: Mapping[str, str] | None = None, input_range: InputRange | None = None, input_shape: InputShape | None = None,
    limit: Given | None = None, verify: bool = True, seed: int = 0, progress: Progress | None = None,
) -> CompressResult:
    """A cheaper model whose outputs stay as close to the original's as the budget allows, from unlabelled data.

    Give one of `speedup` (times cheaper in the target's unit), `budget` (in that unit), `max_drop` (points of accuracy on
    held-out samples; needs labels), `plan` (of an earlier call).  `data`: see `fit.data.load_dataset`; `scaling`: what is
    done to it before the model sees it.  `time_limit`: seconds for everything.  `distilled` False stops after the closed-form
    fits; `training`: how the student is trained, your own loss or optimiser included.  `sweep`: report what plans of other
    budgets lose before training, too.  `run`: a folder that holds what is needed to go on after an interruption; a call with
    the same arguments goes on there (`remember`: files to put there besides, by name).  `input_range`: as for `merge`; what is
    proved linear there is merged before anything is fitted.  `limit`: costs that the result may not exceed, as for `merge`;
    where the plan breaks one, a cheaper plan is taken.  The given model is never changed.

    Raises:
        FormatError: a model that cannot be read.
        UsageError: an option out of its domain, data that does not fit, a budget out of reach, a run folder of another run,
            a time limit that does not suffice.
        LimitError: no plan keeps the limits.
        VerificationError: the model as written is not the student that was trained; a bug in decascade.
    """
    start, told = perf_counter(), progress or silent
    given = Plan.load(Path(plan)) if isinstance(plan, str | Path) else plan
    goal, limits = Goal(speedup, budget, max_drop, given), limits_of(limit, progress)
    if limits and max_drop is not None:
        raise UsageError("limits and max-drop do not go together: give a speedup (1 for none but the limits) or a budget")
    if time_limit is not None:
        check_seconds("time_limit", time_limit)
    whole = None if time_limit is None else Deadline(start + time_limit)
    found = checked_target(target, span, seed, told)
    subject = Subject(*read_model(model, input_shape))
    asked = {**goal.asked(), "target": found.name, "loss": loss, "span": span, "seed": seed, "scaling": repr(scaling),
             **_asked(limits), "model_digest": graph_digest(subject.graph), "data_digest": data_digest(data),
             "input_range_digest": option_digest(input_range)}
    with RunFolder.opened(run, asked, remember) as folder:
        limited = None if whole is None or folder.plan() is not None else partial(end_of_work, whole.end - start, whole)
        if limited is not None:
            limited()
        job = prepared(subject, data, target=found, loss=loss, span=span, scaling=scaling, seed=seed, cache=folder.cache,
                       options=training, input_range=input_range, progress=told)
        last = None if limited is None else limited()
        end = None if whole is None else whole.end
        check_reach(job, limits)
        surveyed = Surveyed(job, end, told, SURVEY if distilled else SURVEY_ALONE, last)
        front = swept(job, surveyed.survey, told) if sweep else ()
        if goal.max_drop is not None:
            done = searched(job, surveyed, goal.max_drop, folder, distilled, told)
        else:
            planned = given or surveyed.planned(goal, folder, limits)
            finish = partial(_finished, job, limits, verify, silent)
            done = attempt(job, planned, folder, distilled, end, told, finish, surveyed.fits)
        native, limits = _finished(job, limits, verify, told, done.graph)
        report = _report(job, done, front, surveyed, start)
        report = replace(report, notes=(*report.notes, *(limit.note(done.graph) for limit in limits)))
        form, source = job.subject.format, job.subject.document.source
        return CompressResult(native, report, form, source, plan=done.plan, attempt=done, run=folder)


def _finished(
    job: Job, limits: Sequence[Limit], verify: bool, progress: Progress, graph: Graph
) -> tuple[object, tuple[Limit, ...]]:
    """The native model of a student, checked, and the limits as its file shows them.

    Raises:
        LimitError: they are not kept.
        VerificationError: the native model is not the student.
    """
    held = job.within(limits, graph)
    check_limits(held, graph, "result of this plan")
    native = job.subject.format.write(job.subject.document, graph)
    if verify:
        _check(job, graph, native, progress)
    return native, held


def _asked(limits: tuple[Limit, ...]) -> dict[str, dict[str, float]]:
    """What a run folder remembers of limits."""
    return {"limit": {limit.target.name: limit.most for limit in limits}} if limits else {}


def _report(job: Job, done: Attempt, front: tuple[FrontPoint, ...], surveyed: Surveyed, start: float) -> Report:
    work = job.work
    rows = student_rows(work, done.plan, job.merged, done.graph, done.distilled is not None)
    cascades = tuple(without(job.merged, rows))
    grown = memory_note(work.original, done.graph)
    found = Found(done.graph, work.original, cascades, notes=(*job.notes, *surveyed.notes, *done.notes, *grown))
    facts = tuple(cascade_facts(row, work.target.unit, None) for row in cascades)
    report = make_report("compress", job.subject, found, work.target, facts, None, start)
    unit = " + ".join(dict.fromkeys("nats" if o.kind == "kl" else "share of variance" for o in work.outputs))
    points = (*front, FrontPoint(done.plan.after, done.closeness.divergence, True, f"chosen: {done.plan.speedup:.2f} times"))
    words, students = f"divergence of the output ({unit})", student_facts(work, done.plan, job.merged, surveyed.made)
    compression = CompressionFacts(students, points if front else (), words, done.curves, job.train.count)
    return replace(report, compression=compression, measures=measures(done.stages, unit))


def _check(job: Job, graph: Graph, native: object, progress: Progress) -> None:
    """That the native model is the student that was trained: both read as graphs and run on held-out samples."""
    subject, rng = job.subject, np.random.default_rng(job.work.seed)
    student = Subject(subject.format, replace(subject.document, graph=graph, native=native))
    places = np.arange(min(CHECKED, job.held.count))
    arrays = {name: np.asarray(tensor) for name, tensor in job.held.tensors(places).items()}
    chosen = with_data(student, from_data(graph, arrays))
    facts = compare(student, Subject(subject.format, subject.format.read(native)), chosen, rng, progress)
    if not facts.same:
        raise VerificationError(f"the written model is {facts.complaint} (please report this); nothing was written")
