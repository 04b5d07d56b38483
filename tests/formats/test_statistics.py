"""Batch normalisation whose stored statistics mean nothing: one clear line in every format, with the layer and the value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import decascade
from decascade.cli import run
from decascade.errors import FormatError

EPSILON = 2.0**-10


def _onnx(statistics: dict[str, float]) -> Any:
    onnx: Any = pytest.importorskip("onnx")
    helper = onnx.helper
    values = {name: np.full(4, 1.0, np.float32) for name in ("gamma", "beta", "mean", "variance")}
    for name, value in statistics.items():
        values[name][2] = value
    values["w"] = np.ones((4, 3, 1, 1), np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
             helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "variance"], ["y"], "norm", epsilon=EPSILON)]
    ends = [helper.make_tensor_value_info(n, 1, (1, c, 5, 5)) for n, c in (("x", 3), ("y", 4))]
    stored = [onnx.numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _keras(statistics: dict[str, float]) -> Any:
    keras: Any = pytest.importorskip("keras")
    x = keras.Input((5, 5, 3))
    norm = keras.layers.BatchNormalization(epsilon=EPSILON, name="norm")
    model = keras.Model(x, norm(keras.layers.Conv2D(4, 1, name="conv")(x)))
    for name, value in statistics.items():
        found = {"mean": norm.moving_mean, "variance": norm.moving_variance, "gamma": norm.gamma, "beta": norm.beta}[name]
        found.assign(np.array([1.0, 1.0, value, 1.0]))
    return model


def _torch(statistics: dict[str, float]) -> Any:
    torch: Any = pytest.importorskip("torch")
    norm = torch.nn.BatchNorm2d(4, eps=EPSILON)
    for name, value in statistics.items():
        found = {"mean": norm.running_mean, "variance": norm.running_var, "gamma": norm.weight, "beta": norm.bias}[name]
        found.data[2] = value
    net = torch.nn.Sequential()
    net.add_module("conv", torch.nn.Conv2d(3, 4, 1))
    net.add_module("norm", norm)
    return net.eval()


FORMATS: dict[str, Callable[[dict[str, float]], Any]] = {"onnx": _onnx, "keras": _keras, "torch": _torch}


def merge(form: str, statistics: dict[str, float]) -> Any:
    options = {"input_shape": (1, 3, 5, 5)} if form == "torch" else {}
    return decascade.merge(FORMATS[form](statistics), **options)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("variance", "said"), [(-0.5, "-0.5"), (-EPSILON, "-0.0009765625"), (-(2.0**70), "-1.18059162e+21")])
def test_a_variance_that_has_no_root(form: str, variance: float, said: str) -> None:
    with pytest.raises(FormatError) as caught:
        merge(form, {"variance": variance})
    words = str(caught.value)
    assert f"norm: the batch normalisation's variance is {said}" in words
    assert "in channel 2, with epsilon 0.0009765625; a variance plus epsilon must be above 0" in words
    assert "\n" not in words


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["mean", "variance", "gamma", "beta"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_statistics_that_are_not_finite(form: str, name: str, value: float) -> None:
    with pytest.raises(FormatError, match=r"NaN or infinite|is (nan|inf) in channel 2"):
        merge(form, {name: value})


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize("form", FORMATS)
def test_a_small_negative_variance_that_epsilon_makes_good_is_read(form: str) -> None:
    assert merge(form, {"variance": -EPSILON / 2}).report.verification.same


def test_the_command_line_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx: Any = pytest.importorskip("onnx")
    path = tmp_path / "m.onnx"
    onnx.save(_onnx({"variance": -0.5}), str(path))
    assert run(["merge", str(path), "-o", str(tmp_path / "out.onnx")]) == 2
    assert "norm: the batch normalisation's variance is -0.5 in channel 2" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]
