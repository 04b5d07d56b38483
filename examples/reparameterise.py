"""Trains a re-parameterised network on Fashion-MNIST in its wide form, merges it, and measures it before and after.

The wide form is made of blocks as RepVGG, DBB and MobileOne train them: parallel branches and linear pairs, each with its own
batch norm, that compute what one convolution could.  decascade knows none of these names; it finds that every block is
linear.  Beside it stands a plain network of the merged shape, trained as long.

    python examples/reparameterise.py [--data fashion_mnist.npz] [--epochs 8] [--save FOLDER]

Figures of one run are in examples/results/.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

import decascade as dc

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "fashion_mnist.npz"
WIDTHS = ((1, 16, 2), (16, 32, 2), (32, 32, 1))
"""Channels in, channels out, stride, per block."""
BATCH, ROUNDS = 128, 200
console = Console(width=None if Console().is_terminal else 100, highlight=False)


def normed(inside: int, out: int, kernel: Any, stride: int = 1, padding: Any = 0) -> nn.Sequential:
    """A convolution without bias, and its batch norm."""
    return nn.Sequential(nn.Conv2d(inside, out, kernel, stride, padding, bias=False), nn.BatchNorm2d(out))


class PadThenNorm(nn.Module):
    """Zeros before a batch norm become what it makes of zero, so that the border stays that of a single kernel (DBB)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(nn.functional.pad(x, (1, 1, 1, 1)))


class Wide(nn.Module):
    """3×3, 1×1, 1×3, 3×1, a 1×1 → 3×3, a 1×1 → average pool, and the identity where there is one; summed."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.square = normed(inside, out, 3, stride, 1)
        self.point = normed(inside, out, 1, stride)
        self.row, self.column = normed(inside, out, (1, 3), stride, (0, 1)), normed(inside, out, (3, 1), stride, (1, 0))
        self.expand = nn.Sequential(
            nn.Conv2d(inside, out, 1, bias=False), PadThenNorm(out), *normed(out, out, 3, stride)
        )
        average = (nn.AvgPool2d(3, stride), nn.BatchNorm2d(out))
        self.average = nn.Sequential(nn.Conv2d(inside, out, 1, bias=False), PadThenNorm(out), *average)
        self.identity = nn.BatchNorm2d(out) if stride == 1 and inside == out else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.square(x) + self.point(x) + self.row(x) + self.column(x) + self.expand(x) + self.average(x)
        return y if self.identity is None else y + self.identity(x)


def plain(inside: int, out: int, stride: int) -> nn.Module:
    """What the block is once it is merged."""
    return normed(inside, out, 3, stride, 1)


def network(block: Callable[[int, int, int], nn.Module]) -> nn.Module:
    """Three blocks with ReLUs between, the mean over the picture, a linear layer."""
    body = [layer for widths in WIDTHS for layer in (block(*widths), nn.ReLU())]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1][1], 10))


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int, name: str) -> nn.Module:
    """AdamW, one cycle, pictures flipped at random."""
    torch.manual_seed(0)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    steps = epochs * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    model.train()
    order = torch.cat([torch.randperm(len(x))[: len(x) // BATCH * BATCH] for _ in range(epochs)])
    for rows in track(order.split(BATCH), f"training {name}", steps, console=console, disable=not console.is_terminal):
        pictures = torch.where(torch.rand(len(rows), 1, 1, 1) < 0.5, x[rows], x[rows].flip(3))
        loss = nn.functional.cross_entropy(model(pictures), y[rows], label_smoothing=0.1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def logits(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([model(part) for part in x.split(500)])


def runners(model: nn.Module, folder: str) -> dict[str, Callable[[], object]]:
    """One picture through the network: eager, torch.compile, onnxruntime."""
    x = torch.zeros(1, 1, 28, 28)
    path = str(Path(folder) / "model.onnx")
    torch.onnx.export(model, (x,), path, dynamo=True, external_data=False, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {session.get_inputs()[0].name: x.numpy()}
    compiled = torch.compile(model)
    return {"eager": lambda: model(x), "compiled": lambda: compiled(x), "onnxruntime": lambda: session.run(None, feeds)}


def latencies(models: dict[str, nn.Module]) -> dict[str, dict[str, float]]:
    """Median milliseconds of each network in each way, one thread, taken in turns so that all see the same machine."""
    with torch.no_grad(), warnings.catch_warnings(), TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it lists packages that are not installed
        runs = {(name, way): run for name, model in models.items() for way, run in runners(model, folder).items()}
        times = {key: list[float]() for key in runs}
        for turn in range(ROUNDS + 20):
            for key, run in runs.items():
                start = perf_counter()
                run()
                if turn >= 20:
                    times[key].append(1000 * (perf_counter() - start))
    return {name: {way: round(median(t), 4) for (n, way), t in times.items() if n == name} for name in models}


def measure(models: dict[str, nn.Module], x: torch.Tensor, y: torch.Tensor) -> list[dict[str, Any]]:
    """A row of figures per network."""
    rows, times = list[dict[str, Any]](), latencies(models)
    for name, model in models.items():
        accuracy = 100 * (logits(model, x).argmax(1) == y).double().mean().item()
        rows.append({
            "network": name,
            "accuracy": round(accuracy, 2),
            "layers": sum(isinstance(part, (nn.Conv2d, nn.Linear)) for part in model.modules()),
            "parameters": sum(p.numel() for p in model.parameters()),
            "macs": int(dc.inspect(model, input_shape=(1, 1, 28, 28)).cost.before),
            "milliseconds": times[name],
        })
    return rows


def cells(row: dict[str, Any]) -> list[str]:
    return [row["network"], f"{row['accuracy']:.2f} %", str(row["layers"]), f"{row['parameters']:,}", f"{row['macs']:,}",
            *(f"{t:.3f}" for t in row["milliseconds"].values())]


HEADER = ("network", "accuracy", "layers", "parameters", "MACs", "eager ms", "compiled ms", "onnxruntime ms")


def save(folder: Path, found: dict[str, Any]) -> None:
    """The figures as JSON, and the table for people."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "reparameterise.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    lines = [HEADER, ("---",) * len(HEADER), *(cells(row) for row in found["networks"])]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    words = (f"Fashion-MNIST, {found['epochs']} epochs; compiled is torch.compile; one picture, one thread.  Merging changed "
             f"{found['changed_predictions']} of {found['test_pictures']} predictions; the largest difference of a logit is "
             f"{found['largest_logit_difference']:.1e}.")
    text = f"# reparameterise\n\nWritten by `examples/reparameterise.py --save`.\n\n{table}\n\n{words}\n"
    (folder / "reparameterise.md").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="an .npz with x_train, y_train, x_test, y_test (28×28, 0-255)")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--save", type=Path, help="a folder for the figures (JSON and a table)")
    chosen = parser.parse_args()
    if not chosen.data.exists():
        parser.error(f"{chosen.data} does not exist: give the Fashion-MNIST file with --data")
    data = np.load(chosen.data)
    x, test = (torch.tensor(data[f"x_{part}"], dtype=torch.float32)[:, None] / 255 - 0.3 for part in ("train", "test"))
    y, labels = (torch.tensor(data[f"y_{part}"], dtype=torch.int64) for part in ("train", "test"))
    trained, seconds = dict[str, nn.Module](), dict[str, float]()
    for name, block in {"wide": Wide, "plain": plain}.items():
        torch.manual_seed(1)
        start = perf_counter()
        trained[name] = train(network(block), x, y, chosen.epochs, name)
        seconds[name] = round(perf_counter() - start, 1)
    console.print(f"trained {chosen.epochs} epochs: wide {seconds['wide']:.0f} s, plain {seconds['plain']:.0f} s")
    torch.set_num_threads(1)
    result = dc.merge(trained["wide"], input_shape=(1, 1, 28, 28))
    console.print(str(result.report))
    models = {"wide": trained["wide"], "wide, merged": result.model, "plain, as long": trained["plain"]}
    rows = measure(models, test, labels)
    before, after = logits(trained["wide"], test), logits(result.model, test)
    table = Table(*HEADER)
    for row in rows:
        table.add_row(*cells(row))
    console.print(table)
    changed = int((before.argmax(1) != after.argmax(1)).sum())
    console.print(f"predictions that merging changed: {changed} of {len(test)}")
    if chosen.save:
        save(chosen.save, {
            "epochs": chosen.epochs, "training_seconds": seconds, "networks": rows, "changed_predictions": changed,
            "test_pictures": len(test), "largest_logit_difference": (before - after).abs().max().item(),
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
                         "onnxruntime": onnxruntime.__version__, "decascade": dc.__version__},
        })


if __name__ == "__main__":
    main()
