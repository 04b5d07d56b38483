"""Proofs over input boxes beside onnxsim's (0.8 or newer), on the same ONNX files: tightness, time, and what comes of them.

Bounds of every activation's input: `interval` and `crown` of onnxsim; decascade's are those of its backward linear stage.
Rewrites: `range_opt` (activations that are the identity on the box disappear), `stable_relu_prune` (dead units go, and layers
merge where all units of a fully connected one are always on); of decascade `merge(input_range=..., policy="always")`.  Every
tool runs in a process of its own under a limit on CPU time; what takes longer is told.  Files: published Keras networks
exported by the independent `support/exporter.py`, published and own ONNX files.

    python benchmarks/proofs_beside_onnxsims.py [--limit 60] [--only NAME]
"""

from __future__ import annotations

import support.setup  # noqa: F401  threads and paths, before all else

# isort: split
import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import numpy as np
import onnx

import decascade
from bounds.nets import chain, conv
from decascade.algebra.conv import Conv
from decascade.bounds.driver import linear_bounds
from decascade.formats.registry import format_of
from decascade.ir.graph import Graph
from decascade.ir.ops import Activation, GlobalPool
from support.exporter import export
from support.published_models import NETWORKS
from support.results import Partial, write_results
from support.setup import MODELS, ROOT

NAME = "proofs_beside_onnxsims"
RELU = Activation("relu")
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
KINDS = ("Relu", "Clip", "LeakyRelu", "HardSwish", "HardSigmoid", "Abs", "PRelu")
BOUNDS = ("onnxsim interval", "onnxsim crown", "decascade linear")
REWRITES = ("onnxsim range_opt", "onnxsim stable_relu_prune", "decascade merge")


def seed_case() -> Graph:
    """Two convolutions with ReLU, zero-padded, the first without a negative number."""
    rng = np.random.default_rng(0)
    first = Conv(np.abs(rng.normal(size=(12, 2, 3, 3))).astype(np.float32), np.full(12, 0.05, np.float32), padding=1)
    return chain(first, RELU, conv(rng, 12, 3), RELU, shape=(2, 14, 14))


def small_cnn() -> Graph:
    rng = np.random.default_rng(0)
    layers = [conv(rng, 2, 8), RELU, conv(rng, 8, 8), RELU, conv(rng, 8, 8, stride=2), RELU, conv(rng, 8, 8), RELU]
    return chain(*layers, GlobalPool("avg"), shape=(2, 12, 12))


def files(folder: Path, only: str) -> dict[str, tuple[Path, list[tuple[str, Any]]]]:
    """Per name that contains `only` a file and its boxes."""
    found: dict[str, tuple[Path, list[tuple[str, Any]]]] = {}

    def put(name: str, graph: Graph, boxes: list[tuple[str, Any]]) -> None:
        onnx.save(export(graph), folder / f"{name}.onnx")
        found[name] = (folder / f"{name}.onnx", boxes)

    put("seed case", seed_case(), [("[0, 1]", (0.0, 1.0))])
    put("4 convolutions", small_cnn(), [("[0, 1]", (0.0, 1.0)), ("[0.4, 0.6]", (0.4, 0.6))])
    for network in NETWORKS:
        if not network.there() or only not in network.name:
            continue
        boxes = [(k, network.box(lo, hi)) for k, lo, hi in (("full", 0, 1), ("grey ± 8/255", 0.5 - 8 / 255, 0.5 + 8 / 255))]
        if network.file.endswith(".onnx"):
            found[network.name] = (MODELS / network.file, boxes)
        else:
            put(network.name, network.graph(), boxes)
    found["digits (examples)"] = (ROOT / "examples" / "digits.onnx", [("[0, 1]", (0.0, 1.0)), ("[0.45, 0.55]", (0.45, 0.55))])
    return {k: v for k, v in found.items() if only in k}


def fixed(path: Path) -> onnx.ModelProto:
    """The model for one sample: onnxsim's bounds need all sizes."""
    model = onnx.load(str(path))
    for value in (*model.graph.input, *model.graph.output):
        dim = value.type.tensor_type.shape.dim[0]
        dim.ClearField("dim_param")
        dim.dim_value = 1
    return model


def box_of(model: onnx.ModelProto, given: Any) -> tuple[str, Any]:
    """The input's name, and bounds that broadcast against (1, C, *S)."""
    value = model.graph.input[0]
    rank = len(value.type.tensor_type.shape.dim)
    lo, hi = (np.asarray(a, np.float64).reshape(1, -1, *(1,) * (rank - 2)) for a in given)
    shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
    return value.name, tuple(np.broadcast_to(a, shape).astype(np.float32) for a in (lo, hi))


def counted(model: onnx.ModelProto) -> list[int]:
    """Layers and activations."""
    kinds = [n.op_type for n in model.graph.node]
    return [sum(k in LAYERS for k in kinds), sum(k in KINDS for k in kinds)]


def job(tool: str, path: Path, given: Any) -> dict[str, Any]:
    """One tool on one file and box; its own CPU seconds, the imports left out."""
    model = fixed(path)
    name, span = box_of(model, given)
    if tool == "decascade merge":
        start = process_time()
        result = decascade.merge(path, input_range=given, policy="always", prove_seconds=20.0)
        seconds = process_time() - start
        with TemporaryDirectory() as folder:
            result.save(Path(folder) / "merged.onnx")
            after = onnx.load(str(Path(folder) / "merged.onnx"))
        totals, thin = counted(after), result.report.layers.corrections
        return {"seconds": seconds, "after": [totals[0] - thin, totals[1]], "corrections": thin,
                "before": counted(onnx.load(str(path)))}
    graph = format_of(model).read(model).graph
    tensors = [n.inputs[0] for n in graph.nodes if isinstance(n.op, Activation) and n.op.kind in ("relu", "clip")]
    if tool == "decascade linear":
        start = process_time()
        bounds = linear_bounds(graph, given, 1e6)
        seconds = process_time() - start
        return {"seconds": seconds, "widths": [(bounds[n.name][1] - bounds[n.name][0]).tolist() for n in graph.nodes
                                               if n.name in bounds and n.inputs[0] in tensors]}
    return peer(tool, model, {name: span}, tensors)


def peer(tool: str, model: onnx.ModelProto, ranges: Any, tensors: list[str]) -> dict[str, Any]:
    from onnxsim import crown, interval, range_opt, stable_relu_prune

    start = process_time()
    match tool:
        case "onnxsim interval":
            found = interval.propagate(model, ranges).intervals
        case "onnxsim crown":
            found = crown.bounds(model, ranges, tensors)
        case "onnxsim range_opt":
            after, _ = range_opt.apply(model, ranges, engine="interval")
            return {"seconds": process_time() - start, "after": counted(after), "before": counted(model)}
        case _:
            after, report = stable_relu_prune.apply(model, ranges, merge_active=True)
            return {"seconds": process_time() - start, "after": counted(after), "before": counted(model),
                    "removed_channels": report.removed_units}
    seconds = process_time() - start
    return {"seconds": seconds, "widths": [width(found[t]) for t in tensors]}


def width(found: Any) -> list[float]:
    """Per channel, over all positions."""
    lo, hi = ((found.lo, found.hi) if hasattr(found, "lo") else found)
    a, b = (np.asarray(v, np.float64) for v in (lo, hi))
    a, b = (v.reshape(v.shape[1], -1) for v in (a, b))
    return (b.max(axis=1) - a.min(axis=1)).tolist()


def limited(tool: str, path: Path, given: Any, limit: int) -> dict[str, Any]:
    """`job` in a process that ends after `limit` CPU seconds (and what the imports take)."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        task = json.dumps({"tool": tool, "path": str(path), "box": [np.asarray(a).tolist() for a in given], "out": str(out)})
        # the imports take some of it
        cap = (limit + 15, limit + 20)
        done = subprocess.run(
            [sys.executable, __file__, "--job", task], capture_output=True, text=True, check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, cap))
        if out.exists():
            return json.loads(out.read_text())
        if done.returncode < 0:
            return {"failed": f"more than {limit} s"}
        return {"failed": (done.stderr.strip().splitlines() or ["no word"])[-1][:160]}


def ratios(ours: dict[str, Any], theirs: dict[str, Any]) -> list[float]:
    return [a / b for x, y in zip(ours["widths"], theirs["widths"], strict=True) for a, b in zip(x, y, strict=True) if b > 0]


def seconds(found: dict[str, Any]) -> str:
    return found["failed"] if "failed" in found else f"{found['seconds']:.2f}"


def tables(done: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    bounds, rewrites = list[list[str]](), list[list[str]]()
    for key, r in done.items():
        name, box = key.split(" | ")
        interval, crown, own = (r[t] for t in BOUNDS)
        cells = [name, box]
        for other in (interval, crown):
            bad = "failed" in other or "failed" in own
            found = [] if bad else ratios(own, other)
            cells += ["–", "–"] if not found else [f"{max(found):.4f}", f"{np.median(found):.4f}"]
        bounds.append([*cells, seconds(interval), seconds(crown), seconds(own)])
        cells = [name, box]
        for tool in REWRITES:
            found = r[tool]
            change = () if "failed" in found else (found["before"], found["after"])
            told = " → ".join(f"{a}/{b}" for a, b in change) or "–"
            if thin := found.get("corrections", 0):
                told += f", + {thin} corrections of the border"
            cells += [told, seconds(found)]
        rewrites.append(cells)
    return [
        ("Width of the bounds, decascade's linear ones over onnxsim's (1: equal, less: tighter), and CPU seconds",
         ["file", "box", "interval: worst channel", "median", "crown: worst channel", "median", "interval s", "crown s",
          "decascade s"], bounds),
        ("Layers/activations before → after, and CPU seconds",
         ["file", "box", *(c for t in REWRITES for c in (t, "s"))], rewrites),
    ]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--limit", type=int, default=60, help="CPU seconds per tool, file and box")
    options.add_argument("--only", default="", help="files whose name contains this")
    options.add_argument("--job", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.job:
        task = json.loads(chosen.job)
        found = job(task["tool"], Path(task["path"]), tuple(task["box"]))
        Path(task["out"]).write_text(json.dumps(found))
        return
    state = Partial(NAME, {"limit": chosen.limit})
    with TemporaryDirectory() as folder:
        for name, (path, boxes) in files(Path(folder), chosen.only).items():
            for box, given in boxes:
                if (key := f"{name} | {box}") not in state.done:
                    state.put(key, {t: limited(t, path, given, chosen.limit) for t in (*BOUNDS, *REWRITES)})
                    print(key, {t: seconds(r) for t, r in state.done[key].items()}, flush=True)
    notes = [f"Limit: {chosen.limit} CPU seconds per tool. 2 cores, one thread each; others used the machine as well, so CPU"
             " seconds are given. A width above 1 is the price of soundness: decascade's bounds hold for float32 in any order"
             " of summation, onnxsim's in real arithmetic; it grows with the number of layers. onnxsim range_opt runs on its"
             " interval engine. What a merged cascade with zero padding needs along the border, thin convolutions on single"
             " rows and columns, is counted apart."]
    write_results(NAME, {"rows": state.done}, tables(state.done), notes)


if __name__ == "__main__":
    main()
