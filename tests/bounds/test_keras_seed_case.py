"""The project's first question, in Keras: a non-negative layer, a non-negative range, one layer in the end."""

from __future__ import annotations

import numpy as np
import pytest

import decascade as dc

keras = pytest.importorskip("keras")


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    found = keras.Sequential(
        [keras.Input((14, 14, 2)), layers.Conv2D(12, 3, padding="same", activation="relu"),
         layers.Conv2D(3, 3, padding="same", activation="relu")]
    )  # fmt: skip
    first = found.layers[0]
    first.set_weights([np.abs(w) + (0.05 if w.ndim == 1 else 0) for w in first.get_weights()])
    return found


def test_within_the_range_it_becomes_one_convolution_and_a_relu(model):
    result = dc.merge(model, input_range=(0, 1))
    assert [(c.decision, c.tier, c.border) for c in result.report.cascades] == [("merged", "proven", "ring")]
    assert (result.report.layers.before, result.report.layers.after) == (2, 1)
    assert result.report.validity is not None
    assert len(result.report.validity.proven) == 1
    assert result.report.validity.box == {result.model.inputs[0].name: {"lo": 0.0, "hi": 1.0}}
    x = np.random.default_rng(0).random((4, 14, 14, 2), np.float32)
    assert np.abs(np.asarray(model(x)) - np.asarray(result.model(x))).max() < 1e-5
    assert np.abs(np.asarray(model(-x)) - np.asarray(result.model(-x))).max() > 1e-2


def test_beyond_it_both_layers_stay_and_a_witness_says_why(model):
    result = dc.merge(model, input_range=(-1, 1))
    assert result.report.layers.after == 2
    assert not any(c.decision == "merged" for c in result.report.cascades)
    assert result.report.validity is None
    first, second = result.report.certificates[0]["activations"]
    assert [(len(a["witnesses"]), a["channels"]) for a in (first, second)] == [(12, {"witnessed": 12}), (3, {"witnessed": 3})]
    for witness in (*first["witnesses"], *second["witnesses"]):
        assert min(witness["values"]) < 0 < max(witness["values"])
