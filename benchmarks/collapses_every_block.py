"""Every training-time block of the literature collapses, right up to the border, with nothing that knows its name.

The blocks are those of tests/formats/torch_blocks.py (written from their papers, random batch-norm statistics), in 2-D.
Against each: the formula that its paper publishes (`support/published.py`), torch's own folding of batch norms into
convolutions (torch.fx.experimental.optimization.fuse), and torch.compile (inductor, freezing) on the unmerged block.
Convolutions, their multiply-accumulates, latency as a ratio to the eager block's (processor time, in turns, one thread),
and the worst error inside and at the border against the block in float64.

Convolutions are counted as they are executed; for torch.compile as they stand in the code that inductor writes.

    python benchmarks/collapses_every_block.py [--quick] [--no-compile]
"""

from __future__ import annotations

import support.setup  # noqa: F401  isort: skip

import argparse
import copy
import re
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch
import torch._inductor.config
from torch._inductor.utils import run_and_get_code
from torch.fx.experimental.optimization import fuse
from torch.utils._python_dispatch import TorchDispatchMode

from decascade.cost import target_named
from decascade.formats.torch.format import FORMAT, read
from decascade.regions.merge import Options, merge_graph
from formats.torch_blocks import BLOCKS, build
from support.measure import interleaved, ratios
from support.published import published
from support.results import Partial, write_results

NAME = "collapses_every_block"
SIZE = (48, 48)
FRAME = 6
"""Samples along the edges that count as border: as many as the widest kernel reaches over."""
WAYS = ("always", "profitable", "published", "folded", "compiled", "always, compiled")
KERNEL_CALLS = re.compile(
    r"(?:torch\.ops\.mkldnn\.\w*(?:convolution|linear)\w*\.\w+|extern_kernels\.(?:convolution|addmm|mm))\("
)


class Counted(TorchDispatchMode):
    """Counts convolutions and their multiply-accumulates as they are executed."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.macs = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.convolution.default, torch.ops.aten.addmm.default, torch.ops.aten.mm.default):
            self.layers += 1
            self.macs += args[1].numel() * prod(result.shape[2:])
        return result


def counted(call: Callable[[Any], Any], x: Any) -> tuple[int, int]:
    with Counted() as counter:
        call(x)
    return counter.layers, counter.macs


def errors(found: Any, exact: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Worst error inside and in the frame around the map, relative to the largest output."""
    if found.shape != exact.shape:
        return float("inf"), float("inf")
    gap = np.abs(found.numpy() - exact) / np.abs(exact).max()
    inner = gap[:, :, FRAME:-FRAME, FRAME:-FRAME]
    inside = float(inner.max())
    inner[...] = 0
    return inside, float(gap.max())


def ways_of(name: str, module: Any, shape: tuple[int, ...]) -> tuple[dict[str, Callable[[Any], Any]], tuple[str, ...]]:
    """The block and what is made of it, and the kinds of border that decascade found."""
    target, document = target_named("macs"), read(module, shape)
    ways: dict[str, Callable[[Any], Any]] = {"eager": module}
    borders = set[str]()
    for policy in ("always", "profitable"):
        graph, cascades = merge_graph(document.graph, Options(target, policy))
        borders |= {c.border for c in cascades if c.decision == "merged"}
        ways[policy] = FORMAT.write(document, graph).eval()
    ways["published"] = published(name, copy.deepcopy(module).double()).float()
    try:
        ways["folded"] = fuse(copy.deepcopy(module))
    except Exception:  # it traces by itself and gives up on some blocks
        print(f"{name}: torch.fx.experimental.optimization.fuse gives up")
    return ways, tuple(sorted(borders))


def add_compiled(ways: dict[str, Callable[[Any], Any]], x: Any) -> dict[str, int]:
    """torch.compile of the block and of the merged one; the convolutions in the code that it wrote for each."""
    found = dict[str, int]()
    for way, of in (("compiled", "eager"), ("always, compiled", "always")):
        torch._dynamo.reset()
        ways[way] = torch.compile(copy.deepcopy(ways[of]))
        _, code = run_and_get_code(ways[way], x)
        found[way] = sum(len(KERNEL_CALLS.findall(part[part.index("def call") :])) for part in code)
    return found


@torch.no_grad()
def measure(name: str, seconds: float, compiled: bool) -> dict[str, Any]:
    block, module = BLOCKS[name], build(name, 2)
    shape = (1, block.channels, *SIZE)
    x = torch.tensor(np.random.default_rng(0).standard_normal(shape), dtype=torch.float32)
    exact = copy.deepcopy(module).double()(x.double()).numpy()
    ways, borders = ways_of(name, module, shape)
    counts = {way: counted(call, x) for way, call in ways.items()}
    written = add_compiled(ways, x) if compiled else {}
    for way, layers in written.items():
        counts[way] = (layers, counts["eager" if way == "compiled" else "always"][1])
    runs = {way: (lambda call=call: call(x)) for way, call in ways.items()}
    quickness = ratios(interleaved(runs, seconds, 15, 2e-3), "eager")
    return {"block": name, "border": borders, "ways": {
        way: {"layers": counts[way][0], "macs": counts[way][1], "latency": quickness[way], "error": errors(call(x), exact)}
        for way, call in ways.items()
    }}


def table(rows: list[dict[str, Any]], title: str, cell: Callable[[dict[str, Any], dict[str, Any]], str]) -> Any:
    """One figure: a row per block, a column per way."""
    shown = [way for way in ("eager", *WAYS) if any(way in row["ways"] for row in rows)]
    cells = [[row["block"], *(cell(row["ways"][w], row["ways"]["eager"]) if w in row["ways"] else "–" for w in shown)]
             for row in rows]
    return title, ("block", *(w.replace("folded", "conv-bn folded").replace("published", "its paper's") for w in shown)), cells


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
            partial.put(name, measure(name, 0.3 if chosen.quick else 4.0, not chosen.no_compile))
            print(name, "done", flush=True)
    rows = list(partial.done.values())
    write_results(NAME, {"rows": rows}, [
        table(rows, "Convolutions executed (always: the fewest; profitable: no more MACs than the block)",
              lambda way, _: str(way["layers"])),
        table(rows, "Multiply-accumulates of the convolutions, over the block's",
              lambda way, eager: f"{way['macs'] / eager['macs']:.2f}"),
        table(rows, f"Latency at {SIZE[0]}×{SIZE[1]}, over the eager block's", lambda way, _: f"{way['latency']:.2f}"),
        table(rows, "Worst error inside / at the border, over the largest output",
              lambda way, _: " / ".join(f"{e:.0e}" for e in way["error"])),
    ], ["torch.compile does not merge convolutions: its multiply-accumulates are the block's."])
    worst = max(max(row["ways"][way]["error"]) for row in rows for way in ("always", "profitable"))
    fewest = max(row["ways"]["always"]["layers"] for row in rows)
    if worst > 1e-5 or fewest > 1:
        raise SystemExit(f"a merged block is off by {worst:.1e} or has {fewest} convolutions")
    partial.clear()


if __name__ == "__main__":
    main()
