"""The survey: what it makes of the time that it is given."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from decascade.cost import target_named
from decascade.ir.graph import Graph
from fit.sites import NETS, batches, samples_for

pytest.importorskip("torch")
candidates = import_module("decascade.compression.plan.candidates")
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
