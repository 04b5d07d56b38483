"""What inspect and merge have in common: the cascades of a model under the tier that was asked for."""

from __future__ import annotations

from dataclasses import dataclass

from decascade.api.common import InputRange, Progress
from decascade.bounds import Box, Certificate
from decascade.checking.models import Subject
from decascade.checking.ranges import box_of, ranges
from decascade.checking.samples import DEFAULT, Ranges
from decascade.errors import UsageError
from decascade.ir.graph import Graph
from decascade.regions.merge import Cascade, Options, merge_graph
from decascade.regions.proven import merge_on_box


@dataclass(frozen=True, eq=False)
class Asked:
    """The tier that is asked for, by what it rests on: nothing, or an input range, for which there are `prove_seconds`."""

    input_range: InputRange | None = None
    prove_seconds: float = 20.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.prove_seconds > 0:
            raise UsageError(f"prove_seconds = {self.prove_seconds:g}: give a number of seconds above 0")
        if self.seed < 0:
            raise UsageError(f"seed = {self.seed}: give a whole number from 0 on")


@dataclass(frozen=True, eq=False)
class Found:
    """`graph`: the result.  `reference`: what it is equal to on every input.  `limits`: what to draw inputs from."""

    graph: Graph
    reference: Graph
    cascades: tuple[Cascade, ...]
    limits: Ranges = DEFAULT
    box: Box | None = None
    certificates: tuple[Certificate, ...] = ()
    notes: tuple[str, ...] = ()


def find(subject: Subject, options: Options, asked: Asked, progress: Progress | None) -> Found:
    """Every cascade of the model and what becomes of it.

    Raises:
        UsageError: a range that does not fit the model.
    """
    graph = subject.graph
    if asked.input_range is None:
        return Found(*_exact(graph, options, progress))
    box = box_of(subject, asked.input_range)
    limits = ranges(box)
    proven = merge_on_box(graph, box, options, asked.prove_seconds, progress=progress, seed=asked.seed)
    certificates = (proven.certificate,) if proven.certificate is not None else ()
    return Found(proven.graph, proven.reference, proven.cascades, limits, box, certificates)


def _exact(graph: Graph, options: Options, progress: Progress | None) -> tuple[Graph, Graph, tuple[Cascade, ...]]:
    merged, cascades = merge_graph(graph, options, progress)
    return merged, graph, cascades
