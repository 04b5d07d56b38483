"""Candidates: those that save enough, those that the samples suffice for, passes of bounded memory, the Pareto front."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decascade.compression.segments import Segment
from decascade.cost import target_named
from decascade.errors import UsageError
from decascade.ir.names import Names
from decascade.ir.ops import Activation
from fit.sites import NETS, gathered, samples_for
from laws import Net

candidates = import_module("decascade.compression.plan.candidates")
moments = import_module("decascade.compression.students.moments")
students = import_module("decascade.compression.students.families")
hidden = import_module("decascade.compression.students.hidden")
MACS = target_named("macs")


def found(name: str = "residual_2d", span: int = 4) -> list[Any]:
    return list(candidates.candidates(NETS[name](), MACS, span))


def test_candidates_save_what_they_say():
    graph = NETS["residual_2d"]()
    whole = MACS.graph_cost(graph).value
    for candidate in found():
        segment = set(candidate.student.site.segment.nodes)
        rest = [n for n in graph.nodes if n.name not in segment]
        nodes, tensors = students.written(candidate.student, candidate.student.blank(), "s", Names.of(graph))
        after = MACS.graph_cost(graph.with_nodes([*rest, *nodes], tensors)).value
        assert whole - after == candidate.saving > candidates.LEAST * whole


def test_too_few_samples_are_refused_with_the_number_that_is_needed():
    every = found("vectors")
    sizes = candidates.sizes_of(every[0].student.site.graph)
    largest = {c: max(sizes[r.tensor][0] + 1 for r in c.student.requests()) for c in every}  # no positions: rows are samples
    assert candidates.supported(every, 10**6) == every
    enough = {c: candidates.ENOUGH * size for c, size in largest.items()}
    for samples in sorted(set(enough.values())):
        assert candidates.supported(every, samples) == [c for c in every if enough[c] <= samples]
    least = min(enough.values())
    words = (f"too few samples: {least - 1} give {(least - 1) / (least / candidates.ENOUGH):.1f} patches per unknown of the"
             f" smallest fit, {candidates.ENOUGH} are needed: give at least {least}")
    with pytest.raises(UsageError, match=f"^{re.escape(words)}$"):
        candidates.supported(every, least - 1)
    with pytest.raises(UsageError, match=f"give at least {least}$"):
        candidates.supported(every, 0)
    assert candidates.supported([], 0) == []


def test_passes_are_whole_segments_of_bounded_moments():
    every = found()
    shapes = candidates.sizes_of(every[0].student.site.graph)
    requests = lambda some: [r for c in some for r in c.student.requests()]  # noqa: E731
    segments = list(dict.fromkeys(c.student.site.segment for c in every))
    alone = [moments.bytes_of(requests([c for c in every if c.student.site.segment == s]), shapes) for s in segments]
    together = moments.bytes_of(requests(every), shapes)
    assert list(candidates.passes(every)) == [every]
    for room in (max(alone), 2 * max(alone), together - 1):
        some = list(candidates.passes(every, room))
        assert len(some) > 1
        assert [c for part in some for c in part] == every
        assert all(moments.bytes_of(requests(part), shapes) <= room for part in some)
        assert all(a[-1].student.site.segment != b[0].student.site.segment for a, b in pairwise(some))
    assert len(list(candidates.passes(every, 1))) == len(segments)
    assert list(candidates.passes([], 1)) == []


def test_what_moments_take_is_what_is_told():
    every = found("sequence_1d")
    graph = every[0].student.site.graph
    requests = [r for c in every for r in c.student.requests()]
    gathered_ = gathered(graph, samples_for(graph, 8), requests)
    arrays = {id(a): a for group in gathered_._groups.values() for a in (*group._gram, *group._cross)}
    assert sum(a.nbytes for a in arrays.values()) == moments.bytes_of(requests, candidates.sizes_of(graph))


def test_fits_in_passes_are_those_in_one():
    every = found("sequence_1d")
    graph = every[0].student.site.graph
    x = samples_for(graph, 30)
    fits = dict[Any, tuple[float, float]]()
    for part in ([every], list(candidates.passes(every, 30_000))):
        for some in part:
            gathered_ = gathered(graph, x, [r for c in some for r in c.student.requests()])
            for one in candidates.fit_all(some, gathered_):
                now = (one.fit.error, one.fit.fitted_error)
                assert fits.setdefault(one.candidate, now) == pytest.approx(now, rel=1e-6, abs=1e-9)
    assert set(fits) == set(every)


def test_what_is_solved_on_a_window_is_solved_once(monkeypatch):
    every = found()
    graph = every[0].student.site.graph
    requests = {r for c in every for r in c.student.requests()}
    gathered_ = gathered(graph, samples_for(graph, 20), requests)
    made, eliminated = list[Any](), list[Any]()
    patches, eliminate = moments.Sums.patches, moments.eliminate
    monkeypatch.setattr(moments.Sums, "patches", lambda self, w: made.append((id(self), w)) or patches(self, w))
    monkeypatch.setattr(moments, "eliminate", lambda *given: eliminated.append(given) or eliminate(*given))
    assert {f.candidate for f in candidates.fit_all(every, gathered_)} == set(every)
    assert len(made) == len(set(made)) == len({(id(gathered_._groups[r]), r.window) for r in requests})
    narrowed = {r for c in every if isinstance(c.student, hidden.Narrowed) for r in c.student.requests()}
    shallow = {c.student.requests() for c in every if isinstance(c.student, hidden.OneHidden)}
    assert len(eliminated) == len(narrowed) + len(shallow)


def test_matrices_of_windows_go_when_there_is_no_room(monkeypatch):
    every = found()
    graph = every[0].student.site.graph
    gathered_ = gathered(graph, samples_for(graph, 20), [r for c in every for r in c.student.requests()])
    kept = [f.fit.error for f in candidates.fit_all(every, gathered_)]
    assert len(gathered_._recent) > 1
    monkeypatch.setattr(moments, "RECENT", 0)
    assert [f.fit.error for f in candidates.fit_all(every, gathered_)] == kept
    assert len(gathered_._recent) == 1


# -- the front


@dataclass(frozen=True, eq=False)
class Stub:
    """A student of which only the segment matters."""

    site: Any


@dataclass(frozen=True, eq=False)
class Place:
    segment: Segment


def fitted(points: list[tuple[str, int, int]]) -> list[Any]:
    """Fitted candidates of (segment, cost, error), segment by segment."""
    made = []
    for name, cost, error in sorted(points):
        student = Stub(Place(Segment(name, name, (name,))))
        fit = students.Fit((), float(error), float(error))
        made.append(candidates.Fitted(candidates.Candidate(student, float(cost), 100.0), fit))
    return made


def point(one: Any) -> tuple[str, float, float]:
    return one.candidate.student.site.segment.entry, one.candidate.cost, one.fit.error


POINTS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.integers(0, 9)), max_size=14)


@settings(max_examples=100, deadline=None)
@given(POINTS, st.integers(2, 20))
def test_the_pareto_front_stays(points, keep):
    kept = [point(one) for one in candidates.thinned(fitted(points), keep)]
    assert len(set(kept)) == len(kept)
    for name in "ab":
        own = sorted({(c, e) for n, c, e in points if n == name})
        beaten = {p for p in own if any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in own)}
        front = [p for p in own if p not in beaten]
        left = [(c, e) for n, c, e in kept if n == name]
        assert set(left) <= set(front)
        assert len(left) == min(keep, len(front))
        if front:  # the ends stay
            assert {front[0], front[-1]} <= set(left)
    assert [n for n, _, _ in kept] == sorted(n for n, _, _ in kept)


def test_of_many_those_that_are_furthest_apart_in_cost_stay():
    some = fitted([("a", cost, 20 - i) for i, cost in enumerate([0, 10, 11, 12, 20, 30])])
    assert [c for _, c, _ in map(point, candidates.thinned(some, 4))] == [0, 10, 20, 30]


# -- narrowing


def test_chains_that_mix_channels_are_not_narrowed():
    net = Net((4, 6))
    x = net.conv("x", 4, 1)
    graph = net.graph(net.conv(net.emit(Activation("softmax", (1.0,)), x), 3, 1))
    site = students.site_of(graph, max(candidates.find_segments(graph, 3), key=lambda s: len(s.nodes)))
    assert list(hidden.Narrowed.propose(site)) == list(hidden.OneHidden.propose(site)) == []


def test_narrowing_is_bounded_in_its_unknowns(monkeypatch):
    graph = NETS["chain_2d"]()
    site = students.site_of(graph, max(candidates.find_segments(graph, 9), key=lambda s: len(s.nodes)))
    assert list(hidden.Narrowed.propose(site))
    monkeypatch.setattr(hidden, "LARGEST", 16)
    assert not list(hidden.Narrowed.propose(site))


def test_dense_layers_on_maps_are_left_alone():
    net = Net((4, 6))
    x = net.relu(net.dense(net.conv("x", 4, 1), 6))
    graph = net.graph(net.conv(x, 4, 1))
    segment = max(candidates.find_segments(graph, 9), key=lambda s: len(s.nodes))
    site = students.site_of(replace(graph), segment)
    offered = list(candidates._students(site))
    assert {type(s).__name__ for s in offered} == {"Dropped"}
    assert np.isfinite(candidates.cost_of(offered[0], MACS))
