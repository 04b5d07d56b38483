"""The structure of Keras models: shared layers, nested models, several inputs, keras.ops, dtypes, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from decascade.errors import FormatError, UsageError
from decascade.formats.keras.format import FORMAT
from decascade.ir.interpret import run
from decascade.ir.ops import Activation, Add, Affine, Concat, Dense, Foreign, Identity
from formats.keras_cases import L, agrees, chain, keras, op, randomized, sample


def test_shapes_are_channels_first_with_named_sizes() -> None:
    graph = agrees(chain((None, None, 3), L.Conv2D(4, 3, name="c"), L.MaxPooling2D(name="p"))).graph
    assert graph.inputs == ("x",)
    assert graph.outputs == ("p",)
    assert graph.shape("x") == ("N", 3, "H", "W")
    assert graph.shape("c") == ("N", 4, "(H-2)", "(W-2)")


def test_two_inputs_of_unknown_size_have_names_of_their_own() -> None:
    a, b = keras.Input((None, None, 3), name="a"), keras.Input((None, None, 3), name="b")
    document = agrees(keras.Model([a, b], L.Add(name="s")([a, b])))
    assert document.graph.shape("b") == ("N", 3, "H_1", "W_1")
    assert isinstance(op(document, "s"), Foreign)


def test_batch_size_that_is_fixed_stays() -> None:
    x = keras.Input(batch_shape=(2, 5, 3), name="x")
    assert FORMAT.read(randomized(keras.Model(x, L.Conv1D(2, 3)(x)))).graph.shape("x") == (2, 3, 5)


def test_layer_called_twice_is_two_nodes() -> None:
    x = keras.Input((6, 6, 3), name="x")
    shared = L.Conv2D(3, 3, padding="same", activation="relu", name="shared")
    document = agrees(randomized(keras.Model(x, shared(shared(x)))))
    assert [n.name for n in document.graph.nodes] == ["shared", "shared/relu", "shared_1", "shared_1/relu"]
    assert document.graph.outputs == ("shared",)


def test_nested_models_are_opened() -> None:
    inner = keras.Sequential([keras.Input((6, 6, 3)), L.Conv2D(4, 3, name="c"), L.ReLU(name="r")], name="block")
    deep = keras.Input((6, 6, 3), name="deep_in")
    wrap = keras.Model(deep, L.Conv2D(2, 1, name="last")(inner(deep)), name="wrap")
    x = keras.Input((6, 6, 3), name="x")
    document = agrees(randomized(keras.Model(x, wrap(x))))
    assert [n.name for n in document.graph.nodes] == ["wrap/block/c", "wrap/block/r", "wrap/last"]
    assert document.graph.outputs == ("wrap",)
    assert document.graph.nodes[0].inputs == ("x",)


def test_nested_model_called_twice_has_nodes_per_call() -> None:
    inner = keras.Sequential([keras.Input((6, 6, 3)), L.Conv2D(3, 3, padding="same", name="c")], name="block")
    x = keras.Input((6, 6, 3), name="x")
    document = agrees(randomized(keras.Model(x, [inner(inner(x))])))
    assert [n.name for n in document.graph.nodes] == ["block/c", "block_1/c"]


def test_sequential_of_models() -> None:
    first = keras.Sequential([keras.Input((6, 6, 3)), L.Conv2D(4, 3, name="c1")], name="first")
    model = randomized(keras.Sequential([first, keras.Sequential([L.Flatten(name="f"), L.Dense(2, name="d")], name="head")]))
    model.build((None, 6, 6, 3))
    assert [n.name for n in agrees(model).graph.nodes] == ["first/c1", "head/f", "head/d"]


def test_nested_model_that_gives_out_its_input_is_carried_through() -> None:
    a = keras.Input((4, 4, 2), name="a")
    inner = keras.Model(a, [a, L.ReLU()(a)], name="inner")
    x = keras.Input((4, 4, 2), name="x")
    document = agrees(keras.Model(x, L.Add(name="s")(inner(x))))
    assert isinstance(op(document, "inner"), Foreign)
    assert document.graph.nodes[0].outputs == ("inner", "inner:1")


def test_several_inputs_and_outputs_in_dictionaries() -> None:
    a, b = keras.Input((5, 4, 3), name="a"), keras.Input((7,), name="b")
    y = L.GlobalAveragePooling2D(name="g")(L.Conv2D(4, 3, name="c")(a))
    z = L.Dense(4, name="d")(b)
    model = randomized(keras.Model({"a": a, "b": b}, {"sum": L.Add(name="s")([y, z]), "raw": z, "again": z}))
    document = agrees(model)
    assert set(document.graph.inputs) == {"a", "b"}
    assert set(document.graph.outputs) == {"s", "d"}
    written = FORMAT.write(document, document.graph)
    result = written({"a": np.zeros((1, 5, 4, 3), "f"), "b": np.zeros((1, 7), "f")})
    assert set(result) == {"sum", "raw", "again"}


def test_input_that_is_an_output_and_one_that_is_not_used() -> None:
    a, b = keras.Input((4, 4, 2), name="a"), keras.Input((3,), name="b")
    document = agrees(randomized(keras.Model([a, b], [L.Conv2D(2, 3, name="c")(a), a])))
    assert document.graph.outputs == ("c", "a")


def test_run_wants_every_input() -> None:
    model = chain((5,), L.Dense(2))
    with pytest.raises(UsageError, match="input x is missing: the model's inputs are x"):
        FORMAT.run(model, {})


def test_operations_on_tensors() -> None:
    x = keras.Input((5, 4, 3), name="x")
    y = L.Conv2D(3, 1, name="c")(x)
    ops = keras.ops
    wide = np.array([1.0, 2.0, 3.0], "f")
    outputs = [
        y + x, y - x, y * 2.0, y + wide, 1.0 - y, y / 4.0, -y, ops.relu(y), ops.gelu(y), ops.gelu(y, approximate=False),
        ops.softmax(y), ops.concatenate([x, y], axis=-1), ops.sigmoid(y), ops.leaky_relu(y, 0.3), ops.elu(y), ops.tanh(y),
    ]
    document = agrees(randomized(keras.Model(x, outputs)), tolerance=4e-6)
    assert not document.notes
    kinds = [type(n.op) for n in document.graph.nodes]
    assert kinds.count(Add) == 2
    assert kinds.count(Affine) == 4
    assert kinds.count(Concat) == 1
    assert kinds.count(Activation) == 9
    assert Foreign not in kinds


def test_operations_that_are_not_simple_are_foreign() -> None:
    x = keras.Input((5, 4, 3), name="x")
    ops = keras.ops
    outputs = [ops.mean(x, axis=(1, 2)), x / x, x + np.ones((5, 4, 3), "f"), ops.transpose(x, (0, 2, 1, 3)), 1.0 / (x + 9.0)]
    document = agrees(keras.Model(x, outputs))
    assert sum(isinstance(n.op, Foreign) for n in document.graph.nodes) == 5
    assert all("keras.ops" in note for note in document.notes)


class Doubled(keras.layers.Layer):
    """A user's own layer."""

    def call(self, x: Any) -> Any:
        return x * 2


class OwnConv(keras.layers.Conv2D):
    """Derived from a known layer: it may do anything."""


def test_custom_layers_are_foreign_and_stay() -> None:
    plus = L.Lambda(lambda x: x + 1, name="plus")
    document = agrees(chain((5, 4, 3), OwnConv(2, 3, name="own"), Doubled(name="double"), plus))
    assert [type(n.op) for n in document.graph.nodes] == [Foreign] * 3
    written = FORMAT.write(document, document.graph)
    assert [type(layer) for layer in written.layers[1:]] == [OwnConv, Doubled, L.Lambda]
    assert written.layers[1] is not document.native.layers[1]


class Picky(keras.layers.Layer):
    def __init__(self, table: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = table

    def call(self, x: Any) -> Any:
        return x


def test_custom_layer_that_cannot_be_copied_is_named() -> None:
    document = FORMAT.read(chain((5,), Picky(object(), name="picky")))
    with pytest.raises(FormatError, match=r"layer picky of class Picky cannot be copied: give the class a get_config\(\)"):
        FORMAT.write(document, document.graph)


class Own(keras.Model):
    def call(self, x: Any) -> Any:
        return x


class Trained(keras.Model):
    """A functional model with a training step of its own."""

    def train_step(self, data: Any) -> Any:
        return {}


def test_functional_model_with_its_own_training_step() -> None:
    x = keras.Input((5,), name="x")
    agrees(randomized(Trained(x, L.Dense(2)(x))))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: keras.Sequential(name="s"), "Sequential model s has no layers: add some"),
        (lambda: keras.Sequential([L.Dense(2)], name="s"), "Sequential model s is not built, its input shape is unknown"),
        (lambda: Own(name="o"), r"model o \(Own\) runs its own call\(\) in Python"),
    ],
)
def test_models_that_are_no_graph(make: Any, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        FORMAT.read(make())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_name_their_layer(bad: float) -> None:
    model = chain((5,), L.Dense(3, name="fine"), L.Dense(2, name="broken"))
    kernel = model.layers[2].kernel
    kernel.assign(np.full((3, 2), bad, "f"))
    with pytest.raises(FormatError, match="6 of 6 values of kernel in layer broken are NaN or infinite"):
        FORMAT.read(model)


def test_weights_of_nested_models_and_wrappers_are_checked_too() -> None:
    inner = keras.Sequential([keras.Input((4, 3)), L.TimeDistributed(L.Dense(2, name="deep"))], name="inner")
    x = keras.Input((4, 3))
    model = keras.Model(x, inner(x))
    model.weights[0].assign(np.full((3, 2), np.nan, "f"))
    with pytest.raises(FormatError, match="layer deep are NaN or infinite"):
        FORMAT.read(model)


def test_arguments_besides_tensors_make_a_layer_foreign() -> None:
    x = keras.Input((5, 4, 3), name="x")
    norm = L.BatchNormalization(name="b")
    document = FORMAT.read(randomized(keras.Model(x, norm(x, training=True))))
    assert isinstance(op(document, "b"), Foreign)
    assert document.notes == ("b is carried through as it is: it is called with training=True",)
    assert isinstance(op(agrees(keras.Model(x, L.Dropout(0.5, name="d")(x, training=False))), "d"), Identity)


def test_layers_that_are_foreign_for_one_reason_are_told_together() -> None:
    x = y = keras.Input((4, 4, 3), name="x")
    for i, size in enumerate((2, 3, 4)):
        y = L.Conv2D(3, size, padding="same")(L.Maximum(name=f"m{i}")([y, L.LayerNormalization(name=f"n{i}")(y)]))
    told = agrees(keras.Model(x, y), tolerance=1e-5).notes
    assert "3 layers, m0 to m2, are carried through as they are: Maximum is no operation that decascade knows" in told
    assert len(told) == 2

    x = keras.Input((6,), name="x")
    parts = [L.Flatten()(L.Reshape((n, 1, 6 // n), name=f"r{n}")(x)) for n in (2, 3)]
    (told,) = agrees(keras.Model(x, L.Add()(parts))).notes
    assert told.startswith("2 layers, r2 to r3, are carried through as they are, r2 for one: it reshapes (6,) to ")


def test_masks_make_a_layer_foreign() -> None:
    x = keras.Input((5, 4), name="x")
    document = agrees(keras.Model(x, L.GlobalAveragePooling1D(name="g")(L.Masking(name="m")(x))))
    assert isinstance(op(document, "g"), Foreign)
    assert "g is carried through as it is: it is given a mask" in document.notes


@pytest.mark.parametrize("policy", ["mixed_float16", "float16", "bfloat16", "mixed_bfloat16", "float64"])
def test_dtype_policies(policy: str) -> None:
    x = keras.Input((6, 5, 3), name="x")
    y = L.ReLU(name="r", dtype=policy)(L.Conv2D(4, 3, name="c", dtype=policy)(x))
    model = randomized(keras.Model(x, y))
    tolerance = {"float64": 1e-6}.get(policy, 1e-2 if "b" in policy else 2e-3)
    document = agrees(model, tolerance=tolerance)
    assert document.graph.tensors["c"].dtype == policy.replace("mixed_", "")
    written = FORMAT.write(document, document.graph)
    assert written.get_layer("c").dtype_policy.name == policy


def test_integer_inputs() -> None:
    document = agrees(chain((5, 4, 3), L.Rescaling(1 / 255, name="s"), L.Conv2D(2, 3), dtype="uint8"))
    assert document.graph.tensors["x"].dtype == "uint8"
    assert isinstance(op(document, "s"), Affine)


def test_channels_first() -> None:
    order = {"data_format": "channels_first"}
    model = chain(
        (3, 8, 6), L.ZeroPadding2D(1, **order), L.BatchNormalization(axis=1), L.DepthwiseConv2D(3, **order),
        L.UpSampling2D(2, **order), L.Softmax(axis=1), L.PReLU(shared_axes=[2, 3]), L.Cropping2D(1, **order),
        L.GlobalAveragePooling2D(keepdims=True, **order), L.Flatten(**order), L.Dense(2),
    )
    document = FORMAT.read(model)
    assert document.graph.shape("x") == ("N", 3, 8, 6)
    assert not document.notes
    assert document.state.layout == "channels_first"
    last = document.graph.nodes[-1]
    assert isinstance(last.op, Dense)


def test_channels_first_flatten_orders() -> None:
    for order in ("channels_first", "channels_last"):
        x = keras.Input((3, 4, 2), name="x")
        y = L.Flatten(data_format=order)(L.ZeroPadding2D(1, data_format="channels_first")(x))
        agrees(keras.Model(x, y))


def test_channels_first_layers_against_keras() -> None:
    order = {"data_format": "channels_first"}
    x = keras.Input((3, 8, 6), name="x")
    y = L.UpSampling2D(2, **order)(L.Cropping2D(((1, 0), (2, 1)), **order)(L.ZeroPadding2D(((1, 2), (0, 3)), **order)(x)))
    y = L.PReLU(shared_axes=[2, 3])(L.BatchNormalization(axis=1)(L.Concatenate(axis=1)([y, y])))
    y = L.Dense(4)(L.Softmax(axis=1)(y))
    document = agrees(randomized(keras.Model(x, [y, L.GlobalAveragePooling2D(**order)(y)])), tolerance=5e-6)
    assert not document.notes


def test_the_model_is_not_touched() -> None:
    model = chain((6, 6, 3), L.Conv2D(4, 3, name="c"), L.ReLU(), L.Dense(2))
    before = model.to_json(), [w.copy() for w in model.get_weights()]
    document = FORMAT.read(model)
    written = FORMAT.write(document, document.graph)
    written.get_layer("c").kernel.assign(np.zeros((3, 3, 3, 4), "f"))
    run(document.graph, {"x": np.zeros((1, 3, 6, 6))})
    assert model.to_json() == before[0]
    for a, b in zip(model.get_weights(), before[1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_are_not_copied_to_float64() -> None:
    document = FORMAT.read(chain((6, 6, 3), L.Conv2D(4, 3, name="c"), L.Dense(2, name="d"), L.DepthwiseConv2D(3, name="w")))
    assert {op(document, n).weight.dtype for n in ("c", "d", "w")} == {np.dtype("float32")}


def test_compiled_model_is_said_to_be_uncompiled_afterwards() -> None:
    model = chain((5,), L.Dense(2))
    model.compile("sgd", "mse")
    assert FORMAT.read(model).notes == (
        "the model was compiled; the result is not: call compile() on it before training it further",
    )


def test_trainable_flags_and_names_stay() -> None:
    inner = keras.Sequential([keras.Input((6, 6, 3)), L.Conv2D(3, 1, name="frozen"), L.Conv2D(3, 1, name="free")], name="inner")
    inner.get_layer("frozen").trainable = False
    x = keras.Input((6, 6, 3), name="x")
    model = randomized(keras.Model(x, L.Dense(2, name="d")(inner(x)), name="whole"))
    document = agrees(model)
    written = FORMAT.write(document, document.graph)
    assert written.name == "whole"
    assert [w.path for w in written.trainable_weights] == [w.path for w in model.trainable_weights]
    model.trainable = False
    model.get_layer("d").trainable = True
    document = FORMAT.read(model)
    written = FORMAT.write(document, document.graph)
    assert not written.trainable
    assert [layer.trainable for layer in written.layers] == [layer.trainable for layer in model.layers]


def test_owns_models_alone() -> None:
    assert FORMAT.owns(chain((5,), L.Dense(2)))
    assert FORMAT.owns(Own())
    assert not FORMAT.owns(L.Dense(2))
    assert not FORMAT.owns("model.keras")


def test_deep_chain() -> None:
    model = keras.Sequential([keras.Input((2,)), *(L.Dense(2) for _ in range(60))])
    document = FORMAT.read(model)
    assert len(document.graph.nodes) == 60
    assert len(FORMAT.write(document, document.graph).layers) == 60


def test_layers_that_augment_do_not_when_interpreted() -> None:
    document = agrees(chain((8, 8, 3), L.RandomFlip(name="f"), L.RandomRotation(0.2), L.Conv2D(2, 3)), tolerance=1e-5)
    assert isinstance(op(document, "f"), Foreign)


def test_foreign_layers_can_be_interpreted() -> None:
    document = FORMAT.read(chain((5, 4), L.LSTM(3, name="l")))
    inputs = sample(document)
    found = run(document.graph, {"x": FORMAT.to_graph(document, "x", inputs["x"])})
    np.testing.assert_allclose(found["l"], FORMAT.run(document.native, inputs)["l"], rtol=1e-6)
