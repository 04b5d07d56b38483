"""Layers as TFLite files: timed in LiteRT on one thread, or measured by the microcontroller allocator; int8 or float32."""

from __future__ import annotations

from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from decascade.cost.cache import Cache
from decascade.deploy.meters.ort import keep_yardstick, known_yardstick, machine, samples, yardstick
from decascade.deploy.meters.timing import Effort, Stopwatch, fastest
from decascade.deploy.tflite.convert import to_float, to_int8
from decascade.deploy.tflite.deployed import to_file
from decascade.deploy.tflite.graph import trace_graph
from decascade.deploy.tflite.litert import Model
from decascade.deploy.tflite.tflm import run_micro
from decascade.deploy.tools import module, version_of
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.ops import Activation

CALIBRATION = 4
"""Random samples that ranges are taken from: they decide no cost."""


def tflite_of(graph: Graph, int8: bool) -> bytes:
    """A graph of known sizes as a file, int8 ranges from random samples."""
    traced = trace_graph(graph)
    if not int8:
        return to_float(traced)
    drawn = [samples(graph, seed) for seed in range(CALIBRATION)]
    return to_int8(traced, [[to_file(sample[name]) for name in graph.inputs] for sample in drawn])


class LiteRTMeter:
    """Microseconds of an invocation in LiteRT, one thread, less what an empty one takes."""

    unit = "µs"

    def __init__(self, int8: bool = True, cache: Cache | None = None, effort: Effort | None = None) -> None:
        self.name = "litert" if int8 else "litert:float"
        module("tensorflow", f"--target {self.name}")
        module("ai_edge_litert.interpreter", f"--target {self.name}")
        self._int8 = int8
        self._cache = cache or Cache()
        self._watch = Stopwatch(effort=effort or Effort())
        self._yard: Model | None = None
        self._empty: Model | None = None

    @property
    def identity(self) -> str:
        kind = "int8" if self._int8 else "float32"
        return f"LiteRT {version_of('ai_edge_litert.interpreter')}, {kind}, 1 thread, {machine()}"

    def measure(self, graph: Graph) -> tuple[float, float]:
        """See `cost.measured.Meter`."""
        if self._watch.known is None:
            self._watch.known = known_yardstick(self._cache, self.identity)
        model = Model(tflite_of(graph, self._int8))
        value = self._watch.measure(lambda runs: self._visit(model, runs))
        keep_yardstick(self._cache, self.identity, self._watch)
        return value

    def _visit(self, model: Model, runs: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self._yard is None or self._empty is None:
            self._yard, self._empty = (Model(tflite_of(g, self._int8)) for g in (yardstick(), _empty()))
        three = (model, self._yard, self._empty)
        times = np.array([[_invoked(m) for m in three] for _ in range(runs + 3)])[3:]
        nothing = fastest(times[:, 2])
        return np.maximum(times[:, 0] - nothing, 0.0), np.maximum(times[:, 1] - nothing, 0.0)


def _invoked(model: Model) -> float:
    start = perf_counter_ns()
    model.invoke()
    return (perf_counter_ns() - start) / 1e3


def _empty() -> Graph:
    """A model that does next to nothing."""
    node = Node("empty", Activation("relu"), ("x",), ("y",))
    return Graph((node,), ("x",), ("y",), {name: Tensor(name, (1, 1)) for name in "xy"})


class ArenaMeter:
    """Bytes of the arena that TensorFlow Lite for Microcontrollers takes; exact."""

    unit = "bytes"

    def __init__(self, int8: bool = True) -> None:
        self.name = "tflm" if int8 else "tflm:float"
        module("tensorflow", f"--target {self.name}")
        module("tflite_micro", f"--target {self.name}")
        self._int8 = int8

    @property
    def identity(self) -> str:
        tools = f"TFLM {version_of('tflite_micro')}, TensorFlow {version_of('tensorflow')}"
        return f"{tools}, {'int8' if self._int8 else 'float32'}"

    def measure(self, graph: Graph) -> tuple[float, float]:
        """See `cost.measured.Meter`."""
        return float(run_micro(tflite_of(graph, self._int8)).arena), 0.0
