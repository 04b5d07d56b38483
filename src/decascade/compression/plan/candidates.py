"""Candidates: every student that would be cheaper than its segment, fitted, thinned to what could be chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil, prod

from decascade.compression.segments import find_segments, nodes_of
from decascade.compression.students.factored import Bottleneck, DepthwiseSeparable, LowRank, Separable
from decascade.compression.students.families import Dropped, Fit, OneConv, Site, Student, site_of, written
from decascade.compression.students.hidden import Narrowed, OneHidden
from decascade.compression.students.moments import Moments, bytes_of
from decascade.compression.students.windows import Request, patches_per_unknown
from decascade.cost import Target
from decascade.errors import UsageError
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.names import Names

Run = tuple[Sequence[Node], Mapping[str, Tensor]]
FAMILIES = (OneConv, Dropped, LowRank, Bottleneck, Separable, DepthwiseSeparable, Narrowed, OneHidden)
ENOUGH = 4
"""Patches per unknown below which a fit is not made."""
ROOM = 2**30
"""Bytes that moments may take at a time."""
LEAST = 0.005
"""The share of the model's cost that a student has to save: a layer more is not worth less."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A student, what it costs and what its segment costs, in the target's unit."""

    student: Student
    cost: float
    before: float

    @property
    def saving(self) -> float:
        return self.before - self.cost


@dataclass(frozen=True, eq=False)
class Fitted:
    """A candidate with its weights."""

    candidate: Candidate
    fit: Fit

    def nodes(self, label: str, names: Names) -> tuple[tuple[Node, ...], dict[str, Tensor]]:
        return written(self.candidate.student, self.fit.ops, label, names)


def candidates(graph: Graph, target: Target, span: int, known: Callable[[Student], bool] | None = None) -> Iterator[Candidate]:
    """Every student of every segment that is cheaper than what it replaces, by enough to count.

    `known`: whether both have a cost; what has none is left out.
    """
    least = LEAST * target.graph_cost(graph).value
    for site, some in groupby(proposals(graph, span), key=lambda student: student.site):
        students = [student for student in some if known is None or known(student)]
        before = target.segment_cost(*replaced(site)).value if students else 0.0
        for student in students:
            cost = cost_of(student, target)
            if before - cost > least:
                yield Candidate(student, cost, before)


def proposals(graph: Graph, span: int) -> Iterator[Student]:
    """Every student of every segment, segment by segment, whatever it costs."""
    for segment in find_segments(graph, span):
        site = site_of(graph, segment)
        if site is not None:
            yield from _students(site)


def _students(site: Site) -> Iterator[Student]:
    for family in FAMILIES:
        yield from family.propose(site)


def replaced(site: Site) -> Run:
    """The layers of a segment."""
    return nodes_of(site.graph, site.segment), site.graph.tensors


def blank(student: Student) -> Run:
    """The layers of a student before it has weights."""
    nodes, tensors = written(student, student.blank(), "student", Names(student.site.graph.tensors))
    return nodes, {**student.site.graph.tensors, **tensors}


def cost_of(student: Student, target: Target) -> float:
    """What a student costs, before it has weights."""
    return target.segment_cost(*blank(student)).value


def supported(found: Iterable[Candidate], samples: int) -> list[Candidate]:
    """The candidates for whose fits so many samples suffice.

    Raises:
        UsageError: there are candidates, and none is left.
    """
    listed, shapes = list(found), dict[int, dict[str, tuple[int, ...]]]()
    each = list[float]()
    for candidate in listed:
        graph = candidate.student.site.graph
        sizes = shapes.get(id(graph)) or shapes.setdefault(id(graph), sizes_of(graph))
        each.append(min(patches_per_unknown(request, sizes, 1) for request in candidate.student.requests()))
    kept = [candidate for candidate, rows in zip(listed, each, strict=True) if rows * samples >= ENOUGH]
    if listed and not kept:
        raise UsageError(
            f"too few samples: {samples} give {max(each) * samples:.1f} patches per unknown of the smallest fit, {ENOUGH} are"
            f" needed: give at least {ceil(ENOUGH / max(each))}"
        )
    return kept


def needed(found: Iterable[Candidate]) -> int:
    """The number of samples that the fits of all these candidates need."""
    requests = {request: c.student.site.graph for c in found for request in c.student.requests()}
    shapes = {id(graph): sizes_of(graph) for graph in {id(g): g for g in requests.values()}.values()}
    each = [patches_per_unknown(request, shapes[id(graph)], 1) for request, graph in requests.items()]
    return ceil(ENOUGH / min(each)) if each else 0


def sizes_of(graph: Graph) -> dict[str, tuple[int, ...]]:
    """(C, *S) of the tensors whose sizes are all known."""
    found = dict[str, tuple[int, ...]]()
    for name, tensor in graph.tensors.items():
        sizes = tuple(n for n in (tensor.shape or ())[1:] if isinstance(n, int))
        if tensor.shape is not None and len(sizes) == len(tensor.shape) - 1:
            found[name] = sizes
    return found


def passes(found: Sequence[Candidate], room: int = ROOM) -> Iterator[list[Candidate]]:
    """The candidates in their order, in lists whose moments take no more than `room` bytes together: each list is one pass over
    the data.  A segment is not split."""
    now, taken = list[Candidate](), list[Request]()
    for _, some in groupby(found, key=lambda c: c.student.site.segment):
        segment = list(some)
        wanted = [request for candidate in segment for request in candidate.student.requests()]
        if now and bytes_of([*taken, *wanted], sizes_of(segment[0].student.site.graph)) > room:
            yield now
            now, taken = [], []
        now, taken = now + segment, taken + wanted
    if now:
        yield now


def smallest(found: Sequence[Candidate], count: int) -> list[Candidate]:
    """So many of the candidates, in their order: those whose fits have the fewest unknowns, of these those that save most."""
    shapes = {id(graph): sizes_of(graph) for graph in {id(c.student.site.graph): c.student.site.graph for c in found}.values()}

    def size(candidate: Candidate) -> tuple[int, float]:
        sizes = shapes[id(candidate.student.site.graph)]
        unknowns = [sizes[r.tensor][0] * prod(r.window.kernel) for r in candidate.student.requests()]
        return sum(n * n for n in unknowns), -candidate.saving

    chosen = set(sorted(range(len(found)), key=lambda i: size(found[i]))[:count])
    return [candidate for i, candidate in enumerate(found) if i in chosen]


def fit_all(
    found: Iterable[Candidate], moments: Moments, late: Callable[[], bool] = lambda: False,
) -> Iterator[Fitted]:
    """The candidates with their weights, segment by segment; within a segment those on the same windows one after the other, so
    that what is solved on a window is solved once.  When it is `late`, a segment gets one."""
    for _, some in groupby(found, key=lambda c: c.student.site.segment):
        for i, candidate in enumerate(sorted(some, key=lambda c: c.student.requests())):
            if i and late():
                break
            yield Fitted(candidate, candidate.student.fit(moments))


def thinned(fitted: Sequence[Fitted], keep: int) -> list[Fitted]:
    """Per segment the candidates that no other beats on both error and cost; of more than `keep` of them the ones that are
    furthest apart in cost."""
    kept = list[Fitted]()
    for _, some in groupby(fitted, key=lambda f: f.candidate.student.site.segment):
        front, best = list[Fitted](), float("inf")
        for one in sorted(some, key=lambda f: (f.candidate.cost, f.fit.error)):
            if one.fit.error < best:
                best = one.fit.error
                front.append(one)
        while len(front) > keep:
            costs = [f.candidate.cost for f in front]
            gaps = [costs[i + 1] - costs[i - 1] for i in range(1, len(front) - 1)]
            del front[1 + gaps.index(min(gaps))]
        kept += front
    return kept
