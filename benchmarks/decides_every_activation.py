"""Every activation proved linear or shown not to be, over three boxes of inputs, on published networks.

Per network and box: neurons and channels that are proven (they stay in one linear regime on the whole box), witnessed (inputs
in the box take them out of it) or open, the share that is decided, and the seconds.  A channel is decided once all its neurons
are proved, or one is witnessed; the count of neurons asks for a verdict on each position of each channel.  Layers 1 and 2: the
open neurons of the first two activations.

    python benchmarks/decides_every_activation.py [--seconds 58] [--workers 2] [--only NAME] [--box NAME] [--no-write]

One row at a time is written; an interrupted run goes on where it stopped, as long as the project's code is the same.
"""

from __future__ import annotations

import support.setup  # noqa: F401  threads and paths, before all else

# isort: split
import argparse
from os import times
from time import perf_counter
from typing import Any

from decascade.bounds import Certificate, prove
from support.published_models import BOXES, NETWORKS, Published
from support.results import Partial, write_results

NAME = "decides_every_activation"
KINDS = ("proven", "mixed", "witnessed", "open")


def measure(network: Published, span: tuple[float, float], seconds: float, workers: int) -> dict[str, Any]:
    graph = network.graph()
    wall, cpu = perf_counter(), sum(times()[:4])
    found = prove(graph, network.box(*span), seconds, workers=workers)
    return {"wall_seconds": perf_counter() - wall, "cpu_seconds": sum(times()[:4]) - cpu, **counts(found)}


def counts(found: Certificate) -> dict[str, Any]:
    per = {"channels": found.channels, "neurons": found.neurons, "classes": found.classes}
    shares = {f"decided_{name}": found.decided(name) for name in per}
    layers = [{"node": a.node, "channels": a.counts, "neurons": dict(a.neurons)} for a in found.activations]
    return {**per, **shares, "open_in_layers_1_and_2": sum(a.neurons.get("open", 0) for a in found.activations[:2]),
            "layers": layers}


def row(name: str, box: str, r: dict[str, Any]) -> list[str]:
    cells = [name, box]
    for per in ("channels", "neurons"):
        proven = r[per].get("proven", 0) + r[per].get("mixed", 0)
        cells += [f"{proven} / {r[per].get('witnessed', 0)} / {r[per].get('open', 0)}", percent(r[f"decided_{per}"])]
    return [*cells, str(r["open_in_layers_1_and_2"]), f"{r['cpu_seconds']:.1f}", f"{r['wall_seconds']:.1f}"]


def percent(share: float) -> str:
    """Two digits, never rounded up to the aim."""
    text = f"{int(share * 10000) / 100:.2f} %"
    return text if share >= 0.99 else f"**{text}**"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=58.0, help="time per network and box")
    options.add_argument("--workers", type=int, default=2, help="1, or 2: proofs beside witnesses")
    options.add_argument("--only", default="", help="networks whose name contains this")
    options.add_argument("--box", default="", help="boxes whose name contains this")
    options.add_argument("--no-write", action="store_true", help="print, and leave the results as they are")
    chosen = options.parse_args()
    state, rows = Partial(NAME, {"seconds": chosen.seconds, "workers": chosen.workers}), list[list[str]]()
    for network in NETWORKS:
        for box, span in BOXES.items():
            key = f"{network.name}, {box}"
            if not network.there() or chosen.only not in network.name or chosen.box not in box:
                continue
            if key not in state.done or chosen.no_write:
                found = measure(network, span, chosen.seconds, chosen.workers)
                if chosen.no_write:
                    print(*row(network.name, box, found), sep=" | ", flush=True)
                    for layer in found["layers"]:
                        print("   ", layer["node"], layer["channels"], layer["neurons"], flush=True)
                    continue
                state.put(key, found)
            rows.append(row(network.name, box, state.done[key]))
    if not chosen.no_write:
        report(state, rows)


def report(state: Partial, rows: list[list[str]]) -> None:
    header = ("network", "box", "channels: proven / witnessed / open", "decided", "neurons: proven / witnessed / open",
              "decided", "open in layers 1 and 2", "CPU s", "wall s")
    seconds, workers = state.stamp["seconds"], state.stamp["workers"]
    notes = [f"Bold: less than 99 %. {workers} workers (two: one for witnesses, one for proofs); the time limit, {seconds:g} s,"
             " is on the wall's clock, on a machine that does nothing else; CPU seconds are those of the process and of the"
             " one that it starts for its searches. No calibration data were given."]
    write_results(NAME, {"rows": state.done}, [("Activations that are proven or witnessed", header, rows)], notes)


if __name__ == "__main__":
    main()
