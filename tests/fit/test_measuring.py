"""Costs that take time to find out: what is measured first, what a limit leaves out, and what an interruption leaves behind."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from decascade.algebra.conv import Conv
from decascade.cost import target_named
from decascade.cost.base import Measuring, unknown
from decascade.cost.cache import Cache
from decascade.cost.count import macs
from decascade.cost.measured import Measured
from decascade.cost.weighted import Weighted
from decascade.errors import UsageError
from decascade.ir.graph import Graph
from fit.sites import NETS
from fit.test_survey import Samples

pytest.importorskip("torch")
candidates = import_module("decascade.compression.plan.candidates")
divergence = import_module("decascade.compression.divergence")
measuring = import_module("decascade.compression.plan.measuring")
survey = import_module("decascade.compression.plan.survey")
SPAN = 2


class Clock:
    """Seconds that pass as they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Meter:
    """Counts multiply-accumulates, a second on its clock for each; `broken` after so many, as by Ctrl-C."""

    name, unit, identity = "slow", "steps", "slow 1"

    def __init__(self, clock: Clock | None = None, broken: int | None = None, widest: int = 99) -> None:
        self.clock, self.broken, self.widest = clock or Clock(), broken, widest
        self.measured: list[tuple[int, int]] = []
        self.refused = 0

    def measure(self, graph: Graph) -> tuple[float, float]:
        if self.broken is not None and len(self.measured) >= self.broken:
            raise KeyboardInterrupt
        kernels = [n.op.kernel for n in graph.nodes if isinstance(n.op, Conv)]
        if any(max(kernel, default=0) > self.widest for kernel in kernels):
            self.refused += 1
            raise UsageError(f"no kernel wider than {self.widest}")
        self.clock.now += 1.0
        work = sum(macs(n, graph.tensors) for n in graph.nodes)
        self.measured.append((work, len(graph.nodes)))
        return float(work), 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(measuring, "monotonic", found)
    return found


def silent(stage: str, share: float) -> None:
    """Nobody watches."""


def kinds(found: Any) -> list[tuple[str, str, str, float, float]]:
    return [(c.student.site.segment.entry, c.student.site.segment.exit, c.student.label, c.cost, c.before) for c in found]


def test_every_shape_is_measured_once_and_told(tmp_path: Path, clock: Clock) -> None:
    graph, meter, shares = NETS["residual_2d"](), Meter(clock), list[tuple[str, float]]()
    target = Measured(meter, cache=Cache(tmp_path / "m.json"))
    assert isinstance(target, Measuring)
    students = list(candidates.proposals(graph, SPAN))
    shapes = {key for s in students for run in (candidates.blank(s), candidates.replaced(s.site))
              for key in unknown(target, *run)}
    assert measuring.measure(graph, target, SPAN, None, lambda *told: shares.append(told)) is None
    assert len(meter.measured) == len(shapes) < len(students)
    assert {stage for stage, _ in shares} == {measuring.STAGE}
    assert [share for _, share in shares] == sorted(share for _, share in shares)
    assert (shares[0][1], shares[-1][1] < 1) == (0.0, True)
    assert not any(measuring._open(s, target) for s in students)
    assert measuring.left_out(graph, target, SPAN) == ()
    again = Meter()
    measuring.measure(graph, Measured(again, cache=Cache(tmp_path / "m.json")), SPAN, None, silent)
    assert again.measured == []


def test_measured_candidates_are_those_of_the_counted_target(tmp_path: Path) -> None:
    """The meter says what the target macs counts: measuring first, within no limit, changes nothing."""
    graph = NETS["residual_2d"]()
    target = Measured(Meter(), cache=Cache(tmp_path / "m.json"))
    known = measuring.measure(graph, target, SPAN, None, silent)
    counted = target_named("macs")
    assert measuring.measure(graph, counted, SPAN, 0.0, silent) is None
    assert kinds(candidates.candidates(graph, target, SPAN, known)) == kinds(candidates.candidates(graph, counted, SPAN))


def test_without_limit_an_interrupted_measuring_is_gone_on_with(tmp_path: Path) -> None:
    graph, first = NETS["residual_2d"](), Meter(broken=7)
    with pytest.raises(KeyboardInterrupt):
        measuring.measure(graph, Measured(first, cache=Cache(tmp_path / "m.json")), SPAN, None, silent)
    second, whole = Meter(), Meter()
    measuring.measure(graph, Measured(second, cache=Cache(tmp_path / "m.json")), SPAN, None, silent)
    measuring.measure(graph, Measured(whole, cache=Cache(tmp_path / "whole.json")), SPAN, None, silent)
    assert len(first.measured) == 7
    assert first.measured + second.measured == whole.measured


@pytest.mark.parametrize("seconds", [0.0, 10.0, 40.0])
def test_limit_is_kept_to_within_a_student_and_the_rest_is_left_out(seconds: float, tmp_path: Path, clock: Clock) -> None:
    graph, meter = NETS["residual_2d"](), Meter(clock)
    target = Measured(meter, cache=Cache(tmp_path / "m.json"))
    known = measuring.measure(graph, target, SPAN, seconds, silent)
    assert known is not None
    assert seconds <= clock.now < seconds + 2  # a student and what it replaces
    target.graph_cost(graph)
    before = len(meter.measured)
    found = list(candidates.candidates(graph, target, SPAN, known))
    assert len(meter.measured) == before
    students = list(candidates.proposals(graph, SPAN))
    costed = sum(map(known, students))
    assert (costed > 0) == (seconds > 0)
    assert set(kinds(found)) <= set(kinds(candidates.candidates(graph, target_named("macs"), SPAN)))
    (note,) = measuring.left_out(graph, target, SPAN)
    assert note == (f"the time limit left time to measure {costed:,} of {len(students):,} students under slow; the others are"
                    " left out, and a later run will find what was measured")


def test_segments_take_turns_and_the_fewest_layers_come_first(tmp_path: Path, clock: Clock) -> None:
    graph = NETS["residual_2d"]()
    target = Measured(Meter(clock), cache=Cache(tmp_path / "m.json"))
    wanted = sorted(measuring._wanted(graph, target, SPAN), key=lambda w: w.place)
    segments = len({w.runs[0][0][-1].output + w.runs[0][0][0].inputs[0] for w in wanted})
    heavy = [-w.place[1] for w in wanted if w.place[0] == 0]
    assert heavy == sorted(heavy, reverse=True)
    assert len(heavy) == segments
    for site in {id(s.site): s.site for s in candidates.proposals(graph, SPAN)}.values():
        own = measuring._work(candidates.replaced(site))
        students = measuring._in_order(list(candidates._students(site)), own)
        dearer = [measuring._work(candidates.blank(s)) >= own for s in students]
        ranks = [(more, sum(hasattr(op, "weight") for op in s.blank())) for more, s in zip(dearer, students, strict=True)]
        assert ranks == sorted(ranks)
        assert len(set(map(id, students))) == len(students) == len(list(candidates._students(site)))


def test_spread_halves_what_is_left() -> None:
    assert measuring.spread([]) == []
    assert measuring.spread(list(range(7))) == [3, 1, 5, 0, 2, 4, 6]
    assert sorted(measuring.spread(list(range(100)))) == list(range(100))


def test_what_the_tool_refuses_is_asked_once_and_no_open_question(tmp_path: Path) -> None:
    graph, meter = NETS["residual_2d"](), Meter(widest=3)
    target = Measured(meter, cache=Cache(tmp_path / "m.json"))
    assert measuring.measure(graph, target, SPAN, None, silent) is None
    refused = meter.refused
    assert refused > 0
    found = list(candidates.candidates(graph, target, SPAN))
    assert meter.refused == refused
    assert found
    assert all(c.cost < float("inf") for c in found)


def test_sum_of_targets_wants_what_its_terms_want(tmp_path: Path) -> None:
    graph = NETS["residual_2d"]()
    target = Measured(Meter(), cache=Cache(tmp_path / "m.json"))
    both = Weighted([(1.0, target), (2.0, target_named("macs"))])
    run = graph.nodes[:1], graph.tensors
    assert unknown(both, *run) == unknown(target, *run) != frozenset()
    both.segment_cost(*run)
    assert unknown(both, *run) == frozenset()
    assert unknown(target_named("macs"), *run) == frozenset()


def test_survey_under_a_limit_says_what_was_left_out(tmp_path: Path, clock: Clock) -> None:
    graph = NETS["residual_2d"]()
    target = Measured(Meter(clock), cache=Cache(tmp_path / "m.json"))
    outputs = divergence.outputs_of(graph)
    found = survey.survey(graph, target, 1e5, Samples(graph, 512), outputs, SPAN, 0, silent, 60.0)
    assert 30.0 <= clock.now < 33.0  # half of it, a student, and the whole model
    assert found.notes[0].startswith("the time limit left time to measure ")
    assert found.fitted
