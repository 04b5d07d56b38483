"""Models with a guard, the further output that tells inputs outside of a box."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.bounds import Box
from decascade.checking.models import Outputs, Subject
from decascade.checking.ranges import ranges
from decascade.checking.samples import SIZES, Batch, batches, pinned
from decascade.errors import VerificationError
from decascade.ir.interpret import run
from decascade.regions.guard import guard_of, unguarded

SAMPLES = 8


def without_guard(subject: Subject, name: str) -> Subject:
    """The model as if it had its own outputs alone; `name`: of the guard, as its certificate has it."""
    graph = unguarded(subject.graph, guard_of(subject.graph, name))
    return replace(subject, document=replace(subject.document, graph=graph))


def check_guard(subject: Subject, name: str, box: Box, rng: np.random.Generator) -> None:
    """That the guard is 0 on inputs drawn from the box, its corners among them, and above 0 where one value is out.

    Raises:
        VerificationError: it is not.
    """
    limits = ranges(box)
    for batch in batches(pinned(subject.graph, limits), SAMPLES, limits, rng, SIZES[0]):
        told = _told(subject, name, batch)
        if np.any(told != 0):
            raise VerificationError(f"the guard is {float(told.max()):g} for an input within the range (please report this)")
        told = _told(subject, name, _moved(batch, box, rng))
        if not np.all(told > 0):
            value = float(told.min())
            raise VerificationError(f"the guard is {value:g} for an input outside of the range (please report this)")


def _told(subject: Subject, name: str, batch: Batch) -> NDArray[Any]:
    found: Outputs
    try:
        found = subject.framework(batch)
    except ImportError:
        found = run(subject.graph, batch)
    return found[guard_of(subject.graph, name)]


def _moved(batch: Batch, box: Box, rng: np.random.Generator) -> Batch:
    """The batch with one value of every sample just above the range, or just below it."""
    name = str(rng.choice(list(batch)))
    x: NDArray[Any] = batch[name].copy()
    kind: Any = x.dtype.type
    ends = {np.inf: box.intervals[name].hi, -np.inf: box.intervals[name].lo}
    for i in range(len(batch[name])):
        at: tuple[int, ...] = tuple(rng.integers(0, x.shape[1:]).tolist())
        side = np.inf if rng.random() < 0.5 else -np.inf
        end = kind(np.broadcast_to(ends[side], x.shape[1:])[at])
        # at zero the next number is subnormal, and many runtimes flush those
        x[(i, *at)] = np.nextafter(kind(end + np.sign(side) * np.finfo(kind).tiny), kind(side))
    return {**batch, name: x}
