"""Inspects, merges and verifies the shipped digits network, and measures it before and after.  Run by `make demo`.

The ONNX part needs onnxruntime and scikit-learn (for the pictures); where Keras is installed, the .keras file is done too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import decascade as dc
from decascade.report.terminal.report import render_verification

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "demo-out"
ROUNDS, BATCH = 200, 64
Predict = Callable[[np.ndarray], np.ndarray]
console = Console(width=None if Console().is_terminal else 80, highlight=False)


def test_pictures() -> tuple[np.ndarray, np.ndarray]:
    """The pictures that the network was not trained on (see train_digits.py), (n, 1, 8, 8) in [0, 1], and their labels."""
    data = load_digits()
    x = (data.data.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    _, x, _, y = train_test_split(x, data.target, test_size=0.2, random_state=0, stratify=data.target)
    return x, y


def by_onnxruntime(path: Path) -> Predict:
    """The model in onnxruntime, one thread, all of its own optimisations on."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {session.get_inputs()[0].name: x})[0]


def import_keras() -> None:
    """Import it now, what its backend's native code writes to standard error meanwhile going nowhere."""
    kept = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        import_module("keras")
    finally:
        os.dup2(kept, 2)


def by_keras(path: Path) -> Predict:
    """The model in plain Keras; pictures channels-last."""
    import keras

    model: Any = keras.models.load_model(path)
    return lambda x: model.predict_on_batch(np.moveaxis(x, 1, -1))


def milliseconds(before: Predict, after: Predict, x: np.ndarray) -> tuple[float, float]:
    """Median times of both on the same pictures, taken in turns, so that a busy machine slows both."""
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(ROUNDS + 20):
        for run, taken in zip((before, after), times, strict=True):
            start = perf_counter()
            run(x)
            if i >= 20:
                taken.append(perf_counter() - start)
    return median(times[0]) * 1e3, median(times[1]) * 1e3


def show(name: str, load: Callable[[Path], Predict], runtime: str) -> None:
    """Inspect, merge, verify and measure one file."""
    source, target = HERE / name, OUT / f"merged-{name}"
    console.rule(f"[bold]decascade inspect {name}")
    console.print(dc.inspect(source).render())
    console.rule(f"[bold]decascade merge {name} -o {target.name}")
    result = dc.merge(source, input_range=(0, 1))
    result.save(target, force=True)
    if result.report.verification is not None:
        console.print(render_verification(result.report.verification))

    console.rule("[bold]on the held-out pictures")
    x, y = test_pictures()
    before, after = load(source), load(target)
    a, b = before(x), after(x)
    slow, fast = milliseconds(before, after, x[:BATCH])
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("", "before", "after", ""):
        table.add_column(head, justify="left" if not head else "right")
    right = [(np.argmax(out, 1) == y).mean() for out in (a, b)]
    changed = int((np.argmax(a, 1) != np.argmax(b, 1)).sum())
    table.add_row("accuracy", f"{right[0]:.2%}", f"{right[1]:.2%}", f"{changed} of {len(x)} predictions changed")
    apart = f"largest difference {np.abs(a - b).max():.1e}"
    table.add_row("largest logit", f"{np.abs(a).max():.1f}", f"{np.abs(b).max():.1f}", apart)
    table.add_row(runtime, f"{slow:.2f} ms", f"{fast:.2f} ms", f"{slow / fast:.2f} × faster")
    table.add_row("file", f"{source.stat().st_size:,}", f"{target.stat().st_size:,}", "bytes")
    console.print(table)
    console.print(f"Times: {BATCH} pictures, medians of {ROUNDS} runs taken in turns, on this machine.\n")


def main() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    OUT.mkdir(exist_ok=True)
    show("digits.onnx", by_onnxruntime, "onnxruntime, one thread")
    if find_spec("keras"):
        import_keras()
        show("digits.keras", by_keras, "Keras")
    else:
        console.print("Keras is not installed: make install, then make demo, does the same for digits.keras.")
    console.print(f"The merged models are in {OUT.name}/.  Try: decascade inspect {OUT.name}/merged-digits.onnx")


if __name__ == "__main__":
    main()
