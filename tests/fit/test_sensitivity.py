"""Sensitivities against the whole graph with the student put in, by the interpreter; divergences by their definition."""

from __future__ import annotations

import re
from importlib import import_module

import numpy as np
import pytest

from decascade.cost import target_named
from decascade.errors import UsageError
from decascade.ir.graph import Graph
from decascade.ir.interpret import run
from decascade.ir.ops import Activation, GlobalPool
from fit.sites import NETS, batches, gathered, lowered, samples_for, torch
from laws import Net

assemble = import_module("decascade.compression.plan.assemble")
candidates = import_module("decascade.compression.plan.candidates")
divergences = import_module("decascade.compression.divergence")
sensitivity = import_module("decascade.compression.plan.sensitivity")
Output = divergences.Output


def by_definition(outputs, original: dict[str, np.ndarray], student: dict[str, np.ndarray]) -> float:
    total = 0.0
    for output in outputs:
        a, b = original[output.compared], student[output.compared]
        if output.kind == "kl":
            p, q = (np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (a, b))
            total += (p * np.log(p / q)).sum(1).mean()
        else:
            total += ((a - b) ** 2).mean() / a.var()
    return float(total)


def two_headed() -> Graph:
    """Class scores behind a softmax, and a map as a second output."""
    net = Net((3, 8, 8))
    x = net.relu(net.conv("x", 4, 3, pad=1))
    x = net.relu(net.add(x, net.conv(net.relu(net.conv(x, 4, 3, pad=1)), 4, 3, pad=1)))
    second = net.conv(x, 2, 3, name="map")
    scores = net.dense(net.emit(GlobalPool("avg", keepdims=False), x), 5)
    return net.graph(net.emit(Activation("softmax", (-1.0,)), scores, name="classes"), second)


@pytest.mark.parametrize("build", [two_headed, NETS["sequence_1d"], NETS["vectors"]])
def test_sensitivities_are_those_of_the_whole_graph(build):
    graph = build()
    x = samples_for(graph, 37)
    found = list(candidates.candidates(graph, target_named("macs"), 3))
    moments = gathered(graph, x, [r for c in found for r in c.student.requests()])
    fitted = candidates.thinned(list(candidates.fit_all(found, moments)), 3)
    outputs, told = divergences.outputs_of(graph), list[float]()
    parts = batches(x, 16)
    measured = sensitivity.sensitivities(
        lowered.Lowered(graph, "float64"), fitted, parts, outputs, lambda stage, share: told.append(share)
    )
    keep = [o.compared for o in outputs]
    for one, value in zip(fitted, measured, strict=True):
        student = assemble.put_in(graph, one)
        each = [by_definition(outputs, *(run(g, {"x": p["x"].numpy()}, keep) for g in (graph, student))) for p in parts]
        assert value == pytest.approx(np.mean(each), rel=2e-5, abs=2e-7)  # students run in float32
    assert len(fitted) > 10
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len({o.kind for o in outputs}) == len(outputs)


def test_without_time_one_batch_is_measured():
    graph = NETS["vectors"]()
    found = candidates.supported(candidates.candidates(graph, target_named("macs"), 1), 1000)[:3]
    moments = gathered(graph, samples_for(graph, 50), [r for c in found for r in c.student.requests()])
    fitted = list(candidates.fit_all(found, moments))
    parts, outputs = batches(samples_for(graph, 30), 10), divergences.outputs_of(graph)
    measure = lambda some, seconds: sensitivity.sensitivities(  # noqa: E731
        lowered.Lowered(graph, "float64"), fitted, some, outputs, lambda *_: None, seconds
    )
    assert measure(parts, 0.0) == measure(parts[:1], None) != measure(parts, None)
    assert measure(parts, 1e9) == measure(parts, None)


def test_what_a_student_is_compared_by():
    graph = two_headed()
    scores = graph.producer["classes"].inputs[0]
    assert divergences.outputs_of(graph) == (Output("classes", scores, "kl"), Output("map", "map", "mse"))
    assert [o.kind for o in divergences.outputs_of(graph, "mse")] == ["mse", "mse"]
    assert [o.kind for o in divergences.outputs_of(graph, "kl")] == ["kl", "kl"]
    plain = NETS["vectors"]()
    assert divergences.outputs_of(plain)[0].kind == "mse"
    assert divergences.outputs_of(plain, labelled=True)[0].kind == "kl"
    words = "loss = 'cosine': give one of auto, kl, mse"
    with pytest.raises(UsageError, match=f"^{re.escape(words)}$"):
        divergences.outputs_of(graph, "cosine")


def test_a_softmax_over_positions_is_no_class_score():
    net = Net((3, 6))
    graph = net.graph(net.emit(Activation("softmax", (2.0,)), net.conv("x", 2, 1), name="y"))
    assert divergences.outputs_of(graph) == (Output("y", "y", "mse"),)


def test_divergences_are_their_definitions():
    rng = np.random.default_rng(0)
    a, b = ({"s": rng.standard_normal((6, 4, 3)), "m": rng.standard_normal((6, 2, 5))} for _ in range(2))
    outputs = (Output("y", "s", "kl"), Output("m", "m", "mse"))
    found = divergences.divergence(outputs, *({n: torch.tensor(v) for n, v in d.items()} for d in (a, b)))
    assert float(found) == pytest.approx(by_definition(outputs, a, b), rel=1e-5)
    same = {n: torch.tensor(v) for n, v in a.items()}
    assert float(divergences.divergence(outputs, same, same)) == 0.0
