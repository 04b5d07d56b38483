"""The stages of compress, each by itself: the students of a segment, the distillation of a model that is already smaller."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from decascade.api.attempts import SPAN, begin, silent
from decascade.api.common import InputShape, Progress, read_model
from decascade.checking.models import Subject
from decascade.compression.data.batches import Scaling, load_dataset
from decascade.compression.data.scaling import warn_of_range
from decascade.compression.distill.train import Distilled, DistillOptions
from decascade.compression.distill.train import distill as distill_graphs
from decascade.compression.divergence import outputs_of
from decascade.compression.plan.assemble import runner
from decascade.compression.plan.candidates import candidates, fit_all, proposals, sizes_of, supported
from decascade.compression.plan.survey import batch_size
from decascade.compression.students.families import Fit, Student
from decascade.compression.students.moments import collect
from decascade.compression.torch_graph.graph import Lowered
from decascade.cost import Target
from decascade.errors import UsageError


@dataclass(frozen=True)
class SegmentFit:
    """A student of the segment between two tensors: its cost and the segment's in the target's unit, the share of the exit's
    variance that it leaves unexplained on held-out and on fitted samples, and its operations with their weights."""

    entry: str
    exit: str
    student: str
    cost: float
    before: float
    error: float
    fitted_error: float
    fit: Fit = field(repr=False)


def fit_segment(
    model: object, data: object, entry: str, exit: str, *, target: str | Target = "macs", span: int = SPAN,  # noqa: A002
    scaling: Scaling | None = None, input_shape: InputShape | None = None, seed: int = 0, progress: Progress | None = None,
) -> tuple[SegmentFit, ...]:
    """Every student of one segment, fitted in closed form, cheapest first.

    `entry` and `exit` are tensors of the model after its exact merges, or names of the layers that write them (of a layer and
    its batch normalisation the latter).

    Raises:
        FormatError: a model that cannot be read.
        UsageError: an option out of its domain, data that does not fit, no such segment, or none that could be cheaper.
    """
    job = begin(model, data, target=target, loss="auto", span=span, scaling=scaling, input_shape=input_shape, seed=seed)
    graph, samples = job.work.exact, job.work.samples
    names = {layer: node.output for node in job.work.original.nodes for layer in (node.name, *node.origin)}
    ends = tuple(name if name in graph.tensors else names.get(name, name) for name in (entry, exit))
    found = list(candidates(graph, job.work.target, span, lambda student: _ends(student) == ends))
    if not found:
        known = ", ".join(sorted({f"{a} to {b}" for a, b in map(_ends, proposals(graph, span))})[:8])
        raise UsageError(f"no cheaper student for a segment from {entry} to {exit}; segments are {known or 'none'}")
    found = supported(found, samples.count)
    requests = [request for candidate in found for request in candidate.student.requests()]
    size = batch_size(graph, samples.count)
    moments = collect(runner(Lowered(graph)), samples.batches(size), requests, sizes_of(graph), samples.count, seed)
    fits = [
        SegmentFit(
            ends[0], ends[1], f.candidate.student.label, f.candidate.cost, f.candidate.before, f.fit.error, f.fit.fitted_error,
            f.fit,
        )
        for f in fit_all(found, moments)
    ]
    (progress or silent)("fitting students", 1.0)
    return tuple(sorted(fits, key=lambda f: (f.cost, f.error)))


def _ends(student: Student) -> tuple[str, str]:
    segment = student.site.segment
    return segment.entry, segment.exit


@dataclass(frozen=True, eq=False)
class DistillResult:
    """`model`: the student in its own format, trained.  `distilled`: the same as a torch module, its loss, its history."""

    model: Any
    distilled: Distilled


def distill(
    student: object, original: object, data: object, *, training: DistillOptions | None = None, loss: str = "auto",
    scaling: Scaling | None = None, time_limit: float | None = None, run: str | Path | None = None,
    input_shape: InputShape | None = None, progress: Progress | None = None,
) -> DistillResult:
    """Train a model, of whatever origin, to give the outputs of another one with the same inputs and outputs.

    `run`: a folder for checkpoints; where it holds one of the same training, that goes on.  The given models are not changed.

    Raises:
        FormatError: a model that cannot be read.
        UsageError: models whose inputs or outputs differ, an option out of its domain, data that does not fit.
    """
    one, two = Subject(*read_model(student, input_shape)), Subject(*read_model(original, input_shape))
    given = load_dataset(data, two.graph, two.from_native, scaling=scaling)
    warn_of_range(two.graph, given)
    folder = None if run is None else Path(run)
    found = distill_graphs(
        one.graph, two.graph, given, training, outputs=outputs_of(two.graph, loss, given.labels is not None),
        time_limit=time_limit, folder=folder, resume=folder is not None, progress=progress,
    )
    return DistillResult(one.format.write(one.document, found.graph), found)
