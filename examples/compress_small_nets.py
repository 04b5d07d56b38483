"""Trains two small networks on real data, then compresses each with labels under a largest drop in accuracy.

A 1-D network in Keras on the sound of spoken digits (FSDD, 8 kHz), and a network in PyTorch on Fashion-MNIST.  The first has
few recordings, so decascade gets the ones that the network was trained on; the second gets pictures that it never saw.  What
counts is the test split, which neither has seen.

    python examples/compress_small_nets.py [--data FOLDER] [--max-drop 0.5] [--minutes 5]
                                           [--only speech|fashion] [--save FOLDER]

Figures of one run are in examples/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import decascade as dc

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
RESULTS = Path(__file__).resolve().parent / "results"
LENGTH = 4096
"""Samples of sound that the 1-D network hears: half a second."""
BATCH = 64
console = Console(width=None if Console().is_terminal else 100, highlight=False)


@dataclass(frozen=True)
class Task:
    """A trained network, the labelled samples that compress gets, and the test split, all in the network's own layout."""

    model: Any
    given: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    predict: Callable[[Any, np.ndarray], np.ndarray]
    save: Callable[[Any, Path], Any]
    suffix: str


def spoken(folder: Path) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """(x, y) of the training and of the test split: x (N, LENGTH, 1), each recording centred and at its loudest 1."""
    file = np.load(folder / "fsdd.npz", allow_pickle=False)
    audio, off = file["audio"].astype(np.float32), file["off"]
    x = np.zeros((len(file["y"]), LENGTH, 1), np.float32)
    for row, start, end in zip(x, off[:-1], off[1:], strict=True):
        sound = audio[start:end]
        skip = max(0, (len(sound) - LENGTH) // 2)
        sound = sound[skip : skip + LENGTH]
        at = (LENGTH - len(sound)) // 2
        row[at : at + len(sound), 0] = sound / max(np.abs(sound).max(), 1.0)
    test = file["is_test"].astype(bool)
    y = file["y"].astype(np.int64)
    return (x[~test], y[~test]), (x[test], y[test])


def speech(folder: Path, epochs: int) -> Task:
    """Convolutions over time, 16 to 64 channels, on raw sound."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    train, test = spoken(folder)
    net = keras.Sequential([keras.Input((LENGTH, 1))])
    for filters, size, stride in ((16, 16, 4), (32, 9, 1), (48, 9, 1), (64, 9, 1)):
        net.add(layers.Conv1D(filters, size, stride, padding="same", use_bias=False))
        net.add(layers.BatchNormalization())
        net.add(layers.ReLU())
        net.add(layers.MaxPooling1D(4))
    for layer in (layers.GlobalAveragePooling1D(), layers.Dropout(0.3), layers.Dense(10)):
        net.add(layer)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, epochs * (len(train[0]) // BATCH))
    net.compile(keras.optimizers.AdamW(rate, weight_decay=1e-3), loss)
    rng = np.random.default_rng(0)
    for _ in track(range(epochs), "training on speech", console=console, disable=not console.is_terminal):
        moved = np.stack([np.roll(row, rng.integers(-400, 401), axis=0) for row in train[0]])
        net.fit(moved * rng.uniform(0.5, 1.0, (len(moved), 1, 1)), train[1], batch_size=BATCH, verbose=0)

    def predict(model: Any, x: np.ndarray) -> np.ndarray:
        return np.asarray(model.predict(x, verbose=0)).argmax(1)

    return Task(net, train, test, predict, lambda model, path: model.save(path), ".keras")


def fashion(folder: Path, epochs: int) -> Task:
    """Convolutions over pictures, 16 to 64 channels."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    file = np.load(folder / "fashion_mnist.npz", allow_pickle=False)
    x, x_test = (file[k].astype(np.float32)[:, None] / 255 for k in ("x_train", "x_test"))
    y, y_test = (file[k].astype(np.int64) for k in ("y_train", "y_test"))
    parts, inside = list[Any](), 1
    for width, pool in ((16, False), (16, True), (32, False), (32, True), (64, False)):
        parts += [nn.Conv2d(inside, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        parts += [nn.MaxPool2d(2)] if pool else []
        inside = width
    net = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 10))
    mine = 12_000
    images, labels, steps = torch.tensor(x[:mine]), torch.tensor(y[:mine]), epochs * (mine // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in track(range(epochs), "training on Fashion-MNIST", console=console, disable=not console.is_terminal):
        for some in torch.randperm(mine)[: mine // BATCH * BATCH].view(-1, BATCH):
            batch = images[some].flip(3) if torch.rand(()) < 0.5 else images[some]
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(batch), labels[some]).backward()
            optimizer.step()
            schedule.step()
    net.eval()

    def predict(model: Any, x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return torch.cat([model(part).argmax(1) for part in torch.tensor(x).split(256)]).numpy()

    def save(model: Any, path: Path) -> None:
        torch.export.save(torch.export.export(model, (images[:1],)), path)

    return Task(net, (x[mine:], y[mine:]), (x_test, y_test), predict, save, ".pt2")


def compressed(name: str, task: Task, max_drop: float, minutes: float, save: Path | None) -> dict[str, Any]:
    """Compress, and compare with the original on the test split."""
    start = perf_counter()
    shape = {"input_shape": (1, *task.test[0].shape[1:])} if task.suffix == ".pt2" else {}
    result = dc.compress(task.model, task.given, max_drop=max_drop, time_limit=60 * minutes, seed=0, **shape)
    seconds, (x, y) = perf_counter() - start, task.test
    before, after = (task.predict(model, x) for model in (task.model, result.model))
    if save is not None:
        task.save(result.model, save / f"{name}_small{task.suffix}")
        result.report.to_html(save / f"{name}.html")
    held = {m.name: (m.before, m.after) for m in result.report.measures if m.group == "distilled"}
    return {
        "network": name, "max_drop": max_drop, "seconds": seconds, "speedup": result.plan.speedup,
        "macs": [result.plan.before, result.plan.after], "samples": len(task.given[0]),
        "held_out": held, "test": len(y), "accuracy": [float((p == y).mean()) for p in (before, after)],
        "became_right": int(((after == y) & (before != y)).sum()), "became_wrong": int(((after != y) & (before == y)).sum()),
        "students": [c.student for c in result.plan.choices],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--max-drop", type=float, default=0.5)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--epochs", type=int, help="of the networks' own training")
    parser.add_argument("--only", choices=("speech", "fashion"))
    parser.add_argument("--save", type=Path)
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    if asked.save is not None:
        asked.save.mkdir(parents=True, exist_ok=True)
    made = {"speech": (speech, 40), "fashion": (fashion, 12)}
    for name, (build, epochs) in made.items():
        if asked.only in (None, name):
            task = build(asked.data, asked.epochs or epochs)
            show(compressed(name, task, asked.max_drop, asked.minutes, asked.save))


def show(found: dict[str, Any]) -> None:
    """One table, and one file that keeps the figures of both networks."""
    table = Table("", "before", "after", title=f"{found['network']}: {found['speedup']:.2f} times fewer multiply-accumulates")
    table.add_row("MACs", *(f"{n / 1e6:.2f} M" for n in found["macs"]))
    table.add_row(f"accuracy on {found['test']:,} test samples", *(f"{100 * a:.2f} %" for a in found["accuracy"]))
    console.print(table)
    console.print(f"became right: {found['became_right']}, wrong: {found['became_wrong']}; {found['seconds']:.0f} s; "
                  f"students: {', '.join(found['students']) or 'none'}")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "compress_small_nets.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**kept, found["network"]: found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
