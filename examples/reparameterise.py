"""Trains a re-parameterised network on Fashion-MNIST in its wide form, merges it, and measures it before and after.

The wide form is made of blocks as RepVGG, DBB and MobileOne train them: parallel branches and linear pairs, each with its own
batch norm, that compute what one convolution could.  decascade knows none of these names; it finds that every block is
linear.  Beside it stands a plain network of the merged shape, trained as long.

    python examples/reparameterise.py [--data fashion_mnist.npz] [--epochs 4]
"""

from __future__ import annotations

import argparse
import logging
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


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int) -> nn.Module:
    """AdamW, one cycle, pictures flipped at random."""
    torch.manual_seed(0)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    steps = epochs * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
            pictures = torch.where(torch.rand(len(rows), 1, 1, 1) < 0.5, x[rows], x[rows].flip(3))
            loss = nn.functional.cross_entropy(model(pictures), y[rows], label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def predictions(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([model(part).argmax(1) for part in x.split(500)])


def milliseconds(call: Callable[[], object]) -> float:
    """The median time of one call."""
    for _ in range(20):
        call()
    times = list[float]()
    for _ in range(ROUNDS):
        start = perf_counter()
        call()
        times.append(1000 * (perf_counter() - start))
    return median(times)


def latencies(model: nn.Module) -> list[str]:
    """One picture, one thread: eager, torch.compile, onnxruntime."""
    x = torch.zeros(1, 1, 28, 28)
    with torch.no_grad(), warnings.catch_warnings(), TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it lists packages that are not installed
        eager = milliseconds(lambda: model(x))
        compiled = torch.compile(model)
        inductor = milliseconds(lambda: compiled(x))
        path = str(Path(folder) / "model.onnx")
        torch.onnx.export(model, (x,), path, dynamo=True, external_data=False, verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feeds = {session.get_inputs()[0].name: x.numpy()}
        return [f"{t:.3f}" for t in (eager, inductor, milliseconds(lambda: session.run(None, feeds)))]


def row(table: Table, name: str, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Measure a model and add it to the table; its predictions."""
    cost = dc.inspect(model, input_shape=(1, 1, 28, 28)).cost.before
    layers = sum(isinstance(part, (nn.Conv2d, nn.Linear)) for part in model.modules())
    weights = sum(p.numel() for p in model.parameters())
    found = predictions(model, x)
    accuracy = 100 * (found == y).float().mean().item()
    table.add_row(name, f"{accuracy:.2f} %", str(layers), f"{weights:,}", f"{cost:,.0f}", *latencies(model))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="an .npz with x_train, y_train, x_test, y_test (28×28, 0-255)")
    parser.add_argument("--epochs", type=int, default=4)
    chosen = parser.parse_args()
    if not chosen.data.exists():
        parser.error(f"{chosen.data} does not exist: give the Fashion-MNIST file with --data")
    data = np.load(chosen.data)
    x, test = (torch.tensor(data[f"x_{part}"], dtype=torch.float32)[:, None] / 255 - 0.3 for part in ("train", "test"))
    y, labels = (torch.tensor(data[f"y_{part}"], dtype=torch.int64) for part in ("train", "test"))
    models, seconds = dict[str, nn.Module](), dict[str, float]()
    for name, block in {"wide": Wide, "plain": plain}.items():
        torch.manual_seed(1)
        start = perf_counter()
        models[name] = train(network(block), x, y, chosen.epochs)
        seconds[name] = perf_counter() - start
    console.print(f"trained {chosen.epochs} epochs: wide {seconds['wide']:.0f} s, plain {seconds['plain']:.0f} s")
    torch.set_num_threads(1)
    result = dc.merge(models["wide"], input_shape=(1, 1, 28, 28))
    console.print(str(result.report))
    table = Table("network", "accuracy", "layers", "weights", "MACs", "eager ms", "compiled ms", "onnxruntime ms")
    before = row(table, "wide", models["wide"], test, labels)
    after = row(table, "wide, merged", result.model, test, labels)
    row(table, "plain, trained as long", models["plain"], test, labels)
    console.print(table)
    console.print(f"predictions that merging changed: {int((before != after).sum())} of {len(test)}")


if __name__ == "__main__":
    main()
