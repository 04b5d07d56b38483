"""New nodes as Keras layers, and what of the user's model stays around them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decascade.algebra.conv import Conv, ConvTranspose
from decascade.errors import FormatError, GraphError
from decascade.formats.keras.format import FORMAT
from decascade.ir.graph import Node, Tensor
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
from formats.keras_cases import L, by_interpreter, chain, close, keras, op, randomized, sample, swapped, writes

RNG = np.random.default_rng(5)


def numbers(*shape: int) -> Any:
    return RNG.normal(0, 0.5, shape)


NEW: dict[str, tuple[Op, tuple[int | None, ...]]] = {
    "valid": (Conv(numbers(4, 3, 3, 2), numbers(4)), (9, 8, 3)),
    "no bias": (Conv(numbers(4, 3, 3, 2)), (9, 8, 3)),
    "same": (Conv(numbers(4, 3, 3, 4), numbers(4), padding=[(1, 1), (1, 2)]), (9, 8, 3)),
    "same with stride": (Conv(numbers(4, 3, 3, 3), None, 2, 1, [(1, 1), (0, 1)]), (9, 8, 3)),
    "torch padding with stride": (Conv(numbers(4, 3, 3, 3), None, 2, 1, 1), (9, 8, 3)),
    "padding past the last window": (Conv(numbers(4, 3, 2, 2), None, 3, 1, [(1, 4), (0, 1)]), (9, 8, 3)),
    "one-sided": (Conv(numbers(4, 3, 3, 3), None, 1, 1, [(2, 0), (0, 0)]), (9, 8, 3)),
    "crop": (Conv(numbers(4, 3, 3, 3), None, 1, 1, [(-1, 2), (0, -2)]), (9, 8, 3)),
    "crop with stride": (Conv(numbers(4, 3, 3, 3), None, 2, 1, [(1, -1), (-1, -2)]), (9, 8, 3)),
    "dilation": (Conv(numbers(4, 3, 3, 3), None, 1, (2, 1), [(2, 2), (1, 1)]), (9, 8, 3)),
    "dilation and stride": (Conv(numbers(4, 3, 3, 3), numbers(4), (2, 1), (1, 2), 2), (9, 8, 3)),
    "groups": (Conv(numbers(6, 2, 3, 3), numbers(6), groups=3, padding=1), (9, 8, 6)),
    "depthwise": (Conv(numbers(3, 1, 3, 3), numbers(3), groups=3, padding=1), (9, 8, 3)),
    "depthwise multiplier": (Conv(numbers(6, 1, 3, 3), None, 2, groups=3), (9, 8, 3)),
    "depthwise of two strides": (Conv(numbers(3, 1, 3, 3), None, (2, 1), groups=3), (9, 8, 3)),
    "depthwise dilation and stride": (Conv(numbers(3, 1, 3, 3), None, 2, 2, groups=3), (9, 8, 3)),
    "dynamic": (Conv(numbers(4, 3, 5, 5), numbers(4), padding=2), (None, None, 3)),
    "dynamic with stride": (Conv(numbers(4, 3, 3, 3), numbers(4), 2, padding=1), (None, None, 3)),
    "1d": (Conv(numbers(4, 3, 3), numbers(4), padding=[(2, 0)]), (9, 3)),
    "1d depthwise": (Conv(numbers(6, 1, 3), numbers(6), 2, padding=1, groups=3), (9, 3)),
    "3d": (Conv(numbers(2, 3, 2, 2, 2), numbers(2), (1, 2, 1), padding=[(1, 0), (0, 0), (0, 1)]), (5, 4, 3, 3)),
    "3d groups": (Conv(numbers(4, 1, 2, 2, 2), None, groups=4), (5, 4, 3, 4)),
    "no axes": (Conv(numbers(4, 3), numbers(4)), (3,)),
    "no axes, groups": (Conv(numbers(4, 3), numbers(4), groups=2), (6,)),
    "transposed": (ConvTranspose(numbers(3, 4, 3, 3), numbers(4), 2), (5, 4, 3)),
    "transposed same": (ConvTranspose(numbers(3, 4, 3, 4), numbers(4), 2, 1, [(0, 1), (1, 1)]), (5, 4, 3)),
    "transposed torch": (ConvTranspose(numbers(3, 4, 3, 3), numbers(4), 2, 1, [(1, 0), (1, 1)]), (5, 4, 3)),
    "transposed longer": (ConvTranspose(numbers(3, 4, 3, 2), numbers(4), 2, 1, [(-1, -2), (1, -1)]), (5, 4, 3)),
    "transposed short kernel": (ConvTranspose(numbers(3, 4, 2, 1), numbers(4), (4, 3)), (5, 4, 3)),
    "transposed short, extended": (ConvTranspose(numbers(3, 4, 2, 1), numbers(4), (4, 3), 1, [(0, -1), (0, -2)]), (5, 4, 3)),
    "transposed groups": (ConvTranspose(numbers(4, 3, 3, 3), numbers(6), 2, groups=2), (5, 4, 4)),
    "transposed dilation": (ConvTranspose(numbers(3, 4, 3, 3), None, 2, 2, 1), (5, 4, 3)),
    "transposed 1d": (ConvTranspose(numbers(3, 4, 3), numbers(4), 2, 1, 1), (5, 3)),
    "transposed 3d": (ConvTranspose(numbers(2, 3, 2, 2, 2), numbers(3), 2), (2, 3, 2, 2)),
    "dense": (Dense(Conv(numbers(4, 3), numbers(4))), (3,)),
    "dense on the last axis": (Dense(Conv(numbers(4, 6), numbers(4))), (5, 6, 3)),
    "affine": (Affine(numbers(3), numbers(3)), (5, 4, 3)),
    "affine without shift": (Affine(numbers(3), np.zeros(3)), (5, 4, 3)),
    "affine of equal numbers": (Affine(np.full(3, 0.5), np.full(3, 0.25)), (5, 4, 3)),
    "shift": (Affine(np.ones(3), numbers(3)), (5, 4, 3)),
    "affine 1d": (Affine(numbers(3), numbers(3)), (5, 3)),
    "affine 3d": (Affine(numbers(3), numbers(3)), (5, 4, 2, 3)),
    "affine of features": (Affine(numbers(3), numbers(3)), (3,)),
    "affine of one channel": (Affine(numbers(1), numbers(1)), (5, 4, 1)),
    "average": (Pool("avg", (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), (6, 4, 3)),
    "average same": (Pool("avg", (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)), (6, 4, 3)),
    "average of the whole window": (Pool("avg", (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), True), (6, 4, 3)),
    "average, padded anyhow": (Pool("avg", (3, 2), (2, 1), ((2, 1), (0, 1)), (1, 1)), (6, 5, 3)),
    "average dilated": (Pool("avg", (2, 2), (1, 1), ((0, 0), (0, 0)), (2, 1)), (6, 5, 3)),
    "average 1d": (Pool("avg", (3,), (2,), ((1, 1),), (1,)), (7, 3)),
    "maximum": (Pool("max", (3, 3), (2, 2), ((0, 1), (0, 1)), (1, 1)), (6, 4, 3)),
    "maximum, padded anyhow": (Pool("max", (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)), (6, 4, 3)),
    "global average": (GlobalPool("avg"), (6, 4, 3)),
    "global maximum": (GlobalPool("max", keepdims=False), (6, 3)),
    "flatten as it lies": (Flatten("channels_last"), (5, 4, 3)),
    "flatten channels first": (Flatten("channels_first"), (5, 4, 3)),
    "flatten features": (Flatten(), (5,)),
    "pad": (Pad(((1, 2), (0, 3))), (5, 4, 3)),
    "pad and crop": (Pad(((-1, 2), (3, -1))), (5, 4, 3)),
    "pad 1d": (Pad(((-1, 2),)), (5, 3)),
    "pad 3d": (Pad(((1, 0), (-1, 1), (0, 2))), (5, 4, 3, 2)),
    "pad with a number": (Pad(((1, 2), (0, 3)), 1.5), (5, 4, 3)),
    "pad with a number, dynamic": (Pad(((1, 2), (0, 3)), -1.5), (None, None, 3)),
    "crop, with a number": (Pad(((-1, -1), (0, -1)), 1.5), (5, 4, 3)),
    "ones channel": (Pad(((0, 0), (0, 0)), 1.0, (0, 1)), (5, 4, 3)),
    "ones channel and frame": (Pad(((1, 1), (0, 0)), 1.0, (2, 1)), (5, 4, 3)),
    "ones channel of features": (Pad((), 1.0, (0, 1)), (3,)),
    "ones channel, dynamic": (Pad(((0, 0), (0, 0)), 1.0, (0, 1)), (None, None, 3)),
    "channels cropped": (Pad(((0, 0), (0, 0)), 0.0, (-1, -1)), (5, 4, 4)),
    "neighbouring channels": (Select(np.array([1, 2])), (5, 4, 4)),
    "neighbouring channels, one axis dynamic": (Select(np.array([1, 2])), (None, 4, 4)),
    "neighbouring channels, dynamic": (Select(np.array([1, 2])), (None, None, 4)),
    "neighbouring features": (Select(np.array([1, 2])), (5,)),
    "picked channels": (Select(np.array([3, 0, 0, 2])), (5, 4, 4)),
    "picked features": (Select(np.array([3, 0])), (4,)),
    "all channels": (Select(np.arange(4)), (5, 4, 4)),
    "slice": (Slice(3, 1, 3), (5, 4, 3)),
    "upsample": (Upsample((2, 3)), (5, 4, 3)),
    "upsample 1d": (Upsample((2,)), (5, 3)),
    "upsample 3d": (Upsample((2, 1, 2)), (3, 2, 2, 2)),
    "identity": (Identity(), (5, 4, 3)),
    "bias map": (BiasMap(numbers(3, 5, 4)), (5, 4, 3)),
    "bias map of features": (BiasMap(numbers(3)), (3,)),
    "bias map 1d": (BiasMap(numbers(3, 5)), (5, 3)),
    "relu": (Activation("relu"), (5, 4, 3)),
    "clip": (Activation("clip", (0.0, 6.0)), (5, 4, 3)),
    "clip from zero": (Activation("clip", (0.0, float("inf"))), (5, 4, 3)),
    "leaky relu": (Activation("leaky_relu", (0.25,)), (5, 4, 3)),
    "prelu": (Activation("prelu", slope=numbers(3)), (5, 4, 3)),
    "prelu of features": (Activation("prelu", slope=numbers(3)), (3,)),
    "elu": (Activation("elu", (0.5,)), (5, 4, 3)),
    "hard sigmoid": (Activation("hard_sigmoid", (1 / 6, 0.5)), (5, 4, 3)),
    "hard swish": (Activation("hard_swish"), (5, 4, 3)),
    "gelu": (Activation("gelu"), (5, 4, 3)),
    "neg": (Activation("neg"), (5, 4, 3)),
    "softmax": (Activation("softmax", (1.0,)), (5, 4, 3)),
    "softmax along a row": (Activation("softmax", (2.0,)), (5, 4, 3)),
}


def with_new(operation: Op, shape: Sequence[int | None]) -> tuple[Any, Any]:
    """A model in which the middle of three layers is replaced by the operation, and its graph."""
    document = FORMAT.read(chain(shape, L.ReLU(name="first"), L.Identity(name="gone"), L.Dropout(0.5, name="last")))
    graph = document.graph
    made = swapped(graph, ["gone", "last"], ("new", operation, ["first"], "mid"), ("end", Identity(), ["mid"], "last"))
    return document, made


@pytest.mark.parametrize("name", NEW)
def test_new_node(name: str, tmp_path: Path) -> None:
    operation, shape = NEW[name]
    document, graph = with_new(operation, shape)
    model = writes(document, graph, tolerance=5e-6)
    inputs = sample(document)
    before = FORMAT.run(model, inputs)
    for file in (tmp_path / "m.keras", tmp_path / "m.h5"):
        FORMAT.save(model, file)
        after = FORMAT.run(keras.saving.load_model(file, compile=False), inputs)
        for key, array in before.items():
            np.testing.assert_array_equal(after[key], array)
    if name not in ("dynamic", "dynamic with stride"):
        FORMAT.read(tmp_path / "m.keras")


FIRST: dict[str, tuple[Op, tuple[int | None, ...]]] = {
    "pad 1d": (Pad(((-1, 2),)), (3, 5)),
    "pad": (Pad(((-1, 2), (3, -1))), (3, 5, 4)),
    "pad with a number": (Pad(((1, 2), (0, 3)), 1.5), (3, 5, 4)),
    "pad 3d": (Pad(((1, 0), (-1, 1), (0, 2))), (2, 5, 4, 3)),
    "neighbouring channels": (Select(np.array([1, 2])), (4, 5, 3)),
    "flatten channels first": (Flatten("channels_first"), (3, 5, 4)),
    "flatten channels last": (Flatten("channels_last"), (3, 5, 4)),
    "bias map": (BiasMap(numbers(3, 5, 4)), (3, 5, 4)),
    "affine 3d": (Affine(numbers(3), numbers(3)), (3, 5, 4, 2)),
    "slice": (Slice(3, 1, 3), (3, 5, 4)),
    "dense on the last axis": (Dense(Conv(numbers(4, 6), numbers(4))), (3, 5, 6)),
    "prelu": (Activation("prelu", slope=numbers(3)), (3, 5, 4)),
    "softmax": (Activation("softmax", (1.0,)), (3, 5, 4)),
    "upsample": (Upsample((2, 3)), (3, 5, 4)),
    "global": (GlobalPool("avg"), (3, 5, 4)),
    "average, padded anyhow": (Pool("avg", (3, 2), (2, 1), ((2, 1), (0, 1)), (1, 1)), (3, 6, 5)),
    "conv": (Conv(numbers(4, 3, 3, 2), numbers(4), padding=[(1, 0), (2, 1)]), (3, 5, 4)),
}


@pytest.mark.parametrize("name", FIRST)
def test_new_node_channels_first(name: str) -> None:
    operation, shape = FIRST[name]
    rank = len(shape) - 1
    mark = getattr(L, f"UpSampling{max(rank, 2)}D")(1, data_format="channels_first", name="first")
    if rank == 1:
        mark = L.Conv1D(3, 1, data_format="channels_first", name="first")
    document = FORMAT.read(chain(shape, mark, L.Identity(name="gone")))
    assert document.state.layout == "channels_first"
    graph = swapped(document.graph, ["gone"], ("new", operation, ["first"], "gone"))
    model = writes_or_cpu_refuses(document, graph)
    assert model is not None


def writes_or_cpu_refuses(document: Any, graph: Any) -> Any:
    """TensorFlow computes channels-first pools and convolutions on a GPU alone; the layers are made all the same."""
    try:
        return writes(document, graph, tolerance=5e-6)
    except Exception as error:
        if "NCHW" not in str(error) and "NHWC" not in str(error) and "channels_first" not in str(error):
            raise
        return FORMAT.write(document, graph)


@pytest.mark.parametrize(
    ("operation", "shape", "words"),
    [
        (Conv(numbers(2, 2, 1, 1, 1, 1)), (2, 2, 2, 2, 2), "Keras has no convolution over 4 axes"),
        (Activation("clip", (-1.0, 1.0)), (4, 3), r"Keras has no layer for the activation clip \(-1.0, 1.0\)"),
        (Slice(2, 0, 2), (None, 3), "gone: a slice of a map of a size that is only known when the model runs has no form"),
        (Pad(((1, 1),), float("inf")), (4, 3), "gone: padding with inf cannot be written in Keras"),
        (Pool("max", (2,), (1,), ((0, 0),), (2,)), (6, 3), r"gone: a pool with dilation \(2,\) cannot be written in Keras"),
        (Pool("avg", (3,), (2,), ((1, 0),), (1,)), (None, 3), "gone: averaging a map of a size that is only known"),
        (Foreign("mystery"), (4, 3), "new: a new Foreign cannot be written in Keras"),
    ],
)
def test_what_has_no_form_in_keras_says_so(operation: Op, shape: Any, words: str) -> None:
    document = FORMAT.read(chain(shape, L.Identity(name="gone")))
    graph = document.graph
    if isinstance(operation, Foreign):
        graph = graph.with_nodes([Node("new", operation, ("x",), ("gone",))])
    else:
        graph = swapped(graph, ["gone"], ("new", operation, ["x"], "gone"))
    with pytest.raises(GraphError, match=words):
        FORMAT.write(document, graph)


def test_several_inputs() -> None:
    x = keras.Input((5, 4, 3), name="x")
    a, b = L.ReLU(name="a")(x), L.Conv2D(3, 1, name="b")(x)
    document = FORMAT.read(randomized(keras.Model(x, L.Add(name="s")([a, b]))))
    for operation in (Add(), Add((1, -1)), Add((-1, 1)), Product(), Concat(1), Concat(3)):
        graph = swapped(document.graph, ["s"], ("new", operation, ["a", "b"], "s"))
        writes(document, graph)


def merged(document: Any, first: str, second: str) -> Conv:
    from decascade.algebra.compose import compose

    result = compose(op(document, second), op(document, first))
    assert isinstance(result, Conv)
    return result


def test_activation_survives_the_merge_of_its_convolution() -> None:
    document = FORMAT.read(
        chain((8, 8, 3), L.Conv2D(6, 3, name="a"), L.Conv2D(4, 3, activation="relu", name="b"), L.Dense(2, name="d"))
    )
    graph = swapped(document.graph, ["a", "b"], ("a+b", merged(document, "a", "b"), ["x"], "b/linear"))
    model = writes(document, graph, tolerance=1e-5)
    assert isinstance(model, keras.Model)
    assert [layer.name for layer in model.layers] == ["x", "a_b", "b", "d"]
    assert model.get_layer("b").activation is keras.activations.relu
    assert model.get_layer("a_b").kernel_size == (5, 5)


def test_activation_with_a_function_of_its_own_survives_too() -> None:
    document = FORMAT.read(chain((8, 8, 3), L.Conv2D(6, 3, name="a"), L.Conv2D(4, 3, activation="mish", name="b")))
    graph = swapped(document.graph, ["a", "b"], ("ab", merged(document, "a", "b"), ["x"], "b/linear"))
    model = writes(document, graph, tolerance=1e-5)
    assert model.get_layer("b").activation is keras.activations.mish


def test_convolution_stays_where_its_activation_goes() -> None:
    document = FORMAT.read(chain((8, 8, 3), L.Conv2D(6, 3, activation="relu", name="a")))
    graph = swapped(document.graph, ["a/relu"], ("same", Identity(), ["a/linear"], "a"))
    model = writes(document, graph, tolerance=1e-5)
    assert [type(layer).__name__ for layer in model.layers][1] == "Conv2D"
    assert model.layers[1].activation is keras.activations.linear
    np.testing.assert_array_equal(model.layers[1].kernel, document.native.get_layer("a").kernel)


def test_trained_layers_keep_their_names() -> None:
    layers = [
        L.Conv2D(4, 3, activation="relu", name="first"), L.Conv2D(4, 1, name="second"), L.BatchNormalization(name="bn"),
        L.PReLU(shared_axes=(1, 2), name="prelu"), L.Flatten(name="flat"), L.Dense(3, activation="softmax", name="out"),
    ]
    document = FORMAT.read(chain((6, 6, 3), *layers))

    def trained(node: Node) -> Node:
        match node.op:
            case Conv():
                return replace(node, op=replace(node.op, weight=2 * node.op.weight))
            case Dense():
                return replace(node, op=Dense(replace(node.op.layer, bias=numbers(3))))
            case Activation() if node.op.slope is not None:
                return replace(node, op=replace(node.op, slope=-node.op.slope))
            case _:
                return node

    graph = replace(document.graph, nodes=tuple(map(trained, document.graph.nodes)))
    model = writes(document, graph)
    names = [layer.name for layer in model.layers]
    assert {"first", "second", "bn", "prelu", "flat", "out"} <= set(names)
    assert type(model.get_layer("bn")) is L.BatchNormalization
    kept = {name: model.get_layer(name).get_weights()[0] for name in ("second", "prelu")}
    assert np.array_equal(kept["second"], 2 * document.native.get_layer("second").get_weights()[0])
    assert np.array_equal(kept["prelu"], -document.native.get_layer("prelu").get_weights()[0])
    # what makes the output has its name; the kernel before it is a layer of its own now
    assert isinstance(model.get_layer("out"), L.Activation | L.Softmax)


def test_half_of_a_separable_convolution() -> None:
    document = FORMAT.read(chain((8, 8, 3), L.SeparableConv2D(4, 3, name="s", activation="relu"), L.Conv2D(2, 1, name="c")))
    conv = op(document, "s/pointwise")
    graph = swapped(document.graph, ["s/pointwise"], ("p", conv, ["s/depthwise"], "s/pointwise"))
    model = writes(document, graph, tolerance=1e-5)
    assert [type(layer).__name__ for layer in model.layers[1:]] == ["DepthwiseConv2D", "Conv2D", "Activation", "Conv2D"]


def test_sequential_stays_sequential() -> None:
    model = randomized(keras.Sequential(
        [keras.Input((8, 8, 3), name="pixels"), L.Conv2D(6, 3, name="a"), L.Conv2D(4, 3, name="b"), L.Flatten(), L.Dense(2)],
        name="small",
    ))
    document = FORMAT.read(model)
    graph = swapped(document.graph, ["a", "b"], ("ab", merged(document, "a", "b"), ["pixels"], "b"))
    written = writes(document, graph, tolerance=1e-5)
    assert type(written) is keras.Sequential
    assert written.name == "small"
    assert [type(layer).__name__ for layer in written.layers] == ["Conv2D", "Flatten", "Dense"]
    assert written.inputs[0]._keras_history[0].name == "pixels"
    conv = merged(document, "a", "b")
    graph = swapped(document.graph, ["a", "b"], ("ab", conv, ["pixels"], "m"), ("s", Add(), ["m", "m"], "b"))
    branched = writes(document, graph, tolerance=1e-5)
    assert type(branched) is not keras.Sequential


def test_merge_of_one_call_leaves_the_other() -> None:
    x = keras.Input((8, 8, 3), name="x")
    shared = L.Conv2D(3, 3, padding="same", name="shared")
    y = L.ReLU(name="r")(shared(x))
    z = L.Conv2D(2, 1, name="last")(shared(y))
    document = FORMAT.read(randomized(keras.Model(x, z)))
    merge = merged(document, "shared_1", "last")
    graph = swapped(document.graph, ["shared_1", "last"], ("m", merge, ["r"], "last"))
    written = writes(document, graph, tolerance=1e-5)
    np.testing.assert_array_equal(written.get_layer("shared").kernel, shared.kernel)
    both = writes(document, document.graph, tolerance=1e-5)
    assert sum(layer.name == "shared" for layer in both.layers) == 1


def test_output_keeps_its_name_though_its_layer_is_used_elsewhere() -> None:
    x = keras.Input((8, 8, 3), name="x")
    shared = L.Conv2D(3, 3, padding="same", name="shared")
    y = L.Conv2D(3, 1, name="c")(L.ReLU(name="r")(shared(x)))
    document = FORMAT.read(randomized(keras.Model(x, shared(y))))
    graph = swapped(document.graph, ["c", "shared_1"], ("m", merged(document, "c", "shared_1"), ["r"], "shared"))
    model = writes(document, graph, tolerance=1e-5)
    assert [layer.name for layer in model.layers] == ["x", "shared_1", "r", "shared"]


def nested(twice: bool = False) -> Any:
    inner = keras.Sequential(
        [keras.Input((8, 8, 3), name="in"), L.Conv2D(5, 3, padding="same", name="a"), L.Conv2D(3, 1, name="b")], name="block"
    )
    x = keras.Input((8, 8, 3), name="x")
    y = L.Conv2D(3, 1, name="before")(x)
    y = inner(y)
    if twice:
        y = inner(L.ReLU(name="r")(y))
    return randomized(keras.Model(x, L.Conv2D(2, 1, name="after")(y), name="whole"))


def test_change_inside_a_nested_model_keeps_it_nested() -> None:
    document = FORMAT.read(nested())
    graph = swapped(document.graph, ["block/a", "block/b"], ("ab", merged(document, "block/a", "block/b"), ["before"], "block"))
    model = writes(document, graph, tolerance=1e-5)
    assert [layer.name for layer in model.layers] == ["x", "before", "block", "after"]
    assert type(model.get_layer("block")) is keras.Sequential
    assert len(model.get_layer("block").layers) == 1


def test_change_across_the_border_opens_the_nested_model() -> None:
    document = FORMAT.read(nested())
    graph = swapped(document.graph, ["before", "block/a"], ("ba", merged(document, "before", "block/a"), ["x"], "block/a"))
    model = writes(document, graph, tolerance=1e-5)
    assert [layer.name for layer in model.layers] == ["x", "ba", "b", "after"]
    graph = swapped(document.graph, ["block/b", "after"], ("ba", merged(document, "block/b", "after"), ["block/a"], "after"))
    model = writes(document, graph, tolerance=1e-5)
    assert [layer.name for layer in model.layers] == ["x", "before", "a", "after"]


def test_change_of_one_call_of_a_nested_model(tmp_path: Path) -> None:
    document = FORMAT.read(nested(twice=True))
    conv = merged(document, "block_1/a", "block_1/b")
    graph = swapped(document.graph, ["block_1/a", "block_1/b"], ("ab", conv, ["r"], "block_1"))
    model = writes(document, graph, tolerance=1e-5)
    assert [layer.name for layer in model.layers] == ["x", "before", "a", "b", "r", "ab", "after"]
    whole = writes(document, document.graph, tolerance=1e-5)
    assert [layer.name for layer in whole.layers].count("block") == 1
    across = merged(document, "before", "block/a")
    graph = swapped(document.graph, ["before", "block/a"], ("ba", across, ["x"], "block/a"))
    model = writes(document, graph, tolerance=1e-5)
    assert [layer.name for layer in model.layers] == ["x", "ba", "b", "r", "a", "after"]
    inputs = sample(document)
    for name in ("m.keras", "m.h5"):
        FORMAT.save(model, tmp_path / name)
        again = FORMAT.run(FORMAT.read(tmp_path / name).native, inputs)
        np.testing.assert_array_equal(again["after"], FORMAT.run(model, inputs)["after"])


def test_opened_model_that_was_the_output_leaves_its_name() -> None:
    inner = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(5, 3, name="a"), L.Conv2D(3, 1, name="b")], name="block")
    x = keras.Input((8, 8, 3), name="x")
    document = FORMAT.read(randomized(keras.Model(x, inner(L.Conv2D(3, 1, name="before")(x)))))
    graph = swapped(document.graph, ["before", "block/a"], ("ba", merged(document, "before", "block/a"), ["x"], "block/a"))
    model = writes(document, graph, tolerance=1e-5)
    assert [layer.name for layer in model.layers] == ["x", "ba", "b", "block"]


def test_inner_layers_of_one_name_can_be_stored_in_hdf5(tmp_path: Path) -> None:
    x = keras.Input((8, 8, 3), name="x")
    blocks = [
        keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(3, 1, name="a"), L.Conv2D(3, 1, name="b")], name=f"block{i}")
        for i in range(2)
    ]
    model = randomized(keras.Model(x, blocks[1](blocks[0](x))))
    document = FORMAT.read(model)
    graph = swapped(
        document.graph, ["block0/b", "block1/a"], ("m", merged(document, "block0/b", "block1/a"), ["block0/a"], "block1/a")
    )
    written = writes(document, graph, tolerance=1e-5)
    inputs = sample(document)
    FORMAT.save(written, tmp_path / "m.h5")
    close(document, FORMAT.run(FORMAT.read(tmp_path / "m.h5").native, inputs), by_interpreter(document, graph, inputs), 1e-5)


def test_new_layers_take_the_policy_of_what_they_replace() -> None:
    x = keras.Input((8, 8, 3), name="x")
    y = L.Conv2D(4, 3, name="a", dtype="mixed_float16")(x)
    y = L.Conv2D(2, 3, name="b", dtype="mixed_float16")(y)
    document = FORMAT.read(randomized(keras.Model(x, L.Dense(2, name="d")(y))))
    graph = swapped(document.graph, ["a", "b"], ("ab", merged(document, "a", "b"), ["x"], "b"), dtype="float16")
    model = writes(document, graph, tolerance=1e-2)
    assert model.get_layer("ab").dtype_policy.name == "mixed_float16"
    assert model.get_layer("d").dtype_policy.name == "float32"


def test_integer_pixels_are_cast_before_a_new_convolution() -> None:
    document = FORMAT.read(chain((8, 8, 3), L.Rescaling(1 / 255, name="s"), L.Conv2D(4, 3, name="c"), dtype="uint8"))
    conv = op(document, "c")
    scaled = Conv(conv.weight / 255, conv.bias)
    model = writes(document, swapped(document.graph, ["s", "c"], ("sc", scaled, ["x"], "c")), tolerance=1e-5)
    assert [layer.name for layer in model.layers] == ["x", "c_cast", "c"]


def test_layer_that_reads_one_tensor_twice_may_read_two() -> None:
    x = keras.Input((4, 4, 3), name="x")
    y = L.ReLU(name="r")(x)
    document = FORMAT.read(keras.Model(x, L.Add(name="s")([y, y])))
    node = document.graph.nodes[-1]

    graph = document.graph.with_nodes(
        [document.graph.nodes[0], replace(node, inputs=("r", "n")), Node("minus", Activation("neg"), ("r",), ("n",))],
        {"n": Tensor("n", document.graph.shape("r"))},
    )
    model = writes(document, graph)
    assert np.all(FORMAT.run(model, sample(document))["s"] == 0)


def test_names_that_tensorflow_does_not_take() -> None:
    document = FORMAT.read(chain((8, 8, 3), L.Conv2D(4, 3, name="a"), L.Conv2D(2, 3, name="b"), L.ReLU(name="r")))
    graph = swapped(document.graph, ["a", "b"], ("a + b/c → d", merged(document, "a", "b"), ["x"], "b"))
    assert [layer.name for layer in writes(document, graph, tolerance=1e-5).layers] == ["x", "a_b_c_d", "r"]


def test_operation_of_keras_ops_is_copied_not_called_again() -> None:
    x = keras.Input((4, 4, 3), name="x")
    model = keras.Model(x, keras.ops.relu(x) + 1.0)
    records = [len(o._inbound_nodes) for o in model.operations]
    document = FORMAT.read(model)
    FORMAT.write(document, document.graph)
    assert [len(o._inbound_nodes) for o in model.operations] == records


def test_hdf5_cannot_hold_operations(tmp_path: Path) -> None:
    x = keras.Input((4, 4, 3), name="x")
    model = keras.Model(x, keras.ops.relu(x))
    with pytest.raises(FormatError, match=r"operation relu\w* \(keras.ops\) cannot be stored in HDF5.* write m.keras instead"):
        FORMAT.save(model, tmp_path / "m.h5")
    assert not (tmp_path / "m.h5").exists()
    FORMAT.save(model, tmp_path / "m.keras")
    with pytest.raises(FormatError, match=r"a Keras model is written as .keras, .h5 or .hdf5"):
        FORMAT.save(model, tmp_path / "m.onnx")


def every_new_kind() -> tuple[Any, Any]:
    """A model whose middle is one new node of each kind after the other."""
    x = keras.Input((12, 10, 3), name="x")
    y = L.GlobalAveragePooling2D(name="g")(L.Conv2D(4, 1, name="c")(x))
    document = FORMAT.read(randomized(keras.Model(x, L.Dense(2, name="d")(y))))
    row: list[Op] = [
        Conv(numbers(4, 3, 3, 3), numbers(4), 2, 1, 1),
        Affine(numbers(4), numbers(4)),
        Conv(numbers(4, 1, 3, 3), numbers(4), 1, 1, [(1, 0), (2, 1)], 4),
        Pad(((1, 1), (1, 1)), 0.5, (0, 1)),
        Conv(numbers(6, 5, 1, 1), None),
        Conv(numbers(6, 2, 3, 3), numbers(6), groups=3, padding=1),
        Select(np.array([1, 2, 3, 4])),
        ConvTranspose(numbers(4, 4, 3, 3), numbers(4), 2, 1, 1),
        BiasMap(numbers(4, 13, 15)),
        Slice(3, 1, 13),
        Pool("avg", (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)),
        Activation("prelu", slope=numbers(4)),
        Upsample((1, 2)),
        Pad(((-1, 1), (0, -2))),
        Pool("max", (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)),
        Affine(np.ones(4), numbers(4)),
        GlobalPool("avg", keepdims=False),
    ]
    names = ["x", *(f"t{i}" for i in range(len(row) - 1)), "g"]
    made = [(f"new{i}", o, [names[i]], names[i + 1]) for i, o in enumerate(row)]
    return document, swapped(document.graph, ["c", "g"], *made)


def test_new_nodes_of_every_kind_in_one_model() -> None:
    document, graph = every_new_kind()
    model = writes(document, graph, tolerance=1e-5)
    assert model.get_layer("d").get_config() == document.native.get_layer("d").get_config()


def test_the_tflite_converter_takes_every_new_kind() -> None:
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the TFLite converter needs Keras on TensorFlow")
    tf: Any = pytest.importorskip("tensorflow")
    document, graph = every_new_kind()
    model = writes(document, graph, tolerance=1e-5)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(?s).*tf.lite.Interpreter is deprecated", category=UserWarning)
        lite = tf.lite.Interpreter(model_content=tf.lite.TFLiteConverter.from_keras_model(model).convert())
    given = sample(document, batch=1)["x"]
    lite.allocate_tensors()
    lite.set_tensor(lite.get_input_details()[0]["index"], given)
    lite.invoke()
    found = lite.get_tensor(lite.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, FORMAT.run(model, {"x": given})["d"], rtol=1e-5, atol=1e-5)
    assert "x" in lite.get_input_details()[0]["name"]
