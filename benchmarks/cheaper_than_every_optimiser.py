"""The same models through every optimiser: what is left to compute, how fast it runs, how exact it is, what it took.

Linear blocks as over-parameterised and re-parameterised networks have them, the demo's net and published models, each
through onnxruntime (three levels), onnxsim, onnxslim, onnxscript, OpenVINO and decascade (both policies).  Results run in
onnxruntime on one thread, all in turn; OpenVINO's own runs in OpenVINO, and so does decascade's once more.

    python benchmarks/cheaper_than_every_optimiser.py [--quick] [--only SUBSTRING]

An interrupted run goes on where it stopped.
"""

from __future__ import annotations

import support.setup  # noqa: F401  threads and paths, before all else

# isort: split
import argparse
import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console

from decascade.formats.onnx.format import FORMAT
from decascade.ir.interpret import run
from support.corpus import corpus
from support.measure import count, error, interleaved, outputs, ratios
from support.peers import OPENVINO, OURS, TOOLS, VERIFIED, openvino_layers, session
from support.results import Partial, write_results
from support.setup import PARTIAL

NAME = "cheaper_than_every_optimiser"
SAMPLES = 16
SQRT3 = 3**0.5
"""Inputs are uniform with variance 1 where nothing else is known of them."""
PIXELS = {"yunet_n_320_320.onnx": (0.0, 255.0), "digits.onnx": (0.0, 1.0)}
"""What models take that were trained on something else."""
NOISE = 1.05
"""Two timings that are closer than this are equal."""
METRICS = {"layers": "layers", "macs": "MACs", "latency": "latency", "error": "error", "time": "optimiser time"}


def measure(path: Path, quick: bool) -> dict[str, Any]:
    """Every figure of every tool on one model."""
    graph = FORMAT.read(path).graph
    rng = np.random.default_rng(0)
    shapes = {n: tuple(d if isinstance(d, int) else 1 for d in graph.shape(n) or ()) for n in graph.inputs}
    lo, hi = PIXELS.get(path.name, (-SQRT3, SQRT3))
    inputs = [{n: rng.uniform(lo, hi, s).astype(np.float32) for n, s in shapes.items()} for _ in range(SAMPLES)]
    exact = [[run(graph, x)[n] for n in graph.outputs] for x in inputs]
    folder = PARTIAL / "out"
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{i}.onnx" for i, name in enumerate(TOOLS)}
    compiled = {name: tool(path, files[name]) for name, tool in TOOLS.items()}
    files["original"] = path
    found: dict[str, dict[str, Any]] = {}
    runs: dict[str, Callable[[Any], list[Any]]] = {}
    for name in ("original", *TOOLS):
        if name == OPENVINO:
            runs[name] = _in_openvino(compiled[name], len(exact[0]))
            layers, macs = openvino_layers(path)
        else:
            runs[name] = _in_onnxruntime(files[name])
            layers, macs = count(files[name], inputs[0])
            if name == "ORT all":
                # the same kernels as "extended" in a blocked layout, filled up with zeros that are no work to be counted
                macs = found["ORT extended"]["macs"]
        found[name] = {"layers": layers, "macs": macs, "error": error([runs[name](x) for x in inputs], exact)}
    for name in OURS:
        runs[f"{name}, in OpenVINO"] = _in_openvino(TOOLS[OPENVINO](files[name], folder / "none"), len(exact[0]))
    _time(found, runs, path, folder, inputs[0], quick)
    for name in OURS:
        found[name]["cascades"] = _cascades(compiled[name])
    return found


def _cascades(report: Any) -> list[list[str]]:
    return [[c.decision, c.border or "", c.reason] for c in report.cascades]


def _in_onnxruntime(path: Path) -> Callable[[Any], list[Any]]:
    ready = session(path)
    return lambda x: outputs(ready, x)


def _in_openvino(compiled: Any, number: int) -> Callable[[Any], list[Any]]:
    request = compiled.create_infer_request()

    def call(x: Any) -> list[Any]:
        request.infer(x, share_inputs=True)
        return [np.array(request.get_output_tensor(i).data) for i in range(number)]

    return call


def _time(found: dict[str, dict[str, Any]], runs: Any, path: Path, folder: Path, x: Any, quick: bool) -> None:
    latency = interleaved({n: partial(call, x) for n, call in runs.items()}, 1.5 if quick else 8.0, run=2e-3)
    for name, ratio in ratios(latency, "original").items():
        found.setdefault(name, {})["latency"] = ratio
        found[name]["microseconds"] = 1e6 * median(latency[name])
    tools = {**TOOLS, **{f"{name}, verified": tool for name, tool in VERIFIED.items()}}
    calls = {name: partial(tool, path, folder / "timed.onnx") for name, tool in tools.items()}
    for name, times in interleaved(calls, 0.0, 3 if quick else 7).items():
        found.setdefault(name, {})["time"] = median(times)


def losses(found: dict[str, dict[str, Any]], ours: str) -> list[dict[str, Any]]:
    """Cells in which a peer is better than one of ours; the original is a peer too."""
    out = []
    for peer, theirs in found.items():
        if peer in OURS or "layers" not in theirs:
            continue
        for metric, word in METRICS.items():
            if metric not in theirs:
                continue
            mine = found[f"{ours}, in OpenVINO"] if metric == "latency" and peer == OPENVINO else found[ours]
            slack = {"layers": 1.0, "macs": 1.0, "latency": NOISE, "error": 1.2, "time": NOISE}[metric]
            if mine[metric] > slack * theirs[metric] and not (metric == "error" and mine[metric] < 1e-6):
                out.append({"metric": word, "peer": peer, "ours": mine[metric], "theirs": theirs[metric]})
    return out


def main() -> None:
    # what peers import is old by now: collecting the garbage of one must not be charged to another
    gc.collect()
    gc.freeze()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--only", default="", help="models whose name has this in it")
    given = parser.parse_args()
    state = Partial(NAME, {"quick": given.quick})
    files = {name: path for name, path in corpus().items() if given.only in name}
    for i, (name, path) in enumerate(files.items()):
        Console(stderr=True).print(f"{i + 1} of {len(files)}: {name}")
        if name not in state.done:
            state.put(name, measure(path, given.quick))
    report({name: state.done[name] for name in files})
    if not given.quick and not given.only:
        state.path.unlink(missing_ok=True)


def report(found: dict[str, dict[str, dict[str, Any]]]) -> None:
    tools = ["original", *TOOLS]
    tables = []
    lost = {(name, ours): losses(models, ours) for name, models in found.items() for ours in OURS}
    for metric, title in (("layers", "Compute layers left (Conv, ConvTranspose, Gemm, MatMul nodes)"),
                          ("macs", "Multiply-accumulates, millions"),
                          ("latency", "Latency in onnxruntime on one thread, ratio to the original (OpenVINO: in OpenVINO)"),
                          ("error", "Worst error against float64, relative to the largest output"),
                          ("time", "Optimiser time, file to file, milliseconds")):
        extra = {"latency": [f"{o}, in OpenVINO" for o in OURS], "time": [f"{o}, verified" for o in OURS]}.get(metric, [])
        shown = [t for t in (*tools, *extra) if metric != "time" or t != "original"]
        rows = [[name, *(_cell(found[name], tool, metric) for tool in shown)] for name in found]
        for row, name in zip(rows, found, strict=True):
            for i, tool in enumerate(shown, start=1):
                if tool in OURS and any(x["metric"] == METRICS[metric] for x in lost[name, tool]):
                    row[i] = f"**{row[i]}** (!)"
        tables.append((title, ["model", *shown], rows))
    tables.append(("Where a peer is better", ["model", "ours", "in", "we have", "they have", "why"], _lost_rows(found, lost)))
    write_results(NAME, {"models": found, "lost": [[*k, v] for k, v in lost.items()]}, tables,
                  [f"(!): some peer is better; timings within {NOISE - 1:.0%} of each other are equal."])


def _lost_rows(found: Any, lost: dict[tuple[str, str], list[dict[str, Any]]]) -> list[list[str]]:
    rows = []
    for (name, ours), cells in lost.items():
        for metric in METRICS.values():
            here = [x for x in cells if x["metric"] == metric]
            if here:
                theirs = ", ".join(f"{x['peer']} {_number(metric, x['theirs'])}" for x in here)
                why = why_lost(metric, found[name], ours, here)
                rows.append([name, ours, metric, _number(metric, here[0]["ours"]), theirs, why])
    return rows


def why_lost(metric: str, found: dict[str, dict[str, Any]], ours: str, cells: list[dict[str, Any]]) -> str:
    """The reason, as far as the figures themselves show it."""
    mine, rings = found[ours], [c for c in found[ours]["cascades"] if c[0] == "merged" and c[1] == "ring"]
    dearer = mine["macs"] > found["original"]["macs"]
    if metric == "layers":
        return f"{len(rings)} merged layers have border corrections, each some convolutions on a thin strip or tile"
    if metric in ("MACs", "latency") and dearer:
        return "policy always: fewer layers whatever they cost"
    if metric == "latency" and all(_same_work(mine, found[x["peer"]]) for x in cells):
        return "the same convolutions: the timing's own spread"
    if metric == "latency":
        return f"less to compute, in {'more and smaller operations' if rings else 'shapes that the runtime is slower on'}"
    if metric == "error":
        return "other sums: one long one where the original has several short ones; within the float32 bound"
    compiled = {"ORT basic", "ORT extended", "ORT all", "onnxsim"}
    if all(x["peer"] in compiled for x in cells):
        return "compiled code that merges nothing; decascade is Python on NumPy"
    return "composing kernels and weighing border forms is work that the others do not do"


def _same_work(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return (a["layers"], a["macs"]) == (b["layers"], b["macs"])


def _cell(found: dict[str, dict[str, Any]], tool: str, metric: str) -> str:
    value = found[tool].get(metric)
    return "" if value is None else _number(METRICS[metric], value)


def _number(metric: str, value: float) -> str:
    match metric:
        case "layers":
            return str(value)
        case "MACs":
            return f"{value / 1e6:.2f}"
        case "error":
            return f"{value:.1e}"
        case "latency":
            return f"{value:.2f}"
        case _:
            return f"{1e3 * value:.1f}"


if __name__ == "__main__":
    main()
