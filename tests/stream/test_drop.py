"""Channels that are constant for every input are dropped, and not a byte changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed: pip install decascade[device]")

from decascade.stream.drop import without_constants
from decascade.stream.generate import generate
from decascade.stream.graph import run
from decascade.stream.read.build import build
from decascade.stream.read.flat import read_file
from decascade.stream.simplify import simplified
from stream.compiled import compiled, needs_compiler, outputs
from stream.files import FileWriter

DEAD = -(1 << 24)
"""A bias that a ReLU clamps away for every input."""


def separable(seed: int, dead: int, padding: int = 0, level: int = -128) -> bytes:
    """1×1 with `dead` of 16 channels off → depthwise 3×3 → 1×1; `level`: the zero point of the first map, where they end."""
    rng = np.random.default_rng(seed)
    file = FileWriter()
    x = file.map((1, 6, 6, 4), 0.05, 3)

    def weights(shape: tuple[int, ...], axis: int, bias: np.ndarray) -> list[int]:
        values = rng.integers(-127, 128, shape).astype(np.int8)
        return [file.stored(values, [0.004] * shape[axis], axis=axis), file.stored(bias.astype(np.int32))]

    off = np.where(np.arange(16) < dead, DEAD, rng.integers(-500, 500, 16))[rng.permutation(16)]
    a, b = file.map((1, 6, 6, 16), 0.05, level), file.map((1, 6 - 2 * padding, 6 - 2 * padding, 16), 0.05, -128)
    y = file.map((1, 6 - 2 * padding, 6 - 2 * padding, 8), 0.05, 0)
    common = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1, "fusedActivationFunction": 0}
    file.op("CONV_2D", [x, *weights((16, 1, 1, 4), 0, off)], [a], "Conv2DOptions", padding=0, **common)
    file.op("DEPTHWISE_CONV_2D", [a, *weights((1, 3, 3, 16), 3, rng.integers(-500, 500, 16))], [b], "DepthwiseConv2DOptions",
            padding=padding, depthMultiplier=1, **common)
    file.op("CONV_2D", [b, *weights((8, 1, 1, 16), 0, rng.integers(-500, 500, 8))], [y], "Conv2DOptions", padding=0, **common)
    return file.bytes([x], [y])


@needs_compiler
@pytest.mark.parametrize("seed", range(4))
def test_dead_channels_go_on_both_sides_of_a_depthwise_layer(seed: int, tmp_path: Path) -> None:
    data = separable(seed, 9)
    graph = build(read_file(data, "net"))
    small = without_constants(simplified(graph))
    assert [small.maps[op.output].shape[2] for op in small.ops] == [8, 8, 8]  # 7 are alive; whole fours are kept
    x = np.random.default_rng(seed).integers(-128, 128, (6, 6, 6, 4)).astype(np.int8)
    expected = np.stack([run(graph, one)[graph.outputs[0]].reshape(-1) for one in x])
    whole, rows = outputs(compiled(generate(data, "net"), tmp_path), x)
    assert np.array_equal(whole, expected)
    assert np.array_equal(rows, expected)


@pytest.mark.parametrize(("padding", "kept"), [(0, 16), (1, 8)])
def test_a_constant_beside_the_zero_point_goes_only_without_padding(padding: int, kept: int) -> None:
    data = separable(0, 9, padding, level=-100)  # dead channels are −128, padding is −100
    graph = build(read_file(data, "net"))
    small = without_constants(simplified(graph))
    assert small.maps[small.ops[0].output].shape[2] == kept
    for one in np.random.default_rng(0).integers(-128, 128, (8, 6, 6, 4)).astype(np.int8):
        assert np.array_equal(run(graph, one)[graph.outputs[0]], run(small, one)[small.outputs[0]])


def test_nothing_goes_where_all_live() -> None:
    graph = simplified(build(read_file(separable(1, 0), "net")))
    assert without_constants(graph) is graph


def test_a_network_of_constants_keeps_its_shape() -> None:
    data = separable(2, 16)
    graph = build(read_file(data, "net"))
    small = without_constants(simplified(graph))
    assert small.maps[small.outputs[0]].shape == graph.maps[graph.outputs[0]].shape
    x = np.zeros((6, 6, 4), np.int8)
    assert np.array_equal(run(graph, x)[graph.outputs[0]], run(small, x)[small.outputs[0]])
