"""Hard limits: the cheapest result under the target whose memory, flash, or any other cost stays below a number.

What `flash` counts, weights, scales and biases, steers the search; what it promises is the size of the file, which is made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from decascade.api.common import Progress, resolved
from decascade.api.finding import Asked, Found, evidence, find_on
from decascade.checking.models import Subject
from decascade.checking.samples import DEFAULT, Batch, batches
from decascade.cost import Cost, Target
from decascade.cost.count import bytes_of
from decascade.cost.weighted import Weighted
from decascade.errors import LimitError, UsageError
from decascade.ir.graph import Graph
from decascade.regions.merge import Cascade, Options, sized

UNITS = {"": 1, "b": 1, "kb": 1000, "kib": 1024, "mb": 1000**2, "mib": 1024**2, "k": 1000, "m": 1000**2}
STEPS = 8
"""How often the weight of a limit that is not met is raised, by `FACTOR` each time."""
FACTOR = 4.0
Given = Mapping[str, float] | Sequence[str]


FILES = {"flash": "the int8 TFLite file", "flash:float": "the float32 TFLite file"}
"""Targets whose limit is the size of a file, and which."""
MEANT = {
    "memory": " of activations in float32, which is no device's RAM (--limit tflm=SIZE measures the arena of the int8 file)",
}


@dataclass(frozen=True)
class Limit:
    """A cost of the whole result that may not be exceeded.  `beyond`: what the file of a result was last measured to take on
    top of what the target counts.  `unmeasured`: why no file could be made."""

    target: Target
    most: float
    beyond: float | None = None
    unmeasured: str = ""

    def cost(self, graph: Graph) -> float:
        return self.target.graph_cost(sized(graph)).value + (self.beyond or 0.0)

    def over(self, graph: Graph) -> float:
        """By how much a graph exceeds it; 0 where it does not."""
        return max(self.cost(graph) - self.most, 0.0)

    def told(self, graph: Graph) -> str:
        file = FILES.get(self.target.name)
        meant = MEANT.get(self.target.name, "") if file is None else (
            f" of {file}" if self.beyond is not None else f" of weights, scales and biases alone, without the rest of {file}")
        return f"{self.target.name} {self.cost(graph):,.0f} of {self.most:,.0f} {self.target.unit}{meant}"

    def measured(self, subject: Subject, batches: Sequence[Batch]) -> Limit:
        """The limit as the file of a result shows it; the same where none is made of it."""
        if self.target.name not in FILES or self.unmeasured:
            return self
        from decascade.deploy.tflite.size import file_bytes

        try:
            size = file_bytes(subject, batches, self.target.name == "flash")
        except UsageError as error:
            return replace(self, beyond=None, unmeasured=str(error))
        return replace(self, beyond=size - self.target.graph_cost(sized(subject.graph)).value)

    def note(self, graph: Graph) -> str:
        """What is to be said of a limit that is kept."""
        if self.unmeasured:
            return f"limit kept, not measured: {self.told(graph)}, which can be larger: {self.unmeasured}"
        return f"limit kept{', measured' if self.beyond is not None else ''}: {self.told(graph)}"


def limits_of(given: Given | None, progress: Progress | None = None) -> tuple[Limit, ...]:
    """`memory=64KiB`, `flash=128KiB` and the like, or numbers by target name.

    Raises:
        UsageError: no such form, size or target.
    """
    if not given:
        return ()
    pairs = list(given.items()) if isinstance(given, Mapping) else [_split(text) for text in given]
    return tuple(Limit(resolved(name, progress), _positive(name, most)) for name, most in pairs)


def _split(text: str) -> tuple[str, float]:
    name, equals, size = text.partition("=")
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*", size)
    if not equals or found is None or found.group(2).lower() not in UNITS:
        raise UsageError(f"--limit {text}: give NAME=SIZE, as in memory=64KiB or flash=128kB or macs=5M")
    return name.strip(), float(found.group(1)) * UNITS[found.group(2).lower()]


def _positive(name: str, most: float) -> float:
    if not 0 < most < inf:
        raise UsageError(f"limit {name} = {most:g}: give a number above 0")
    return float(most)


def check_limits(limits: Sequence[Limit], graph: Graph, what: str) -> None:
    """That a result keeps its limits.

    Raises:
        LimitError: it does not; says what it takes.
    """
    told = "; ".join(limit.told(graph) for limit in limits if limit.over(graph))
    if told:
        raise LimitError(f"no {what} keeps the limits: the nearest takes {told}; nothing was written")


def find_within(
    subject: Subject, options: Options, asked: Asked, limits: Sequence[Limit], progress: Progress | None
) -> Found:
    """What `find` finds where that keeps all limits; else the cheapest that was found to keep them.

    A limit that is not kept joins the target with a weight, which is raised until it is.

    Raises:
        LimitError: no result keeps them all; says how near the nearest comes.
    """
    check_floor(limits, subject.graph)
    known = evidence(subject, asked, progress)
    found = find_on(subject, options, known, progress)
    weights, held = [0.0] * len(limits), list(batches(subject.graph, 8, DEFAULT, np.random.default_rng(asked.seed)))
    nearest, step = found, 0
    while True:
        limits = within(limits, subject, found.graph, known.data or held)
        if not any(limit.over(found.graph) for limit in limits):
            return replace(found, notes=(*found.notes, *(limit.note(found.graph) for limit in limits)))
        if step == STEPS:
            check_limits(limits, nearest.graph, "exact rewrite of this model")
        base = max(options.target.graph_cost(sized(subject.graph)).value, 1.0)
        weights = [_raised(weight, limit, found.graph, base) for weight, limit in zip(weights, limits, strict=True)]
        terms = [(1.0, options.target), *((w, limit.target) for w, limit in zip(weights, limits, strict=True) if w)]
        found = find_on(subject, replace(options, target=Weighted(terms)), known, progress)
        found = replace(found, cascades=tuple(_in_own_units(c) for c in found.cascades))
        nearest, step = _nearer(nearest, found, limits), step + 1


def within(limits: Sequence[Limit], subject: Subject, graph: Graph, samples: Sequence[Batch]) -> tuple[Limit, ...]:
    """The limits as the files of a result show them, which are made where all is kept by what is counted."""
    if any(limit.over(graph) for limit in limits) or not any(limit.target.name in FILES for limit in limits):
        return tuple(limits)
    document = replace(subject.document, graph=graph, native=subject.format.write(subject.document, graph))
    result = Subject(subject.format, document)
    return tuple(limit.measured(result, samples) for limit in limits)


def check_floor(limits: Sequence[Limit], graph: Graph) -> None:
    """That no limit is below what every model with these inputs and outputs takes.

    Raises:
        LimitError: one is.
    """
    for limit in limits:
        if limit.target.name == "memory":
            tensors = sized(graph).tensors
            least = max(sum(bytes_of(tensors[name]) for name in names) for names in (graph.inputs, graph.outputs))
            if limit.most < least:
                raise LimitError(f"no model keeps the limit memory = {limit.most:,.0f} bytes: its inputs or outputs alone take"
                                 f" {least:,.0f}{MEANT['memory']}; nothing was written")


def _nearer(one: Found, other: Found, limits: Sequence[Limit]) -> Found:
    return min(one, other, key=lambda found: sum(limit.over(found.graph) / limit.most for limit in limits))


def _raised(weight: float, limit: Limit, graph: Graph, base: float) -> float:
    if not limit.over(graph):
        return weight
    return weight * FACTOR if weight else 0.01 * base / limit.most


def _in_own_units(cascade: Cascade) -> Cascade:
    """Costs under the user's own target, the first part of the sum."""
    return replace(cascade, before=_first(cascade.before), after=None if cascade.after is None else _first(cascade.after))


def _first(cost: Cost) -> Cost:
    return cost.parts[0] if cost.parts else cost
