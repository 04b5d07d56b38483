"""Every training-time block of the literature collapses, right up to the border, with nothing that knows its name.

The blocks are those of tests/formats/torch_blocks.py (written from their papers, random batch-norm statistics), in 2-D.
Against each: the formula that its authors publish, which is the same for all (kernels composed and padded to one size,
biases summed, one zero padding: `support/naive.py`), torch's own folding of batch norms into convolutions, and
torch.compile (inductor, freezing) on the unmerged block.  Layers, multiply-accumulates, worst error inside and at the
border, and latency as a ratio to the eager block (medians, taken in turns, one thread).

    python benchmarks/collapses_every_block.py [--quick] [--no-compile]
"""

from __future__ import annotations

import support.setup  # noqa: F401  isort: skip

import argparse
import copy
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch._inductor.config
from torch.fx.experimental.optimization import fuse

from decascade.algebra.conv import Conv
from decascade.cost import target_named
from decascade.formats.torch import FORMAT, read
from decascade.regions.merge import Options, merge_graph
from formats.torch_blocks import BLOCKS, build
from support.naive import naive_merge, run_naive
from support.results import Partial, write_results

NAME = "collapses_every_block"
SIZE = (48, 48)


def layers(module: Any) -> int:
    return sum(isinstance(m, torch.nn.modules.conv._ConvNd) for m in module.modules())


def errors(found: np.ndarray[Any, Any], exact: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Worst error inside and in the frame of four samples around the map, relative to the largest output."""
    if found.shape != exact.shape:
        return float("inf"), float("inf")
    gap = np.abs(found - exact) / np.abs(exact).max()
    inside = gap[:, :, 4:-4, 4:-4].max()
    gap[:, :, 4:-4, 4:-4] = 0
    return float(inside), float(gap.max())


def latencies(runs: dict[str, Any], repeats: int) -> dict[str, float]:
    """Median seconds of each, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = perf_counter()
            run()
            times[name].append(perf_counter() - start)
    return {name: median(t[len(t) // 5 :]) for name, t in times.items()}


def measure(name: str, repeats: int, compiled: bool) -> dict[str, Any]:
    block, module = BLOCKS[name], build(name, 2)
    shape = (1, block.channels, *SIZE)
    target = target_named("macs")
    document = read(module, shape)
    graph, _ = merge_graph(document.graph, Options(target, "always"))
    cheap, _ = merge_graph(document.graph, Options(target))
    merged = FORMAT.write(document, graph).eval()
    x = torch.tensor(np.random.default_rng(0).standard_normal(shape), dtype=torch.float32)
    with torch.no_grad():
        exact = copy.deepcopy(module).double()(x.double()).numpy()
        row: dict[str, Any] = {
            "block": name, "border": block.border, "layers": [layers(module), sum(isinstance(n.op, Conv) for n in graph.nodes)],
            "macs": [target.graph_cost(g).value for g in (document.graph, graph, cheap)],
            "error": errors(merged(x).numpy(), exact), "original_error": errors(module(x).numpy(), exact),
            "published": _published(document.graph, x, exact),
        }
        runs = {"eager": lambda: module(x), "merged": lambda: merged(x)}
        folded = _folded(module)
        if folded is not None:
            row["folded_layers"] = layers(folded)
            runs["conv-bn folded"] = lambda: folded(x)
        if compiled:
            torch._dynamo.reset()
            quick, both = torch.compile(copy.deepcopy(module)), torch.compile(copy.deepcopy(merged))
            quick(x), both(x)
            runs |= {"compiled": lambda: quick(x), "merged, compiled": lambda: both(x)}
        times = latencies(runs, repeats)
    row["latency"] = {k: v / times["eager"] for k, v in times.items()}
    return row


def _published(graph: Any, x: Any, exact: np.ndarray[Any, Any]) -> tuple[float, float] | None:
    """The block by its published formula; None where it has a step that the formula does not speak of (a shuffle)."""
    try:
        kernel, _ = naive_merge(graph)
    except ValueError:
        return None
    return errors(run_naive(kernel, x.numpy(), exact.shape[2:]), exact)


def _folded(module: Any) -> Any:
    try:
        return fuse(copy.deepcopy(module))
    except Exception:  # it traces by itself and gives up on some blocks
        return None


def _text(pair: Any) -> str:
    return "–" if pair is None else f"{pair[0]:.0e} / {pair[1]:.0e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repeats")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out (it takes most of the time)")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    torch._inductor.config.freezing = True
    partial = Partial(NAME, vars(chosen))
    for name, block in BLOCKS.items():
        if 2 in block.ranks and name not in partial.done:
            partial.put(name, measure(name, 15 if chosen.quick else 101, not chosen.no_compile))
            print(name, "done", flush=True)
    rows = list(partial.done.values())
    header = ("block", "border", "convolutions", "MACs always (profitable)", "error inside / border", "original's",
              "published formula's", "latency merged", "conv-bn folded", "compiled", "merged, compiled")
    cells = [
        [r["block"], r["border"], f"{r['layers'][0]} → {r['layers'][1]}",
         f"{r['macs'][1] / r['macs'][0]:.2f}x ({r['macs'][2] / r['macs'][0]:.2f}x)", _text(r["error"]),
         _text(r["original_error"]), _text(r["published"]), *(f"{r['latency'][k]:.2f}" if k in r["latency"] else "–" for k in
                                  ("merged", "conv-bn folded", "compiled", "merged, compiled"))]
        for r in rows
    ]
    write_results(NAME, {"rows": rows}, [(f"2-D blocks at {SIZE[0]}×{SIZE[1]}, latency over the eager block's", header, cells)])
    if any(max(r["error"]) > 1e-5 for r in rows):
        raise SystemExit("a merged block is off by more than rounding")
    partial.clear()


if __name__ == "__main__":
    main()
