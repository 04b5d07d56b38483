"""Every form of a layer that is read: the graph means what onnxruntime computes, and can be written anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from decascade.formats.onnx.format import FORMAT
from decascade.ir.graph import Graph
from decascade.ir.ops import Affine, Dense
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
    assert ops(read(proto)) == ["Dense", "Affine", "Product"]
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
    "quotient": ("Div", ["x", "x"], COLUMN, (2, 3, 4, 5)),
}


@pytest.mark.parametrize("case", FOREIGN_ARITHMETIC)
def test_arithmetic_that_is_carried_through(case: str) -> None:
    kind, names, term, shape = FOREIGN_ARITHMETIC[case]
    assert ops(read(model([N(kind, names, ["y"])], shape, {"c": term}))) == [f"[{kind}]"]


@pytest.mark.parametrize(("other", "kind"), [
    (("N", 3, "H", 5), "Product"), (("N", 3, 1, 1), "Product"), (("N", 1, 1, 5), "Product"), ((1, 3, "H", 5), "[Mul]"),
    (("N", 3, "W", 5), "[Mul]"), (("H", 5), "[Mul]"), (("N", 3, "H", 1), "Product"),
])
def test_products_of_tensors(other: tuple[int | str, ...], kind: str) -> None:
    """Where ranks or what is not known leave open what is repeated along what, they are carried through."""
    proto = model([N("Mul", ["a", "b"], ["y"])], (), inputs={"a": ("N", 3, "H", 5), "b": other})
    assert ops(FORMAT.read(proto)) == [kind]
    if kind == "Product":
        assert ops(read(proto, {"H": 4})) == [kind]


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
