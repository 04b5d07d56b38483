"""Models side by side under a target: totals, single layers, and times of whole models run in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv
from decascade.checking.models import Subject
from decascade.cost import Cost, Target
from decascade.cost.folding import folded
from decascade.cost.layers import is_free, layer_text
from decascade.deploy.meters.ort import samples
from decascade.deploy.meters.timing import fastest
from decascade.deploy.onnx.model import onnx_of
from decascade.deploy.tflite.convert import to_float, to_int8
from decascade.deploy.tflite.deployed import to_file
from decascade.deploy.tflite.export import traced
from decascade.deploy.tflite.litert import Model
from decascade.deploy.tools import module
from decascade.errors import UsageError
from decascade.formats.onnx.model import OnnxModel
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import Activation, Foreign, Pad
from decascade.ir.ops.traits import takes_activation
from decascade.regions.merge import sized
from decascade.report.facts.bench import LayerCost, ModelCost, Spread, TargetFacts

F64 = NDArray[np.float64]
Run = Callable[[], object]
TIMED = ("onnxruntime", "litert", "litert:float")
"""Targets under which whole models are run and timed."""


@dataclass(frozen=True)
class Effort:
    """Runs per round, rounds at most, and the relative half width of the ratio that is good enough."""

    runs: int = 30
    rounds: int = 20
    width: float = 0.01


def compare_on(target: Target, subjects: Sequence[Subject], effort: Effort | None = None) -> TargetFacts:
    """One or two models under one target.

    Raises:
        UsageError: a tool is missing, or cannot run a model.
    """
    graphs = [sized(subject.graph) for subject in subjects]
    singles = [layer_costs(target, graph) for graph in graphs]
    sums = [target.combine(target.segment_cost(nodes, tensors) for nodes, tensors in _units(graph)).value
            if layers else None for graph, layers in zip(graphs, singles, strict=True)]
    if target.name not in TIMED:
        totals = [target.graph_cost(graph).value for graph in graphs]
        models = [ModelCost(t, s, together) for t, s, together in zip(totals, singles, sums, strict=True)]
        ratio = totals[0] / totals[1] if len(totals) > 1 and totals[1] else None
        return TargetFacts(target.name, target.unit, tuple(models), ratio, None, _ratio(sums))
    times = in_turn([runner(target.name, subject) for subject in subjects], effort or Effort())
    models = [ModelCost(fastest(t), s, together, spread_of(t))
              for t, s, together in zip(times, singles, sums, strict=True)]
    ratio, interval = ratio_of(times) if len(times) > 1 else (None, None)
    return TargetFacts(target.name, target.unit, tuple(models), ratio, interval, _ratio(sums))


def _ratio(sums: Sequence[float | None]) -> float | None:
    first, second = (*sums, None)[:2]
    return first / second if first is not None and second else None


def layer_costs(target: Target, graph: Graph) -> tuple[LayerCost, ...]:
    """Every layer by itself, with the activation that runtimes compute along; none where costs do not add up."""
    if not _adds_up(target):
        return ()
    found = list[LayerCost]()
    for nodes, tensors in _units(graph):
        cost = target.segment_cost(nodes, tensors).value
        name = nodes[0].origin[0] if nodes[0].origin else nodes[0].name
        kernel = next((n for n in nodes if takes_activation(n.op)), nodes[0])
        beside = [layer_text(n, tensors).partition(" ")[0] for n in nodes if n is not kernel]
        text = " + ".join([layer_text(kernel, tensors), *beside])
        found.append(LayerCost(name, text, cost))
    return tuple(found)


def _adds_up(target: Target) -> bool:
    return target.combine([Cost(1.0), Cost(1.0)]).value >= 2.0


def _units(graph: Graph) -> list[tuple[tuple[Node, ...], Any]]:
    """The model's layers as runtimes take them: normalisations folded, a padding with the convolution that alone reads it,
    an activation with the layer that alone feeds it.  Whether a runtime does join them is then measured too."""
    graph = folded(graph, shapes_only=True)
    units, taken = list[tuple[Node, ...]](), set[str]()
    for node in graph.nodes:
        if node.name in taken or isinstance(node.op, Foreign):
            continue
        unit = [node]
        if isinstance(node.op, Pad) and (reader := _only_reader(graph, node, Conv)) is not None:
            unit.append(reader)
        if takes_activation(unit[-1].op) and (behind := _only_reader(graph, unit[-1], Activation)) is not None:
            unit.append(behind)
        taken.update(n.name for n in unit)
        if not is_free(unit):
            units.append(tuple(unit))
    return [(unit, graph.tensors) for unit in units]


def _only_reader(graph: Graph, node: Node, kind: type) -> Node | None:
    readers = graph.consumers[node.output]
    alone = len(readers) == 1 and node.output not in graph.outputs
    return readers[0] if alone and isinstance(readers[0].op, kind) else None


def runner(name: str, subject: Subject) -> Run:
    """A whole model ready to run once, on one random sample, in the runtime of that target.

    Raises:
        UsageError: the runtime is missing, or has no form of the model.
    """
    graph = _one_sample(subject.graph)
    if name == "onnxruntime":
        return _in_onnxruntime(subject, graph)
    return _in_litert(subject, graph, int8=name == "litert")


def _one_sample(graph: Graph) -> Graph:
    known = sized(graph)
    inputs = {name: replace(known.tensors[name], shape=(1, *(known.shape(name) or ())[1:])) for name in graph.inputs}
    return replace(known, tensors={**known.tensors, **inputs})


def _in_onnxruntime(subject: Subject, graph: Graph) -> Run:
    runtime = module("onnxruntime", "--target onnxruntime")
    native = subject.document.native
    model = native if isinstance(native, OnnxModel) else onnx_of(folded(graph))
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = runtime.InferenceSession(model.proto().SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = samples(graph)

    def run() -> object:
        return session.run(None, feeds)

    return run


def _in_litert(subject: Subject, graph: Graph, int8: bool) -> Run:
    function = traced(subject)
    drawn = [samples(graph, seed) for seed in range(4)]
    calibration = [[to_file(sample[name]) for name in graph.inputs] for sample in drawn]
    model = Model(to_int8(function, calibration) if int8 else to_float(function))
    return model.invoke


def in_turn(runs: Sequence[Run], effort: Effort) -> list[F64]:
    """Microseconds of every run, the models one after the other in each turn, until their ratio is known well enough."""
    for run in runs:
        for _ in range(3):
            run()
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(effort.rounds):
        for _ in range(effort.runs):
            for run, kept in zip(runs, times, strict=True):
                start = perf_counter_ns()
                run()
                kept.append((perf_counter_ns() - start) / 1e3)
        if len(runs) > 1:
            ratio, (low, high) = ratio_of([np.array(t) for t in times])
            if (high - low) / 2 <= effort.width * ratio:
                break
    return [np.array(t) for t in times]


def ratio_of(times: Sequence[F64]) -> tuple[float, tuple[float, float]]:
    """First over second, each by its fastest quarter, and the 95 % interval by resampling turns."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(times[0]), (200, len(times[0])))
    ratios = [fastest(times[0][rows]) / fastest(times[1][rows]) for rows in drawn]
    low, high = np.percentile(ratios, (2.5, 97.5))
    return fastest(times[0]) / fastest(times[1]), (float(low), float(high))


def spread_of(times: F64) -> Spread:
    """How single runs spread."""
    least, p25, median, p75, p95 = (float(q) for q in np.percentile(times, (0, 25, 50, 75, 95)))
    return Spread(len(times), fastest(times), least, p25, median, p75, p95)


def check_two(subjects: Sequence[Subject]) -> None:
    """That two models take the same inputs, layouts aside.

    Raises:
        UsageError: they do not.
    """
    sizes = [sorted(np.prod([n for n in (s.graph.shape(i) or ())[1:] if isinstance(n, int)]) for i in s.graph.inputs)
             for s in subjects]
    if any(size != sizes[0] for size in sizes):
        raise UsageError(f"the models take inputs of {sizes[0]} and {sizes[1]} numbers: they do not do the same job")
