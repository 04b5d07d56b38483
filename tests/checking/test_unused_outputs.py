"""Nodes that are carried through and have more outputs than are used: verified, with float64 too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import decascade

onnx: Any = pytest.importorskip("onnx")
helper: Any = onnx.helper


def model(kind: str, outputs: list[str], second: list[str], **fields: Any) -> Any:
    """conv → conv → a node of this kind, of whose outputs only y is the model's."""
    rng = np.random.default_rng(0)
    stored = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in
              {"a": (16, 3, 1, 1), "b": (4, 16, 1, 1), "W": (1, 20, 4), "R": (1, 20, 5), "g": (4,)}.items()}
    stored |= {"as": np.array([16, 1, 4]), "halves": np.array([2, 2]), "two": np.array([2])}
    nodes = [helper.make_node("Conv", ["x", "a"], ["c"], "a"), helper.make_node("Conv", ["c", "b"], ["d"], "b")]
    if kind == "LSTM":
        nodes.append(helper.make_node("Reshape", ["d", "as"], ["r"]))
    nodes.append(helper.make_node(kind, ["r" if kind == "LSTM" else "d", *second], outputs, "last", **fields))
    ends = [helper.make_tensor_value_info("x", 1, (1, 3, 4, 4)), helper.make_tensor_value_info("y", 1, None)]
    arrays = [onnx.numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


CASES: dict[str, Any] = {
    "LSTM, last state": ("LSTM", ["", "y"], ["W", "R"], {"hidden_size": 5}),
    "LSTM, sequence": ("LSTM", ["y"], ["W", "R"], {"hidden_size": 5}),
    "LSTM, cell": ("LSTM", ["", "", "y"], ["W", "R"], {"hidden_size": 5}),
    "LSTM, named": ("LSTM", ["u", "y", "v"], ["W", "R"], {"hidden_size": 5}),
    "Split": ("Split", ["u", "y"], ["halves"], {"axis": 1}),
    "TopK": ("TopK", ["y", "u"], ["two"], {"axis": 1}),
    "MaxPool with indices": ("MaxPool", ["y", "u"], [], {"kernel_shape": [2, 2]}),
    "Dropout with a mask": ("Dropout", ["y", "u"], [], {}),
    "LayerNormalization": ("LayerNormalization", ["y", "", "u"], ["g"], {"axis": -1}),
}


@pytest.mark.parametrize("case", CASES)
def test_onnx(case: str) -> None:
    kind, outputs, second, fields = CASES[case]
    report = decascade.merge(model(kind, outputs, second, **fields)).report
    assert report.verification is not None
    assert report.verification.same
    assert report.verification.by == "framework"
    assert report.verification.exact_error is not None
    assert {c.decision for c in report.cascades} == {"merged"}


@pytest.mark.parametrize("which", range(3))
def test_torch_recurrent_layers(which: int) -> None:
    torch: Any = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 1), torch.nn.Conv2d(16, 4, 1))
            self.lstm = torch.nn.LSTM(4, 5, batch_first=True)

        def forward(self, x: Any) -> Any:
            y, (h, c) = self.lstm(self.convs(x).flatten(2).transpose(1, 2))
            return (y, h, c)[which]

    report = decascade.merge(Net().eval(), input_shape=(1, 3, 4, 4)).report
    assert report.verification is not None
    assert report.verification.same
    assert report.verification.exact_error is not None


@pytest.mark.parametrize("which", range(3))
def test_keras_recurrent_layers(which: int) -> None:
    keras: Any = pytest.importorskip("keras")
    x = keras.Input((4, 4, 3))
    y = keras.layers.Reshape((16, 4))(keras.layers.Conv2D(4, 1)(keras.layers.Conv2D(16, 1)(x)))
    parts = keras.layers.LSTM(5, return_state=True, return_sequences=True)(y)
    report = decascade.merge(keras.Model(x, parts[which])).report
    assert report.verification is not None
    assert report.verification.same
    assert report.verification.exact_error is not None
