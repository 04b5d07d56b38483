"""The survey: what it makes of the time that it is given."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from decascade.cost import target_named
from decascade.errors import UsageError
from decascade.ir.graph import Graph
from fit.sites import NETS, batches, samples_for

pytest.importorskip("torch")
candidates = import_module("decascade.compression.plan.candidates")
deadline = import_module("decascade.compression.deadline")
divergence = import_module("decascade.compression.divergence")
module = import_module("decascade.compression.plan.survey")


class Samples:
    """Samples in memory, and how many were handed out."""

    def __init__(self, graph: Graph, count: int) -> None:
        self.x, self.count, self.given = samples_for(graph, count), count, 0

    def batches(self, size: int) -> Iterator[Any]:
        for batch in batches(self.x, size):
            self.given += len(batch["x"])
            yield batch


def surveyed(graph: Graph, samples: Samples, seconds: float | None) -> Any:
    target = target_named("macs")
    before = target.graph_cost(graph).value
    return module.survey(graph, target, before, samples, divergence.outputs_of(graph), 2, 0, lambda *_: None, seconds)


def test_without_a_limit_every_candidate_is_fitted_on_all_samples():
    graph = NETS["vectors"]()
    samples = Samples(graph, 256)
    found = surveyed(graph, samples, None)
    assert found.notes == ()
    assert samples.given >= 256 + min(module.WATCHED, 256)
    assert {o.segment.exit for o in (f.candidate.student.site for f in found.fitted)} > set()


def test_without_time_fits_take_the_samples_they_need_and_every_segment_has_a_student():
    graph = NETS["vectors"]()
    listed = candidates.supported(candidates.candidates(graph, target_named("macs"), 2), 4096)
    segments = {c.student.site.segment for c in listed}
    assert len(segments) < len(listed)
    found = surveyed(graph, Samples(graph, 4096), 0.0)
    assert {f.candidate.student.site.segment for f in found.fitted} == segments
    size = module.batch_size(graph, 4096)
    used = -(-candidates.needed(listed) // size) * size
    assert used < 4096
    assert found.notes == (
        f"the time limit left time to fit students on {used:,} of 4,096 samples",
        f"the time limit left time to fit {len(segments):,} of {len(listed):,} students; the plan chooses among them",
    )
    assert all(s >= 0 for s in found.sensitivities)


def test_a_limit_that_suffices_changes_nothing():
    graph = NETS["sequence_1d"]()
    free, limited = (surveyed(graph, Samples(graph, 128), seconds) for seconds in (None, 1e6))
    assert limited.notes == ()
    assert limited.sensitivities == free.sensitivities


class Slow:
    """A clock on which a sample takes `pace` seconds for every request that is collected on it, and nothing else does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pace: float) -> None:
        self.now, collect = 0.0, module.collect

        def slowly(run: Any, some: Any, requests: Any, *more: Any) -> Any:
            each = pace * len(set(requests := list(requests)))

            def passing() -> Iterator[Any]:
                for batch in some:
                    yield batch
                    self.now += each * len(batch["x"])

            return collect(run, passing(), requests, *more)

        monkeypatch.setattr(module, "collect", slowly)

    def __call__(self) -> float:
        return self.now


def by(last: float, clock: Slow, samples: int = 1024, seconds: float | None = 0.0) -> Any:
    """A survey that is to be over at `last`."""
    graph, target = NETS["vectors"](), target_named("macs")
    before, outputs = target.graph_cost(graph).value, divergence.outputs_of(graph)
    until = deadline.Deadline(last, clock)
    return module.survey(graph, target, before, Samples(graph, samples), outputs, 2, 0, lambda *_: None, seconds, until)


@pytest.mark.parametrize(("last", "pace"), [
    (5.0, 0.001), (12.0, 0.001), (40.0, 0.001), (200.0, 0.001), (20.0, 0.003), (80.0, 0.003), (60.0, 0.01), (200.0, 0.01),
])
def test_a_survey_is_over_in_time_with_what_there_was_time_for(
    last: float, pace: float, monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Slow(monkeypatch, pace)
    found = by(last, clock)
    assert 0 < clock.now <= last
    assert len(found.fitted) == len(found.sensitivities) > 0
    assert found.most > 1


def test_more_time_leaves_out_fewer_students_and_enough_time_none(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [by(last, Slow(monkeypatch, 0.002), seconds=0.3 * last) for last in (8.0, 15.0, 1e9)]
    count = [len(found.choices()) for found in made]
    assert count == sorted(count), count
    assert [found.cut for found in made] == [True, False, False]
    free = surveyed(NETS["vectors"](), Samples(NETS["vectors"](), 1024), None)
    assert made[-1].choices() == free.choices()
    with pytest.raises(UsageError, match=r"^budget .* is out of reach: .*, or give more time: the time limit left .* out$"):
        made[0].plan(1e-3)
    with pytest.raises(UsageError, match=r"ask for less$"):
        made[-1].plan(1e-3)


def test_a_limit_below_the_smallest_fit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Slow(monkeypatch, 0.03)
    words = r"^the time limit is too short: the \d+ smallest of the fits alone take .* s are left: give at least \d+ s more$"
    with pytest.raises(UsageError, match=words):
        by(1.0, clock)


def test_a_candidate_without_a_sensitivity_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = by(1e9, Slow(monkeypatch, 0.0))
    clock, measured = Slow(monkeypatch, 0.0), module.sensitivities

    def late(*given: Any) -> Any:
        clock.now = 2e9
        return measured(*given)

    monkeypatch.setattr(module, "sensitivities", late)
    found = by(1e9, clock)
    assert len(found.fitted) == 1
    assert found.fitted[0].candidate.student.label == whole.fitted[0].candidate.student.label
    assert found.cut
    told = f"the sensitivity of 1 of {len(whole.fitted)} fitted students; the others are left out"
    assert found.notes[-1] == f"the time limit left time to measure {told}"
