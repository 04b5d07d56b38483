"""`decascade compress` on published CIFAR-10 networks, by the command line alone; its results on test images.

    python benchmarks/compresses_published_nets.py [--only PART OF A NAME] [--judge]

Every row is one command, its time limit included, on the 50,000 training images without their labels.  A row whose result is
there is not run again; --judge only measures what is there.  One thread.  Judged are the 500 test images at hand: accuracy,
the predictions that changed, agreement with the original; and the latency of both in onnxruntime, in turn.
"""

from __future__ import annotations

import support.setup  # noqa: F401  threads and paths, before all else

# isort: split
import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from decascade.api.common import read_model
from decascade.checking.models import Subject
from decascade.compression.data.batches import Scaling, load_dataset
from decascade.compression.torch_graph.graph import Lowered
from decascade.cost import target_named
from decascade.deploy.benchmark import Effort, in_turn, ratio_of, runner
from support.results import write_results
from support.setup import DATA, MODELS, PARTIAL

NAME = "compresses_published_nets"
WORK = PARTIAL / "compress"
TEST = "cifar10_test_first500.npz"
IMAGENET = ("--scale", "1/255", "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")
IMAGENET_SCALING = Scaling(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
RESNET8, FOLDED = "mlperf_tiny_resnet8_cifar10.h5", "layerfolding_resnet20.onnx"
PLAIN = "akamaster_resnet20_cifar10_state_dict.th"


@dataclass(frozen=True)
class Row:
    """One command: the model, what is asked, the time limit; `few` images instead of all."""

    model: str
    asked: tuple[str, ...]
    limit: str
    few: int | None = None

    @property
    def name(self) -> str:
        words = " ".join(self.asked).replace("--speedup ", "").replace("--target ", "")
        told = f"{self.model.split('.')[0].removesuffix('_cifar10_state_dict')} {words}"
        return f"{told} {self.few} images" if self.few else told

    @property
    def out(self) -> Path:
        suffix = ".pt2" if self.model == PLAIN else Path(self.model).suffix
        return WORK / f"{self.name.replace(' ', '_')}{suffix}"


ROWS = (
    *(Row(RESNET8, ("--speedup", speedup), limit) for speedup, limit in (("1.3", "20m"), ("1.5", "55m"), ("2", "12m"))),
    Row(RESNET8, ("--speedup", "1.3"), "10m", few=1024),
    *(Row(model, ("--speedup", s), limit) for model in (FOLDED, PLAIN) for s, limit in (("1.5", "8m"), ("2", "10m"))),
    *(Row(model, ("--target", "onnxruntime", "--speedup", "1.5"), "8m") for model in (FOLDED, PLAIN, RESNET8)),
)


def source(row: Row) -> Path:
    """The model's file; a state_dict is exported first."""
    if row.model != PLAIN:
        return MODELS / row.model
    path = WORK / "akamaster_resnet20.pt2"
    if not path.exists():
        import torch

        from support.published_models import plain_resnet20

        net = plain_resnet20(MODELS / PLAIN).eval()
        program = torch.export.export(net, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=({0: torch.export.Dim("N")},))
        torch.export.save(program, path)
    return path


def data(row: Row) -> list[str]:
    if row.few is None:
        return [str(DATA / f"cifar10_train_part{i}.npz") for i in range(5)]
    path = WORK / f"first_{row.few}.npz"
    if not path.exists():
        with np.load(DATA / "cifar10_train_part0.npz") as file:
            np.savez(path, x=file["x"][: row.few])
    return [str(path)]


def options(row: Row) -> list[str]:
    return [*row.asked, "--time-limit", row.limit, *(() if row.model == RESNET8 else IMAGENET)]


def compress(row: Row) -> None:
    given = [part for path in data(row) for part in ("--data", path)]
    command = [sys.executable, "-m", "decascade", "compress", str(source(row)), "-o", str(row.out), *given, *options(row)]
    subprocess.run([*command, "--report", str(row.out.with_suffix(".json"))], check=True)


def predictions(row: Row, subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """What a model says of the test images, and what they are."""
    scaling, graph = None if row.model == RESNET8 else IMAGENET_SCALING, subject.graph
    test, model = load_dataset(DATA / TEST, graph, subject.from_native, scaling=scaling), Lowered(graph)
    with torch.no_grad():
        found = [model.run(batch, graph.outputs)[graph.outputs[0]].argmax(1) for batch in test.batches(100)]
    return torch.cat(found).numpy(), np.asarray(test.targets(np.arange(test.count)))


def judged(row: Row) -> dict[str, Any]:
    """Both models on the test images, and their times."""
    before, after = (Subject(*read_model(path)) for path in (source(row), row.out))
    (a, labels), (b, _) = predictions(row, before), predictions(row, after)
    macs = [target_named("macs").graph_cost(s.graph).value for s in (before, after)]
    effort = Effort(runs=20, rounds=30, width=0.02)
    ratio, interval = ratio_of(in_turn([runner("onnxruntime", s) for s in (before, after)], effort))
    report = json.loads(row.out.with_suffix(".json").read_text())
    return {
        "row": row.name, "options": options(row), "seconds": report["seconds"], "macs": macs, "fewer_macs": macs[0] / macs[1],
        "accuracy": [float((p == labels).mean()) for p in (a, b)],
        "became_right": int(((b == labels) & (a != labels)).sum()), "became_wrong": int(((b != labels) & (a == labels)).sum()),
        "agreement": float((a == b).mean()), "measures": report["measures"], "faster": ratio, "faster_interval": interval,
        "students": [s["student"] for s in report["compression"]["students"]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--judge", action="store_true", help="run nothing")
    asked = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    for row in ROWS:
        if asked.only in row.name and not row.out.exists() and not asked.judge:
            compress(row)
    found = [judged(row) for row in ROWS if row.out.exists()]
    table = [[
        f["row"], f"{f['seconds'] / 60:.0f} min", f"{f['fewer_macs']:.2f}", f"{f['faster']:.2f}",
        f"{100 * f['accuracy'][0]:.1f} % → {100 * f['accuracy'][1]:.1f} %", f"+{f['became_right']} −{f['became_wrong']}",
        f"{100 * f['agreement']:.1f} %", f"{held(f, 'fitted')} → {held(f, 'distilled')}",
    ] for f in found]
    header = ("network, asked", "took", "times fewer MACs", "times faster, onnxruntime", "accuracy, 500 test images", "changed",
              "agreement, test", "agreement, 2,000 held-out: fitted → distilled")
    write_results(NAME, {"rows": found}, [("Compressed against original", header, table)],
                  ["One standard error of an accuracy on 500 images is 1.4 points: the predictions that changed tell more. One"
                   " thread; the machine was shared while these ran."])


def held(found: dict[str, Any], stage: str) -> str:
    values = [m["after"] for m in found["measures"] if m["group"] == stage and m["name"] == "agreement"]
    return f"{values[0]:.1f} %" if values else "none"


if __name__ == "__main__":
    main()
