"""10,000 random linear cascades, merged whatever it costs: no pixel is wrong, at the border or elsewhere.

Each cascade (tests/cascades.py: depth 2 to 4, 1-D to 3-D, strides, dilations, groups, asymmetric padding, normalisations,
pools, skips, concatenations, dense tails) becomes an ONNX model, is read, merged with policy "always" and written, and the
written model is run by onnxruntime in float32.  Every output must lie within γ_n·Σ|w||x| of the original in float64; before
the new weights are rounded to float32 the difference must be at the level of float64.  The same check is put to the merge as
it is done by hand: one kernel, paddings added up.

    python benchmarks/merge_is_border_exact.py [--quick] [--count N] [--seed S]

An interrupted run goes on where it stopped.
"""

from __future__ import annotations

import support.setup  # noqa: F401  threads and paths, before all else

# isort: split
import argparse
import re
import traceback
from collections import Counter
from typing import Any

import numpy as np
from rich.progress import track

import decascade.formats.registry as registry
from cascades import random_cascade, random_input
from decascade.cost import target_named
from decascade.formats.onnx.run import session
from decascade.ir.graph import Graph
from decascade.ir.interpret import run
from decascade.regions.merge import Options, merge_graph
from support.bounds import allowed, magnitude_and_depth
from support.exporter import as_exported, export
from support.naive import naive_merge, run_naive
from support.results import Partial, write_results

NAME = "merge_is_border_exact"
CHUNK = 100
OPTIONS = Options(target_named("macs"), policy="always")


def one(seed: int) -> dict[str, Any]:
    """What became of one cascade, in numbers."""
    rng = np.random.default_rng(seed)
    graph = as_exported(random_cascade(rng))
    inputs = random_input(graph, rng)
    proto = export(graph)
    form = registry.format_of(proto)
    document = form.read(proto)
    merged, rows = merge_graph(document.graph, OPTIONS)
    written = form.write(document, merged)
    found = outcome(rows)
    spatial = [n.output for n in graph.nodes if len(graph.shape(n.output) or ()) > 2]
    exact = run(graph, inputs, keep=spatial[-1:])
    y = exact["y"]
    found |= compare(graph, form.read(written).graph, inputs, y, onnx_run(written, inputs), onnx_run(proto, inputs))
    unrounded = run(merged, inputs)["y"]
    found["float64"] = float(np.abs(unrounded - y).max() / max(np.abs(y).max(), 1e-300))
    found["naive"] = naive(graph, inputs, exact)
    return found


def onnx_run(proto: Any, inputs: dict[str, Any]) -> Any:
    from decascade.formats.onnx.model import from_proto

    return session(from_proto(proto)).run(["y"], inputs)[0].astype(np.float64)


def outcome(rows: Any) -> dict[str, Any]:
    merged = [r for r in rows if r.decision == "merged"]
    left = [re.sub(r"\d[\d.x]*", "#", r.reason) for r in rows if r.decision == "left"]
    kind = "one" if merged and not left and len(merged) == 1 else "partly" if merged else "left"
    return {"kind": kind, "borders": sorted(r.border for r in merged), "reasons": left}


def compare(before: Graph, after: Graph, inputs: dict[str, Any], y: Any, merged: Any, original: Any) -> dict[str, Any]:
    bounds = magnitude_and_depth(before, inputs), magnitude_and_depth(after, inputs)
    limit = allowed(*(((s["y"], n)) for s, n in bounds))
    error = np.abs(merged - y)
    wrong = ~(error <= limit)
    scale = max(np.abs(y).max(), 1e-300)
    return {
        "wrong": int(wrong.any(axis=(0, 1)).sum()),
        "pixels": int(np.prod(wrong.shape[2:])),
        "of_bound": float((error / np.maximum(limit, 1e-300)).max()),
        "error": float(error.max() / scale),
        "original_error": float(np.abs(original - y).max() / scale),
    }


def naive(graph: Graph, inputs: dict[str, Any], exact: dict[str, Any]) -> dict[str, int] | None:
    """Wrong pixels of the naive merge of the same cascade; None where it has none."""
    try:
        kernel, name = naive_merge(graph)
    except ValueError:
        return None
    y = exact[name]
    try:
        z = run_naive(kernel, inputs["x"], y.shape[2:])
    except ValueError:  # the composed padding crops more than there is
        return {"wrong": int(np.prod(y.shape[2:])), "pixels": int(np.prod(y.shape[2:]))}
    sums, depth = magnitude_and_depth(graph, inputs, (name,))
    wrong = ~(np.abs(z - y) <= allowed((sums[name], depth), (sums[name], depth)))
    return {"wrong": int(wrong.any(axis=(0, 1)).sum()), "pixels": int(np.prod(y.shape[2:]))}


def chunk(start: int, stop: int) -> list[dict[str, Any]]:
    out = []
    for seed in range(start, stop):
        try:
            out.append({"seed": seed, **one(seed)})
        except Exception:  # a crash is a result
            out.append({"seed": seed, "crash": traceback.format_exc(limit=-3)})
    return out


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    good = [f for f in found if "crash" not in f]
    kinds = Counter(f["kind"] for f in good)
    by_hand = [f["naive"] for f in good if f["naive"] is not None]
    share = lambda n, of: round(n / max(of, 1), 5)  # noqa: E731
    errors, originals = (np.array([f[k] for f in good]) for k in ("error", "original_error"))
    return {
        "cascades": len(found),
        "crashes": len(found) - len(good),
        "crash_seeds": [f["seed"] for f in found if "crash" in f][:20],
        "crash_words": Counter(f["crash"].strip().splitlines()[-1] for f in found if "crash" in f).most_common(10),
        "wrong_cascades": sum(f["wrong"] > 0 for f in good),
        "wrong_seeds": [f["seed"] for f in good if f["wrong"]][:20],
        "wrong_pixels": sum(f["wrong"] for f in good),
        "pixels": sum(f["pixels"] for f in good),
        "worst_share_of_bound": max((f["of_bound"] for f in good), default=0),
        "worst_float64_error": max((f["float64"] for f in good), default=0),
        "median_float32_error": float(np.median(errors)),
        "median_original_float32_error": float(np.median(originals)),
        "mean_float32_error": float(errors.mean()),
        "mean_original_float32_error": float(originals.mean()),
        "merged_share": share(kinds["one"] + kinds["partly"], len(found)),
        "kinds": {k: [kinds[k], share(kinds[k], len(found))] for k in ("one", "partly", "left")},
        "borders": dict(Counter(b or "none" for f in good for b in f["borders"]).most_common()),
        "reasons": dict(Counter(r for f in good for r in f["reasons"]).most_common()),
        "naive": {
            "cascades": len(by_hand),
            "wrong_cascades": sum(n["wrong"] > 0 for n in by_hand),
            "wrong_pixels": sum(n["wrong"] for n in by_hand),
            "pixels": sum(n["pixels"] for n in by_hand),
            "wrong_share_of_pixels": share(sum(n["wrong"] for n in by_hand), sum(n["pixels"] for n in by_hand)),
        },
    }


def report(s: dict[str, Any]) -> None:
    n = s["naive"]
    main = [
        ["cascades", f"{s['cascades']:,}", f"{n['cascades']:,}"],
        ["crashes", str(s["crashes"]), ""],
        ["cascades with a wrong pixel", str(s["wrong_cascades"]), f"{n['wrong_cascades']:,}"],
        ["wrong pixels", f"{s['wrong_pixels']} of {s['pixels']:,}", f"{n['wrong_pixels']:,} of {n['pixels']:,}"],
        ["share of pixels that are wrong", f"{s['wrong_pixels'] / s['pixels']:.2%}", f"{n['wrong_share_of_pixels']:.2%}"],
        ["worst error, share of the float32 bound", f"{s['worst_share_of_bound']:.2g}", ""],
        ["worst relative error before rounding (float64)", f"{s['worst_float64_error']:.2g}", ""],
        ["median float32 error", f"{s['median_float32_error']:.2g}", ""],
        ["median float32 error of the originals", f"{s['median_original_float32_error']:.2g}", ""],
        ["merged at least partly", f"{s['merged_share']:.2%}", ""],
        *([f"- {what}", f"{s['kinds'][key][0]:,} ({s['kinds'][key][1]:.2%})", ""]
          for key, what in (("one", "wholly, into one"), ("partly", "partly"), ("left", "not at all"))),
        *([f"merges with border: {k}", f"{v:,}", ""] for k, v in s["borders"].items()),
    ]
    reasons = [[f"{v:,}", k] for k, v in s["reasons"].items()]
    write_results(NAME, s, [
        ("Random cascades, policy always", ["", "decascade", "naive merge (by hand)"], main),
        ("Why something was left", ["cascades", "reason (numbers as #)"], reasons),
    ])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="500 cascades")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first cascade")
    given = parser.parse_args()
    count = 500 if given.quick else given.count
    partial = Partial(NAME, {"seed": given.seed})
    starts = range(given.seed, given.seed + count, CHUNK)
    for start in track(starts, description="merging"):
        key = f"{start}-{min(start + CHUNK, given.seed + count)}"
        if key not in partial.done:
            partial.put(key, chunk(start, min(start + CHUNK, given.seed + count)))
    wanted = set(range(given.seed, given.seed + count))
    report(summary([f for part in partial.done.values() for f in part if f["seed"] in wanted]))
    if not given.quick:
        partial.clear()


if __name__ == "__main__":
    main()
