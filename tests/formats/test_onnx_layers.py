"""Every form of a layer that is read: the graph means what onnxruntime computes, and can be written anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from decascade.formats.onnx import FORMAT
from decascade.ir.graph import Graph
from decascade.ir.ops import Activation, Affine, Dense, GlobalPool, Pad, Pool, Upsample
from formats.onnx_cases import DOUBLE, HALF, Array, N, model, numbers, ops, read, rewrite

W = numbers(6, 3, 3, 3)


def only(graph: Graph) -> Any:
    assert len(graph.nodes) == 1
    return graph.nodes[0].op


CONVS: dict[str, tuple[dict[str, Any], tuple[int, ...], Array]] = {
    "defaults": ({}, (2, 3, 9, 8), W),
    "pads": ({"pads": [1, 0, 2, 3]}, (2, 3, 9, 8), W),
    "stride": ({"strides": [2, 3], "pads": [1, 1, 1, 1]}, (2, 3, 9, 8), W),
    "dilation": ({"dilations": [2, 1], "pads": [1, 1, 0, 0]}, (2, 3, 9, 8), W),
    "groups": ({"group": 3, "kernel_shape": [3, 3]}, (2, 9, 9, 8), W),
    "valid": ({"auto_pad": "VALID", "strides": [2, 2]}, (2, 3, 9, 8), W),
    "notset": ({"auto_pad": "NOTSET", "pads": [1, 1, 1, 1]}, (2, 3, 9, 8), W),
    "same_upper": ({"auto_pad": "SAME_UPPER"}, (2, 3, 9, 8), W),
    "same_lower": ({"auto_pad": "SAME_LOWER"}, (2, 3, 9, 8), W),
    "same_upper_stride": ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (2, 3, 9, 8), W),
    "same_lower_stride": ({"auto_pad": "SAME_LOWER", "strides": [2, 2]}, (2, 3, 9, 8), W),
    "same_upper_stride_3": ({"auto_pad": "SAME_UPPER", "strides": [3, 2]}, (2, 3, 10, 11), numbers(6, 3, 4, 2)),
    "same_lower_stride_3": ({"auto_pad": "SAME_LOWER", "strides": [3, 2]}, (2, 3, 10, 11), numbers(6, 3, 4, 2)),
    "same_kernel_below_stride": ({"auto_pad": "SAME_UPPER", "strides": [3, 3]}, (2, 3, 9, 8), numbers(6, 3, 1, 1)),
    "one_axis": ({"pads": [2, 0], "strides": [2]}, (2, 3, 11), numbers(4, 3, 5)),
    "three_axes": ({"pads": [1, 0, 1, 1, 1, 0]}, (1, 2, 5, 4, 6), numbers(3, 2, 2, 3, 3)),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("case", CONVS)
def test_conv(case: str, bias: bool) -> None:
    fields, shape, weight = CONVS[case]
    names = ["x", "w", "b"] if bias else ["x", "w"]
    weights = {"w": weight, "b": numbers(len(weight), seed=2)} if bias else {"w": weight}
    proto = model([N("Conv", names, ["y"], **fields)], shape, weights)
    assert ops(read(proto)) == ["Conv"]
    rewrite(proto)


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 14, 16, 18, 21, 22])
def test_conv_of_every_opset_with_norm_and_activation(opset: int) -> None:
    weights = {"w": W, **{n: np.abs(numbers(6, seed=k)) for k, n in enumerate("sbmv")}}
    nodes = [N("Conv", ["x", "w"], ["t"]), N("BatchNormalization", [*"tsbmv"], ["u"], epsilon=0.02), N("Relu", ["u"], ["y"])]
    proto = model(nodes, ("N", 3, 9, 8), weights, opset)
    document = read(proto)
    assert ops(document) == ["Conv", "Affine", "Activation"]
    assert document.graph.shape("y") == ("N", 6, 7, 6)
    rewrite(proto)


def test_same_padding_with_stride_on_an_open_size_is_carried_through() -> None:
    nodes = [
        N("Conv", ["x", "w"], ["t"], auto_pad="SAME_UPPER", strides=[2, 2]),
        N("Conv", ["t", "v"], ["y"], auto_pad="SAME_LOWER"),
    ]
    proto = model(nodes, ("N", 3, "H", "W"), {"w": W, "v": numbers(4, 6, 3, 3)})
    document = FORMAT.read(proto)
    assert ops(document) == ["[Conv]", "Conv"]
    read(proto, {"H": 9, "W": 12})


def test_same_padding_counts_the_dilation() -> None:
    node = N("Conv", ["x", "w"], ["y"], auto_pad="SAME_LOWER", dilations=[2, 3])
    proto = model([node], (2, 3, 9, 8), {"w": numbers(6, 3, 3, 4)})
    op = only(FORMAT.read(proto).graph)  # onnxruntime does not run it; the size stays, as ONNX says
    assert op.padding == ((2, 2), (5, 4))


def test_open_sizes_keep_their_names() -> None:
    around = {"pads": [1, 1, 1, 1]}
    nodes = [N("Conv", ["x", "w"], ["t"], **around), N("Conv", ["t", "v"], ["u"], **around), N("Add", ["t", "u"], ["y"])]
    document = read(model(nodes, ("N", 3, "H", "W"), {"w": W, "v": numbers(6, 6, 3, 3)}), {"H": 5, "W": 7})
    assert ops(document) == ["Conv", "Conv", "Add"]
    assert document.graph.shape("y") == ("N", 6, "H", "W")


TRANSPOSED: dict[str, dict[str, Any]] = {
    "defaults": {},
    "stride": {"strides": [2, 3]},
    "pads": {"strides": [2, 2], "pads": [1, 0, 1, 2]},
    "output_padding": {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    "output_padding_beyond": {"strides": [3, 3], "output_padding": [2, 1]},
    "dilation": {"dilations": [2, 1]},
    "groups": {"group": 3},
    "valid": {"auto_pad": "VALID", "strides": [2, 2]},
    "same_upper": {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    "same_lower": {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    "same_upper_stride_1": {"auto_pad": "SAME_UPPER"},
}


@pytest.mark.parametrize("case", TRANSPOSED)
def test_conv_transpose(case: str) -> None:
    proto = model([N("ConvTranspose", ["x", "w", "b"], ["y"], **TRANSPOSED[case])], (2, 6, 4, 5),
                  {"w": numbers(6, 2, 3, 3), "b": numbers(2 * TRANSPOSED[case].get("group", 1), seed=2)})
    assert ops(read(proto)) == ["ConvTranspose"]
    rewrite(proto)


def test_conv_transpose_with_an_output_shape_is_carried_through() -> None:
    nodes = [N("ConvTranspose", ["x", "w"], ["y"], output_shape=[10, 10], strides=[2, 2])]
    assert ops(FORMAT.read(model(nodes, (1, 6, 4, 4), {"w": numbers(6, 2, 3, 3)}))) == ["[ConvTranspose]"]


GEMMS: dict[str, tuple[dict[str, Any], Array, Array | None]] = {
    "plain": ({}, numbers(5, 4), numbers(4)),
    "trans_b": ({"transB": 1}, numbers(4, 5), numbers(4)),
    "alpha_beta": ({"alpha": 0.5, "beta": -2.0}, numbers(5, 4), numbers(1, 4)),
    "scalar_c": ({}, numbers(5, 4), np.array(0.5, np.float32)),
    "no_c": ({"alpha": 3.0}, numbers(5, 4), None),
}


@pytest.mark.parametrize("case", GEMMS)
def test_gemm(case: str) -> None:
    fields, weight, term = GEMMS[case]
    weights = {"w": weight} if term is None else {"w": weight, "c": term}
    proto = model([N("Gemm", ["x", *weights], ["y"], **fields)], ("N", 5), weights)
    assert isinstance(only(read(proto).graph), Dense)
    rewrite(proto)


@pytest.mark.parametrize("opset", [7, 10])
def test_a_new_dense_layer_without_bias_before_opset_11(opset: int) -> None:
    proto = model([N("MatMul", ["x", "w"], ["y"])], ("N", 5), {"w": numbers(5, 4)}, opset)
    read(proto)
    rewrite(proto)


@pytest.mark.parametrize(
    ("fields", "weights"),
    [({"transA": 1}, {"w": numbers(2, 4)}), ({}, {"w": numbers(5, 4), "c": numbers(2, 4)})],
    ids=["trans_a", "bias per sample"],
)
def test_gemm_that_is_no_dense_layer(fields: dict[str, Any], weights: dict[str, Array]) -> None:
    proto = model([N("Gemm", ["x", *weights], ["y"], **fields)], (2, 5), weights)
    assert ops(read(proto)) == ["[Gemm]"]


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("shape", [("N", 5), ("N", 3, 5), ("N", 2, 3, 5)], ids=str)
@pytest.mark.parametrize("term", [numbers(4), numbers(1, 4), np.array(2.0, np.float32)], ids=lambda t: str(t.shape))
def test_matmul_with_the_add_behind_it(shape: tuple[Any, ...], term: Array, swapped: bool) -> None:
    pair = ["b", "t"] if swapped else ["t", "b"]
    proto = model([N("MatMul", ["x", "w"], ["t"]), N("Add", pair, ["y"])], shape, {"w": numbers(5, 4), "b": term})
    document = read(proto)
    assert ops(document) == ["Dense"]
    assert len(document.graph.nodes[0].origin) == 2
    rewrite(proto)


def test_matmul_whose_result_is_read_twice_keeps_its_add() -> None:
    nodes = [N("MatMul", ["x", "w"], ["t"]), N("Add", ["t", "b"], ["u"]), N("Mul", ["t", "u"], ["y"])]
    proto = model(nodes, ("N", 5), {"w": numbers(5, 4), "b": numbers(4)})
    assert ops(read(proto)) == ["Dense", "Affine", "[Mul]"]
    rewrite(proto)


def test_matmul_of_a_constant_with_a_tensor_is_carried_through() -> None:
    proto = model([N("MatMul", ["w", "x"], ["y"])], (2, 5, 3), {"w": numbers(4, 5)})
    assert ops(read(proto)) == ["[MatMul]"]


COLUMN = numbers(3, 1, 1, seed=3)
ARITHMETIC: dict[str, tuple[str, list[str], Array, type]] = {
    "add": ("Add", ["x", "c"], COLUMN, Affine),
    "add_swapped": ("Add", ["c", "x"], COLUMN[None], Affine),
    "add_scalar": ("Add", ["x", "c"], np.array(1.5, np.float32), Affine),
    "sub": ("Sub", ["x", "c"], COLUMN, Affine),
    "sub_from": ("Sub", ["c", "x"], COLUMN, Affine),
    "mul": ("Mul", ["x", "c"], COLUMN, Affine),
    "mul_swapped_one": ("Mul", ["c", "x"], numbers(1), Affine),
    "div": ("Div", ["x", "c"], COLUMN, Affine),
}


@pytest.mark.parametrize("shape", [("N", 3, 4, 5), ("N", 3, "H", "W")], ids=str)
@pytest.mark.parametrize("case", ARITHMETIC)
def test_arithmetic_with_a_constant_per_channel(case: str, shape: tuple[Any, ...]) -> None:
    kind, names, term, _ = ARITHMETIC[case]
    proto = model([N(kind, names, ["y"])], shape, {"c": term})
    assert isinstance(only(read(proto).graph), Affine)
    rewrite(proto)


@pytest.mark.parametrize("opset", [7, 13])
@pytest.mark.parametrize("term", [numbers(3, 4, 5), numbers(1, 4, 1), numbers(5)], ids=lambda t: str(t.shape))
@pytest.mark.parametrize(("kind", "names"), [("Add", ["x", "c"]), ("Add", ["c", "x"]), ("Sub", ["x", "c"])])
def test_a_constant_that_differs_by_position_is_a_bias_map(kind: str, names: list[str], term: Array, opset: int) -> None:
    proto = model([N(kind, names, ["y"])], ("N", 3, 4, 5), {"c": term}, opset)
    assert ops(read(proto)) == ["BiasMap"]
    rewrite(proto)


FOREIGN_ARITHMETIC: dict[str, tuple[str, list[str], Array, tuple[int, ...]]] = {
    "map times": ("Mul", ["x", "c"], numbers(3, 4, 5), (2, 3, 4, 5)),
    "constant over x": ("Div", ["c", "x"], COLUMN, (2, 3, 4, 5)),
    "broadcast up": ("Add", ["x", "c"], numbers(4, 1, 1), (2, 1, 4, 5)),
    "per sample": ("Add", ["x", "c"], numbers(2, 3, 1, 1), (2, 3, 4, 5)),
    "higher rank": ("Add", ["x", "c"], numbers(1, 2, 3, 4), (2, 3, 4)),
    "map minus x": ("Sub", ["c", "x"], numbers(3, 4, 5), (2, 3, 4, 5)),
    "with itself": ("Mul", ["x", "x"], COLUMN, (2, 3, 4, 5)),
}


@pytest.mark.parametrize("case", FOREIGN_ARITHMETIC)
def test_arithmetic_that_is_carried_through(case: str) -> None:
    kind, names, term, shape = FOREIGN_ARITHMETIC[case]
    assert ops(read(model([N(kind, names, ["y"])], shape, {"c": term}))) == [f"[{kind}]"]


def test_division_by_zero_is_carried_through() -> None:
    proto = model([N("Div", ["x", "c"], ["y"])], (2, 3, 4, 5), {"c": np.zeros((3, 1, 1), np.float32)})
    assert ops(FORMAT.read(proto)) == ["[Div]"]


@pytest.mark.parametrize(("kind", "count"), [("Add", 2), ("Sub", 2), ("Sum", 3), ("Sum", 2)])
def test_sums_of_tensors(kind: str, count: int) -> None:
    names = [f"x{k}" for k in range(count)]
    proto = model([N(kind, names, ["y"])], (), inputs=dict.fromkeys(names, ("N", 3, "H", 5)))
    assert ops(read(proto, {"H": 4})) == ["Add"]
    rewrite(proto, {"H": 4})


def test_sums_that_may_broadcast_are_carried_through() -> None:
    proto = model([N("Add", ["a", "b"], ["y"])], (), inputs={"a": (2, 3, 4, 5), "b": (2, 3, 1, 1)})
    assert ops(read(proto)) == ["[Add]"]
    proto = model([N("Add", ["a", "b"], ["y"])], (), inputs={"a": ("N", 3, "H", "W"), "b": ("N", 3, "K", "W")})
    assert ops(read(proto, {"K": 1, "H": 4})) == ["[Add]"]
    proto = model([N("Add", ["a", "b"], ["y"])], (), inputs={"a": (None, 3), "b": (None, 3)})
    assert ops(FORMAT.read(proto)) == ["[Add]"]


NORMS = {n: np.abs(numbers(3, seed=k)) for k, n in enumerate("sbmv")}


def test_batch_normalization_keeps_its_epsilon() -> None:
    weights = {**NORMS, "v": np.full(3, 1e-4, np.float32)}
    found = only(read(model([N("BatchNormalization", [*"xsbmv"], ["y"], epsilon=1e-3)], ("N", 3, 4, 4), weights)).graph)
    np.testing.assert_allclose(found.scale, NORMS["s"] / np.sqrt(1e-4 + 1e-3), rtol=1e-6)


@pytest.mark.parametrize("shape", [("N", 3), ("N", 3, 7), ("N", 3, 4, 4, 4)], ids=str)
def test_batch_normalization_of_any_rank(shape: tuple[Any, ...]) -> None:
    proto = model([N("BatchNormalization", [*"xsbmv"], ["y"])], shape, NORMS)
    assert ops(read(proto)) == ["Affine"]
    rewrite(proto)


def test_batch_normalization_that_trains_is_carried_through() -> None:
    proto = model([N("BatchNormalization", [*"xsbmv"], ["y", "rm", "rv"], training_mode=1)], ("N", 3, 4, 4), NORMS, 15)
    assert ops(FORMAT.read(proto)) == ["[BatchNormalization]"]
    proto = model([N("BatchNormalization", [*"xsbmv"], ["y"], spatial=0)], (1, 3), NORMS, 8)
    assert ops(FORMAT.read(proto)) == ["[BatchNormalization]"]


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


def test_weights_that_are_not_constant_are_carried_through() -> None:
    proto = model([N("Conv", ["x", "w"], ["y"])], (), inputs={"x": (1, 3, 5, 5), "w": (4, 3, 3, 3)})
    document = read(proto)
    assert ops(document) == ["[Conv]"]
    assert document.graph.nodes[0].inputs == ("x", "w")


@pytest.mark.parametrize("opset", [12, 13])
def test_layers_of_a_half_precision_model(opset: int) -> None:
    weights = {"w": W.astype(np.float16), "c": COLUMN[0].astype(np.float16), "f": numbers(6 * 49, 4).astype(np.float16)}
    nodes = [N("Conv", ["x", "w"], ["a"]), N("Mul", ["a", "c"], ["b"]), N("Relu", ["b"], ["d"]), N("Flatten", ["d"], ["e"])]
    proto = model([*nodes, N("MatMul", ["e", "f"], ["y"])], ("N", 3, 9, 9), weights, opset, kind=HALF)
    document = read(proto, tolerance=5e-3)
    assert ops(document) == ["Conv", "Affine", "Activation", "Flatten", "Dense"]
    assert document.graph.tensors["y"].dtype == "float16"
    assert document.graph.nodes[0].op.weight.dtype == np.float16  # type: ignore[union-attr]
    made = rewrite(proto, tolerance=5e-3)
    assert {t.data_type for t in made.graph.initializer} == {HALF}


def test_layers_of_a_double_model() -> None:
    nodes = [N("Gemm", ["x", "w", "b"], ["a"], transB=1), N("Relu", ["a"], ["y"])]
    proto = model(nodes, ("N", 5), {"w": numbers(7, 5).astype(float), "b": numbers(7).astype(float)}, kind=DOUBLE)
    document = read(proto, tolerance=1e-12)
    assert document.graph.tensors["a"].dtype == "float64"
    made = rewrite(proto, tolerance=1e-12)
    assert {t.data_type for t in made.graph.initializer} == {DOUBLE}


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
