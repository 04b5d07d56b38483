"""Layers, multiply-accumulates, errors and latencies of ONNX models, without the project's own counting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from support.peers import LEVELS, session

CONVOLUTIONS = {"Conv", "FusedConv", "ConvTranspose", "NhwcFusedConv"}
PRODUCTS = {"Gemm", "MatMul", "FusedGemm", "FusedMatMul", "TransposeMatMul"}


def count(path: Path, inputs: Mapping[str, Any]) -> tuple[int, int]:
    """Compute nodes and multiply-accumulates of one sample: the shapes are those that onnxruntime computes with."""
    model = onnx.load(str(path))
    weights = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            weights[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    nodes = [n for n in model.graph.node if n.op_type in CONVOLUTIONS | PRODUCTS]
    wanted = list(dict.fromkeys(name for n in nodes for name in (n.input[0], n.input[1], n.output[0]) if name not in weights))
    shapes = {name: a.shape for name, a in weights.items()} | _shapes(model, wanted, inputs)
    return len(nodes), sum(_macs(n, shapes) for n in nodes)


def _shapes(model: Any, wanted: list[str], inputs: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    found = {name: a.shape for name, a in inputs.items()}
    asked = [n for n in wanted if n not in found]
    outputs = {o.name for o in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in asked if name not in outputs)
    run = session(model.SerializeToString(), LEVELS.ORT_DISABLE_ALL)
    return found | {n: a.shape for n, a in zip(asked, run.run(asked, dict(inputs)) if asked else [], strict=True)}


def _macs(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:
    size = prod(shapes[node.input[1]])
    if node.op_type == "ConvTranspose":
        return size * prod(shapes[node.input[0]][2:])
    if node.op_type in CONVOLUTIONS:
        return size * prod(shapes[node.output[0]][2:])
    return size * prod(shapes[node.output[0]][:-1])


def outputs(run: Any, inputs: Mapping[str, Any]) -> list[Any]:
    return [np.asarray(a) for a in run.run(None, dict(inputs))]


def error(found: list[list[Any]], exact: list[list[Any]]) -> float:
    """Largest |y − exact| over the largest |exact|, over outputs and samples."""
    worst = 0.0
    for i in range(len(exact[0])):
        scale = max(np.abs(sample[i]).max(initial=0.0) for sample in exact) or 1.0
        gap = max(np.abs(a[i].astype(np.float64) - b[i]).max(initial=0.0) for a, b in zip(found, exact, strict=True))
        worst = max(worst, float(gap / scale))
    return worst


def interleaved(
    calls: Mapping[str, Callable[[], Any]], seconds: float, least: int = 7, run: float = 0.0
) -> dict[str, list[float]]:
    """Times of each call, all in turn and in a new random order every round, until the time is used up.

    With `run` each turn is one call that is not timed, to have the caches its own, and then as many in a row as take about that
    many seconds.
    """
    shuffle, repeats = Random(0), dict.fromkeys(calls, 1)
    for name, call in calls.items():
        call()
        repeats[name] = max(1, round(run / _seconds(call, 1))) if run else 1
    times: dict[str, list[float]] = {name: [] for name in calls}
    order, end = list(calls), perf_counter() + seconds
    while perf_counter() < end or len(times[order[0]]) < least:
        shuffle.shuffle(order)
        for name in order:
            if run:
                calls[name]()
            times[name].append(_seconds(calls[name], repeats[name]))
    return times


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    """Processor time: everything runs on one thread, and what else the machine does meanwhile is left out."""
    start = process_time()
    for _ in range(repeats):
        call()
    return (process_time() - start) / repeats


def ratios(times: Mapping[str, list[float]], base: str) -> dict[str, float]:
    """Median over the rounds of the ratio to `base` in the same round."""
    return {name: median(t / b for t, b in zip(row, times[base], strict=True)) for name, row in times.items()}
