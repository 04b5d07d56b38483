"""What a merge takes grows with the model and no faster: time over the layers, memory over the weights, and the import.

Linear chains of up to 1,000 layers; a net of 100 million parameters with its weights inside the file and beside it, merged
in a process of its own; `import decascade` in a fresh interpreter.

    python benchmarks/merging_is_linear_in_size.py [--quick]
"""

from __future__ import annotations

import support.setup  # noqa: F401  threads and paths, before all else

# isort: split
import argparse
import gc
import json
import os
import subprocess
import sys
from math import log2
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np
import onnx

import decascade
from decascade.algebra.conv import Conv
from decascade.ir.ops import Dense, Flatten
from support.corpus import Net
from support.exporter import export
from support.results import write_results
from support.setup import PARTIAL, ROOT

NAME = "merging_is_linear_in_size"
FRAMEWORKS = ("onnx", "onnx_ir", "onnxruntime", "keras", "tensorflow", "torch", "scipy", "typer", "rich")
IMPORT = f"""
from time import perf_counter, process_time
def now(): return perf_counter(), process_time()
start = now(); import numpy; middle = now(); import decascade; end = now()
import json, sys
print(json.dumps([middle[1] - start[1], end[1] - start[1], end[0] - start[0], [n for n in {FRAMEWORKS!r} if n in sys.modules]]))
"""


def chain(kind: str, layers: int) -> Any:
    """Layers that turn and hardly scale: the product of a thousand others would vanish, or lose its rank."""
    net = Net((64,) if kind == "dense" else (16, 16, 16))
    last, width, taps = "x", 64 if kind == "dense" else 16, {"1x1": 1, "3x3": 3}.get(kind, 0)
    for _ in range(layers):
        weight = 0.01 * net.rng.standard_normal((width, width, *(taps,) * 2)) if taps else np.zeros((width, width))
        weight[(..., *(taps // 2,) * 2) if taps else ...] += np.linalg.qr(net.rng.standard_normal((width, width)))[0]
        bias = 0.01 * net.rng.standard_normal(width)
        layer = Conv(weight.astype(np.float32), bias.astype(np.float32), 1, 1, taps // 2)
        last = net.add(layer if taps else Dense(layer), last)
    return export(net.graph())


def times(quick: bool) -> dict[str, Any]:
    """Processor time of merging chains of growing length."""
    lengths = (100, 200, 400) if quick else (250, 500, 1000)
    found: dict[str, Any] = {}
    for kind in ("1x1", "dense", "3x3"):
        for policy in ("profitable", "always"):
            models = {n: chain(kind, n) for n in lengths}
            taken = {str(n): list[float]() for n in lengths}
            for n in (lengths[0], *lengths, *lengths):
                start = process_time()
                result = decascade.merge(models[n], policy=policy, verify=False)
                taken[str(n)].append(process_time() - start)
            best = {n: min(t) for n, t in taken.items()}
            first, last = best[str(lengths[0])], best[str(lengths[-1])]
            found[f"{kind}, {policy}"] = {
                "seconds": best,
                "exponent": log2(last / first) / log2(lengths[-1] / lengths[0]),
                "layers_after": result.report.layers.after,
            }
    return found


def large(parameters: float) -> Any:
    """Wide blocks and a dense tail: cascades that pay, a cascade that does not, layers that are none."""
    width = 512
    blocks = round((parameters - 38e6) / 10.5e6)
    net = Net((width, 8, 8))
    x = net.relu(net.conv("x", width, width, 1))
    for _ in range(blocks):
        x = net.relu(net.conv(net.conv(x, width, 4 * width, 3), 4 * width, width, 1))
    x = net.add(Flatten(), net.relu(net.conv(x, width, 128, 1)))
    net.dense(net.dense(net.relu(net.dense(x, 8192, 4096)), 4096, 1024), 1024, 10)
    return export(net.graph())


def memory(quick: bool) -> dict[str, Any]:
    folder = PARTIAL / "large"
    folder.mkdir(parents=True, exist_ok=True)
    small, inside, beside = folder / "small.onnx", folder / "inside.onnx", folder / "beside.onnx"
    onnx.save(chain("1x1", 3), str(small))
    model = large(50e6 if quick else 100e6)
    parameters = sum(_count(w.dims) for w in model.graph.initializer)
    onnx.save(model, str(inside))
    # appends to what is there
    (folder / "beside.data").unlink(missing_ok=True)
    onnx.save(model, str(beside), save_as_external_data=True, location="beside.data", size_threshold=1024)
    del model
    gc.collect()
    size = inside.stat().st_size
    found: dict[str, Any] = {"parameters": parameters, "bytes": size, "runs": {}}
    for name, path in (("weights in the file", inside), ("weights beside the file", beside)):
        for verify in (0, 1):
            row = _peak(small, path, folder / "out.onnx", verify)
            row["ratio"] = (row["peak"] - row["baseline"]) / size
            found["runs"][f"{name}, {'verified' if verify else 'not verified'}"] = row
    for path in folder.iterdir():
        path.unlink()
    return found


def _count(dims: Any) -> int:
    size = 1
    for n in dims:
        size *= n
    return size


def _peak(small: Path, big: Path, out: Path, verify: int) -> dict[str, Any]:
    script = ROOT / "benchmarks" / "support" / "peak.py"
    done = subprocess.run(
        [sys.executable, str(script), str(small), str(big), str(out), str(verify)],
        check=True, capture_output=True, text=True, env=_environment(),
    )
    return json.loads(done.stdout.splitlines()[-1])


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "src")}


def imports(quick: bool) -> dict[str, Any]:
    rows = []
    for _ in range(3 if quick else 9):
        done = subprocess.run([sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True, env=_environment())
        rows.append(json.loads(done.stdout))
    return {
        "numpy_seconds": median(r[0] for r in rows), "seconds": median(r[1] for r in rows),
        "least_wall_seconds": min(r[2] for r in rows), "frameworks_imported": rows[0][3],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="400 layers, 50 million parameters")
    quick = parser.parse_args().quick
    found = {"import": imports(quick), "memory": memory(quick), "time": times(quick)}
    chains = found["time"]
    lengths = list(next(iter(chains.values()))["seconds"])
    time_rows = [
        [name, *(f"{f['seconds'][n]:.2f} s" for n in lengths), f"{f['exponent']:.2f}", str(f["layers_after"])]
        for name, f in chains.items()
    ]
    mem = found["memory"]
    memory_rows = [
        [name, f"{mem['bytes'] / 2**20:.0f} MiB", f"{r['baseline'] / 2**20:.0f} MiB", f"{r['peak'] / 2**20:.0f} MiB",
         f"{r['ratio']:.2f}", f"{r['seconds']:.0f} s", f"{r['merged']} / {r['left']}"]
        for name, r in mem["runs"].items()
    ]
    imported = found["import"]
    import_rows = [[*(f"{imported[key]:.3f} s" for key in ("seconds", "numpy_seconds", "least_wall_seconds")),
                    ", ".join(imported["frameworks_imported"]) or "none"]]
    write_results(NAME, found, [
        ("Processor time of merging a linear chain, not verified",
         ["chain", *(f"{n} layers" for n in lengths), "exponent (1: linear)", "layers after (of the longest)"], time_rows),
        (f"Memory of merging {mem['parameters'] / 1e6:.0f} M parameters",
         ["", "model", "baseline (imports, a small merge)", "peak", "(peak − baseline) / model", "wall time", "merged / left"],
         memory_rows),
        ("import decascade, fresh interpreter",
         ["processor time", "of which NumPy", "by the clock, least", "frameworks imported"], import_rows),
    ])


if __name__ == "__main__":
    main()
