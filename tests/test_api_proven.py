"""The proven tier from Python on files and live models of all formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import decascade as dc
from proven_models import FORMATS, NETWORKS, saved

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


@pytest.mark.parametrize("extension", FORMATS)
def test_witnesses_are_inputs_of_the_model(extension: str, tmp_path: Path) -> None:
    """Loaded and run by hand: channel c of the first layer takes the two values where the report says."""
    path, place = saved("seed_case", extension, tmp_path), tmp_path / "w.npz"
    report = dc.inspect(path, input_range=(-1, 1), witnesses=place)
    first = report.certificates[0]["activations"][0]
    assert [w["channel"] for w in first["witnesses"]] == list(range(12))
    with np.load(place) as stored:
        (name,) = stored.files
        x = stored[name]
    last = extension in (".keras", ".h5")
    assert x.shape[1:] == ((10, 11, 2) if last else (2, 10, 11))
    assert np.abs(x).max() <= 1
    x = np.moveaxis(x, -1, 1) if last else x
    (_, weight, bias), *_ = NETWORKS["seed_case"]()[1]
    y = dc.Conv(weight, bias, padding=1)(x.astype(np.float64))
    for witness in first["witnesses"]:
        for value, position, sample in zip(witness["values"], witness["positions"], witness["samples"], strict=True):
            assert y[(sample, witness["channel"], *position)] == pytest.approx(value, rel=1e-3)
        assert min(witness["values"]) < 0 < max(witness["values"])


def test_where_witnesses_may_go(tmp_path: Path) -> None:
    path = saved("seed_case", ".onnx", tmp_path)
    (tmp_path / "w.npz").write_bytes(b"precious")
    with pytest.raises(dc.UsageError, match="witnesses are looked for within an input range: give one"):
        dc.inspect(path, witnesses=tmp_path / "v.npz")
    with pytest.raises(dc.UsageError, match=r"witnesses .*w.txt: they are stored as .npz: give a name that ends in .npz"):
        dc.inspect(path, input_range=(0, 1), witnesses=tmp_path / "w.txt")
    with pytest.raises(dc.OutputError, match=r"w\.npz exists"):
        dc.inspect(path, input_range=(0, 1), witnesses=tmp_path / "w.npz")
    assert (tmp_path / "w.npz").read_bytes() == b"precious"
    dc.inspect(path, input_range=(0, 1), witnesses=tmp_path / "w.npz", force=True)
    with np.load(tmp_path / "w.npz") as stored:
        assert stored["image"].shape[1:] == (2, 10, 11)
