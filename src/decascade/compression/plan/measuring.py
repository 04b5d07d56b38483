"""Costs that have to be measured before students can be chosen by them: within a limited time, the most promising first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from time import monotonic

from decascade.compression.plan.candidates import Run, blank, proposals, replaced
from decascade.compression.students.families import Student
from decascade.cost import Target
from decascade.cost.base import Measuring, unknown
from decascade.cost.count import macs
from decascade.ir.graph import Graph
from decascade.ir.ops.traits import layer_of

Progress = Callable[[str, float], None]
Known = Callable[[Student], bool]
"""Whether a student and what it replaces have a cost."""
STAGE = "measuring students"


@dataclass(frozen=True, eq=False)
class Wanted:
    """A student, the layers it replaces and its own, both not measured yet, and its place in the order."""

    target: Target
    runs: tuple[Run, Run]
    place: tuple[int, int]

    def shapes(self) -> frozenset[str]:
        """What is still to be measured."""
        return frozenset[str]().union(*(unknown(self.target, *run) for run in self.runs))

    def measure(self) -> None:
        for run in self.runs:
            self.target.segment_cost(*run)


def measure(graph: Graph, target: Target, span: int, seconds: float | None, progress: Progress) -> Known | None:
    """Measure what students cost, and what they replace, until the time is over; which students have a cost then, None where
    all have.  What is measured is kept by the target, so that an interrupted call is gone on with.

    Segments take turns, those with the most multiply-accumulates first.  Within a segment students come first that save
    multiply-accumulates, of these the ones with the fewest layers, of these such that what was measured is spread evenly.

    Raises:
        UsageError: the target's tool cannot run layers of the model itself.
    """
    if not isinstance(target, Measuring):
        return None
    wanted = sorted(_wanted(graph, target, span), key=lambda w: w.place)
    left = frozenset[str]().union(*(one.shapes() for one in wanted))
    start, total = monotonic(), len(left)
    for one in wanted:
        used = monotonic() - start
        if not left or (seconds is not None and used >= seconds):
            break
        if shapes := one.shapes():
            progress(STAGE, max(1 - len(left) / total, used / seconds if seconds else 0.0))
            one.measure()
            left -= shapes
    return (lambda student: not _open(student, target)) if left else None


def left_out(graph: Graph, target: Target, span: int) -> tuple[str, ...]:
    """What to say of students without a cost."""
    students = list(proposals(graph, span))
    missing = sum(_open(student, target) for student in students)
    return (f"the time limit left time to measure {len(students) - missing:,} of {len(students):,} students under"
            f" {target.name}; the others are left out, and a later run will find what was measured",) if missing else ()


def _open(student: Student, target: Target) -> bool:
    return any(unknown(target, *run) for run in (replaced(student.site), blank(student)))


def _wanted(graph: Graph, target: Target, span: int) -> Iterator[Wanted]:
    for site, some in groupby(proposals(graph, span), key=lambda student: student.site):
        own, students = replaced(site), list(some)
        weight = _work(own)
        for turn, student in enumerate(_in_order(students, weight)):
            yield Wanted(target, (own, blank(student)), (turn, -weight))


def _in_order(students: Sequence[Student], own: int) -> list[Student]:
    """See `measure`."""
    def rank(student: Student) -> tuple[bool, int]:
        return _work(blank(student)) >= own, sum(layer_of(op) is not None for op in student.blank())

    def work(student: Student) -> int:
        return _work(blank(student))

    ordered = list[Student]()
    for _, some in groupby(sorted(students, key=rank), key=rank):
        ordered += spread(sorted(some, key=work))
    return ordered


def spread(items: Sequence[Student]) -> list[Student]:
    """The middle first, then the middles of what is left on both sides, and so on."""
    found, halves = list[Student](), [items]
    while halves:
        middles = [(half, len(half) // 2) for half in halves if half]
        found += [half[i] for half, i in middles]
        halves = [part for half, i in middles for part in (half[:i], half[i + 1 :])]
    return found


def _work(run: Run) -> int:
    nodes, tensors = run
    return sum(macs(node, tensors) for node in nodes)
