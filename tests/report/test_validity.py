"""The proven tier in words and bars: what every cell means, what fits, and where a result holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rich.console import Console

from bounds.nets import chain, conv
from decascade.algebra.conv import Conv
from decascade.bounds import prove
from decascade.bounds.observe import observe
from decascade.ir.ops import Activation
from decascade.report.facts.report import ProofFacts, ProofRow, ValidityFacts
from decascade.report.terminal.tables import plain_text
from decascade.report.terminal.validity import box_text, render_activations, render_proofs, render_validity


def certificate(stable: int, dead: int, neither: int) -> dict[str, Any]:
    """A layer of which it is known what its channels do on [0, 1]."""
    rng = np.random.default_rng(0)
    count = stable + dead + neither
    weight = np.abs(rng.normal(size=(count, 2, 3, 3))).astype(np.float32)
    weight[stable : stable + dead] *= -1
    weight[stable + dead :, 0] *= -1
    bias = np.repeat([0.1, -0.1, 0.0], [stable, dead, neither]).astype(np.float32)
    graph = chain(Conv(weight, bias, padding=1), Activation("relu"), conv(rng, count, 2), shape=(2, 9, 9))
    return prove(graph, (0, 1), 3).facts()


def test_a_cell_per_channel_in_order() -> None:
    text = plain_text(render_activations(certificate(3, 2, 4)))
    assert "Activations for x in [0, 1]" in text
    assert "n1 (relu)" in text
    assert "███░░xxxx " in text
    assert "█ 3 linear, proved   ░ 2 constant, proved   x 4 not linear: an input shows it" in text
    words = " ".join(text.split())
    assert "3 proven-active, 2" in words
    assert "channel 5 takes -" in words


@pytest.mark.parametrize(("counts", "cells"), [((90, 5, 5), (29, 2, 1)), ((1, 998, 1), (1, 30, 1)), ((20, 13, 0), (19, 13, 0))])
def test_of_many_channels_the_bar_shows_shares(counts: tuple[int, int, int], cells: tuple[int, int, int]) -> None:
    found = certificate(2, 1, 1)
    row = found["activations"][0]
    kinds = [k for k, n in zip((("proven", 1), ("proven", 0), ("witnessed", -1)), counts, strict=True) for _ in range(n)]
    row["status"], row["regime"] = [k for k, _ in kinds], [r for _, r in kinds]
    bar = next(line for line in plain_text(render_activations(found)).splitlines() if "█" in line)
    assert sum(bar.count(c) for c in "█░x") == 32
    shown = tuple(bar.count(c) for c in "█░x")
    assert all((a > 0) == (n > 0) for a, n in zip(shown, counts, strict=True)), "no kind is left out"
    assert all(abs(a - b) <= 1 for a, b in zip(shown, cells, strict=True))
    assert "".join(c for c in bar if c in "█░x") == "█" * shown[0] + "░" * shown[1] + "x" * shown[2]


def test_it_is_readable_without_colour_and_coloured_with() -> None:
    found = render_activations(certificate(3, 2, 4))
    assert "\x1b" not in plain_text(found)
    console = Console(width=80, force_terminal=True, color_system="standard", highlight=False)
    with console.capture() as captured:
        console.print(found)
    assert "\x1b[32m███" in captured.get()
    assert "\x1b[31mxxxx" in captured.get()


def test_eighty_columns_whatever_the_names() -> None:
    found = certificate(30, 20, 50)
    found["activations"][0]["layers"] = ["a/very/long/name/" * 9]
    assert max(map(len, plain_text(render_activations(found)).splitlines())) <= 80


def test_folders_that_all_names_share_are_left_out() -> None:
    found = certificate(1, 1, 1)
    row = found["activations"][0]
    found["activations"] = [{**row, "layers": [f"net/block/{name}"]} for name in ("a/relu", "ab/relu")]
    text = plain_text(render_activations(found))
    assert "\na/relu (relu) " in text
    assert "\nab/relu (relu) " in text
    assert "net/" not in text
    assert "░ 2 constant, proved" in text


def test_what_is_observed_is_not_called_proved() -> None:
    rng = np.random.default_rng(0)
    graph = chain(conv(rng, 2, 3), Activation("relu"), shape=(2, 9, 9))
    found = observe(graph, [{"x": rng.random((40, 2, 9, 9)).astype(np.float32)}]).facts()
    text = plain_text(render_activations(found))
    assert "Activations on 40 samples" in text
    assert "proved" not in text
    assert "observed-" in text or "witnessed" in text


def test_where_a_result_holds() -> None:
    proven = ValidityFacts("proven", {"x": {"lo": 0.0, "hi": 0.1}}, ("a", "b"), ())
    text = plain_text(render_validity(proven, planned=False))
    assert text == "Valid only for x in [0, 0.1]:\n  it rests on what is proved there of a, b"
    assert plain_text(render_validity(proven, planned=True)).startswith("Would be valid only for x in [0, 0.1]:")
    seen = ValidityFacts("observed", {}, (), tuple("abcdefgh"), 500, 3 / 500)
    text = " ".join(plain_text(render_validity(seen, planned=False)).split())
    assert text == (
        "Valid only for inputs like the data: and on what 500 samples show, unproved, of a, b, c, d, e, f and 2 more; 95 % sure"
        " that at most 0.006 of such inputs break any one of them"
    )
    assert plain_text(render_validity(None, planned=False)) == "Nothing was merged by proof: valid for every input."
    assert plain_text(render_validity(None, planned=True)) == "Nothing would be merged by proof: valid for every input."


def test_boxes_in_words() -> None:
    assert box_text({"x": {"lo": -0.10000000149, "hi": 255.0}}) == "x in [-0.1, 255]"
    assert box_text({"x": {"lo": [0.0, 1.0], "hi": 2.0}}) == "x in its own interval per channel, within [0, 2]"
    full = {"lo": np.zeros((2, 3, 3)).tolist(), "hi": [[[0.5]], [[0.25]]]}
    assert box_text({"x": full, "y": {"lo": 0.0, "hi": 1.0}}) == (
        "x in its own interval per entry, within [0, 0.5]; y in [0, 1]")


def test_a_certificate_checked_again() -> None:
    rows = (ProofRow("a", ("a",), "proven", 8, 8, 0), ProofRow("b", ("b",), "proven", 8, 5, 1, "channel 3 takes -1 and 1"),
            ProofRow("c", ("c",), "observed", 4, 0, 0, "not looked at again", looked_at=False))
    found = ProofFacts(False, {"x": {"lo": 0.0, "hi": 1.0}}, rows, 0, 1.5, ("a note",))
    text = " ".join(plain_text(render_proofs(found)).split())
    for words in ("does NOT hold for x in [0, 1] (1.5 s)", "a proven 8 of 8 channels proved again",
                  "b proven 5 of 8 channels proved again: channel 3 takes -1 and 1",
                  "c observed 4 channels: not looked at again", "a note"):
        assert words in text
    assert found.complaint == "3 of 8 channels of b are not confirmed: channel 3 takes -1 and 1"
    assert not ProofFacts(True, {}, rows[:1], 0, 0.0).complaint
