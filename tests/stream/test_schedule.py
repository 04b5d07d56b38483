"""The schedule and its checker: rings as deep as the kernels are high, and a plan that is one row short is found out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed: pip install decascade[device]")

from decascade.stream.generate import generate
from decascade.stream.memory import Block, check, place
from stream.files import FileWriter, RandomNet


def cascade(layers: int, kernel: int, size: int = 16) -> bytes:
    """So many convolutions with a skip around all but the first."""
    file = FileWriter()
    x = file.map((1, size, size, 4), 0.1, 0)
    source = x
    first = x
    for i in range(layers):
        weights = file.stored(np.ones((4, kernel, kernel, 4), np.int8), [0.01] * 4)
        y = file.map((1, size, size, 4), 0.1, 0)
        file.op("CONV_2D", [x, weights], [y], "Conv2DOptions", padding=0, strideH=1, strideW=1, dilationHFactor=1,
                dilationWFactor=1, fusedActivationFunction=0)
        first, x = (y if i == 0 else first), y
    y = file.map((1, size, size, 4), 0.1, 0)
    file.op("ADD", [first, x], [y], "AddOptions", fusedActivationFunction=0)
    return file.bytes([source], [y])


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_rings_are_as_deep_as_the_kernel(kernel: int) -> None:
    found = generate(cascade(2, kernel), "net")
    assert found.layout.depths[0] == kernel
    assert found.layout.depths[1] == kernel  # the skip costs no further row
    assert max(found.layout.depths.values()) == kernel


def test_longer_skip_keeps_the_rows_between() -> None:
    found = generate(cascade(4, 3), "net")
    assert found.layout.depths[1] == 1 + 3  # its own row, and one for each bridged layer that looks a row ahead


@pytest.mark.parametrize("seed", range(30))
def test_a_ring_that_is_one_row_short_is_found_out(seed: int) -> None:
    found = generate(RandomNet(seed).bytes(), "net")
    needs: dict[int, int] = {}
    assert check(found.program, found.trace, found.layout, needs) == ""
    for buffer, depth in found.layout.depths.items():
        if depth > 1:
            short = replace(found.layout, depths={**found.layout.depths, buffer: depth - 1})
            assert "was overwritten before" in check(found.program, found.trace, short, needs)


def test_overlapping_rings_are_found_out() -> None:
    found = generate(cascade(2, 3), "net")
    needs: dict[int, int] = {}
    together = replace(found.layout, rings=dict.fromkeys(found.layout.rings, 0))
    assert "was overwritten before" in check(found.program, found.trace, together, needs)


def test_first_fit_reaches_the_bound() -> None:
    blocks = {("ring", i): Block(size, first, last) for i, (size, first, last) in
              enumerate([(40, 0, 3), (16, 2, 5), (24, 4, 9), (40, 6, 9), (8, 0, 9)])}
    offsets, size, bound = place(blocks)
    assert size == bound == 72
    assert set(offsets) == set(blocks)
