"""How many samples a verification is worth, of which sizes, and whether the framework takes part."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from decascade.checking.models import Plan, Subject
from decascade.checking.samples import ODD, SIZES, Batch, Ranges, batches, open_sizes, pinned, sample_shape
from decascade.cost.macs import Macs
from decascade.errors import DecascadeError, UsageError

BUDGET = 3e9
"""Multiply-accumulates of one float64 pass over all samples: some seconds on two cores."""
LEAST, MOST = 3, 24
ORACLE, REFERENCE = 1e8, 1e9
"""Multiply-accumulates that the float64 interpreter is given: the first batch at least (see `Plan`)."""


def work(subject: Subject) -> float:
    """Multiply-accumulates of one sample; open sizes (which the cost model counts as 1) at the size first tried."""
    graph = subject.graph
    area = [
        prod(sample_shape(graph, name, SIZES[0])) / prod(sample_shape(graph, name, 1)) for name in graph.inputs
    ]
    return Macs().graph_cost(graph).value * max(area, default=1.0)


def samples_for(macs: float) -> int:
    """As many samples as the budget allows, within bounds."""
    return int(min(max(BUDGET // max(macs, 1.0), LEAST), MOST))


def within(budget: float, found: Sequence[Batch], macs: float) -> int:
    """How many of the batches can be run within a budget of multiply-accumulates; the first in any case."""
    total, count = 0.0, 0
    for batch in found:
        total += macs * max((len(a) for a in batch.values() if a.ndim), default=1)
        if count and total > budget:
            break
        count += 1
    return count


def plan(subject: Subject, limits: Ranges, rng: np.random.Generator, changed: bool = True) -> Plan:
    """Batches that the model runs on: open sizes are tried in turn, an odd one last.

    A model in which nothing was changed is only run in its framework, to see that it was written as it was read.

    Raises:
        UsageError: the model runs on none of them, neither in its framework nor in NumPy.
    """
    macs = work(subject)
    count = samples_for(macs) if changed else LEAST
    problems = list[str]()
    graph = pinned(subject.graph, limits)
    for size in SIZES if open_sizes(graph) else SIZES[:1]:
        found = batches(graph, count, limits, rng, size)
        framework, note = _runs(subject, found[0])
        if framework or subject.interpretable:
            extra = batches(graph, LEAST, limits, rng, ODD) if open_sizes(graph) else []
            taken = [*found, *(b for b in extra if _runs(subject, b)[0] or (not framework and subject.interpretable))]
            oracle, reference = _float64(taken, macs, framework) if changed or not framework else (0, 0)
            return Plan(taken, framework, oracle, reference, (note,) if note else (), note)
        problems.append(note)
    raise UsageError(f"the model runs neither in its framework nor in NumPy, so nothing can be verified: {problems[-1]}")


def with_data(subject: Subject, found: list[Batch]) -> Plan:
    """The user's own data instead.

    Raises:
        UsageError: the model runs on it neither in its framework nor in NumPy.
    """
    framework, note = _runs(subject, found[0])
    if not framework and not subject.interpretable:
        raise UsageError(f"the model does not run on the data: {note}")
    return Plan(found, framework, *_float64(found, work(subject), framework), (note,) if note else (), note)


def _float64(found: Sequence[Batch], macs: float, framework: bool) -> tuple[int, int]:
    """On how many batches both models, and on how many the first alone, are run in float64."""
    if not framework:
        return within(REFERENCE, found, macs), 0
    return within(ORACLE, found, macs), within(REFERENCE, found, macs)


def _runs(subject: Subject, batch: Batch) -> tuple[bool, str]:
    """Whether the framework runs the model on a batch, and if not, why in one line."""
    try:
        subject.framework(batch)
    except ImportError as error:
        return False, f"{error.name or _engine(subject)} is not installed"
    except DecascadeError as error:
        return False, f"{_engine(subject)} was not asked: {error}"
    except Exception as error:  # frameworks raise what they like on a size or an operation that they cannot run
        words = str(error).strip().splitlines() or [type(error).__name__]
        return False, f"{_engine(subject)} refused the model: {words[0][:160]}"
    return True, ""


def _engine(subject: Subject) -> str:
    """What runs models of a format, by the name that its users know."""
    return {"keras": "Keras", "torch": "PyTorch", "onnx": "onnxruntime"}.get(subject.format.name, subject.format.name)
