"""Streamed int8 C beside TensorFlow Lite for Microcontrollers: RAM, flash, instructions, and whether the bytes are the same.

    python benchmarks/streamed_beside_tflm.py [--quick]

Published networks are exported to int8 as `decascade export` does it and streamed; 200 random inputs (--quick: 20) go
through both.  RAM is given three ways: with rows pushed one by one, with the whole input, which is what an arena holds, and
that with the stack.  Instructions are counted on an emulated Cortex-M4 at -O2.  The keyword spotting network has MLPerf
Tiny's shape and random weights.  Published figures of others are theirs: X-CUBE-AI 10 takes 69.7 KiB of RAM for ResNet-8.
"""

from __future__ import annotations

import support.setup  # noqa: F401  threads and paths, before all else

# isort: split
import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import decascade as dc
from decascade.deploy.c.streamed import on_chip
from decascade.deploy.tflite.tflm import run_micro
from decascade.stream.generate import Generated, generate
from decascade.stream.graph import run
from decascade.stream.read.flat import read_file
from support.results import write_results
from support.setup import DATA, MODELS

NAME = "streamed_beside_tflm"


def pictures(count: int, size: int, factor: float) -> Any:
    """CIFAR-10 images, enlarged by whole factors."""
    with np.load(DATA / "cifar10_train_part0.npz") as file:
        x = file["x"][:count].astype(np.float32) * np.float32(factor)
    return np.repeat(np.repeat(x, size // 32, axis=1), size // 32, axis=2)


def digits(count: int) -> Any:
    with np.load(DATA / "mnist_test.npz") as file:
        return file["x"][:count, ..., None].astype(np.float32) / np.float32(255)


def noise(count: int, *shape: int, scale: float = 1.0) -> Any:
    return (np.random.default_rng(0).normal(size=(count, *shape)) * scale).astype(np.float32)


def keyword_spotting() -> Any:
    """MLPerf Tiny's DS-CNN with random weights."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    x = source = layers.Input((49, 10, 1))
    x = layers.Conv2D(64, (10, 4), strides=(2, 2), padding="same", activation="relu")(x)
    for _ in range(4):
        x = layers.DepthwiseConv2D(3, padding="same", activation="relu")(x)
        x = layers.Conv2D(64, 1, activation="relu")(x)
    x = layers.Flatten()(layers.AveragePooling2D((25, 5))(x))
    return keras.Model(source, layers.Dense(12, activation="softmax")(x))


CASES: dict[str, tuple[Any, Any]] = {
    "ResNet-8": (lambda: MODELS / "mlperf_tiny_resnet8_cifar10.h5", lambda: pictures(200, 32, 1.0)),
    "visual wake words": (lambda: MODELS / "mlperf_tiny_vww_mobilenetv1_96.h5", lambda: pictures(64, 96, 1 / 255)),
    "keyword spotting": (keyword_spotting, lambda: noise(200, 49, 10, 1, scale=30.0)),
    "autoencoder": (lambda: MODELS / "mlperf_tiny_anomaly_autoencoder.h5", lambda: noise(200, 640, scale=2.0)),
    "streaming wake word": (
        lambda: MODELS / "mlperf_tiny_streaming_wakeword.h5", lambda: np.abs(noise(200, 30, 1, 40, scale=9.0)),
    ),
    "MobileNetV2 0.35, 128": (lambda: MODELS / "st_mobilenet_v2_0.35_128.onnx", lambda: noise(16, 3, 128, 128)),
    "TinyMaix valid": (lambda: MODELS / "tinymaix_mnist_valid.h5", lambda: digits(200)),
    "TinyMaix same": (lambda: MODELS / "tinymaix_mnist_same.h5", lambda: digits(200)),
}


def quantised(name: str) -> bytes:
    """The int8 file that `decascade export` makes."""
    model, samples = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model.tflite"
        dc.export(model(), place, int8=True, data=samples())
        return place.read_bytes()


def same_bytes(data: bytes, found: Generated, count: int) -> tuple[int, int]:
    """Of `count` random inputs, how many give the bytes of TFLM; and its arena."""
    file = read_file(data, "model")
    x = np.random.default_rng(0).integers(-128, 128, (count, *file.tensors[file.inputs[0]].shape[1:])).astype(np.int8)
    micro = run_micro(data, [x], len(file.outputs))
    theirs = np.concatenate([o.reshape(count, -1) for o in micro.outputs], axis=1)
    ours = [run(found.graph, one) for one in x]
    mine = np.stack([np.concatenate([v[o].reshape(-1) for o in found.graph.outputs]) for v in ours])
    return int((mine == theirs).all(axis=1).sum()), micro.arena


def measured(name: str, count: int) -> dict[str, Any]:
    data = quantised(name)
    found = generate(data, "net")
    equal, arena = same_bytes(data, found, count)
    x = np.random.default_rng(1).integers(-128, 128, found.graph.maps[found.graph.input].shape).astype(np.int8)
    values = run(found.graph, x)
    facts = on_chip(found, x, np.concatenate([values[o].reshape(-1) for o in found.graph.outputs]))
    return {"name": name, "arena": arena, "tflite": len(data), "equal": equal, "inputs": count, **asdict(facts)}


def row(found: dict[str, Any]) -> list[str]:
    stacked = found["whole"] + found["stack"]
    return [found["name"], f"{found['arena']:,}", f"{found['rows']:,} ({found['rows'] / found['arena']:.3f})",
            f"{found['whole']:,} ({found['whole'] / found['arena']:.3f})", f"{stacked:,}", f"{found['flash']:,}",
            f"{found['tflite']:,}", f"{found['instructions'] / 1e6:.2f} M", f"{found['equal']} of {found['inputs']}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    count = 20 if parser.parse_args().quick else 200
    rows = [measured(name, count) for name in CASES]
    header = ["network", "TFLM's arena", "RAM, rows in", "whole input", "with stack", "flash", ".tflite", "instructions",
              "same bytes"]
    write_results(NAME, {"networks": rows}, [("Streamed int8 C, bytes", header, [row(r) for r in rows])], [
        "The arena holds the input, rows in does not: compare it with the whole input, and see both.",
        "Instructions are not cycles; nothing here was run on silicon.",
    ])


if __name__ == "__main__":
    main()
