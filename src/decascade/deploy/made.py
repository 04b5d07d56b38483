"""What every kind of export hands over: the files, and what was found out about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.checking.models import Plan, Progress, Subject, compare
from decascade.checking.samples import Batch
from decascade.deploy.tools import version_of
from decascade.errors import UsageError, VerificationError
from decascade.ir.graph import Graph
from decascade.report.facts.device import ChipFacts, EqualiseFacts, FidelityFacts, MicroFacts, StreamFacts
from decascade.report.facts.report import VerificationFacts


@dataclass(frozen=True, eq=False)
class Source:
    """The model that is exported, samples in the graph's layout (batches of at most 32), labels where there are some.

    `given`: the samples are the user's own.  `calibrate`: how many of them int8 ranges are taken from.
    """

    subject: Subject
    batches: Sequence[Batch]
    labels: NDArray[Any] | None = None
    given: bool = False
    calibrate: int = 200
    equalise: bool = True
    progress: Progress | None = None

    @property
    def graph(self) -> Graph:
        return self.subject.graph

    def told(self, stage: str, share: float) -> None:
        if self.progress is not None:
            self.progress(stage, share)


@dataclass(frozen=True, eq=False)
class Made:
    """Files by name, the first the one that was asked for; `flash`: what the device stores; facts where there are any."""

    kind: str
    files: Mapping[str, bytes]
    flash: int
    operations: Mapping[str, int] = field(default_factory=dict[str, int])
    verification: VerificationFacts | None = None
    fidelity: FidelityFacts | None = None
    micro: MicroFacts | None = None
    chip: ChipFacts | None = None
    equalised: EqualiseFacts | None = None
    tools: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    streamed: StreamFacts | None = None

    @property
    def versions(self) -> dict[str, str]:
        return {name.partition(".")[0].replace("_", "-"): version_of(name) for name in self.tools}


def verified(source: Source, exported: Subject, seed: int = 0) -> VerificationFacts:
    """A float32 export against the model: no further apart than rounding explains.

    Raises:
        VerificationError: they are further apart; a bug in decascade or in a converter.
    """
    few = small_batches(source.batches)
    rng = np.random.default_rng(seed)
    framework = True
    try:
        source.subject.framework(few[0])
    except ImportError:
        framework = False
    found = compare(source.subject, exported, Plan(few, framework, oracle=1, reference=1), rng, source.progress)
    if not found.same:
        raise VerificationError(f"the exported file is {found.complaint}; nothing was written (please report this)")
    return found


def small_batches(batches: Sequence[Batch], size: int = 2, count: int = 4) -> list[Batch]:
    """A few samples in small batches: float64 runs are slow.  Where the model takes one at a time, so many of those."""
    first = batches[0]
    if all(len(array) == 1 for array in first.values()):
        return list(batches[:count])
    total = min(size * count, *(len(array) for array in first.values()))
    return [{name: array[i : i + size] for name, array in first.items()} for i in range(0, total, size)]


def first_sample(source: Source) -> list[NDArray[Any]]:
    """One sample of every input, batch 1, float32."""
    return [np.asarray(source.batches[0][name][:1], np.float32) for name in source.graph.inputs]


def single_batch(graph: Graph) -> None:
    """That the model's batch is open or 1.

    Raises:
        UsageError: it is fixed at another number.
    """
    for name in graph.inputs:
        shape = graph.shape(name)
        if shape and isinstance(shape[0], int) and shape[0] != 1:
            raise UsageError(f"input {name} has a fixed batch of {shape[0]}: a device file takes one sample; fix it at 1")
