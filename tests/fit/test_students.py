"""Every family of students on every segment of a few nets: what is written, what it costs, what error it is told to have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module

import pytest

from decascade.compression.segments import find_segments
from decascade.cost import TARGETS, target_named
from decascade.ir.check import check
from decascade.ir.graph import Graph
from decascade.ir.interpret import run
from decascade.ir.names import Names
from fit.sites import NETS, gathered, held, samples_for, unexplained

candidates = import_module("decascade.compression.plan.candidates")
students = import_module("decascade.compression.students.families")
hidden = import_module("decascade.compression.students.hidden")
SAMPLES = 48


def offered(graph: Graph, span: int = 4) -> Iterator:
    """Every student of every segment, whatever it costs."""
    for segment in find_segments(graph, span):
        site = students.site_of(graph, segment)
        if site is not None:
            yield from candidates._students(site)


def alone(student, ops) -> Graph:
    """The student's operations as a graph from its segment's entry to its exit."""
    segment = student.site.segment
    nodes, tensors = students.written(student, ops, "student", Names.of(student.site.graph))
    entry = replace(student.site.graph, inputs=(segment.entry,), outputs=(segment.exit,), nodes=())
    return entry.with_nodes(nodes, tensors)


@pytest.mark.parametrize("name", NETS)
def test_students_fit_their_segments_and_their_errors_are_those_measured(name):
    graph = NETS[name]()
    x = samples_for(graph, SAMPLES)
    apart, found = held(SAMPLES), list(offered(graph))
    values = run(graph, {"x": x}, [n for node in graph.nodes for n in node.outputs] + ["x"])
    moments = gathered(graph, x, [r for s in found for r in s.requests()])
    for student in found:
        segment, fit = student.site.segment, student.fit(moments)
        blank, fitted = alone(student, student.blank()), alone(student, fit.ops)
        for written in (blank, fitted):
            check(written)
            assert written.shape(segment.exit)[1:] == graph.shape(segment.exit)[1:]
        for target in map(target_named, TARGETS):
            assert target.graph_cost(blank) == target.graph_cost(fitted)
            assert candidates.cost_of(student, target) == target.graph_cost(fitted).value
        exact = values[segment.exit]
        own = run(fitted, {segment.entry: values[segment.entry]})[segment.exit]
        measured = [unexplained(exact[mask], own[mask]) for mask in (apart, ~apart)]
        if isinstance(student, hidden.Narrowed) and len(student.links) > 2:
            continue  # several errors in a row, see below
        assert [fit.error, fit.fitted_error] == pytest.approx(measured, rel=1e-6, abs=1e-10), (segment, student.label)


@pytest.mark.parametrize("name", NETS)
def test_labels_tell_the_students_of_a_segment_apart(name):
    counts = Counter((s.site.segment, s.label) for s in offered(NETS[name]()))
    assert [key for key, count in counts.items() if count > 1] == []
    assert all("  " not in label and label == label.strip() for _, label in counts)


def test_every_family_is_offered_somewhere():
    offers = {(type(s).__name__, s.skip) for name in NETS for s in offered(NETS[name]())}
    families = {family.__name__ for family in candidates.FAMILIES}
    assert {name for name, _ in offers} == families
    assert {name for name, skip in offers if skip} == families - {"OneConv", "Dropped", "Narrowed"}
