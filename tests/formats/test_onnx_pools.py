"""Pools, pads, resizing, concatenation and activations as they are read: what onnxruntime computes, and written anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from decascade.formats.onnx.format import FORMAT
from decascade.ir.graph import Graph
from decascade.ir.ops import Activation, GlobalPool, Pad, Pool, Upsample
from formats.onnx_cases import Array, N, model, numbers, ops, read, rewrite


def only(graph: Graph) -> Any:
    assert len(graph.nodes) == 1
    return graph.nodes[0].op


POOLS: dict[str, tuple[str, dict[str, Any], tuple[int, ...], int]] = {
    "avg": ("AveragePool", {"kernel_shape": [2, 3]}, (2, 3, 9, 8), 17),
    "avg_pad": ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}, (2, 3, 9, 8), 17),
    "avg_counted": ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}, (2, 3, 9, 8), 17),
    "avg_same": ("AveragePool", {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]}, (2, 3, 9, 8), 17),
    "avg_lower": ("AveragePool", {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER", "strides": [2, 2]}, (2, 3, 9, 8), 17),
    "avg_old": ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}, (2, 3, 9, 8), 7),
    "avg_dilated": ("AveragePool", {"kernel_shape": [2, 2], "dilations": [2, 3]}, (2, 3, 9, 8), 19),
    "avg_ceil_is_floor": ("AveragePool", {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}, (2, 3, 9, 8), 17),
    "avg_one_axis": ("AveragePool", {"kernel_shape": [3], "pads": [1, 0]}, (2, 3, 9), 17),
    "max": ("MaxPool", {"kernel_shape": [2, 3], "strides": [2, 1]}, (2, 3, 9, 8), 17),
    "max_pad": ("MaxPool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}, (2, 3, 9, 8), 17),
    "max_same": ("MaxPool", {"kernel_shape": [3, 3], "auto_pad": "SAME_LOWER", "strides": [2, 2]}, (2, 3, 10, 8), 17),
    "max_dilated": ("MaxPool", {"kernel_shape": [2, 2], "dilations": [2, 1]}, (2, 3, 9, 8), 12),
    "max_old": ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}, (2, 3, 9, 8), 7),
}


@pytest.mark.parametrize("case", POOLS)
def test_pools(case: str) -> None:
    kind, fields, shape, opset = POOLS[case]
    proto = model([N(kind, ["x"], ["y"], **fields)], shape, opset=opset)
    assert isinstance(only(read(proto).graph), Pool)
    rewrite(proto)


@pytest.mark.parametrize("kind", ["AveragePool", "MaxPool"])
def test_ceil_mode_that_matters_is_carried_through(kind: str) -> None:
    fields = {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}
    assert ops(FORMAT.read(model([N(kind, ["x"], ["y"], **fields)], (2, 3, 9, 8)))) == [f"[{kind}]"]
    assert ops(FORMAT.read(model([N(kind, ["x"], ["y"], **fields)], (2, 3, "H", 8)))) == [f"[{kind}]"]


def test_a_pool_whose_indices_are_read_is_carried_through() -> None:
    proto = model([N("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2])], (2, 3, 8, 8))
    assert ops(FORMAT.read(proto)) == ["[MaxPool]"]


def test_global_pools() -> None:
    for kind, wanted in (("GlobalAveragePool", GlobalPool("avg")), ("GlobalMaxPool", GlobalPool("max"))):
        proto = model([N(kind, ["x"], ["y"])], ("N", 3, "H", 5))
        assert only(read(proto, {"H": 4}).graph) == wanted
        rewrite(proto, {"H": 4})


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("opset", [7, 12, 13, 18, 20])
@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceMax"])
def test_reductions_over_space(kind: str, opset: int, keep: int) -> None:
    as_input = opset >= 18
    axes = [-1, 2] if opset >= 11 else [2, 3]
    names, fields = (["x", "a"], {}) if as_input else (["x"], {"axes": axes})
    weights = {"a": np.array(axes)} if as_input else {}
    proto = model([N(kind, names, ["y"], keepdims=keep, **fields)], ("N", 3, 4, 5), weights, opset)
    assert only(read(proto).graph) == GlobalPool("avg" if kind == "ReduceMean" else "max", bool(keep))
    rewrite(proto)


def test_reductions_over_other_axes_are_carried_through() -> None:
    for axes in ([1], [2], [1, 2, 3], [0, 2, 3]):
        assert ops(read(model([N("ReduceMean", ["x"], ["y"], axes=axes)], (2, 3, 4, 5)))) == ["[ReduceMean]"]


PADS: dict[str, tuple[int, list[str], dict[str, Any], dict[str, Array]]] = {
    "old": (7, ["x"], {"pads": [0, 0, 1, 2, 0, 0, 3, 0]}, {}),
    "old_value": (10, ["x"], {"pads": [0, 1, 1, 2, 0, 2, 3, 0], "value": 2.5}, {}),
    "input": (11, ["x", "p"], {}, {"p": np.array([0, 0, 1, 2, 0, 0, 3, 0])}),
    "value": (13, ["x", "p", "v"], {}, {"p": np.array([0, 2, 1, 2, 0, 1, 3, 0]), "v": np.array(1.5, np.float32)}),
    "crop": (13, ["x", "p"], {}, {"p": np.array([0, 0, -1, -2, 0, 0, -1, 0])}),
    "both": (13, ["x", "p"], {}, {"p": np.array([0, -1, -1, 2, 0, 1, 2, -3])}),
    "axes": (18, ["x", "p", "", "a"], {}, {"p": np.array([1, 2, 0, 3]), "a": np.array([-1, 2])}),
}


@pytest.mark.parametrize("case", PADS)
def test_pad(case: str) -> None:
    opset, names, fields, weights = PADS[case]
    proto = model([N("Pad", names, ["y"], **fields)], ("N", 3, 5, 6), weights, opset)
    assert isinstance(only(read(proto).graph), Pad)
    rewrite(proto)


def test_pads_that_are_carried_through() -> None:
    reflected = model([N("Pad", ["x", "p"], ["y"], mode="reflect")], (2, 3, 5, 6), {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])})
    assert ops(read(reflected)) == ["[Pad]"]
    of_batch = model([N("Pad", ["x", "p"], ["y"])], (2, 3, 5, 6), {"p": np.array([1, 0, 1, 1, 0, 0, 1, 1])})
    assert ops(read(of_batch)) == ["[Pad]"]


RESIZES: dict[str, tuple[int, Any, dict[str, Array]]] = {
    "upsample_7": (7, N("Upsample", ["x"], ["y"], scales=[1.0, 1.0, 2.0, 3.0]), {}),
    "upsample_9": (9, N("Upsample", ["x", "s"], ["y"], mode="nearest"), {}),
    "resize_10": (10, N("Resize", ["x", "s"], ["y"]), {}),
    "asymmetric": (
        11, N("Resize", ["x", "r", "s"], ["y"], coordinate_transformation_mode="asymmetric", nearest_mode="floor"), {}
    ),
    "half_pixel": (13, N("Resize", ["x", "", "s"], ["y"]), {}),
    "half_pixel_up": (13, N("Resize", ["x", "", "s"], ["y"], nearest_mode="round_prefer_ceil"), {}),
    "torch": (13, N("Resize", ["x", "", "s"], ["y"], coordinate_transformation_mode="pytorch_half_pixel"), {}),
    "sizes": (13, N("Resize", ["x", "", "", "z"], ["y"]), {"z": np.array([2, 3, 8, 15])}),
}


@pytest.mark.parametrize("case", RESIZES)
def test_upsampling(case: str) -> None:
    opset, node, extra = RESIZES[case]
    given = {"s": np.array([1, 1, 2, 3], np.float32), "r": np.zeros(0, np.float32), **extra}
    proto = model([node], (2, 3, 4, 5), {n: a for n, a in given.items() if n in node.input}, opset)
    assert only(read(proto).graph) == Upsample((2, 3))
    rewrite(proto)


@pytest.mark.parametrize("scales", [[1.0, 1.0, 1.5, 2.0], [1.0, 2.0, 1.0, 1.0], [1.0, 1.0, 0.5, 1.0]], ids=str)
def test_resizing_that_is_carried_through(scales: list[float]) -> None:
    proto = model([N("Resize", ["x", "", "s"], ["y"])], (2, 3, 4, 6), {"s": np.array(scales, np.float32)})
    assert ops(FORMAT.read(proto)) == ["[Resize]"]


@pytest.mark.parametrize(
    "fields",
    [
        {"mode": "linear"},
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "ceil"},
        {"coordinate_transformation_mode": "asymmetric"},
        {"nearest_mode": "floor"},
    ],
    ids=str,
)
def test_other_interpolation_is_carried_through(fields: dict[str, Any]) -> None:
    proto = model([N("Resize", ["x", "", "s"], ["y"], **fields)], (2, 3, 4, 6), {"s": np.array([1, 1, 3, 3], np.float32)})
    assert ops(read(proto)) == ["[Resize]"]


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_concat(axis: int) -> None:
    shapes = {"a": ["N", 3, 4, 5], "b": ["N", 3, 4, 5]}
    shapes["b"][axis] = 2
    proto = model([N("Concat", ["a", "b", "a"], ["y"], axis=axis)], (), inputs=shapes, opset=13)
    assert ops(read(proto)) == ["Concat"]
    rewrite(proto)


def test_concats_that_are_carried_through() -> None:
    proto = model([N("Concat", ["a", "b"], ["y"], axis=0)], (), inputs={"a": (2, 3), "b": (1, 3)})
    assert ops(read(proto)) == ["[Concat]"]
    proto = model([N("Concat", ["x", "c"], ["y"], axis=1)], (2, 3), {"c": numbers(2, 1)})
    assert ops(read(proto)) == ["[Concat]"]


ACTIVATIONS: dict[str, tuple[int, Any, dict[str, Array], str | None]] = {
    "relu": (7, N("Relu", ["x"], ["y"]), {}, "relu"),
    "sigmoid": (7, N("Sigmoid", ["x"], ["y"]), {}, "sigmoid"),
    "tanh": (13, N("Tanh", ["x"], ["y"]), {}, "tanh"),
    "softplus": (13, N("Softplus", ["x"], ["y"]), {}, "softplus"),
    "softsign": (13, N("Softsign", ["x"], ["y"]), {}, "softsign"),
    "exp": (13, N("Exp", ["x"], ["y"]), {}, "exp"),
    "abs": (13, N("Abs", ["x"], ["y"]), {}, "abs"),
    "neg": (13, N("Neg", ["x"], ["y"]), {}, "neg"),
    "selu": (7, N("Selu", ["x"], ["y"]), {}, "selu"),
    "selu_other": (7, N("Selu", ["x"], ["y"], alpha=1.5), {}, None),
    "elu": (13, N("Elu", ["x"], ["y"], alpha=0.7), {}, "elu"),
    "leaky": (7, N("LeakyRelu", ["x"], ["y"]), {}, "leaky_relu"),
    "leaky_alpha": (16, N("LeakyRelu", ["x"], ["y"], alpha=0.3), {}, "leaky_relu"),
    "prelu": (7, N("PRelu", ["x", "s"], ["y"]), {"s": numbers(3, 1, 1)}, "prelu"),
    "prelu_16": (16, N("PRelu", ["x", "s"], ["y"]), {"s": numbers(1, 3, 1, 1)}, "prelu"),
    "prelu_one": (16, N("PRelu", ["x", "s"], ["y"]), {"s": numbers(1)}, "leaky_relu"),
    "prelu_wide": (16, N("PRelu", ["x", "s"], ["y"]), {"s": numbers(5)}, None),
    "hard_sigmoid": (13, N("HardSigmoid", ["x"], ["y"], alpha=0.3, beta=0.4), {}, "hard_sigmoid"),
    "hard_swish": (14, N("HardSwish", ["x"], ["y"]), {}, "hard_swish"),
    "gelu": (20, N("Gelu", ["x"], ["y"]), {}, "gelu"),
    "gelu_tanh": (20, N("Gelu", ["x"], ["y"], approximate="tanh"), {}, "gelu_tanh"),
    "clip_6": (7, N("Clip", ["x"], ["y"], min=-0.5, max=0.7), {}, "clip"),
    "clip_6_low": (10, N("Clip", ["x"], ["y"], min=-0.5), {}, "clip"),
    "clip_11": (11, N("Clip", ["x", "l", "h"], ["y"]), {"l": np.float32(-0.2), "h": np.float32(0.3)}, "clip"),
    "clip_high": (13, N("Clip", ["x", "", "h"], ["y"]), {"h": np.float32(0.3)}, "clip"),
    "clip_low": (13, N("Clip", ["x", "l"], ["y"]), {"l": np.float32(-0.3)}, "clip"),
    "clip_relu": (13, N("Clip", ["x", "l"], ["y"]), {"l": np.float32(0)}, "relu"),
    "clip_infinite": (13, N("Clip", ["x", "l", "h"], ["y"]), {"l": np.float32(0), "h": np.float32(np.inf)}, "relu"),
    "softmax_last": (7, N("Softmax", ["x"], ["y"], axis=3), {}, "softmax"),
    "softmax_coerced": (11, N("Softmax", ["x"], ["y"]), {}, None),
    "softmax_13": (13, N("Softmax", ["x"], ["y"], axis=1), {}, "softmax"),
    "softmax_default": (13, N("Softmax", ["x"], ["y"]), {}, "softmax"),
    "thresholded": (13, N("ThresholdedRelu", ["x"], ["y"]), {}, None),
}


@pytest.mark.parametrize("case", ACTIVATIONS)
def test_activations(case: str) -> None:
    opset, node, weights, wanted = ACTIVATIONS[case]
    proto = model([node], ("N", 3, 4, 5), weights, opset)
    if wanted is None:
        assert ops(FORMAT.read(proto)) == [f"[{node.op_type}]"]
        return
    found = only(read(proto).graph)
    assert isinstance(found, Activation)
    assert found.kind == wanted
    if not (opset < 13 and wanted == "softmax" and helper.get_node_attr_value(node, "axis") != 3):
        rewrite(proto)


def test_a_clip_without_bounds_is_an_identity() -> None:
    assert ops(read(model([N("Clip", ["x"], ["y"])], (2, 3, 4, 4)))) == ["Identity"]


def test_sqrt() -> None:
    nodes = [N("Abs", ["x"], ["t"]), N("Sqrt", ["t"], ["y"])]
    proto = model(nodes, (2, 3))
    assert [n.op.kind for n in read(proto).graph.nodes] == ["abs", "sqrt"]  # type: ignore[union-attr]
    rewrite(proto)
