"""Where whole maps are kept: a deep cascade of small maps behind wide ones is cut, and RAM goes down; the bytes stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed: pip install decascade[device]")

from decascade.stream.cuts import articulation_points, best_cuts
from decascade.stream.generate import generate
from decascade.stream.graph import run
from decascade.stream.program import program_of
from decascade.stream.read.build import build
from decascade.stream.read.flat import read_file
from decascade.stream.schedule import depths, simulate
from decascade.stream.simplify import simplified
from stream.compiled import compiled, needs_compiler, outputs
from stream.files import FileWriter


def tower(depth: int) -> bytes:
    """Strides down to 4×4, then so many 3×3 convolutions whose rings together are larger than the small map."""
    rng = np.random.default_rng(0)
    file = FileWriter()
    x = source = file.map((1, 32, 32, 4), 0.1, 0)
    for stride, channels in [(2, 8), (2, 8), (2, 16)] + [(1, 16)] * depth:
        weights = file.stored(rng.integers(-127, 128, (channels, 3, 3, file.shape(x)[3])).astype(np.int8), [0.002] * channels)
        size = file.shape(x)[1] // stride
        y = file.map((1, size, size, channels), 0.1, 0)
        file.op("CONV_2D", [x, weights], [y], "Conv2DOptions", padding=0, strideH=stride, strideW=stride, dilationHFactor=1,
                dilationWFactor=1, fusedActivationFunction=1)
        x = y
    return file.bytes([source], [x])


@needs_compiler
def test_cuts_lower_ram_and_keep_the_bytes(tmp_path: Path) -> None:
    data = tower(8)
    found = generate(data, "net")
    assert len(found.program.goals) > 1
    graph = simplified(build(read_file(data, "net")))
    assert best_cuts(graph, lambda _: 0, 1 << 30) != ()
    streamed = program_of(graph)
    rings = sum(streamed.nodes[b].row_bytes * depth for b, depth in depths(streamed, simulate(streamed)).items())
    assert found.layout.size < 0.8 * rings
    x = np.random.default_rng(1).integers(-128, 128, (2, 32, 32, 4)).astype(np.int8)
    whole, rows = outputs(compiled(found, tmp_path), x)
    expected = np.stack([run(graph, one)[graph.outputs[0]].reshape(-1) for one in x])
    assert np.array_equal(whole, expected)
    assert np.array_equal(rows, expected)


def test_no_cut_where_none_helps() -> None:
    graph = simplified(build(read_file(tower(0), "net")))
    assert best_cuts(graph, lambda _: 0, 600) == ()


def test_points_lie_where_one_map_is_needed() -> None:
    file = FileWriter()
    x = file.map((1, 4, 4, 2), 0.1, 0)
    maps = [file.map((1, 4, 4, 2), 0.1, 0) for _ in range(4)]
    for a, b, y in [(x, x, maps[0]), (maps[0], maps[0], maps[1]), (maps[0], maps[1], maps[2]), (maps[2], maps[2], maps[3])]:
        file.op("ADD", [a, b], [y], "AddOptions", fusedActivationFunction=0)
    graph = build(read_file(file.bytes([x], [maps[3]]), "net"))
    assert articulation_points(graph) == [0, 2]  # not in the skip, not at the output
