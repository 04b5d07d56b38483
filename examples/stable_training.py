"""Trains a small CNN so that a whole ReLU layer is provably linear on every picture, then merges through it.

    python examples/stable_training.py fashion_mnist.npz [--epochs 6] [--out folder]

Ordinary networks have hardly any ReLU that is stable on the full input range [0, 1].  `decascade.stability_loss` added to
the training loss makes the chosen ones so; the proof is then `merge(..., input_range=(0, 1))`.  The script trains the
same network with several weights of the penalty, and prints and plots test accuracy against what could be proved.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from decascade.bounds import prove
from decascade.cost import target_named
from decascade.formats.torch.format import FORMAT as TORCH
from decascade.regions.candidates import Options
from decascade.regions.lower import is_convolution
from decascade.regions.proven import merge_with
from decascade.stability import stability_loss

LINEAR_LAYER = 1
"""The ReLU that is made linear: the one between the expansion and the projection."""


def network() -> nn.Sequential:
    """Expansion and projection as in MobileNet, the middle four times wider than the ends: where merging pays."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(16, 64, 1), nn.ReLU(),
        nn.Conv2d(64, 16, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 16, 10),
    )  # fmt: skip


def train(data: dict[str, Any], weight: float, epochs: int, seed: int = 0) -> tuple[nn.Sequential, float]:
    """A trained network and its test accuracy; the penalty is ramped up over the first half."""
    torch.manual_seed(seed)
    model = network()
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    x, y = data["x"], data["y"]
    steps = epochs * (len(x) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=steps)
    order, step = torch.Generator().manual_seed(seed), 0
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=order)[: len(x) // 128 * 128].reshape(-1, 128):
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            if weight:
                ramp = min(1.0, 2 * step / steps)
                loss = loss + weight * ramp * stability_loss(
                    model, (0, 1), kind="active", layers=[LINEAR_LAYER], input_shape=(1, 28, 28)
                )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            step += 1
    return model.eval(), accuracy(model, data)


def accuracy(model: Any, data: dict[str, Any]) -> float:
    with torch.no_grad():
        return 100 * float((model(data["x_test"]).argmax(1) == data["y_test"]).float().mean())


def load(path: Path) -> dict[str, Any]:
    """Pictures from 0 to 1 and labels; a file without a test part gives its last fifth."""
    with np.load(path) as stored:
        found = {k: torch.from_numpy(stored[k]) for k in stored.files}
    if "x_train" not in found:
        cut = len(found["x"]) * 4 // 5
        parts = {"train": slice(cut), "test": slice(cut, None)}
        found = {f"{k}_{name}": found[k][part] for k in ("x", "y") for name, part in parts.items()}
    pictures = {"x": found["x_train"], "x_test": found["x_test"]}
    return {
        "y": found["y_train"].long(),
        "y_test": found["y_test"].long(),
        **{k: v.float().div(255)[:, None] for k, v in pictures.items()},
    }


def assess(model: nn.Sequential, data: dict[str, Any], budget: float) -> dict[str, Any]:
    """What is proved on [0, 1], what merging makes of it, and the accuracy of the result."""
    document = TORCH.read(model, input_shape=(1, 1, 28, 28))
    certificate = prove(document.graph, (0, 1), budget)
    result = merge_with(document.graph, certificate, Options(target_named("macs")))
    merged = TORCH.write(document, result.graph)
    removed = [a.node for a in certificate.activations if a.linear]
    layers = [sum(map(is_convolution, g.nodes)) for g in (document.graph, result.graph)]
    macs = [target_named("macs").graph_cost(g).value for g in (document.graph, result.graph)]
    return {
        "accuracy_merged": accuracy(merged, data),
        "linear_relus": removed,
        "layers": layers,
        "macs": macs,
        "relus": [{"name": a.node, **a.counts} for a in certificate.activations],
        "seconds_to_prove": certificate.seconds,
        "cascades": [{"layers": c.layers, "decision": c.decision, "tier": c.tier, "reason": c.reason} for c in result.cascades],
    }


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """The trade-off as an SVG: accuracy over the share of the layer's channels that is proved linear."""
    low, high = min(r["accuracy"] for r in rows) - 1, max(r["accuracy"] for r in rows) + 1
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 320" font-family="sans-serif" font-size="12">',
        '<rect width="480" height="320" fill="white"/><path d="M60 20V270H460" fill="none" stroke="black"/>',
        '<text x="260" y="305" text-anchor="middle">channels of the layer proved linear on [0, 1]</text>',
        '<text x="14" y="145" transform="rotate(-90 14 145)" text-anchor="middle">test accuracy, %</text>',
    ]
    parts += [
        f'<text x="{60 + 380 * share:.0f}" y="285" text-anchor="middle">{100 * share:.0f} %</text>'
        for share in (0, 0.25, 0.5, 0.75, 1)
    ]
    parts += [
        f'<text x="55" y="{274 - 240 * (mark - low) / (high - low):.0f}" text-anchor="end">{mark:.1f}</text>'
        for mark in np.linspace(low, high, 5)
    ]
    for row in rows:
        x, y = 60 + 380 * row["proved"], 270 - 240 * (row["accuracy"] - low) / (high - low)
        side, anchor = (6, "start") if row["proved"] < 0.25 else (-6, "end")
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#2060c0"/>'
            f'<text x="{x + side:.1f}" y="{y - 8:.1f}" text-anchor="{anchor}">weight {row["weight"]:g}</text>'
        )
    path.write_text("\n".join([*parts, "</svg>\n"]), encoding="utf-8")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("data", type=Path, help="npz of 28×28 pictures, 0–255: x_train, y_train, x_test, y_test, or x, y")
    options.add_argument("--epochs", type=int, default=6)
    options.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.01, 0.1, 1.0])
    options.add_argument("--budget", type=float, default=20.0, help="seconds per proof")
    options.add_argument("--out", type=Path, default=Path("stable_training"))
    chosen = options.parse_args()
    data, rows = load(chosen.data), list[dict[str, Any]]()
    chosen.out.mkdir(parents=True, exist_ok=True)
    for weight in chosen.weights:
        start = perf_counter()
        model, reached = train(data, weight, chosen.epochs)
        found = assess(model, data, chosen.budget)
        counts = dict(found["relus"][LINEAR_LAYER])
        channels = sum(v for v in counts.values() if isinstance(v, int))
        proved = sum(v for k, v in counts.items() if k.startswith("proven")) / channels
        rows.append({"weight": weight, "accuracy": reached, "proved": proved, "seconds": perf_counter() - start, **found})
        print(
            f"weight {weight:g}: accuracy {reached:.2f} %, merged {found['accuracy_merged']:.2f} %; layer {counts};"
            f" layers {found['layers'][0]} → {found['layers'][1]}, MACs {found['macs'][0]:.3g} → {found['macs'][1]:.3g}",
            flush=True,
        )
    (chosen.out / "trade_off.json").write_text(json.dumps(rows, indent=1, default=str), encoding="utf-8")
    picture(rows, chosen.out / "trade_off.svg")


if __name__ == "__main__":
    main()
