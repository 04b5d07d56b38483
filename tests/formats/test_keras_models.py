"""Real Keras models: read, run by the interpreter, written unchanged and with one real merge, stored and loaded again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import decascade
from decascade.algebra.compose import compose
from decascade.algebra.conv import Conv
from decascade.formats.base import Document
from decascade.formats.keras.format import FORMAT
from decascade.ir.check import check
from decascade.ir.ops import Foreign
from formats.keras_cases import L, by_interpreter, close, keras, op, sample, swapped, writes

MODELS = Path(__file__).resolve().parents[2].parent / "shared" / "models"
NAMES = (
    "mlperf_tiny_anomaly_autoencoder", "mlperf_tiny_resnet8_cifar10", "mlperf_tiny_streaming_wakeword",
    "mlperf_tiny_vww_mobilenetv1_96", "tinymaix_mnist_same", "tinymaix_mnist_valid",
)


def shared(name: str) -> Document:
    path = MODELS / f"{name}.h5"
    if not path.exists():
        pytest.skip(f"{path.name} is not there: the shared models lie beside the checkout")
    return FORMAT.read(path)


@pytest.mark.parametrize("name", NAMES)
def test_shared_model(name: str, tmp_path: Path) -> None:
    document = shared(name)
    check(document.graph)
    assert not document.notes
    assert not any(isinstance(n.op, Foreign) for n in document.graph.nodes)
    inputs = sample(document)
    results = FORMAT.run(document.native, inputs)
    close(document, results, by_interpreter(document, document.graph, inputs), 1e-5)
    written = FORMAT.write(document, document.graph)
    assert type(written) is type(document.native)
    for path in (tmp_path / "m.keras", tmp_path / "m.h5"):
        FORMAT.save(written, path)
        again = FORMAT.read(path)
        assert [(n.name, n.inputs, n.outputs) for n in again.graph.nodes] == [
            (n.name, n.inputs, n.outputs) for n in document.graph.nodes
        ]
        for key, array in FORMAT.run(again.native, inputs).items():
            np.testing.assert_array_equal(array, results[key])


def test_a_real_linear_pair() -> None:
    """The wake-word net's depthwise k×1 without padding, then 1×1: one convolution, exactly."""
    document = shared("mlperf_tiny_streaming_wakeword")
    merged = compose(op(document, "conv2d"), op(document, "depthwise_conv2d"))
    assert isinstance(merged, Conv)
    graph = swapped(document.graph, ["depthwise_conv2d", "conv2d"], ("merged", merged, ["input_1"], "conv2d"))
    model = writes(document, graph, tolerance=1e-5)
    inputs = sample(document)
    before, after = FORMAT.run(document.native, inputs), FORMAT.run(model, inputs)
    np.testing.assert_allclose(after["dense"], before["dense"], rtol=1e-5, atol=1e-6)
    assert len(model.layers) == len(document.native.layers) - 1


@pytest.mark.parametrize("policy", ["float64", "bfloat16", "mixed_bfloat16", "mixed_float16"])
def test_types_of_numbers(policy: str) -> None:
    """Outputs are compared in the type that they have; a float64 Rescaling has the numbers that the backend gives it."""
    entry = keras.Input((9, 8, 3), dtype="float64" if policy == "float64" else None)
    x = L.Rescaling(1 / 3, 0.1, dtype=policy)(entry)
    net = keras.Model(entry, L.Conv2D(4, 3, dtype=policy)(L.Conv2D(32, 1, dtype=policy)(x)))
    found = decascade.merge(net)
    assert any(c.decision == "merged" for c in found.report.cascades)
    assert found.report.verification is not None
    assert found.report.verification.same
    assert decascade.verify(net, net).same
    if policy == "float64":
        assert decascade.verify(net, found.model).max_abs < 1e-13
