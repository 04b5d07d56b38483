"""A target that measures chooses otherwise than multiply-accumulates do, and the whole model says that it is right.

Every published model is merged under macs and under the target; then the original and both results are measured whole: under
cortex-m in instructions of an emulated Cortex-M4, which are the same in every run whatever the load; under onnxruntime in
turn on one thread, of which only the ratios count.  Beside the measured ratios: what the single layers had predicted.

    python benchmarks/targets_choose_what_measures_faster.py [--target cortex-m onnxruntime] [--only PART OF A NAME] [--quick]

What was measured is kept, and a later call goes on; the table has what is there.
"""

from __future__ import annotations

import support.setup  # noqa: F401  threads and paths, before all else

# isort: split
import argparse
import json
from typing import Any

import decascade as dc
from decascade.api.common import read_model
from decascade.checking.models import Subject
from decascade.deploy.benchmark import Effort, in_turn, ratio_of, runner
from decascade.deploy.targets import target_of
from decascade.errors import UsageError
from decascade.regions.merge import sized
from support.results import write_results
from support.setup import MODELS, PARTIAL

NAME = "targets_choose_what_measures_faster"
TARGETS = ("cortex-m", "onnxruntime")
FILES = (
    "mlperf_tiny_streaming_wakeword.h5", "tinymaix_mnist_valid.h5", "tinymaix_mnist_same.h5", "mlperf_tiny_resnet8_cifar10.h5",
    "mlperf_tiny_anomaly_autoencoder.h5", "layerfolding_resnet20.onnx", "mlperf_tiny_vww_mobilenetv1_96.h5",
    "st_mobilenet_v2_0.35_128.onnx", "FastestDet.onnx", "yunet_n_320_320.onnx", "espcn_subpixel.onnx",
)


def compared(name: str, target: str, effort: Effort) -> dict[str, Any]:
    path = MODELS / name
    by_macs, by_target = (dc.merge(path, target=t, verify=False) for t in ("macs", target))
    subjects = [Subject(*read_model(m)) for m in (path, by_macs.model, by_target.model)]
    cost = by_target.report.cost
    saved = sum(c.cost.before - c.cost.after for c in by_target.report.cascades
                if c.decision == "merged" and c.cost.after is not None)
    layers = [by_macs.report.layers.before, by_macs.report.layers.after, by_target.report.layers.after]
    return {"model": name, "target": target, "layers": layers, "predicted": cost.before / (cost.before - saved),
            "differs": layers[1] != layers[2] or _kernels(subjects[1]) != _kernels(subjects[2]),
            **(_timed(subjects, effort) if target == "onnxruntime" else _counted(subjects, target))}


def _kernels(subject: Subject) -> list[str]:
    """What layers there are: two results are the same choice where these are the same."""
    graph = sized(subject.graph)
    shapes = {t: str(graph.shape(t)) for n in graph.nodes for t in n.outputs}
    return sorted(f"{type(n.op).__name__} {getattr(n.op, 'kernel', '')} {[shapes[t] for t in n.outputs]}" for n in graph.nodes)


def _counted(subjects: list[Subject], target: str) -> dict[str, Any]:
    whole = target_of(target)
    own, macs, chosen = (whole.graph_cost(sized(s.graph)).value for s in subjects)
    return {"cost": [own, macs, chosen], "unit": whole.unit, "measured": own / chosen, "against_macs": macs / chosen}


def _timed(subjects: list[Subject], effort: Effort) -> dict[str, Any]:
    times = in_turn([runner("onnxruntime", s) for s in subjects], effort)
    measured, interval = ratio_of([times[0], times[2]])
    against, against_interval = ratio_of([times[1], times[2]])
    cost = [float(sorted(t)[len(t) // 8]) for t in times]
    return {"cost": cost, "unit": "µs", "measured": measured, "interval": interval, "against_macs": against,
            "against_interval": against_interval}


def row_of(r: dict[str, Any]) -> list[str]:
    if "refused" in r:
        return [r["model"], r["refused"], *[""] * 5]

    def ratio(value: str, interval: str) -> str:
        return f"{r[value]:.3f}" + (f" ({r[interval][0]:.3f} to {r[interval][1]:.3f})" if interval in r else "")

    off = r["predicted"] / r["measured"] - 1
    return [
        r["model"], " / ".join(map(str, r["layers"])), " / ".join(f"{c:,.0f}" for c in r["cost"]), f"{r['predicted']:.3f}",
        ratio("measured", "interval"), f"**{off:+.1%}**" if abs(off) > 0.15 else f"{off:+.1%}",
        ratio("against_macs", "against_interval") if r["differs"] else "the same choice",
    ]


def table_of(rows: list[dict[str, Any]], target: str) -> tuple[str, list[str], list[list[str]]]:
    unit = next((r["unit"] for r in rows if "unit" in r), "")
    header = ["model", "layers: own / macs / target", f"{unit}: own / macs / target", "predicted ×", "measured ×", "apart",
              "against macs' choice ×"]
    return f"Merged under {target}, whole models measured", header, [row_of(r) for r in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", nargs="+", default=TARGETS, choices=TARGETS)
    parser.add_argument("--only", default="")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    kept = PARTIAL / f"{NAME}.json"
    rows: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    effort = Effort(runs=20, rounds=4 if asked.quick else 20, width=0.01)
    for target in asked.target:
        for name in [f for f in FILES[: 4 if asked.quick else None] if asked.only in f and f"{target} {f}" not in rows]:
            try:
                rows[f"{target} {name}"] = compared(name, target, effort)
            except UsageError as error:
                rows[f"{target} {name}"] = {"model": name, "target": target, "refused": str(error)}
            PARTIAL.mkdir(exist_ok=True)
            if kept.exists():  # another call may have measured something meanwhile
                rows = json.loads(kept.read_text()) | rows
            kept.write_text(json.dumps(rows))
            print(row_of(rows[f"{target} {name}"]), flush=True)
    tables = [table_of(found, t) for t in TARGETS if (found := [r for r in rows.values() if r["target"] == t])]
    missing = [f"{f} under {t}" for t in TARGETS for f in FILES if f"{t} {f}" not in rows]
    notes = ["Two cores, loaded with other work. Instructions do not depend on that; of times only the ratios count."
             " Predicted is from layers measured one by one, without what a run of a session costs: some microseconds, which"
             " the whole model's time contains.",
             *([f"Not measured: {', '.join(missing)}."] if missing else [])]
    write_results(NAME, {"models": list(rows.values())}, tables, notes)


if __name__ == "__main__":
    main()
