"""Hard limits: the cheapest result under the target whose memory, flash, or any other cost stays below a number."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from decascade.api.common import Progress, resolved
from decascade.api.finding import Asked, Found, find
from decascade.checking.models import Subject
from decascade.cost import Cost, Target
from decascade.cost.weighted import Weighted
from decascade.errors import LimitError, UsageError
from decascade.ir.graph import Graph
from decascade.regions.merge import Cascade, Options, sized

UNITS = {"": 1, "b": 1, "kb": 1000, "kib": 1024, "mb": 1000**2, "mib": 1024**2, "k": 1000, "m": 1000**2}
STEPS = 8
"""How often the weight of a limit that is not met is raised, by `FACTOR` each time."""
FACTOR = 4.0
Given = Mapping[str, float] | Sequence[str]


@dataclass(frozen=True)
class Limit:
    """A cost of the whole result that may not be exceeded."""

    target: Target
    most: float

    def over(self, graph: Graph) -> float:
        """By how much a graph exceeds it; 0 where it does not."""
        return max(self.target.graph_cost(sized(graph)).value - self.most, 0.0)

    def told(self, graph: Graph) -> str:
        cost = self.target.graph_cost(sized(graph)).value
        return f"{self.target.name} {cost:,.0f} of {self.most:,.0f} {self.target.unit}"


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
    found = find(subject, options, asked, progress)
    weights = [0.0] * len(limits)
    nearest, step = found, 0
    while any(limit.over(found.graph) for limit in limits):
        if step == STEPS:
            check_limits(limits, nearest.graph, "exact rewrite of this model")
        base = max(options.target.graph_cost(sized(subject.graph)).value, 1.0)
        weights = [_raised(weight, limit, found.graph, base) for weight, limit in zip(weights, limits, strict=True)]
        terms = [(1.0, options.target), *((w, limit.target) for w, limit in zip(weights, limits, strict=True) if w)]
        found = find(subject, replace(options, target=Weighted(terms)), asked, progress)
        found = replace(found, cascades=tuple(_in_own_units(c) for c in found.cascades))
        nearest, step = min(nearest, found, key=lambda f: sum(limit.over(f.graph) / limit.most for limit in limits)), step + 1
    return found


def _raised(weight: float, limit: Limit, graph: Graph, base: float) -> float:
    if not limit.over(graph):
        return weight
    return weight * FACTOR if weight else 0.01 * base / limit.most


def _in_own_units(cascade: Cascade) -> Cascade:
    """Costs under the user's own target, the first part of the sum."""
    return replace(cascade, before=_first(cascade.before), after=None if cascade.after is None else _first(cascade.after))


def _first(cost: Cost) -> Cost:
    return cost.parts[0] if cost.parts else cost
