"""bench: what a model costs, measured; two of them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from decascade.api.common import InputShape, Progress, read_model, resolved
from decascade.checking.models import Subject
from decascade.cost import Target
from decascade.deploy.benchmark import Effort, check_two, compare_on
from decascade.deploy.meters.ort import machine
from decascade.deploy.tools import PACKAGES, version_of
from decascade.errors import UsageError
from decascade.report.facts.bench import BenchFacts
from decascade.version import __version__

ALWAYS = ("macs", "memory")
"""Counted in any case; they take no time."""


def bench(
    model: object, other: object = None, *, target: str | Target | Sequence[str | Target] = "onnxruntime",
    rounds: int = 20, input_shape: InputShape | None = None, progress: Progress | None = None,
) -> BenchFacts:
    """Cost of one or two models under each target, and under macs and memory: in total and layer by layer.

    `target`: a name (see `deploy.targets.NAMES`), several, or targets of your own.  Under onnxruntime and litert whole models
    are run in turn on one thread, until their ratio is known to about 1 %, at most `rounds` × 30 runs each.

    Raises:
        FormatError: a model that cannot be read.
        UsageError: an option out of its domain, a tool that is missing, models that do not do the same job.
    """
    start = perf_counter()
    if rounds < 1:
        raise UsageError(f"rounds = {rounds}: give a number from 1 on")
    listed = [target] if isinstance(target, str) or not isinstance(target, Sequence) else list(target)
    given = [m for m in (model, other) if m is not None]
    subjects = [Subject(*read_model(m, input_shape)) for m in given]
    check_two(subjects)
    targets = [resolved(t, progress) for t in listed]
    counted = [resolved(name) for name in ALWAYS if name not in [t.name for t in targets]]
    facts = [compare_on(t, subjects, Effort(rounds=rounds)) for t in (*targets, *counted)]
    versions = {name.partition(".")[0].replace("_", "-"): version_of(name) for name in PACKAGES if version_of(name)}
    names = tuple(_name(m, s) for m, s in zip(given, subjects, strict=True))
    return BenchFacts(
        models=names, targets=tuple(facts), versions={"decascade": __version__, **versions}, machine=machine(),
        seconds=round(perf_counter() - start, 3), notes=tuple(n for s in subjects for n in s.document.notes),
    )


def _name(model: object, subject: Subject) -> str:
    return Path(model).name if isinstance(model, str | Path) else f"live {subject.format.name} model"
