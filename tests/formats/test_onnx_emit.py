"""Every operation that decascade may add, in the forms of old and new opsets: what onnxruntime computes is what it means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from decascade.algebra.conv import Conv, ConvTranspose
from decascade.errors import FormatError
from decascade.formats.onnx.format import FORMAT
from decascade.ir.graph import Node, Tensor
from decascade.ir.interpret import run
from decascade.ir.ops import (
    Activation,
    Add,
    Affine,
    BiasMap,
    Concat,
    Dense,
    Flatten,
    Foreign,
    GlobalPool,
    Identity,
    Op,
    Pad,
    Pool,
    Product,
    Select,
    Slice,
    Upsample,
)
from decascade.ir.shapes import infer_graph
from formats.onnx_cases import DOUBLE, HALF, N, close, model, numbers, onnxruntime_outputs, sample

OPSETS = (7, 9, 10, 11, 13, 17, 20, 22)
PICTURE, LINE, FLAT, ROWS, CUBE = (2, 3, 7, 6), (2, 3, 9), (2, 5), (2, 4, 5), (1, 2, 5, 4, 6)


def emitted(op: Op, shapes: tuple[tuple[Any, ...], ...], opset: int, kind: int = 1) -> tuple[Any, Any]:
    """A model of this one operation, made out of a model of another, and the graph of what it should be."""
    names = [f"x{k}" for k in range(len(shapes))]
    proto = model([N("Sum", names, ["y"])], (), inputs=dict(zip(names, shapes, strict=True)), opset=opset, kind=kind)
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    document = FORMAT.read(proto)
    dtype = document.graph.tensors["x0"].dtype
    graph = replace(
        document.graph,
        nodes=(Node("new", op, tuple(names), ("y",)),),
        tensors={**document.graph.tensors, "y": Tensor("y", None, dtype)},
    )
    graph = infer_graph(graph)
    return FORMAT.write(document, graph), graph


def check(op: Op, *shapes: tuple[Any, ...], opset: int, kind: int = 1, tolerance: float = 2e-5) -> Any:
    made, graph = emitted(op, shapes, opset, kind)
    made.graph.output[0].CopyFrom(onnx.shape_inference.infer_shapes(made).graph.output[0])
    onnx.checker.check_model(made, full_check=True)
    feeds = sample(made)
    close(onnxruntime_outputs(made, feeds)["y"], run(graph, feeds)["y"], tolerance)
    return made


W, B = numbers(6, 3, 3, 3), numbers(6, seed=2)
ONE_INPUT: dict[str, tuple[Op, tuple[int, ...]]] = {
    "conv": (Conv(W, B, (2, 1), (1, 2), ((1, 0), (2, 3))), PICTURE),
    "conv_crop": (Conv(W, B, 1, 1, ((-1, 2), (0, -2))), PICTURE),
    "conv_crop_all": (Conv(W, None, 2, 1, ((-2, -1), (-1, -1))), PICTURE),
    "conv_groups": (Conv(numbers(6, 1, 3, 3), None, 1, 1, 1, 3), PICTURE),
    "conv_1d": (Conv(numbers(4, 3, 5), None, 2, 1, ((2, -1),)), LINE),
    "conv_3d": (Conv(numbers(3, 2, 2, 3, 3), numbers(3), 1, 1, ((1, 0), (1, 1), (0, 2))), CUBE),
    "conv_float64": (Conv(W.astype(float), B.astype(float)), PICTURE),
    "transposed": (ConvTranspose(numbers(3, 2, 3, 3), numbers(2), 2, 1, ((1, 0), (1, 1))), PICTURE),
    "transposed_extra": (ConvTranspose(numbers(3, 2, 3, 3), numbers(2), 2, 1, ((1, -1), (0, -1))), PICTURE),
    "transposed_before": (ConvTranspose(numbers(3, 2, 3, 3), numbers(2), 2, 1, ((-2, 0), (1, -1))), PICTURE),
    "transposed_beyond": (ConvTranspose(numbers(3, 2, 3, 3), None, 2, 1, ((1, -4), (0, 0))), PICTURE),
    "transposed_beyond_bias": (ConvTranspose(numbers(3, 2, 3, 3), numbers(2), 1, 1, ((1, -4), (0, 0))), PICTURE),
    "dense": (Dense(Conv(numbers(4, 5), numbers(4))), FLAT),
    "dense_plain": (Dense(Conv(numbers(4, 5))), FLAT),
    "dense_rows": (Dense(Conv(numbers(3, 5), numbers(3))), ROWS),
    "dense_rows_plain": (Dense(Conv(numbers(3, 5))), ROWS),
    "conv_of_no_axes": (Conv(numbers(4, 5), numbers(4)), FLAT),
    "affine": (Affine(numbers(3), numbers(3, seed=5)), PICTURE),
    "affine_flat": (Affine(numbers(5), numbers(5, seed=5)), FLAT),
    "scale": (Affine(numbers(3), np.zeros(3)), PICTURE),
    "shift": (Affine(np.ones(3), numbers(3)), LINE),
    "affine_identity": (Affine(np.ones(3), np.zeros(3)), PICTURE),
    "avg": (Pool("avg", (2, 3), (2, 1), ((0, 0), (0, 0)), (1, 1)), PICTURE),
    "avg_pad": (Pool("avg", (3, 3), (1, 1), ((1, 1), (0, 2)), (1, 1)), PICTURE),
    "avg_counted": (Pool("avg", (3, 3), (2, 2), ((1, 1), (0, 2)), (1, 1), True), PICTURE),
    "avg_crop": (Pool("avg", (2, 2), (1, 1), ((-1, 1), (0, -1)), (1, 1), True), PICTURE),
    "max": (Pool("max", (3, 2), (2, 2), ((1, 1), (0, 1)), (1, 1)), PICTURE),
    "max_crop": (Pool("max", (2, 2), (1, 1), ((-1, 1), (0, -1)), (1, 1)), PICTURE),
    "global": (GlobalPool("avg"), PICTURE),
    "global_flat": (GlobalPool("max", keepdims=False), PICTURE),
    "flatten": (Flatten(), PICTURE),
    "flatten_last": (Flatten("channels_last"), PICTURE),
    "flatten_last_flat": (Flatten("channels_last"), FLAT),
    "pad": (Pad(((1, 2), (0, 3))), PICTURE),
    "pad_value": (Pad(((1, 2), (0, 3)), -1.5), PICTURE),
    "pad_channels": (Pad(((0, 0), (0, 0)), 1.0, (0, 1)), PICTURE),
    "pad_channels_first": (Pad(((1, 0), (0, 0)), 1.0, (2, 0)), PICTURE),
    "crop": (Pad(((-1, -2), (0, -3))), PICTURE),
    "pad_and_crop": (Pad(((-1, 2), (3, -3)), 2.0, (-1, 1)), PICTURE),
    "pad_nothing": (Pad(((0, 0), (0, 0))), PICTURE),
    "select_range": (Select(np.array([1, 2])), PICTURE),
    "select": (Select(np.array([2, 0, 1, 1])), PICTURE),
    "slice": (Slice(3, 1, 4), PICTURE),
    "identity": (Identity(), PICTURE),
    "bias_map": (BiasMap(numbers(3, 7, 6)), PICTURE),
    "upsample": (Upsample((2, 3)), PICTURE),
    "upsample_3d": (Upsample((2, 1, 2)), CUBE),
}


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("case", ONE_INPUT)
def test_operations(case: str, opset: int) -> None:
    op, shape = ONE_INPUT[case]
    if isinstance(op, Upsample) and len(shape) == 5 and opset == 9:
        pytest.skip("onnxruntime has no Upsample over three axes")
    check(op, shape, opset=opset)


KINDS: dict[str, Activation] = {
    **{kind: Activation(kind) for kind in ("relu", "sigmoid", "tanh", "softplus", "softsign", "exp", "abs", "neg", "selu")},
    **{kind: Activation(kind) for kind in ("hard_swish", "silu", "gelu", "gelu_tanh")},
    "clip": Activation("clip", (-0.3, 0.6)),
    "clip_low": Activation("clip", (-0.3, np.inf)),
    "clip_high": Activation("clip", (-np.inf, 0.6)),
    "leaky_relu": Activation("leaky_relu", (0.2,)),
    "elu": Activation("elu", (0.7,)),
    "hard_sigmoid": Activation("hard_sigmoid", (0.3, 0.4)),
    "prelu": Activation("prelu", (), numbers(3)),
    "softmax": Activation("softmax", (3.0,)),
}


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("case", KINDS)
def test_activations(case: str, opset: int) -> None:
    if case == "gelu" and opset < 9:
        with pytest.raises(FormatError, match="opset 7 has no Erf for a new gelu: convert to opset 9 or later"):
            emitted(KINDS[case], (PICTURE,), opset)
        return
    check(KINDS[case], PICTURE, opset=opset)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(
    "signs", [(), (1, 1), (1, -1), (-1, 1), (-1, -1), (1, 1, 1), (-1, 1, -1), (-1, -1, -1), (1, -1, 1, 1)], ids=str
)
def test_sums(signs: tuple[int, ...], opset: int) -> None:
    check(Add(signs), *[PICTURE] * (len(signs) or 2), opset=opset)


@pytest.mark.parametrize("opset", OPSETS)
def test_products(opset: int) -> None:
    check(Product(), PICTURE, PICTURE, opset=opset)
    check(Product(), (*PICTURE[:-2], 1, 1), PICTURE, PICTURE, opset=opset)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_concat(axis: int, opset: int) -> None:
    check(Concat(axis), PICTURE, PICTURE, PICTURE, opset=opset)


def test_pools_with_dilation_need_an_opset_that_has_them() -> None:
    average = Pool("avg", (2, 2), (1, 1), ((0, 0), (0, 0)), (2, 1))
    check(average, PICTURE, opset=19)
    with pytest.raises(FormatError, match=r"new: opset 17 has no avg pool with dilation \(2, 1\): convert to opset 19"):
        emitted(average, (PICTURE,), 17)
    largest = replace(average, kind="max")
    check(largest, PICTURE, opset=10)
    with pytest.raises(FormatError, match=r"new: opset 9 has no max pool with dilation \(2, 1\): convert to opset 10"):
        emitted(largest, (PICTURE,), 9)


def test_softmax_over_one_of_several_axes_needs_opset_13() -> None:
    check(Activation("softmax", (1.0,)), PICTURE, opset=13)
    with pytest.raises(FormatError, match="new: opset 12 has no softmax over axis 1 alone: convert to opset 13 or later"):
        emitted(Activation("softmax", (1.0,)), (PICTURE,), 12)


def test_a_new_foreign_operation_cannot_be_written() -> None:
    with pytest.raises(FormatError, match="new: no ONNX form of a new Foreign"):
        emitted(Foreign("Thing"), (PICTURE,), 17)


def test_a_grouped_dense_layer_cannot_be_written() -> None:
    with pytest.raises(FormatError, match="new: a dense layer of 2 groups has no ONNX form"):
        emitted(Dense(Conv(numbers(4, 2), groups=2)), ((2, 4),), 17)


@pytest.mark.parametrize("case", ["conv", "dense", "affine", "pad_value", "bias_map", "global", "select"])
def test_weights_take_the_type_of_a_half_precision_model(case: str) -> None:
    op, shape = ONE_INPUT[case]
    made = check(op, shape, opset=17, kind=HALF, tolerance=1e-2)
    assert {t.data_type for t in made.graph.initializer} <= {HALF, onnx.TensorProto.INT64}


def test_weights_take_the_type_of_a_double_model() -> None:
    made = check(Dense(Conv(numbers(4, 5), numbers(4))), FLAT, opset=17, kind=DOUBLE, tolerance=1e-13)
    assert {t.data_type for t in made.graph.initializer} == {DOUBLE}


def test_weights_too_large_for_the_type_are_refused() -> None:
    op = Conv(np.full((2, 3, 1, 1), 1e5))
    with pytest.raises(FormatError, match="new weight new_weight leaves the range of float16: keep the model in a wider type"):
        emitted(op, (PICTURE,), 17, HALF)
