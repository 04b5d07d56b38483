"""The proven tier from Python on files and live models of all formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import decascade as dc
from proven_models import FORMATS, saved

RANGE = (0, 255)


@pytest.mark.parametrize("extension", FORMATS)
def test_the_range_is_followed_through_preprocessing(extension: str, tmp_path: Path) -> None:
    """Rescaling and normalisation inside the model: the first layer is linear on [0, 255] by a hair, and on no wider range."""
    path = saved("preprocessed", extension, tmp_path)
    found = dc.inspect(path, input_range=RANGE)
    assert [(c.decision, c.tier) for c in found.cascades if len(c.layers) > 2] == [("merged", "proven")]
    wider = dc.inspect(path, input_range=(0, 256))
    assert not [c for c in wider.cascades if c.tier == "proven"]
    result = dc.merge(path, input_range=RANGE)
    assert result.report.layers.after == result.report.layers.before - 1
    assert result.report.verification is not None
    assert result.report.verification.same


@pytest.mark.parametrize("extension", FORMATS)
def test_ranges_per_channel_and_per_entry_are_in_the_models_layout(extension: str, tmp_path: Path) -> None:
    """Channel 0 enters with negative weights: it may not be as large as the other."""
    path = saved("one_negative", extension, tmp_path)
    assert [c.tier for c in dc.inspect(path, input_range=([0, 0], [0.5, 9])).cascades] == ["proven"]
    assert not [c for c in dc.inspect(path, input_range=([0, 0], [9, 0.5])).cascades if c.tier == "proven"]
    lo, hi = np.zeros((2, 8, 9)), np.full((2, 8, 9), 9.0)
    hi[0] = 0.5
    order = (0, 1, 2) if extension in (".onnx", ".pt2") else (1, 2, 0)
    full: Any = (lo.transpose(order), hi.transpose(order))
    np.savez(tmp_path / "box.npz", lo=full[0], hi=full[1])
    for given in (full, tmp_path / "box.npz"):
        found = dc.merge(path, input_range=given)
        assert [c.tier for c in found.report.cascades] == ["proven"]
        assert found.report.verification is not None
        assert found.report.verification.same
        assert dc.verify(path, found.model, input_range=given).same
        assert not dc.verify(path, found.model, input_range=(0, 9)).same


def test_options_out_of_their_domain(tmp_path: Path) -> None:
    path = saved("one_negative", ".onnx", tmp_path)
    with pytest.raises(dc.UsageError, match="prove_seconds = -1: give a number of seconds above 0"):
        dc.merge(path, prove_seconds=-1)


MODELS = Path(__file__).resolve().parents[1].parent / "shared" / "models"


def test_a_published_network_is_half_dead() -> None:
    """MLPerf Tiny's visual wake words network on all of [0, 1]: what is proved dead is half of its work, and most of its
    weights."""
    path = MODELS / "mlperf_tiny_vww_mobilenetv1_96.h5"
    if not path.exists():
        pytest.skip(f"{path.name} is not at hand")
    pytest.importorskip("keras")
    result = dc.merge(path, input_range=(0, 1), prove_seconds=4)
    report = result.report
    assert report.verification is not None
    assert report.verification.same
    assert report.cost.after is not None
    assert report.cost.before / report.cost.after > 1.95
    assert report.cost.parameters_after is not None
    assert report.cost.parameters_before / report.cost.parameters_after > 6
    assert report.layers.before == report.layers.after
    dead = [c for c in report.cascades if "are constant behind the activation" in c.reason]
    assert len(dead) >= 8
    assert {c.tier for c in dead} == {"proven"}
    assert all(c.error is None or c.error.max_abs <= c.error.allowed for c in dead)
