"""Merged weights that the dtype of the model does not hold, natively in every format: that cascade stays, the others go on.

The model is conv → relu → a → b → relu → c → d, all 1×1; a → b is what does not fit, c → d is as any other.  bfloat16
convolutions of ONNX files are carried through, not read, so there is nothing to merge in them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import decascade
from decascade.cli import run

Weights = Sequence[np.ndarray[Any, Any]]
CHANNELS = (3, 8, 32, 4, 32, 2)


def weights(scale: float, first: float = 1.0, seed: int = 0) -> Weights:
    """Kernels (O, I, 1, 1) in series; `scale`: of the two of the cascade a → b; `first`: of the one before it."""
    rng = np.random.default_rng(seed)
    sizes = (first, scale, scale, 1.0, 1.0)
    return [size * rng.standard_normal((o, i, 1, 1)) for size, o, i in zip(sizes, CHANNELS[1:], CHANNELS, strict=False)]


def _onnx(values: Weights, dtype: str) -> Any:
    onnx: Any = pytest.importorskip("onnx")
    helper, kind = onnx.helper, getattr(onnx.TensorProto, {"float32": "FLOAT", "float16": "FLOAT16"}[dtype])
    nodes, stored, at = list[Any](), list[Any](), "x"
    for k, (name, value) in enumerate(zip("sabcd", values, strict=True)):
        stored.append(helper.make_tensor(f"w{name}", kind, value.shape, value.astype(np.float32).ravel()))
        nodes.append(helper.make_node("Conv", [at, f"w{name}"], [name if k < 4 else "y"], name))
        at = name
        if name in "sb":
            nodes.append(helper.make_node("Relu", [at], [f"{name}r"], f"{name}r"))
            at = f"{name}r"
    ends = [helper.make_tensor_value_info(n, kind, (1, c, 5, 5)) for n, c in (("x", CHANNELS[0]), ("y", CHANNELS[-1]))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def _keras(values: Weights, dtype: str) -> Any:
    keras: Any = pytest.importorskip("keras")
    x = y = keras.Input((5, 5, CHANNELS[0]), name="x", dtype=dtype)
    for name, value in zip("sabcd", values, strict=True):
        layer = keras.layers.Conv2D(len(value), 1, use_bias=False, name=name, dtype=dtype)
        y = layer(y)
        layer.kernel.assign(value.transpose(2, 3, 1, 0).astype(np.float32))
        y = keras.layers.ReLU(name=f"{name}r", dtype=dtype)(y) if name in "sb" else y
    return keras.Model(x, y)


def _torch(values: Weights, dtype: str) -> Any:
    torch: Any = pytest.importorskip("torch")
    modules = dict[str, Any]()
    for name, value in zip("sabcd", values, strict=True):
        modules[name] = torch.nn.Conv2d(value.shape[1], len(value), 1, bias=False)
        modules[name].weight.data = torch.from_numpy(value.astype(np.float32))
        if name in "sb":
            modules[f"{name}r"] = torch.nn.ReLU()
    net = torch.nn.Sequential()
    for name, module in modules.items():
        net.add_module(name, module)
    return net.eval().to(getattr(torch, dtype))


FORMATS: dict[str, Callable[[Weights, str], Any]] = {"onnx": _onnx, "keras": _keras, "torch": _torch}
CASES = {
    "overflow of float16": ("float16", 1500.0, 5e-5, r"weight of \S+ is beyond the range of float16, which ends at 65504"),
    "underflow of float16": ("float16", 1e-4, 1.0, r"too small for float16, which is coarse below 6\.1e-05"),
    "overflow of float32": ("float32", 1e25, 1e-30, r"beyond the range of float32, which ends at 3\.4028e\+38"),
    "underflow of float32": ("float32", 1e-25, 1.0, r"too small for float32, which is coarse below 1\.18e-38"),
    "overflow of bfloat16": ("bfloat16", 1e25, 1e-30, r"beyond the range of bfloat16, which ends at 3\.3895e\+38"),
    "underflow of bfloat16": ("bfloat16", 1e-25, 1.0, r"too small for bfloat16, which is coarse below 1\.18e-38"),
}


def merged(form: str, model: Any) -> decascade.MergeResult:
    options = {"input_shape": (1, 3, 5, 5)} if form == "torch" else {}
    return decascade.merge(model, **options)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize(("form", "case"), [
    (form, case) for form in FORMATS for case in CASES if (form, CASES[case][0]) != ("onnx", "bfloat16")])
def test_what_does_not_fit_stays_and_the_rest_is_merged(form: str, case: str) -> None:
    dtype, scale, first, reason = CASES[case]
    report = merged(form, FORMATS[form](weights(scale, first), dtype)).report
    found = {cascade.layers: cascade for cascade in report.cascades}
    assert found["c", "d"].decision == "merged"
    left = found["a", "b"]
    assert left.decision == "left"
    assert re.search(reason, left.reason), left.reason


@pytest.mark.parametrize("form", FORMATS)
def test_weights_that_fit_are_merged(form: str) -> None:
    report = merged(form, FORMATS[form](weights(1.0), "float16")).report
    assert {c.layers for c in report.cascades if c.decision == "merged"} == {("a", "b"), ("c", "d")}


@pytest.mark.parametrize(("dtype", "last"), [("float16", 1e-6), ("float16", 1e-7), ("float32", 1e-38), ("float32", 1e-30)])
def test_small_results_are_merged_or_left_and_verified(dtype: str, last: float) -> None:
    """Outputs among the subnormal numbers, whose spacing the tolerance knows."""
    values = [*weights(1.0)[:4], last * weights(1.0)[4]]
    report = merged("onnx", _onnx(values, dtype)).report
    assert report.verification is not None
    assert report.verification.same
    assert ("a", "b") in {c.layers for c in report.cascades if c.decision == "merged"}


@pytest.mark.parametrize(("dtype", "last", "factor"), [
    ("float16", 1.0, 1.05), ("float16", 1e-6, 2.0), ("float32", 1.0, 1.0001), ("float32", 1e-34, 1.5)])
def test_another_function_is_not_passed(
    dtype: str, last: float, factor: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx: Any = import_module("onnx")
    values = [*weights(1.0)[:4], last * weights(1.0)[4]]
    paths = [str(tmp_path / f"{name}.onnx") for name in "ab"]
    onnx.save(_onnx(values, dtype), paths[0])
    assert run(["verify", paths[0], paths[0]]) == 0
    onnx.save(_onnx([*values[:4], factor * values[4]], dtype), paths[1])
    capsys.readouterr()
    assert run(["verify", *paths]) == 3
    assert "NOT the same function" in " ".join(capsys.readouterr().out.split())
