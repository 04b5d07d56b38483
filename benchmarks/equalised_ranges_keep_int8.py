"""Ranges equalised across layers give back what an int8 file loses where channels differ in range.

A positive factor per channel goes through ReLU and from one layer to the next: the function stays, but one step for a whole map
does not suit channels whose ranges are far apart.  Published models are given to `export --int8` as they are, and after
every pair of layers was rescaled by random powers of two; agreement and accuracy are of 2,000 MNIST test images.

    python benchmarks/equalised_ranges_keep_int8.py [--quick]
"""

from __future__ import annotations

import support.setup  # noqa: F401  threads and paths, before all else

# isort: split
import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import decascade as dc
from decascade.api.common import read_model
from decascade.cost.folding import folded
from decascade.deploy.onnx.model import onnx_of
from decascade.deploy.tflite.equalise import find_pairs
from decascade.ir.graph import Graph
from decascade.ir.ops import Dense
from support.results import write_results
from support.setup import DATA, MODELS

NAME = "equalised_ranges_keep_int8"
FILES = ("tinymaix_mnist_valid.h5", "tinymaix_mnist_same.h5")
SPREADS = (0, 3, 5)
"""Channels are scaled by 2^u, u uniform in ± this."""


def rescaled(graph: Graph, spread: float, rng: np.random.Generator) -> tuple[Graph, int]:
    """The same function with every pair of layers scaled apart, and how many pairs there are."""
    graph = folded(graph)
    made = {node.name: node for node in graph.nodes}
    pairs = find_pairs(graph)
    for pair in pairs:
        first, second = made[pair.first.name], made[pair.second.name]
        layer = first.op.layer if isinstance(first.op, Dense) else first.op
        factor = 2.0 ** rng.uniform(-spread, spread, layer.out_channels)
        column = factor.reshape(-1, *(1,) * (layer.weight.ndim - 1))
        grown = replace(layer, weight=layer.weight.astype(np.float64) * column,
                        bias=None if layer.bias is None else layer.bias * factor)
        made[first.name] = replace(first, op=Dense(grown) if isinstance(first.op, Dense) else grown)
        behind = second.op.layer if isinstance(second.op, Dense) else second.op
        rows = (1 / factor).reshape(behind.groups, 1, -1, *(1,) * behind.rank)
        weight = (behind.weight.astype(np.float64).reshape(behind.groups, -1, *behind.weight.shape[1:]) * rows)
        shrunk = replace(behind, weight=weight.reshape(behind.weight.shape))
        made[second.name] = replace(second, op=Dense(shrunk) if isinstance(second.op, Dense) else shrunk)
    return replace(graph, nodes=tuple(made[node.name] for node in graph.nodes)), len(pairs)


def exported(name: str, spread: float, count: int) -> dict[str, Any]:
    graph, pairs = rescaled(read_model(MODELS / name)[1].graph, spread, np.random.default_rng(0))
    with np.load(DATA / "mnist_test.npz") as file, tempfile.TemporaryDirectory() as folder:
        data, model = Path(folder) / "d.npz", Path(folder) / "m.onnx"
        np.savez(data, x=file["x"][:count, None].astype(np.float32) / 255, y=file["y"][:count])
        model.write_bytes(onnx_of(graph, None).proto().SerializeToString())
        plain, equalised = (dc.export(model, Path(folder) / f"{e}.tflite", int8=True, data=data, equalise=e)
                            for e in (False, True))
    return {"model": name, "spread": spread, "pairs": pairs, "float": plain.fidelity.accuracy_before,
            **{how: {"rms": f.rms_rel, "agreement": f.agreement, "accuracy": f.accuracy_after}
               for how, f in (("plain", plain.fidelity), ("equalised", equalised.fidelity))}}


def row_of(r: dict[str, Any]) -> list[str]:
    told = [f"{r[how]['agreement']:.1%}, {r[how]['accuracy']:.1%}, {r[how]['rms']:.3f}" for how in ("plain", "equalised")]
    return [r["model"], f"2^±{r['spread']}" if r["spread"] else "as it is", str(r["pairs"]), f"{r['float']:.1%}", *told]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    rows = [exported(name, spread, 200 if quick else 2000) for name in FILES[: 1 if quick else None] for spread in SPREADS]
    header = ["model", "channels scaled by", "pairs of layers", "accuracy, float32",
              "int8: agreement, accuracy, rms error", "int8 with ranges equalised"]
    write_results(NAME, {"models": rows}, [("int8 without and with equalised ranges", header, [row_of(r) for r in rows])],
                  ["2,000 MNIST test images; int8 ranges come from the first 200. The error is relative to the outputs."])


if __name__ == "__main__":
    main()
