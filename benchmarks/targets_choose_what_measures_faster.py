"""A measured target chooses otherwise than multiply-accumulates do, and the whole model says that it is right.

Every published model is merged under macs and under onnxruntime; the original and both results are then run whole, in turn, on
one thread.  Beside the measured ratios: what the single layers had predicted.

    python benchmarks/targets_choose_what_measures_faster.py [--quick]
"""

from __future__ import annotations

import support.setup  # noqa: F401  threads and paths, before all else

# isort: split
import argparse
from typing import Any

import decascade as dc
from decascade.api.common import read_model
from decascade.checking.models import Subject
from decascade.deploy.benchmark import Effort, in_turn, ratio_of, runner
from support.results import write_results
from support.setup import MODELS

NAME = "targets_choose_what_measures_faster"
TARGET = "onnxruntime"
FILES = (
    "mlperf_tiny_streaming_wakeword.h5", "tinymaix_mnist_valid.h5", "tinymaix_mnist_same.h5", "mlperf_tiny_resnet8_cifar10.h5",
    "mlperf_tiny_vww_mobilenetv1_96.h5", "mlperf_tiny_anomaly_autoencoder.h5", "layerfolding_resnet20.onnx",
    "espcn_subpixel.onnx", "st_mobilenet_v2_0.35_128.onnx", "FastestDet.onnx", "yunet_n_320_320.onnx",
)


def measured(name: str, effort: Effort) -> dict[str, Any]:
    path = MODELS / name
    by_macs, by_target = (dc.merge(path, target=t, verify=False) for t in ("macs", TARGET))
    models = [path, by_macs.model, by_target.model]
    times = in_turn([runner(TARGET, Subject(*read_model(m))) for m in models], effort)
    original, macs, target = times
    cost = by_target.report.cost
    saved = sum(c.cost.before - c.cost.after for c in by_target.report.cascades
                if c.decision == "merged" and c.cost.after is not None)
    speedup, interval = ratio_of([original, target])
    against, against_interval = ratio_of([macs, target])
    predicted = cost.before / (cost.before - saved)
    return {
        "model": name, "layers": [by_macs.report.layers.before, by_macs.report.layers.after, by_target.report.layers.after],
        "microseconds": [float(sorted(t)[len(t) // 8]) for t in times], "predicted": predicted, "speedup": speedup,
        "interval": interval, "off": predicted / speedup - 1, "against_macs": against, "against_interval": against_interval,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    effort = Effort(runs=20, rounds=4 if quick else 20, width=0.01)
    rows = [measured(name, effort) for name in FILES[: 4 if quick else None]]
    table = [[
        r["model"], " / ".join(map(str, r["layers"])), f"{r['microseconds'][0]:.0f}", f"{r['predicted']:.3f}",
        f"{r['speedup']:.3f} ({r['interval'][0]:.3f} to {r['interval'][1]:.3f})", f"{r['off']:+.1%}",
        f"{r['against_macs']:.3f} ({r['against_interval'][0]:.3f} to {r['against_interval'][1]:.3f})",
    ] for r in rows]
    header = ["model", "layers: own / macs / target", "µs", "predicted ×", "measured ×", "apart", "against macs' choice ×"]
    write_results(NAME, {"models": rows}, [(f"Merged under {TARGET}, whole models in turn", header, table)])


if __name__ == "__main__":
    main()
