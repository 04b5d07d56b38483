"""Streamed C on emulated processors: the same bytes with and without the instructions for two products, a small stack."""

from __future__ import annotations

from dataclasses import replace
from shutil import which

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed: pip install decascade[device]")

from decascade.deploy.c.streamed import on_chip
from decascade.errors import VerificationError
from decascade.stream.generate import Generated, generate
from decascade.stream.graph import run
from stream.files import RandomNet

pytestmark = pytest.mark.skipif(
    which("qemu-system-arm") is None or which("arm-none-eabi-gcc") is None, reason="run scripts/install-device-tools.sh"
)
SEEDS = range(1, 9)


def case(seed: int) -> tuple[Generated, np.ndarray, np.ndarray]:
    found = generate(RandomNet(seed, steps=8).bytes(), "net")
    shape = found.graph.maps[found.graph.input].shape
    x = np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)
    values = run(found.graph, x)
    return found, x, np.concatenate([values[o].reshape(-1) for o in found.graph.outputs])


def portable(found: Generated) -> Generated:
    """The same source for a processor without these instructions."""
    source = "#undef __ARM_FEATURE_DSP\n" + found.sources.source
    return replace(found, sources=replace(found.sources, source=source))


@pytest.mark.parametrize("seed", SEEDS)
def test_every_processor_gives_the_same_bytes(seed: int) -> None:
    found, x, expected = case(seed)  # on_chip compares them
    m4, m7 = on_chip(found, x, expected), on_chip(found, x, expected, "cortex-m7")
    plain = on_chip(portable(found), x, expected)
    for facts in (m4, m7, plain):
        assert facts.stack is not None
        assert facts.stack < 1024
    assert m4.rows == found.sources.context


def test_two_products_at_once_are_fewer_instructions() -> None:
    seed = next(s for s in range(50) if _packed(s))
    found, x, expected = case(seed)
    fast, plain = on_chip(found, x, expected), on_chip(portable(found), x, expected)
    assert fast.instructions is not None
    assert plain.instructions is not None
    assert fast.instructions < plain.instructions


def _packed(seed: int) -> bool:
    return "conv_packed_row(&" in generate(RandomNet(seed, steps=8).bytes(), "net").sources.source


def test_other_bytes_are_found_out() -> None:
    found, x, expected = case(1)
    with pytest.raises(VerificationError, match="the C code gives other bytes on the cortex-m4; nothing was written"):
        on_chip(found, x, expected ^ 1)
