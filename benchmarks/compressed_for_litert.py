"""ResNet-8 compressed for LiteRT is faster in LiteRT: the whole int8 models in turn, beside what the plan had predicted.

    decascade compress mlperf_tiny_resnet8_cifar10.h5 -o small.h5 --data D.npz --target litert --speedup 1.3 --report small.json
    python benchmarks/compressed_for_litert.py small.h5 small.json
"""

from __future__ import annotations

import support.setup  # noqa: F401  threads and paths, before all else

# isort: split
import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import decascade as dc
from decascade.api.common import read_model
from decascade.checking.models import Subject
from decascade.deploy.benchmark import Effort, in_turn, ratio_of
from decascade.deploy.tflite.litert import Model
from device_of_resnet8 import CALIBRATION, ORIGINAL, images, judged
from support.results import write_results

NAME = "compressed_for_litert"


def exported(path: Path, folder: Path) -> bytes:
    np.savez(folder / "train.npz", x=images("cifar10_train_part0.npz", CALIBRATION)[0])
    dc.export(path, folder / "int8.tflite", int8=True, data=folder / "train.npz", force=True)
    return (folder / "int8.tflite").read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("compressed", type=Path)
    parser.add_argument("report", type=Path)
    asked = parser.parse_args()
    paths = (ORIGINAL, asked.compressed)
    with tempfile.TemporaryDirectory() as folder:
        files = [exported(path, Path(folder)) for path in paths]
    times = in_turn([Model(data).invoke for data in files], Effort(runs=20, rounds=60, width=0.005))
    ratio, interval = ratio_of(times)
    accuracy = [judged(Subject(*read_model(p)), data, "cifar10_test_first500.npz", None)
                for p, data in zip(paths, files, strict=True)]
    cost: dict[str, Any] = json.loads(asked.report.read_text())["cost"]
    predicted = cost["before"] / cost["after"]
    row = [asked.compressed.name, f"{predicted:.3f}", f"{ratio:.3f} ({interval[0]:.3f} to {interval[1]:.3f})",
           f"{predicted / ratio - 1:+.1%}", *(f"{a['float']:.1%} → {a['int8']:.1%}" for a in accuracy)]
    header = ["compressed", "predicted ×", "measured ×", "apart", "accuracy of the original, float32 → int8", "compressed"]
    write_results(NAME, {"predicted": predicted, "measured": ratio, "interval": interval, "accuracy": accuracy},
                  [("Whole int8 models in LiteRT, one thread", header, [row])],
                  ["Two cores, loaded with other work: both files run in turn, each by its fastest quarter. 500 test images."])


if __name__ == "__main__":
    main()
