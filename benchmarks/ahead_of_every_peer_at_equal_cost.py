"""Compressed networks of decascade and of its peers at equal MACs, on the same data and the same processor time.

    python benchmarks/ahead_of_every_peer_at_equal_cost.py [--minutes 8] [--model NAME] [--speedup 1.5] [--only PART] [--table]

Every method gets the original, the same 47,488 CIFAR-10 training images without labels, one thread and so many minutes of
processor time, its selection included; all of them end with the same distillation from the original.  One row is one method at
one speedup; a row that is there is not made again.  `--lock FILE`: wait for that file's lock before each row.  `--table` makes
nothing and writes the tables of what is there.
"""

from __future__ import annotations

import support.setup  # noqa: F401  threads and paths, before all else

# isort: split
import argparse
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from decascade.compression.data.batches import Scaling
from decascade.ir.graph import Graph
from peers.judge import judged, keep, kept
from peers.rows import METHODS, ORDER, OURS, SAME, Method
from peers.scratch import same_architecture
from peers.tables import write
from peers.task import Meter, Task
from support.results import SOURCE
from support.setup import DATA, MODELS, PARTIAL

NAME = "ahead_of_every_peer_at_equal_cost"
WORK = PARTIAL / "peers"
IMAGENET = Scaling(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NETWORKS = {"mlperf_tiny_resnet8_cifar10.h5": None, "layerfolding_resnet20.onnx": IMAGENET}
TRAIN = [DATA / f"cifar10_train_part{i}.npz" for i in range(5)]
TEST = DATA / "cifar10_test_first500.npz"


def place(model: str, speedup: float, method: str, minutes: float) -> Path:
    words = "".join(c if c.isalnum() else "_" for c in method)
    return WORK / f"{model.split('.')[0]}-{speedup:g}-{minutes:g}-{words}.json"


@contextmanager
def locked(path: Path | None) -> Iterator[None]:
    if path is None:
        yield
        return
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def row(task: Task, method: str, make: Method, speedup: float, minutes: float) -> tuple[dict[str, Any], Graph]:
    """One method's result, judged, and its graph."""
    torch.manual_seed(0)
    start, meter = perf_counter(), Meter(60 * minutes)
    made = make(task, speedup, meter)
    wall = perf_counter() - start
    return {
        "model": task.name, "method": method, "asked": speedup, "minutes": minutes, **judged(task, made.graph),
        "steps": made.steps, "epochs": made.steps * task.job.options.batch / task.job.train.count,
        "selecting_seconds": made.selecting, "cpu_seconds": made.spent, "wall_seconds": wall, "load": os.getloadavg()[0],
        "note": made.note, "source": SOURCE,
    }, made.graph


def made_by(task: Task, method: str, model: str, speedup: float, minutes: float) -> Method | None:
    """The method; None where it needs a result that is not there."""
    if method != SAME:
        return METHODS[method]
    ours = place(model, speedup, OURS, minutes).with_suffix(".onnx")
    return partial(same_architecture, kept(ours)) if ours.exists() else None


def run(model: str, speedup: float, asked: argparse.Namespace) -> None:
    missing = [method for method in ORDER
               if asked.only in method and not place(model, speedup, method, asked.minutes).exists()]
    if not missing:
        return
    task = Task.open(MODELS / model, TRAIN, TEST, NETWORKS[model], PARTIAL / "data")
    for method in missing:
        with locked(asked.lock):
            make = made_by(task, method, model, speedup, asked.minutes)
            if make is None:
                continue
            found, graph = row(task, method, make, speedup, asked.minutes)
            path = place(model, speedup, method, asked.minutes)
            keep(graph, path.with_suffix(".onnx"))
            path.write_text(json.dumps(found, indent=1))
        print(f"{method}, {speedup:g}: {found['fewer_macs']:.2f} times fewer MACs, agreement {found['agreement']:.2%}, accuracy"
              f" {found['accuracy']:.1%}, {found['steps']} steps, {found['cpu_seconds']:.0f} s of {found['wall_seconds']:.0f}",
              flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--model", default="")
    parser.add_argument("--speedup", type=float, action="append")
    parser.add_argument("--only", default="")
    parser.add_argument("--lock", type=Path)
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    WORK.mkdir(parents=True, exist_ok=True)
    for model in NETWORKS:
        for speedup in (asked.speedup or (1.5, 2.0)) if asked.model in model and not asked.table else ():
            run(model, speedup, asked)
    rows = [json.loads(path.read_text()) | {"file": str(path.with_suffix(".onnx"))}
            for path in sorted(WORK.glob("*-*-*-*.json"))]
    write(NAME, rows, {model.split(".")[0]: MODELS / model for model in NETWORKS})


if __name__ == "__main__":
    main()
