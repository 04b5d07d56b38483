"""No activation that is sampled inside a box breaks its certificate: more than 10^7 values per source, evaluated in float32.

Published networks and random ones over all operations, over several boxes.  Inputs: uniform; corners; plain colours, blocks and
halves; ascent along gradients towards the bounds; real pictures, clipped to the box.  Published networks are proved as users
prove them (two workers, a minute of the wall clock), exported by the independent `support/exporter.py` and run by onnxruntime
with all its optimisations, which folds normalisations and sums in an order of its own; random ones are run in NumPy.  A value
counts as a violation where it leaves the bounds of its neuron or channel, or a channel that is proven leaves its regime.  The
last rows show that the count can be other than zero: the same with bounds that are broken on purpose.

    python benchmarks/certificates_hold_on_ten_million_activations.py [--quick]
"""

from __future__ import annotations

import support.setup  # noqa: F401  threads and paths, before all else

# isort: split
import argparse
from collections.abc import Iterator, Mapping
from itertools import islice
from time import perf_counter
from typing import Any
from unittest.mock import patch

import numpy as np

from bounds.nets import random_net
from bounds.sampling import Evaluate, Inputs, ascents, corners, in_numpy, outside, pictures, proved, uniform
from decascade.bounds import regimes
from decascade.bounds.state import ProofState
from decascade.ir.graph import Graph
from support.exporter import as_exported, export
from support.peers import session
from support.published_models import BOXES, NETWORKS, Published
from support.results import Partial, write_results

NAME = "certificates_hold_on_ten_million_activations"
BATCH = 32
SOURCES = ("uniform", "corners", "colours and blocks", "ascent", "real pictures")


def in_onnxruntime(state: ProofState) -> Evaluate:
    """The inputs of all activations, as onnxruntime computes them."""
    names = list(dict.fromkeys(s.tensor for s in state.layers))
    run = session(export(state.problem.graph).SerializeToString())

    def values(inputs: Inputs) -> Mapping[str, np.ndarray]:
        given = {k: np.ascontiguousarray(np.moveaxis(v, -1, 0), np.float32) for k, v in inputs.items()}
        found = run.run(names, given)
        return {n: np.moveaxis(a, 0, -1) for n, a in zip(names, found, strict=True)}

    return values


def sources(state: ProofState, rng: np.random.Generator, real: np.ndarray | None) -> dict[str, Iterator[Inputs]]:
    limits = state.problem.limits
    made = {
        "uniform": uniform(limits, rng, BATCH), "corners": corners(limits, rng, BATCH),
        "colours and blocks": pictures(limits, rng, BATCH), "ascent": ascents(state, limits, rng, BATCH),
    }
    return made if real is None else {**made, "real pictures": _real(state, real)}


def _real(state: ProofState, real: np.ndarray) -> Iterator[Inputs]:
    """Batches of pictures, cut to the size analysed."""
    (name,) = state.problem.graph.inputs
    size = state.problem.limits.lo[name].shape[1:-1]
    for start in range(0, len(real) - BATCH + 1, BATCH):
        block = np.moveaxis(real[start : start + BATCH], 0, -1)[(slice(None), *(slice(n) for n in size))]
        yield state.problem.limits.keep({name: block})


def check(graph: Graph, box: object, seconds: float, batches: int, real: np.ndarray | None, ort: bool) -> dict[str, Any]:
    """Per source values, of them of proven neurons, and violations."""
    state, found = proved(graph, box, seconds, workers=2 if ort else 1)
    evaluate, rng = in_onnxruntime(state) if ort else in_numpy(state.problem.graph), np.random.default_rng(1)
    counts = dict[str, list[int]]()
    for name, made in sources(state, rng, real).items():
        total = np.zeros(3, np.int64)
        for inputs in islice(made, max(batches // 4, 1) if name == "ascent" and ort else batches):
            total += outside(state, found, evaluate(inputs))
        counts[name] = total.tolist()
    return {"counts": counts, "decided": found.decided()}


def published(network: Published, box: str, quick: bool) -> dict[str, Any]:
    real = network.images(128 if quick else 480)
    graph = as_exported(network.graph())
    return check(graph, network.box(*BOXES[box]), 5.0 if quick else 58.0, 2 if quick else 15, real, True)


def random_networks(count: int, first: int = 0) -> dict[str, Any]:
    total: dict[str, list[int]] = {}
    for seed in range(first, first + count):
        rng = np.random.default_rng(seed)
        graph = random_net(rng, depth=5)
        lo, hi = sorted(0.5 * rng.normal(size=2))
        for name, row in check(graph, (lo, hi), 1.0, 4, None, False)["counts"].items():
            total[name] = np.add(total.get(name, [0, 0, 0]), row).tolist()
    return {"counts": total, "decided": None}


def narrowed(op: Any, lo: Any, hi: Any) -> Any:
    """Lines around an activation, each moved inwards by a tenth of the interval."""
    lines, gap = ENCLOSE(op, lo, hi), 0.1 * np.where(np.isfinite(hi - lo), hi - lo, 0)
    return regimes.Lines(lines.low_slope, lines.low + gap, lines.high_slope, lines.high - gap)


ENCLOSE = regimes.enclose
BREAKS: dict[str, tuple[str, Any]] = {
    "broken on purpose: lines around activations": ("decascade.bounds.backward.enclose", narrowed),
    "broken on purpose: no slack for float32": ("decascade.bounds.interval.gamma", lambda _terms, _u: 0.0),
}


def rows(state: Partial, quick: bool) -> None:
    """Everything that is not done yet."""
    for network in NETWORKS:
        for box in BOXES if network.there() else ():
            if (key := f"{network.name}, {box}") not in state.done:
                state.put(key, published(network, box, quick))
                print(key, state.done[key], flush=True)
    if "random networks" not in state.done:
        state.put("random networks", random_networks(10 if quick else 120))
    for name, (where, wrong) in BREAKS.items():
        if name not in state.done:
            with patch(where, wrong):
                found = random_networks(10, 500) if "lines" in name else sums(200)
            state.put(name, found)


def sums(count: int) -> dict[str, Any]:
    """Long sums of one sign over a box of one point, where rounding alone leaves the bounds."""
    from bounds.nets import chain
    from decascade.algebra.conv import Conv
    from decascade.ir.ops import Activation

    rng, lo = np.random.default_rng(0), float(np.float32(0.1))
    layer = Conv((1 + rng.random((count, 9, 7, 7))).astype(np.float32), None)
    return check(chain(layer, Activation("relu"), shape=(9, 7, 7)), (lo, lo), 2.0, 2, None, True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="fewer samples, shorter proofs")
    quick = options.parse_args().quick
    state, start = Partial(NAME, {"quick": quick}), perf_counter()
    rows(state, quick)
    report(state, perf_counter() - start)


def report(state: Partial, seconds: float) -> None:
    table, sums_of = list[list[str]](), dict[str, Any]()
    for key, r in state.done.items():
        for source, row in r["counts"].items():
            if "broken" not in key:
                sums_of[source] = np.add(sums_of.get(source, np.zeros(3, np.int64)), row)
        wrong, total, proven = np.sum(list(r["counts"].values()), axis=0)
        table.append([key, f"{total:,}", f"{proven:,}", f"{wrong:,}"])
    header = ("values", "of proven neurons", "violations")
    by_source = [[s, f"{v[1]:,}", f"{v[2]:,}", f"{v[0]:,}"] for s, v in sums_of.items()]
    everything = np.sum(list(sums_of.values()), axis=0)
    by_source.append(["all", *(f"{everything[i]:,}" for i in (1, 2, 0))])
    facts = {"rows": state.done, "by_source": {k: np.asarray(v).tolist() for k, v in sums_of.items()}, "seconds": seconds}
    write_results(NAME, facts, [("By source of inputs", ("source", *header), by_source),
                                ("By network and box", ("network", *header), table)])
    broken = [r for k, r in state.done.items() if "broken" in k]
    if everything[0] or not all(np.sum([row[0] for row in r["counts"].values()]) for r in broken):
        raise SystemExit("a value leaves its certificate, or a broken bound was not noticed")
    state.clear()


if __name__ == "__main__":
    main()
