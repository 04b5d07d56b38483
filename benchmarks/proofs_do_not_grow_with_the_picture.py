"""How long proofs take at 32×32, 64×64 and 224×224, over a box that is the same everywhere: aim, 224 within 1.3 × of 32.

Positions whose receptive fields meet the edges alike share one verdict, so that a network is analysed at the smallest picture
that has all its kinds of positions.  Two measures per network and size, both in CPU seconds: `prove` over the full range until
everything is decided (or the limit), and, of the small networks, the backward linear bounds of every neuron, which are a fixed
amount of work.

A network whose receptive field is larger than the small picture has more kinds of positions in the large one: its time grows
up to the size of its receptive field, and then no more (the last rows).

    python benchmarks/proofs_do_not_grow_with_the_picture.py [--quick] [--only NAME,NAME]
"""

from __future__ import annotations

import support.setup  # noqa: F401  threads and paths, before all else

# isort: split
import argparse
from dataclasses import replace
from math import inf
from time import process_time
from typing import Any

import numpy as np

from bounds.nets import chain, conv
from decascade.bounds import Box, prove
from decascade.bounds.driver import linear_bounds
from decascade.bounds.geometry import part
from decascade.bounds.problem import activations
from decascade.ir.graph import Graph
from decascade.ir.ops import Activation
from decascade.ir.shapes import infer_graph
from support.published_models import NETWORKS
from support.results import write_results

NAME = "proofs_do_not_grow_with_the_picture"
SIZES = (32, 64, 224)
AIM, LIMIT = 1.3, 30.0
MEASURES = ("prove_seconds", "linear_seconds")
RELU, RELU6 = Activation("relu"), Activation("clip", (0.0, 6.0))


def resized(graph: Graph, size: int) -> Graph:
    """The graph up to the input of its last activation, for pictures of another size."""
    ahead = part(graph, [n.inputs[0] for n in activations(graph)])
    shapes = {n: t.shape[:2] if n in ahead.inputs and t.shape else None for n, t in ahead.tensors.items()}
    tensors = {n: replace(t, shape=None if (s := shapes[n]) is None else (*s, size, size)) for n, t in ahead.tensors.items()}
    return infer_graph(replace(ahead, tensors=tensors))


def closed(graph: Graph) -> Graph:
    """With an activation at every output, as `part` left them off."""
    nodes = list(graph.nodes)
    for n, output in enumerate(graph.outputs):
        if not any(output in node.inputs and isinstance(node.op, Activation) for node in nodes):
            last = nodes[-1]
            nodes.append(replace(last, name=f"last{n}", op=RELU, inputs=(output,), outputs=(f"last{n}:0",)))
    tensors = {**graph.tensors, **{o: replace(graph.tensors[graph.outputs[0]], name=o, shape=None)
                                   for node in nodes for o in node.outputs if o not in graph.tensors}}
    outputs = tuple(o for node in nodes for o in node.outputs if not any(o in other.inputs for other in nodes))
    return infer_graph(replace(graph, nodes=tuple(nodes), outputs=outputs, tensors=tensors))


def networks() -> dict[str, tuple[Graph, tuple[Any, Any]]]:
    """Per name a graph of any size and the box."""
    rng = np.random.default_rng(0)
    plain = [conv(rng, 3, 16), RELU, conv(rng, 16, 16), RELU, conv(rng, 16, 16, stride=2), RELU, conv(rng, 16, 32), RELU]
    mobile = list[Any]()
    for inside, out, stride in ((3, 8, 2), (8, 16, 1)):
        mobile += [conv(rng, inside, inside, groups=inside, stride=stride), RELU6, conv(rng, inside, out, 1), RELU6]
    found: dict[str, tuple[Graph, tuple[Any, Any]]] = {
        "4 convolutions": (chain(*plain, shape=(3, 32, 32)), (0.0, 1.0)),
        "2 depthwise-pointwise pairs": (chain(*mobile, shape=(3, 32, 32)), (0.0, 1.0)),
    }
    for network in NETWORKS:
        if network.there() and "ResNet" in network.name:
            found[network.name] = (network.graph(), network.box(0.0, 1.0))
    return found


def measure(graph: Graph, box: tuple[Any, Any], size: int, rounds: int, bounded: bool) -> dict[str, Any]:
    net = closed(resized(graph, size))
    proofs, bounds = list[float](), list[float]()
    for _ in range(rounds):
        start = process_time()
        found = prove(net, Box.of(net, box), LIMIT, clock=process_time)
        proofs.append(process_time() - start)
        start = process_time()
        if bounded:
            linear_bounds(net, Box.of(net, box), inf)
            bounds.append(process_time() - start)
    kinds, analysed = sum(sum(a.classes.values()) for a in found.activations), next(iter(found.analysed.values()))
    return {"size": size, "analysed": list(analysed), "kinds": kinds, "decided": found.decided("neurons"),
            "prove_seconds": float(np.median(proofs)), "linear_seconds": float(np.median(bounds)) if bounded else None}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="one round")
    options.add_argument("--only", default="", help="networks whose name contains one of these, parted by commas")
    chosen = options.parse_args()
    quick, wanted = chosen.quick, chosen.only.split(",")
    rows, cells, slow = list[dict[str, Any]](), list[list[str]](), list[str]()
    for name, (graph, box) in networks().items():
        if not any(w in name for w in wanted):
            continue
        rounds, bounded = 1 if quick or "ResNet-20" in name else 3, "ResNet" not in name
        found = [measure(graph, box, size, rounds, bounded) for size in SIZES]
        first, last = found[0], found[-1]
        for r in found:
            rows.append({"network": name, **r})
            cells.append([name, str(r["size"]), "×".join(map(str, r["analysed"][1:])), f"{r['kinds']:,}", f"{r['decided']:.2%}",
                          *(f"{r[k]:.2f} ({r[k] / first[k]:.2f})" if first[k] else "–" for k in MEASURES)])
            print(*cells[-1], sep=" | ", flush=True)
        grows = last["kinds"] > first["kinds"]
        slow += [name for k in MEASURES if first[k] and not grows and last[k] > AIM * max(first[k], 0.5)]
    header = ("network", "picture", "analysed at", "kinds of neurons", "decided neurons", "prove s (× 32)", "linear s (× 32)")
    notes = ["CPU seconds of one process on a machine of 2 cores that others used as well; medians of three (of one for"
             " ResNet-20 and with --quick). In brackets: over the same network at 32×32. ResNet-20 sees more than 32×32"
             " pixels: kinds of neurons are added up to the size of its receptive field."]
    write_results(NAME, {"rows": rows}, [("Proofs and picture size", header, cells)], notes)
    if slow:
        raise SystemExit(f"slower than {AIM} × at 224: {', '.join(slow)}")


if __name__ == "__main__":
    main()
