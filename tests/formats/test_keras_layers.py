"""Every Keras layer that is read: the float64 interpreter gives what Keras gives, and the shapes Keras says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from decascade.algebra.conv import Conv
from decascade.ir.ops import Affine, Concat, Dense, Flatten, Foreign, GlobalPool, Pool, Product
from formats.keras_cases import L, agrees, chain, keras, op, randomized

Case = tuple[Callable[[], Any], tuple[int | None, ...]]

CONVS: dict[str, Case] = {
    "1d": (lambda: L.Conv1D(4, 3), (9, 3)),
    "1d causal": (lambda: L.Conv1D(4, 3, padding="causal", dilation_rate=2), (9, 3)),
    "1d causal stride": (lambda: L.Conv1D(4, 3, padding="causal", strides=2), (10, 3)),
    "2d": (lambda: L.Conv2D(4, 3), (9, 8, 3)),
    "2d no bias": (lambda: L.Conv2D(4, (3, 2), use_bias=False), (9, 8, 3)),
    "2d same": (lambda: L.Conv2D(4, (3, 4), padding="same"), (9, 8, 3)),
    "2d same stride": (lambda: L.Conv2D(4, 3, padding="same", strides=2), (9, 8, 3)),
    "2d same stride kernel 2": (lambda: L.Conv2D(4, 2, padding="same", strides=(3, 2)), (9, 8, 3)),
    "2d stride wider than kernel": (lambda: L.Conv2D(4, 1, padding="same", strides=2), (9, 8, 3)),
    "2d dilation": (lambda: L.Conv2D(4, 3, padding="same", dilation_rate=(2, 1)), (9, 8, 3)),
    "2d groups": (lambda: L.Conv2D(6, 3, groups=3), (9, 8, 6)),
    "2d dynamic": (lambda: L.Conv2D(4, 3, padding="same"), (None, None, 3)),
    "3d": (lambda: L.Conv3D(2, 2, padding="same", strides=2), (5, 4, 6, 3)),
    "depthwise 1d": (lambda: L.DepthwiseConv1D(3, depth_multiplier=2), (9, 3)),
    "depthwise": (lambda: L.DepthwiseConv2D(3, padding="same"), (9, 8, 3)),
    "depthwise multiplier": (lambda: L.DepthwiseConv2D((2, 3), depth_multiplier=3, strides=2, padding="same"), (9, 8, 4)),
    "depthwise dilation": (lambda: L.DepthwiseConv2D(3, dilation_rate=2, use_bias=False), (9, 8, 3)),
    "transposed 1d": (lambda: L.Conv1DTranspose(4, 3, strides=2), (5, 3)),
    "transposed": (lambda: L.Conv2DTranspose(4, (3, 4), strides=(2, 3)), (5, 4, 3)),
    "transposed same": (lambda: L.Conv2DTranspose(4, (3, 4), strides=2, padding="same"), (5, 4, 3)),
    "transposed short kernel": (lambda: L.Conv2DTranspose(4, 2, strides=3), (5, 4, 3)),
    "transposed short same": (lambda: L.Conv2DTranspose(4, 1, strides=3, padding="same"), (5, 4, 3)),
    "transposed dilation": (lambda: L.Conv2DTranspose(4, 3, dilation_rate=2), (5, 4, 3)),
    "transposed dynamic": (lambda: L.Conv2DTranspose(4, 3, strides=2, padding="same"), (None, None, 3)),
    "transposed 3d": (lambda: L.Conv3DTranspose(2, 3, strides=2, padding="same"), (3, 2, 3, 2)),
    "dense": (lambda: L.Dense(4), (5,)),
    "dense on a sequence": (lambda: L.Dense(4, use_bias=False), (6, 5)),
    "dense on a map": (lambda: L.Dense(4), (6, 5, 3)),
}


@pytest.mark.parametrize("name", CONVS)
def test_convolution(name: str) -> None:
    make, shape = CONVS[name]
    document = agrees(chain(shape, make()), tolerance=1e-5)
    assert not document.notes
    assert all(not isinstance(n.op, Foreign) for n in document.graph.nodes)


OTHERS: dict[str, Case] = {
    "batch norm": (lambda: L.BatchNormalization(epsilon=0.02), (5, 4, 3)),
    "batch norm bare": (lambda: L.BatchNormalization(scale=False, center=False), (5, 4, 3)),
    "batch norm of features": (lambda: L.BatchNormalization(), (5,)),
    "rescaling": (lambda: L.Rescaling(1 / 255, -0.5), (5, 4, 3)),
    "rescaling per channel": (lambda: L.Rescaling([1.0, 2.0, 3.0], offset=[0.1, 0.2, 0.3]), (5, 4, 3)),
    "normalization": (lambda: L.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 4.0, 0.25]), (5, 4, 3)),
    "normalization inverse": (lambda: L.Normalization(mean=1.0, variance=4.0, axis=None, invert=True), (5, 4, 3)),
    "average pool": (lambda: L.AveragePooling2D(2), (7, 6, 3)),
    "average pool same": (lambda: L.AveragePooling2D(3, strides=2, padding="same"), (7, 6, 3)),
    "max pool": (lambda: L.MaxPooling2D(3, strides=2, padding="same"), (7, 6, 3)),
    "pool 1d": (lambda: L.AveragePooling1D(3, strides=1, padding="same"), (7, 3)),
    "max pool 1d": (lambda: L.MaxPooling1D(2), (7, 3)),
    "pool 3d": (lambda: L.AveragePooling3D(2), (4, 4, 5, 2)),
    "global average": (lambda: L.GlobalAveragePooling2D(), (5, 4, 3)),
    "global average kept": (lambda: L.GlobalAveragePooling2D(keepdims=True), (5, 4, 3)),
    "global max": (lambda: L.GlobalMaxPooling1D(), (5, 3)),
    "flatten": (lambda: L.Flatten(), (5, 4, 3)),
    "flatten features": (lambda: L.Flatten(), (5,)),
    "reshape to one axis": (lambda: L.Reshape((-1,)), (5, 4, 3)),
    "reshape to itself": (lambda: L.Reshape((5, 4, 3)), (5, 4, 3)),
    "zero padding": (lambda: L.ZeroPadding2D(((1, 2), (0, 3))), (5, 4, 3)),
    "zero padding 1d": (lambda: L.ZeroPadding1D((2, 1)), (5, 3)),
    "cropping": (lambda: L.Cropping2D(((1, 2), (0, 1))), (5, 4, 3)),
    "cropping 3d": (lambda: L.Cropping3D(1), (5, 4, 3, 2)),
    "upsampling": (lambda: L.UpSampling2D((2, 3)), (5, 4, 3)),
    "upsampling 1d": (lambda: L.UpSampling1D(2), (5, 3)),
    "dropout": (lambda: L.Dropout(0.5), (5, 4, 3)),
    "spatial dropout": (lambda: L.SpatialDropout2D(0.5), (5, 4, 3)),
    "noise": (lambda: L.GaussianNoise(0.5), (5,)),
    "identity": (lambda: L.Identity(), (5, 4, 3)),
    "relu": (lambda: L.ReLU(), (5, 4, 3)),
    "relu6": (lambda: L.ReLU(6.0), (5, 4, 3)),
    "relu sloped": (lambda: L.ReLU(negative_slope=0.1), (5, 4, 3)),
    "leaky relu": (lambda: L.LeakyReLU(negative_slope=0.3), (5, 4, 3)),
    "prelu": (lambda: L.PReLU(shared_axes=[1, 2]), (5, 4, 3)),
    "prelu of features": (lambda: L.PReLU(), (5,)),
    "elu": (lambda: L.ELU(0.7), (5, 4, 3)),
    "softmax": (lambda: L.Softmax(), (5, 4, 3)),
    "softmax along a row": (lambda: L.Softmax(axis=1), (5, 4, 3)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_layer(name: str) -> None:
    make, shape = OTHERS[name]
    document = agrees(chain(shape, make()))
    assert not document.notes
    assert len(document.graph.nodes) == 1
    assert not isinstance(document.graph.nodes[0].op, Foreign)


@pytest.mark.parametrize(
    "function",
    ["relu", "relu6", "elu", "selu", "sigmoid", "tanh", "hard_sigmoid", "hard_silu", "silu", "gelu", "softplus", "softsign",
     "exponential", "softmax", "leaky_relu"],
)
def test_activation_function(function: str) -> None:
    alone = agrees(chain((5, 4, 3), L.Activation(function)))
    assert [type(n.op).__name__ for n in alone.graph.nodes] == ["Activation"]
    within = agrees(chain((5, 4, 3), L.Conv2D(2, 3, activation=function, name="c")), tolerance=5e-6)
    assert [n.name for n in within.graph.nodes] == ["c", f"c/{function}"]
    assert [type(n.op).__name__ for n in within.graph.nodes] == ["Conv", "Activation"]
    assert [n.output for n in within.graph.nodes] == ["c/linear", "c"]
    assert {n.origin for n in within.graph.nodes} == {("c",)}


def test_activation_that_is_a_layer() -> None:
    document = agrees(chain((5, 4, 3), L.Conv2D(2, 3, activation=L.LeakyReLU(negative_slope=0.2, name="leak"), name="c")))
    assert [n.name for n in document.graph.nodes] == ["c", "c/leak"]
    assert document.graph.nodes[1].op.params == (0.2,)


def test_unknown_activation_is_foreign_and_the_convolution_is_not() -> None:
    document = agrees(chain((5, 4, 3), L.Conv2D(2, 3, activation="mish", name="c")))
    assert [type(n.op).__name__ for n in document.graph.nodes] == ["Conv", "Foreign"]
    assert document.graph.nodes[1].op.kind == "activation mish"


@pytest.mark.parametrize(
    "make",
    [
        lambda: L.SeparableConv2D(5, 3, strides=2, padding="same", depth_multiplier=2, activation="relu"),
        lambda: L.SeparableConv1D(5, 3, activation="relu"),
    ],
)
def test_separable(make: Callable[[], Any]) -> None:
    layer = make()
    shape = (9, 8, 3) if "2D" in type(layer).__name__ else (9, 3)
    document = agrees(chain(shape, layer), tolerance=5e-6)
    name = layer.name
    assert [n.name for n in document.graph.nodes] == [f"{name}/depthwise", f"{name}/pointwise", f"{name}/relu"]
    assert document.graph.nodes[0].op.groups == 3


def test_merging_layers() -> None:
    x = keras.Input((6, 5, 4), name="x")
    a, b = L.Conv2D(3, 3, name="a")(x), L.Conv2D(3, 3, name="b")(x)
    outputs = [
        L.Add(name="add")([a, b, a]), L.Subtract(name="sub")([a, b]), L.Average(name="avg")([a, b]),
        L.Concatenate(name="cat")([a, b]), L.Concatenate(axis=1, name="rows")([a, b]),
    ]
    document = agrees(randomized(keras.Model(x, outputs)), tolerance=5e-6)
    assert op(document, "sub").signs == (1, -1)
    assert op(document, "cat") == Concat(1)
    assert op(document, "rows") == Concat(2)
    assert isinstance(op(document, "avg"), Affine)
    assert not document.notes


def test_what_the_fields_say() -> None:
    conv = op(agrees(chain((9, 8, 3), L.Conv2D(4, 3, strides=2, padding="same", name="c"))), "c")
    assert isinstance(conv, Conv)
    assert conv.padding == ((1, 1), (0, 1))
    assert conv.weight.dtype == np.float32
    pool = op(agrees(chain((9, 8, 3), L.AveragePooling2D(3, padding="same", name="p"))), "p")
    assert pool == Pool("avg", (3, 3), (3, 3), ((0, 0), (0, 1)), (1, 1), count_padding=False)
    assert op(agrees(chain((9, 8, 3), L.Flatten(name="f"))), "f") == Flatten("channels_last")
    assert op(agrees(chain((9, 8, 3), L.GlobalMaxPooling2D(name="g"))), "g") == GlobalPool("max", keepdims=False)
    assert isinstance(op(agrees(chain((5,), L.Dense(2, name="d"))), "d"), Dense)


def test_products() -> None:
    x = keras.Input((6, 5, 4), name="x")
    y = L.Conv2D(4, 1)(x)
    gate = L.Activation("sigmoid")(L.Dense(4)(L.GlobalAveragePooling2D(keepdims=True)(y)))
    outputs = [L.Multiply(name="excited")([y, gate]), L.Multiply(name="three")([x, y, y]), keras.ops.multiply(x, y), x * gate]
    document = agrees(randomized(keras.Model(x, outputs)), tolerance=5e-6)
    assert [type(n.op) for n in document.graph.nodes].count(Product) == 4
    assert not document.notes


FOREIGN: dict[str, tuple[Callable[[], Any], tuple[int | None, ...], str]] = {
    "lstm": (lambda: L.LSTM(3), (5, 4), "LSTM is no operation that decascade knows"),
    "layer norm": (lambda: L.LayerNormalization(), (5, 4, 3), "LayerNormalization is no operation"),
    "permute": (lambda: L.Permute((2, 1, 3)), (5, 4, 3), "Permute is no operation"),
    "batch norm of rows": (lambda: L.BatchNormalization(axis=1), (5, 4, 3), "it normalises axis 1, not the channels"),
    "stride of unknown size": (lambda: L.Conv2D(2, 3, strides=2, padding="same"), (None, 8, 3),
                               "'same' padding with a stride on a map whose size is not known"),
    "output padding": (lambda: L.Conv2DTranspose(2, 3, strides=2, output_padding=1), (5, 4, 3), "output_padding,"),
    "bilinear": (lambda: L.UpSampling2D(2, interpolation="bilinear"), (5, 4, 3), "interpolation bilinear"),
    "reshape": (lambda: L.Reshape((4, 5, 3)), (5, 4, 3), "it reshapes (3, 5, 4) to (3, 4, 5)"),
    "relu threshold": (lambda: L.ReLU(threshold=1.0), (5, 4, 3), "ReLU with these options is no activation"),
    "prelu per pixel": (lambda: L.PReLU(), (5, 4, 3), "PReLU with these options is no activation"),
    "normalization per row": (lambda: L.Normalization(axis=1, mean=np.ones(5), variance=np.ones(5)), (5, 4, 3),
                              "its numbers differ from place to place"),
    "channels first in a channels-last model": (lambda: L.AveragePooling2D(2, data_format="channels_first"), (6, 4, 3), ""),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_not_understood_is_foreign_and_says_why(name: str) -> None:
    make, shape, words = FOREIGN[name]
    head = L.Conv2D(3, 1, name="head") if len(shape) == 3 else L.Dense(4, name="head")
    model = chain(shape, head, make())
    document = agrees(model, tolerance=1e-5)
    last = document.graph.nodes[-1]
    if not words:
        words = "its data_format is channels_first, the model's is channels_last"
        document = agrees(chain(shape, head, L.Conv2D(3, 1), make()), tolerance=1e-5)
        last = document.graph.nodes[-1]
    assert isinstance(last.op, Foreign)
    assert len(document.notes) == 1
    assert document.notes[0].startswith(f"{last.name} is carried through as it is: ")
    assert words in document.notes[0]


def test_quantized_and_lora_layers_are_foreign() -> None:
    for change, words in ((lambda d: d.quantize("int8"), "its weights are quantized (int8)"),
                          (lambda d: d.enable_lora(1), "it has LoRA weights")):
        layer = L.Dense(4, name="d")
        model = chain((5,), layer)
        change(layer)
        document = agrees(model)
        assert isinstance(op(document, "d"), Foreign)
        assert words in document.notes[0]
