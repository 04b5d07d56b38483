"""Streamed C gives byte for byte what TensorFlow Lite for Microcontrollers gives, on random networks and on published ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed: pip install decascade[device]")
pytest.importorskip("tflite_micro", reason="tflite-micro is not installed: pip install --pre tflite-micro")

from decascade.deploy.tflite.tflm import run_micro
from decascade.stream.generate import generate
from decascade.stream.graph import run
from decascade.stream.read.build import build
from decascade.stream.read.flat import read_file
from stream.compiled import compiled, needs_compiler, outputs
from stream.files import UNARY, FileWriter, RandomNet, add_unary

SEEDS = range(24)


def given(data: bytes, seed: int, count: int = 3) -> NDArray[np.int8]:
    """Random inputs, and one of the largest value."""
    file = read_file(data, "net")
    x = np.random.default_rng(seed).integers(-128, 128, (count, *file.tensors[file.inputs[0]].shape[1:])).astype(np.int8)
    x[-1] = 127
    return x


def expected(data: bytes, x: NDArray[np.int8]) -> NDArray[np.int8]:
    file = read_file(data, "net")
    return np.concatenate([o.reshape(len(x), -1) for o in run_micro(data, [x], len(file.outputs)).outputs], axis=1)


@needs_compiler
@pytest.mark.parametrize("seed", SEEDS)
def test_random_networks(seed: int, tmp_path: Path) -> None:
    data = RandomNet(seed).bytes()
    x = given(data, seed)
    theirs = expected(data, x)
    graph = build(read_file(data, "net"))
    assert np.array_equal(np.stack([run(graph, one)[graph.outputs[0]].reshape(-1) for one in x]), theirs)
    whole, rows = outputs(compiled(generate(data, "net"), tmp_path), x)
    assert np.array_equal(whole, theirs)
    assert np.array_equal(rows, theirs)


@needs_compiler
@pytest.mark.parametrize("seed", range(100, 104))
def test_random_networks_map_by_map(seed: int, tmp_path: Path) -> None:
    data = RandomNet(seed).bytes()
    x = given(data, seed)
    whole, rows = outputs(compiled(generate(data, "net", stream=False), tmp_path, "gcc"), x)
    assert np.array_equal(whole, expected(data, x))
    assert np.array_equal(rows, whole)


SCALES = [1e-4, 0.003, 0.02, 0.0237, 0.1, 0.5, 1.0, 3.0]


@pytest.mark.parametrize("kind", UNARY)
@pytest.mark.parametrize("zero", [-128, -3, 0, 127])
def test_functions_of_one_value_on_all_values(kind: str, zero: int) -> None:
    for scale in SCALES:
        quantum = {"LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0), "RELU6": (scale, zero)}.get(kind, (scale * 0.7, 5))
        file = FileWriter()
        x = file.map((1, 16, 16, 1), scale, zero)
        data = file.bytes([x], [add_unary(file, x, kind, quantum)])
        values = np.arange(-128, 128).astype(np.int8).reshape(1, 16, 16, 1)
        graph = build(read_file(data, "net"))
        assert np.array_equal(run(graph, values[0])[graph.outputs[0]].reshape(1, -1), expected(data, values)), (scale, zero)


@needs_compiler
@pytest.mark.parametrize("channels", [1, 4])
def test_halves_go_away_from_zero_on_both_sides(channels: int, tmp_path: Path) -> None:
    """A multiplier of exactly 1/8 on all int8 values: every eighth sum is a tie, half of them below zero."""
    file = FileWriter()
    x, y = file.map((1, 16, 16, channels), 0.5, 0), file.map((1, 16, 16, channels), 1.0, 0)
    weights = file.stored(np.ones((1, 1, 1, channels), np.int8), [0.25] * channels, axis=3)
    file.op("DEPTHWISE_CONV_2D", [x, weights], [y], "DepthwiseConv2DOptions", padding=0, strideH=1, strideW=1,
            dilationHFactor=1, dilationWFactor=1, depthMultiplier=1, fusedActivationFunction=0)
    z = file.map((1, 16, 16, 2), 1.0, 0)
    both = file.stored(np.ones((2, 1, 1, channels), np.int8), [0.125, 0.125])
    file.op("CONV_2D", [y, both], [z], "Conv2DOptions", padding=0, strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1,
            fusedActivationFunction=0)
    data = file.bytes([x], [z])
    values = np.repeat(np.arange(-128, 128).astype(np.int8).reshape(1, 16, 16, 1), channels, axis=3)
    whole, _ = outputs(compiled(generate(data, "net"), tmp_path), values)
    assert np.array_equal(whole, expected(data, values))
