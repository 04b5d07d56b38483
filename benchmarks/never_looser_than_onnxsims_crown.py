"""Bounds of every ReLU's input against onnxsim's `crown` on the same files: never looser, and how long each takes.

    python benchmarks/never_looser_than_onnxsims_crown.py [--seconds 60]

Both bound all ReLU inputs layer by layer.  Compared per channel, over all positions: the width of decascade's bounds over
that of onnxsim's.  decascade's hold for float32 in any order, so up to three parts in 10^4 are left for that slack.
"""

from __future__ import annotations

import support.setup  # noqa: F401  threads and paths, before all else

# isort: split
import argparse
from time import perf_counter
from typing import Any

import numpy as np
import onnx
from onnxsim import crown

from bounds.nets import chain, conv
from decascade.bounds.driver import linear_bounds
from decascade.formats.registry import format_of
from decascade.ir.ops import Activation, GlobalPool
from support.exporter import export
from support.results import write_results

NAME = "never_looser_than_onnxsims_crown"
RELU = Activation("relu")


def models() -> dict[str, onnx.ModelProto]:
    """Networks of the kinds that the tool is for, small enough for a bound that does not share neurons."""
    found = dict[str, onnx.ModelProto]()
    for size in (8, 12, 16):
        rng = np.random.default_rng(0)
        layers = [conv(rng, 2, 8), RELU, conv(rng, 8, 8), RELU, conv(rng, 8, 8, stride=2), RELU, conv(rng, 8, 8), RELU]
        found[f"4 convolutions, {size}×{size}"] = export(chain(*layers, GlobalPool("avg"), shape=(2, size, size)))
    return found


def compare(name: str, model: onnx.ModelProto, span: tuple[float, float], seconds: float) -> dict[str, Any]:
    graph = format_of(model).read(model).graph
    start = perf_counter()
    ours = linear_bounds(graph, span, seconds)
    own_seconds = perf_counter() - start
    tensors = {n.name: n.inputs[0] for n in graph.nodes if n.name in ours}
    start = perf_counter()
    theirs = crown.bounds(model, {graph.inputs[0]: span}, list(tensors.values()))
    peer_seconds = perf_counter() - start
    ratios = list[float]()
    for node, tensor in tensors.items():
        lo, hi = (np.asarray(a, np.float64).reshape(a.shape[1], -1) for a in (theirs[tensor].lo, theirs[tensor].hi))
        ratios += ((ours[node][1] - ours[node][0]) / (hi.max(axis=1) - lo.min(axis=1))).tolist()
    return {"model": name, "box": list(span), "channels": len(ratios), "widest": max(ratios),
            "median": float(np.median(ratios)),
            "decascade_seconds": own_seconds, "onnxsim_seconds": peer_seconds}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=60.0, help="time for decascade's bounds per model")
    chosen = options.parse_args()
    rows = [compare(name, model, span, chosen.seconds) for name, model in models().items() for span in ((0.0, 1.0), (0.4, 0.6))]
    header = ("model", "box", "channels", "width, worst channel", "width, median", "decascade s", "onnxsim s")
    cells = [[r["model"], str(r["box"]), str(r["channels"]), f"{r['widest']:.5f}", f"{r['median']:.5f}",
              f"{r['decascade_seconds']:.2f}", f"{r['onnxsim_seconds']:.2f}"] for r in rows]
    write_results(NAME, {"rows": rows}, [("Bounds against onnxsim's crown (width over width; 1 is equal)", header, cells)])
    if any(r["widest"] > 1.0003 for r in rows):
        raise SystemExit("a channel is bounded more loosely than onnxsim's crown does")


if __name__ == "__main__":
    main()
