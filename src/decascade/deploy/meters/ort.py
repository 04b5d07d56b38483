"""Layers timed in onnxruntime on one thread: kernels alone, without what a run of a session costs.

The clock says what a run takes; what a run of next to nothing takes in the same moments is taken off.  onnxruntime keeps
convolutions in a blocked layout.  A layer that is measured by itself pays for the way into it and out of it, which in a model
its neighbours share: conversions of the model's own inputs and outputs are left out, those in between are counted.  What the
former take, onnxruntime's profile tells.  Writing an event down takes the profiler as long as a small kernel runs, inside the
time that it notes: what a run takes longer by the profile than by the clock is taken off its kernels, the same off each.
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
from decascade.deploy.meters.timing import Effort, Stopwatch, fastest
from decascade.deploy.onnx.model import onnx_of
from decascade.deploy.tools import module, version_of
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.names import Names

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


def nothing() -> Graph:
    """A 1×1 convolution of one channel on one pixel."""
    layer = Conv(np.ones((1, 1, 1, 1), np.float32), np.zeros(1, np.float32))
    return Graph((Node("n", layer, ("x",), ("y",)),), ("x",), ("y",), {name: Tensor(name, (1, 1, 1, 1)) for name in "xy"})


ENOUGH, MOST, FEW, WARM = 100.0, 16, 5, 3
"""Microseconds that a measured run should take, copies of a layer at most, runs to find out, and runs before any counts."""


def side_by_side(graph: Graph, copies: int) -> Graph:
    """The model several times, each with inputs of its own, so that nothing can be shared."""
    if copies == 1:
        return graph
    nodes, tensors, names = list[Node](), dict[str, Tensor](), Names()
    inputs, outputs = list[str](), list[str]()
    for i in range(copies):
        name = {old: names.tensor(f"{old}/{i}") for old in graph.tensors}
        tensors.update({new: replace(graph.tensors[old], name=new) for old, new in name.items()})
        nodes += [
            replace(n, name=names.node(f"{n.name}/{i}"), inputs=tuple(name[x] for x in n.inputs),
                    outputs=tuple(name[x] for x in n.outputs))
            for n in graph.nodes
        ]
        inputs += [name[x] for x in graph.inputs]
        outputs += [name[x] for x in graph.outputs]
    return Graph(tuple(nodes), tuple(inputs), tuple(outputs), tensors, graph.name)


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
        return f"onnxruntime {version_of('onnxruntime')}, 1 thread, by the clock, {machine()}"

    def measure(self, graph: Graph) -> tuple[float, float]:
        """See `cost.measured.Meter`."""
        if self._watch.known is None:
            self._watch.known = known_yardstick(self._cache, self.identity)
        copies = self._copies(graph)
        several = side_by_side(graph, copies)
        value, width = self._watch.measure(lambda runs: self._visit(several, runs))
        keep_yardstick(self._cache, self.identity, self._watch)
        return value / copies, width / copies

    def _copies(self, graph: Graph) -> int:
        """How many of a small layer make a run that is long beside one of nothing."""
        rough = fastest(self._visit(graph, FEW)[0])
        return int(min(max(-(-ENOUGH // max(rough, 1.0)), 1), MOST))

    def _visit(self, graph: Graph, runs: int) -> tuple[Times, Times]:
        sessions = [Session(self._runtime, g) for g in (graph, nothing(), yardstick())]
        with tempfile.TemporaryDirectory() as folder:
            profiled = Profiled(self._runtime, graph, Path(folder) / "profile")
            clock = np.empty((runs + WARM, len(sessions)))
            for row in clock:
                row[:] = [session.run() for session in sessions]
                profiled.run()
            kernels = profiled.kernel_times()[WARM:]
        times, empty, yard = clock[WARM:].T
        times = times - fastest(empty)
        edges = time_of_edges(kernels, profiled.edges, fastest(times))
        return np.maximum(times - edges, 0.0), yard - fastest(empty)


def time_of_edges(kernels: Times, edges: Sequence[int], clock: float) -> float:
    """Microseconds that these kernels take of a run of `clock` microseconds; `kernels`, (runs, kernels), is the profile."""
    if not edges:
        return 0.0
    each = np.array([fastest(column) for column in kernels.T])
    profilers_own = max(each.sum() - clock, 0.0) / len(each)
    return float(np.maximum(each[list(edges)] - profilers_own, 0.0).sum())


class Session:
    """A session of one thread, its inputs and outputs in place."""

    def __init__(self, runtime: Any, graph: Graph, profile: Path | None = None) -> None:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_profiling = profile is not None
        if profile is not None:
            options.profile_file_prefix = str(profile)
        model = onnx_of(graph).proto().SerializeToString()
        self._session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._binding = self._session.io_binding()
        self._held = {name: runtime.OrtValue.ortvalue_from_numpy(value) for name, value in samples(graph).items()}
        for name, value in self._held.items():
            self._binding.bind_ortvalue_input(name, value)
        for name in graph.outputs:
            self._binding.bind_output(name)

    def run(self) -> float:
        """Microseconds of a run."""
        start = perf_counter()
        self._session.run_with_iobinding(self._binding)
        return 1e6 * (perf_counter() - start)


class Profiled(Session):
    """A session that writes down what each kernel takes.  `edges`: the kernels that convert the model's own inputs, outputs."""

    def __init__(self, runtime: Any, graph: Graph, prefix: Path) -> None:
        super().__init__(runtime, graph, prefix)
        self._graph, self._runs = graph, 0
        self.edges: list[int] = []

    def run(self) -> float:
        self._runs += 1
        return super().run()

    def kernel_times(self) -> Times:
        """Microseconds of each kernel of each run, (runs, kernels); nothing can be run after it."""
        path = Path(self._session.end_profiling())
        kernels = [e for e in json.loads(path.read_text(encoding="utf-8"))
                   if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
        if not kernels:
            return np.zeros((self._runs, 0))
        kernels.sort(key=lambda e: e["ts"])
        rows = np.array([float(e["dur"]) for e in kernels]).reshape(self._runs, -1)
        first = kernels[: rows.shape[1]]
        found = {*_edges(first, "ReorderInput", "input_type_shape", self._shapes(self._graph.inputs)),
                 *_edges(first, "ReorderOutput", "output_type_shape", self._shapes(self._graph.outputs))}
        self.edges = sorted(found)
        return rows

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


YARDSTICK = "yardstick"


def known_yardstick(cache: Cache, identity: str) -> float | None:
    """What the yardstick took when this cache was begun."""
    found = cache.get(identity, YARDSTICK)
    return None if found is None else found[0]


def keep_yardstick(cache: Cache, identity: str, watch: Stopwatch) -> None:
    """Remember it, once."""
    if watch.known is not None and cache.get(identity, YARDSTICK) is None:
        cache.put(identity, YARDSTICK, watch.known, 0.0)
