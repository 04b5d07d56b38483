"""Operations that are carried through: what they mean in float64 is what onnxruntime computes, or it is not said."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from decascade.errors import CannotInterpret
from decascade.formats.onnx.format import FORMAT
from decascade.ir.interpret import run
from decascade.ir.ops import Foreign
from formats.onnx_cases import Array, N, ints, model, numbers, onnxruntime_outputs, ops, read, sample

F = np.float32
Case = tuple[int, Any, dict[str, Array]]
SCALES = {"r": np.zeros(0, F), "s": np.array([1, 1, 1.5, 2.5], F)}
SIZES = {"r": np.zeros(0, F), "e": np.zeros(0, F), "z": ints(2, 4, 7, 3)}


def node(kind: str, *others: str, **fields: Any) -> Any:
    return N(kind, ["x", *others], ["y"], **fields)


CASES: dict[str, Case] = {
    "transpose": (7, node("Transpose", perm=[0, 2, 3, 1]), {}),
    "depth_to_space": (11, node("DepthToSpace", blocksize=2), {}),
    "depth_to_space_crd": (13, node("DepthToSpace", blocksize=2, mode="CRD"), {}),
    "expand": (13, node("Expand", "s"), {"s": ints(3, 2, 4, 6, 5)}),
    "tile": (13, node("Tile", "s"), {"s": ints(1, 2, 1, 3)}),
    "reduce_mean": (13, node("ReduceMean", axes=[1, 3], keepdims=0), {}),
    "reduce_mean_input": (18, node("ReduceMean", "a"), {"a": ints(1)}),
    "reduce_sum": (11, node("ReduceSum", axes=[2]), {}),
    "reduce_sum_input": (13, node("ReduceSum", "a", keepdims=0), {"a": ints(2, 3)}),
    "reduce_l2": (13, node("ReduceL2", axes=[1]), {}),
    "erf": (13, node("Erf"), {}),
    "floor": (13, node("Floor"), {}),
    "mish": (18, node("Mish"), {}),
    "celu": (13, node("Celu"), {}),
    "thresholded": (13, node("ThresholdedRelu"), {}),
    "pow": (13, node("Pow", "p"), {"p": F(2)}),
    "instance_norm": (13, node("InstanceNormalization", "s", "b"), {"s": numbers(4), "b": numbers(4)}),
    "layer_norm": (17, node("LayerNormalization", "s", "b"), {"s": numbers(5), "b": numbers(5)}),
    "arg_max": (13, node("ArgMax", axis=1), {}),
    "cast": (13, node("Cast", to=7), {}),
    "slice": (13, node("Slice", "b", "e"), {"b": ints(0, 1, 1), "e": ints(2, 3, 3)}),
    "gather": (13, node("Gather", "i", axis=0), {"i": ints(1, 0, 1)}),
    "flatten": (13, node("Flatten", axis=2), {}),
    "unsqueeze_11": (11, node("Unsqueeze", axes=[0, -1]), {}),
    "unsqueeze": (13, node("Unsqueeze", "a"), {"a": ints(0, -1)}),
    "cumulate": (13, node("CumSum", "a"), {"a": np.array(1)}),
    "softmax_7": (7, node("Softmax"), {}),
    "softmax_11": (11, node("Softmax", axis=2), {}),
    "log_softmax_11": (11, node("LogSoftmax"), {}),
    "log_softmax": (13, node("LogSoftmax", axis=1), {}),
    "pad_reflect_7": (7, node("Pad", mode="reflect", pads=[0, 0, 1, 2, 0, 0, 2, 1]), {}),
    "pad_edge": (13, node("Pad", "p", mode="edge"), {"p": ints(0, 0, 1, 2, 0, 0, 2, 1)}),
    "avg_ceil": (11, node("AveragePool", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1], ceil_mode=1), {}),
    "avg_ceil_counted": (
        19, node("AveragePool", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1], ceil_mode=1, count_include_pad=1), {}
    ),
    "max_ceil": (12, node("MaxPool", kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1), {}),
    "lp_pool": (13, node("LpPool", kernel_shape=[2, 2]), {}),
    "prelu_wide": (16, node("PRelu", "s"), {"s": numbers(5)}),
    "resize_linear": (11, node("Resize", "r", "s", mode="linear"), SCALES),
    "resize_cubic": (13, node("Resize", "r", "s", mode="cubic"), SCALES),
    "resize_sizes": (13, node("Resize", "r", "e", "z", mode="linear", coordinate_transformation_mode="align_corners"), SIZES),
    "resize_nearest": (13, node("Resize", "r", "s", coordinate_transformation_mode="asymmetric"), SCALES),
}


@pytest.mark.parametrize("case", CASES)
def test_meaning(case: str) -> None:
    opset, made, weights = CASES[case]
    document = read(model([made], (2, 4, 6, 5), weights, opset))
    assert ops(document) == [f"[{made.op_type}]"]


UNSAID: dict[str, Case] = {
    "aligned scales": (13, node("Resize", "r", "s", mode="linear", coordinate_transformation_mode="align_corners"), SCALES),
    "lrn": (13, node("LRN", size=3), {}),
    "random": (13, node("RandomNormalLike"), {}),
    "upsample": (9, node("Upsample", "s", mode="linear"), {"s": np.array([1, 1, 2, 2], F)}),
    "output shape": (13, node("ConvTranspose", "w", strides=[2, 2], output_shape=[13, 11]), {"w": numbers(4, 2, 3, 3)}),
}


@pytest.mark.parametrize("case", UNSAID)
def test_what_has_no_reliable_reference_is_not_interpreted(case: str) -> None:
    opset, made, weights = UNSAID[case]
    proto = model([made], (2, 4, 6, 5), weights, opset)
    document = FORMAT.read(proto)
    with pytest.raises(CannotInterpret, match=f"{made.op_type}_0: {made.op_type} has no meaning in NumPy"):
        run(document.graph, sample(proto))


def test_a_reference_that_fails_says_so_in_one_line() -> None:
    proto = model([node("MeanVarianceNormalization")], (2, 4, 6, 5), opset=13)  # typed, and not made for float64
    with pytest.raises(CannotInterpret, match="ONNX's reference of MeanVarianceNormalization fails: ") as caught:
        run(FORMAT.read(proto).graph, sample(proto))
    assert "\n" not in str(caught.value)


def test_several_outputs_some_left_out() -> None:
    weights = {"w": numbers(1, 12, 5), "r": numbers(1, 12, 3), "k": ints(2)}
    nodes = [
        N("LSTM", ["x", "w", "r"], ["", "h"], hidden_size=3),
        N("Split", ["h"], ["a", "b"], axis=1),
        N("TopK", ["a", "k"], ["v", "i"], axis=2),
    ]
    proto = model(nodes, (4, 2, 5), weights, 13, outputs=("v", "b"))
    document = read(proto)
    assert [n.outputs for n in document.graph.nodes] == [("h",), ("a",), ("b",), ("v", "i")]
    assert FORMAT.write(document, document.graph) == proto


def test_operations_of_other_domains_and_of_local_functions() -> None:
    function = helper.make_function("mine", "Twice", ["a"], ["b"], [N("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)])
    nodes = [N("Relu", ["x"], ["t"]), N("Twice", ["t"], ["u"], domain="mine"), N("Relu", ["u"], ["y"])]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [info("x", 1, (2, 3))], [info("y", 1, (2, 3))])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    proto = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=8)
    onnx.checker.check_model(proto)
    document = FORMAT.read(proto)
    assert ops(document) == ["Activation", "[mine::Twice]", "Activation"]
    op = document.graph.nodes[1].op
    assert isinstance(op, Foreign)
    assert op.evaluate is None
    assert FORMAT.write(document, document.graph) == proto
    feeds = sample(proto)
    np.testing.assert_array_equal(FORMAT.run(document.native, feeds)["y"], onnxruntime_outputs(proto, feeds)["y"])


def test_quantised_layers_are_carried_through() -> None:
    nodes = [
        N("QuantizeLinear", ["x", "s", "z"], ["q"]),
        N("DequantizeLinear", ["q", "s", "z"], ["d"]),
        N("DequantizeLinear", ["w", "s", "z"], ["v"]),
        N("Conv", ["d", "v"], ["y"]),
    ]
    weights = {"s": F(0.05), "z": np.uint8(128), "w": np.random.default_rng(0).integers(0, 255, (4, 3, 3, 3), np.uint8)}
    document = read(model(nodes, (1, 3, 6, 6), weights))
    assert ops(document) == ["[QuantizeLinear]", "[DequantizeLinear]", "[DequantizeLinear]", "[Conv]"]
