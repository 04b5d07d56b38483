"""Layers timed in onnxruntime on one thread, by its own profile: kernels alone, without what a session costs.

onnxruntime keeps convolutions in a blocked layout.  A layer that is measured by itself pays for the way into it and out of
it, which in a model its neighbours share: conversions of the model's own inputs and outputs are left out, those in between
are counted.

Writing an event down takes the profiler about as long as a small kernel runs, inside the time that it notes.  How long, is
measured on a chain of kernels of one element, with the profile and without, and taken off every kernel.
"""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv
from decascade.cost.cache import Cache
from decascade.deploy.onnx_graph import onnx_of
from decascade.deploy.timing import Effort, Stopwatch, fastest
from decascade.deploy.tools import module, version_of
from decascade.ir.graph import Graph, Node, Tensor

USE = "--target onnxruntime"
Times = NDArray[np.float64]


def yardstick() -> Graph:
    """A 3×3 convolution of 16 channels on 32 × 32: a layer of the middle."""
    weight = np.random.default_rng(0).standard_normal((16, 16, 3, 3), np.float32) / 12
    node = Node("yardstick", Conv(weight, np.zeros(16, np.float32), 1, 1, 1), ("x",), ("y",))
    return Graph((node,), ("x",), ("y",), {name: Tensor(name, (1, 16, 32, 32)) for name in "xy"})


def machine() -> str:
    """The processor that times belong to."""
    try:
        rows = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        rows = []
    names = [row.partition(":")[2].strip() for row in rows if row.startswith(("model name", "Model"))]
    return names[0] if names else platform.processor() or platform.machine()


def samples(graph: Graph, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Random inputs of batch 1."""
    rng = np.random.default_rng(seed)
    shapes = {name: [n if isinstance(n, int) else 1 for n in graph.shape(name) or ()] for name in graph.inputs}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


LONG, SHORT = 34, 2


def chain(length: int) -> Graph:
    """1×1 convolutions of one channel on one pixel, one after the other."""
    layer = Conv(np.ones((1, 1, 1, 1), np.float32), np.zeros(1, np.float32))
    nodes = tuple(Node(f"n{i}", layer, (f"t{i}",), (f"t{i + 1}",)) for i in range(length))
    names = [f"t{i}" for i in range(length + 1)]
    return Graph(nodes, ("t0",), (names[-1],), {name: Tensor(name, (1, 1, 1, 1)) for name in names})


ENOUGH, MOST, FEW = 100.0, 16, 5
"""Microseconds that a measured run should take, copies of a layer at most, and runs to find out."""
ROUNDING = 0.5


def side_by_side(graph: Graph, copies: int) -> Graph:
    """The model several times, each with inputs of its own, so that nothing can be shared."""
    if copies == 1:
        return graph
    nodes, tensors = list[Node](), dict[str, Tensor]()
    for i in range(copies):
        name = {old: f"{old}/{i}" for old in graph.tensors}
        tensors.update({new: replace(graph.tensors[old], name=new) for old, new in name.items()})
        nodes += [
            replace(n, name=f"{n.name}/{i}", inputs=tuple(name[x] for x in n.inputs), outputs=tuple(name[x] for x in n.outputs))
            for n in graph.nodes
        ]
    inputs, outputs = (tuple(f"{x}/{i}" for i in range(copies) for x in names) for names in (graph.inputs, graph.outputs))
    return Graph(tuple(nodes), inputs, outputs, tensors, graph.name)


class OrtMeter:
    """Microseconds of kernel time in onnxruntime, float32, one thread, all its optimisations on."""

    name = "onnxruntime"
    unit = "µs"

    def __init__(self, cache: Cache | None = None, effort: Effort | None = None) -> None:
        self._runtime = module("onnxruntime", USE)
        self._cache = cache or Cache()
        self._watch = Stopwatch(effort=effort or Effort())

    @property
    def identity(self) -> str:
        return f"onnxruntime {version_of('onnxruntime')}, 1 thread, less what its profiler takes, {machine()}"

    def measure(self, graph: Graph) -> tuple[float, float]:
        """See `cost.measured.Meter`."""
        if self._watch.known is None:
            self._watch.known = known_yardstick(self._cache, self.identity)
        copies = self._copies(graph)
        several = side_by_side(graph, copies)
        counts = list[int]()
        value, width = self._watch.measure(lambda runs: self._visit(several, runs, counts))
        value -= counts[0] * self._profilers_own()
        keep_yardstick(self._cache, self.identity, self._watch)
        # the profile counts whole microseconds, begun and ended at any moment: that much a run's sum may be off
        return max(value, 0.0) / copies, (width + ROUNDING / self._watch.effort.runs**0.5) / copies

    def _copies(self, graph: Graph) -> int:
        """How many of a small layer make a time that the profile's whole microseconds can tell."""
        rough = fastest(self._visit(graph, FEW, [])[0])
        return int(min(max(-(-ENOUGH // max(rough, 1.0)), 1), MOST))

    def _visit(self, graph: Graph, runs: int, counts: list[int]) -> tuple[Times, Times]:
        """Microseconds of each run of the model and of the yardstick; how many kernels a run of the model has is appended."""
        with tempfile.TemporaryDirectory() as folder:
            pair = [_Profiled(self._runtime, g, Path(folder) / name) for g, name in ((graph, "a"), (yardstick(), "b"))]
            for _ in range(runs + WARM):
                for session in pair:
                    session.run()
            times, yard = (session.kernel_times() for session in pair)
        counts.append(times.shape[1])
        return times[WARM:].sum(axis=1), yard[WARM:].sum(axis=1)

    def _profilers_own(self) -> float:
        """Microseconds that the profile adds to each kernel."""
        held = self._cache.get(self.identity, PROFILER)
        if held is None:
            held = self._watch.measure(self._visit_profiler)
            self._cache.put(self.identity, PROFILER, *held)
        return held[0]

    def _visit_profiler(self, runs: int) -> tuple[Times, Times]:
        """Per run: what a kernel of a chain takes by the profile less what one more takes on the clock; the yardstick."""
        long, short = (_Session(self._runtime, chain(n)) for n in (LONG, SHORT))
        with tempfile.TemporaryDirectory() as folder:
            pair = [_Profiled(self._runtime, g, Path(folder) / name) for g, name in ((chain(LONG), "a"), (yardstick(), "b"))]
            clocks = list[float]()
            for _ in range(runs + WARM):
                clocks.append((long.timed() - short.timed()) / (LONG - SHORT))
                for session in pair:
                    session.run()
            times, yard = (session.kernel_times()[WARM:] for session in pair)
        return times.mean(axis=1) - fastest(np.array(clocks[WARM:])), yard.sum(axis=1)


WARM = 3


class _Session:
    """A session of one thread."""

    def __init__(self, runtime: Any, graph: Graph, profile: Path | None = None) -> None:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_profiling = profile is not None
        if profile is not None:
            options.profile_file_prefix = str(profile)
        model = onnx_of(graph).proto().SerializeToString()
        self._session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._feeds = samples(graph)

    def timed(self) -> float:
        """Microseconds of a run."""
        start = perf_counter()
        self._session.run(None, self._feeds)
        return 1e6 * (perf_counter() - start)


class _Profiled(_Session):
    """A session that writes down what each kernel takes."""

    def __init__(self, runtime: Any, graph: Graph, prefix: Path) -> None:
        super().__init__(runtime, graph, prefix)
        self._graph, self._runs = graph, 0

    def run(self) -> None:
        self._session.run(None, self._feeds)
        self._runs += 1

    def kernel_times(self) -> Times:
        """Microseconds of each kernel of each run, (runs, kernels)."""
        path = Path(self._session.end_profiling())
        kernels = [e for e in json.loads(path.read_text(encoding="utf-8"))
                   if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
        if not kernels:
            return np.zeros((self._runs, 0))
        kernels.sort(key=lambda e: e["ts"])
        rows = np.array([float(e["dur"]) for e in kernels]).reshape(self._runs, -1)
        first = kernels[: rows.shape[1]]
        edge = {*_edges(first, "ReorderInput", "input_type_shape", self._shapes(self._graph.inputs)),
                *_edges(first, "ReorderOutput", "output_type_shape", self._shapes(self._graph.outputs))}
        return rows[:, [i for i in range(rows.shape[1]) if i not in edge]]

    def _shapes(self, names: Sequence[str]) -> list[list[int]]:
        return [[n if isinstance(n, int) else 1 for n in self._graph.shape(name) or ()] for name in names]


def _edges(events: Sequence[Any], kind: str, field: str, shapes: list[list[int]]) -> list[int]:
    """Which of a run's kernels convert the layout of the model's own inputs, or outputs: at most one for each."""
    open_shapes, found = list(shapes), list[int]()
    order = range(len(events)) if kind == "ReorderInput" else range(len(events) - 1, -1, -1)
    for i in order:
        arguments = events[i]["args"]
        if arguments["op_name"] != kind:
            continue
        shape = next(iter(arguments[field][0].values()))
        if shape in open_shapes:
            open_shapes.remove(shape)
            found.append(i)
    return found


YARDSTICK, PROFILER = "yardstick", "profiler"


def known_yardstick(cache: Cache, identity: str) -> float | None:
    """What the yardstick took when this cache was begun."""
    found = cache.get(identity, YARDSTICK)
    return None if found is None else found[0]


def keep_yardstick(cache: Cache, identity: str, watch: Stopwatch) -> None:
    """Remember it, once."""
    if watch.known is not None and cache.get(identity, YARDSTICK) is None:
        cache.put(identity, YARDSTICK, watch.known, 0.0)
