"""ResNet-8 on a microcontroller, before and after `compress`: RAM, flash, instructions, latency, accuracy, agreement.

    python benchmarks/device_of_resnet8.py [--compressed FILE] [--quick]

FILE is what `decascade compress` wrote; without it a short run is made here: 1.5 times fewer multiply-accumulates, 4,096
images, six minutes.  Both models are exported to int8 as `decascade export` does it, with 200 training images, and to C.  The
int8 files are run by LiteRT's reference kernels and by TensorFlow Lite for Microcontrollers on the same test images; the result
of every operation is compared.  The C runs five times on each emulated processor, in the last run beside a busy loop.
"""

from __future__ import annotations

import support.setup  # noqa: F401  threads and paths, before all else

# isort: split
import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import decascade as dc
from decascade.api.common import read_model
from decascade.checking.models import Subject
from decascade.cost import target_named
from decascade.cost.folding import folded
from decascade.deploy.benchmark import Effort, in_turn, ratio_of, spread_of
from decascade.deploy.c.code import generate
from decascade.deploy.c.cortex_m import MACHINES, run_on_chip
from decascade.deploy.onnx.model import onnx_of
from decascade.deploy.tflite.litert import Model
from decascade.deploy.tflite.tflm import run_micro
from decascade.formats.onnx.run import run_model
from decascade.regions.merge import sized
from support.results import write_results
from support.setup import DATA, MODELS, PARTIAL

NAME = "device_of_resnet8"
ORIGINAL = MODELS / "mlperf_tiny_resnet8_cifar10.h5"
ARENA = 56528
"""Bytes that TensorFlow Lite for Microcontrollers takes for what TensorFlow's own converter makes of this network."""
CALIBRATION, RUNS, SAME = 200, 5, 64


def images(name: str, count: int | None = None) -> tuple[Any, Any]:
    with np.load(DATA / name) as file:
        return file["x"][:count].astype(np.float32), file["y"][:count].reshape(-1)


def short_run() -> Path:
    """A compressed model made here."""
    place = PARTIAL / f"{NAME}.h5"
    x, _ = images("cifar10_train_part0.npz", 4096)
    result = dc.compress(ORIGINAL, x, speedup=1.5, time_limit=360.0)
    PARTIAL.mkdir(exist_ok=True)
    result.save(place, force=True)
    return place


def exported(path: Path, folder: Path) -> dict[str, bytes]:
    """The model as int8 and as float32 .tflite, as the command line would write them."""
    x, _ = images("cifar10_train_part0.npz", CALIBRATION)
    np.savez(folder / "train.npz", x=x)
    found = dict[str, bytes]()
    for kind in ("int8", "float"):
        place = folder / f"{kind}.tflite"
        dc.export(path, place, int8=kind == "int8", data=folder / "train.npz", force=True)
        found[kind] = place.read_bytes()
    return found


def int8_outputs(data: bytes, x: Any, reference: bool) -> Any:
    model = Model(data, reference=reference)
    stored = model.inputs[0].stored(x)
    return np.concatenate([model.run([stored[i : i + 1]])[0] for i in range(len(stored))])


def judged(subject: Subject, data: bytes, name: str, count: int | None) -> dict[str, Any]:
    """Accuracy in float32 and in int8 (LiteRT's usual kernels) and how many predictions differ."""
    x, y = images(name, count)
    graph = subject.graph
    rows = [subject.framework({graph.inputs[0]: np.moveaxis(x[i : i + 100], -1, 1)}) for i in range(0, len(x), 100)]
    float32 = np.concatenate([row[graph.outputs[0]] for row in rows]).argmax(axis=1)
    int8 = int8_outputs(data, x, reference=False).argmax(axis=1)
    return {"images": len(x), "float": float(np.mean(float32 == y)), "int8": float(np.mean(int8 == y)),
            "differ": int(np.sum(float32 != int8))}


def both_interpreters(data: bytes, x: Any) -> dict[str, Any]:
    """LiteRT's reference kernels and the microcontroller interpreter on the same stored inputs: how many bytes of the outputs
    differ, and which operation is the first that differs anywhere."""
    model = Model(data, reference=True, keep=True)
    stored = model.inputs[0].stored(x)
    kept = list[list[Any]]()
    for i in range(len(stored)):
        model.run([stored[i : i + 1]])
        kept.append([(kind, index, value.copy()) for kind, index, value in model.results()])
    reference = np.concatenate([rows[-1][2] for rows in kept])
    micro = run_micro(data, [stored], 1)
    other = micro.outputs[0].reshape(reference.shape) != reference
    return {"images": len(x), "bytes": int(other.size), "differ": int(other.sum()), "arena": micro.arena,
            "head": micro.head, "tail": micro.tail, "apart": _first_apart(data, stored, kept, other)}


def _first_apart(data: bytes, stored: Any, kept: list[list[Any]], other: Any) -> dict[str, Any] | None:
    """On a sample whose outputs differ: the first operation that does, how many of its results, by how many steps at most."""
    samples = np.flatnonzero(other.any(axis=1))
    if not len(samples):
        return None
    i = int(samples[0])
    micro = run_micro(data, [stored[i : i + 1]], 1, [index for _, index, _ in kept[i]])
    for place, (kind, index, value) in enumerate(kept[i]):
        gap = np.abs(micro.tensors[index].astype(int) - value.reshape(-1).astype(int))
        if gap.any():
            return {"operation": kind, "place": place + 1, "of": len(kept[i]), "differ": int((gap > 0).sum()),
                    "results": int(gap.size), "steps": int(gap.max())}
    return None


def on_chips(subject: Subject, x: Any) -> dict[str, Any]:
    """Counts of every run, flash, stack, and how far the C is from onnxruntime."""
    graph = folded(sized(subject.graph))
    model = onnx_of(graph)
    given = np.ascontiguousarray(np.moveaxis(x, -1, 1))
    expected = run_model(model, {graph.inputs[0]: given})[graph.outputs[0]]
    code, found = generate(model), dict[str, Any]()
    for machine in MACHINES:
        chips = [run_on_chip(code, [given], machine) for _ in range(RUNS - 1)]
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            chips.append(run_on_chip(code, [given], machine))
        finally:
            busy.kill()
            busy.wait()
        gap = max(float(np.abs(chip.outputs[0].reshape(expected.shape) - expected).max()) for chip in chips)
        found[machine] = {"instructions": [c.instructions for c in chips], "flash": chips[0].flash,
                          "ram": chips[0].ram, "stack": chips[0].stack, "gap": gap}
    return found


def measured(path: Path, test: int | None) -> dict[str, Any]:
    subject = Subject(*read_model(path))
    with tempfile.TemporaryDirectory() as folder:
        files = exported(path, Path(folder))
    x, _ = images("cifar10_test_first500.npz", SAME)
    return {
        "model": path.name, "macs": target_named("macs").graph_cost(sized(subject.graph)).value,
        "tflite": {kind: len(data) for kind, data in files.items()},
        "test": judged(subject, files["int8"], "cifar10_test_first500.npz", test),
        "interpreters": both_interpreters(files["int8"], x), "chips": on_chips(subject, x[:1]), "files": files,
    }


def latencies(rows: list[dict[str, Any]], effort: Effort) -> dict[str, Any]:
    """Both models' files in turn, int8 and float32."""
    found = dict[str, Any]()
    for kind in ("int8", "float"):
        times = in_turn([Model(row["files"][kind]).invoke for row in rows], effort)
        ratio, interval = ratio_of(times)
        found[kind] = {"microseconds": [spread_of(t).fastest for t in times], "ratio": ratio, "interval": interval}
    return found


def table_of(rows: list[dict[str, Any]], times: dict[str, Any]) -> list[list[str]]:
    def line(what: str, of: Any) -> list[str]:
        return [what, *(of(row) for row in rows)]

    def share(part: str) -> Any:
        return lambda r: f"{r[part]['float']:.1%} → {r[part]['int8']:.1%}, {r[part]['differ']} predictions differ"

    def time_line(kind: str, told: str) -> list[str]:
        of = times[kind]
        low, high = of["interval"]
        cells = [f"{t:.0f} µs" for t in of["microseconds"]]
        cells[1] += f", {of['ratio']:.2f} × faster ({low:.2f} to {high:.2f})" if low > 1 else (
            f", {1 / of['ratio']:.2f} × **slower** ({1 / high:.2f} to {1 / low:.2f})")
        return [f"latency in LiteRT, {told}, one thread", *cells]

    def count(machine: str) -> Any:
        return lambda r: f"{r['chips'][machine]['instructions'][0]:,}, " + (
            f"the same {RUNS} times" if len(set(r["chips"][machine]["instructions"])) == 1 else "**NOT the same in every run**")

    def agreement(row: dict[str, Any]) -> str:
        of = row["interpreters"]
        if of["apart"] is None:
            return f"all {of['bytes']:,} bytes are equal"
        apart = of["apart"]
        return (f"**{of['differ']} of {of['bytes']:,} bytes differ**; first in {apart['operation']}, "
                f"{apart['place']} of {apart['of']}, by {apart['steps']} step; equal before it")

    return [
        line("multiply-accumulates", lambda r: f"{r['macs'] / 1e6:.2f} M"),
        line("RAM: arena of TFLM, int8", lambda r: f"{r['interpreters']['arena']:,} bytes"),
        line("of it activations", lambda r: f"{r['interpreters']['head']:,} bytes"),
        line("flash: int8 file", lambda r: f"{r['tflite']['int8']:,} bytes"),
        line("flash: float32 C, code and constants", lambda r: f"{r['chips']['cortex-m4']['flash']:,} bytes"),
        *(line(f"instructions of float32 C, {machine}", count(machine)) for machine in MACHINES),
        time_line("int8", "int8"), time_line("float", "float32"),
        line(f"accuracy, float32 → int8, {rows[0]['test']['images']} test images", share("test")),
        line(f"int8 outputs on {SAME} images, LiteRT's reference kernels and TFLM", agreement),
        line("C on the processors, furthest from onnxruntime", lambda r: f"{max(c['gap'] for c in r['chips'].values()):.1e}"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compressed", type=Path)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    compressed = asked.compressed or short_run()
    effort = Effort(runs=20, rounds=4 if asked.quick else 60, width=0.005)
    rows = [measured(path, 32 if asked.quick else None) for path in (ORIGINAL, compressed)]
    times = latencies(rows, effort)
    for row in rows:
        del row["files"]
    written(rows, times)


def written(rows: list[dict[str, Any]], times: dict[str, Any]) -> None:
    header = ["", "MLPerf Tiny ResNet-8", f"compressed ({rows[1]['model']})"]
    arena = rows[0]["interpreters"]["arena"]
    notes = [
        "Two cores, loaded; latencies are of interleaved runs, each model by its fastest quarter, and only their "
        "ratios are worth comparing. Counts, sizes and outputs do not depend on the load. Of the test images 500 were at hand.",
        f"The arena of the original is {arena / ARENA - 1:+.2%} of the {ARENA:,} bytes of TensorFlow's own conversion, which "
        "keeps the batch open and so has four more operations: SHAPE, STRIDED_SLICE, PACK, RESHAPE.",
        "Where bytes differ: LiteRT rounds the results of FULLY_CONNECTED once, TensorFlow Lite for Microcontrollers twice; "
        "softmax then makes more of that step, or hides it. In the sample looked at all others before it agree bit for bit.",
    ]
    write_results(NAME, {"models": rows, "latency": times}, [("ResNet-8 before and after compress", header,
                                                              table_of(rows, times))], notes)


if __name__ == "__main__":
    main()
