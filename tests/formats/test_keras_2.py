"""Files that Keras 2 wrote (keras_2/make.py), against what Keras 2 computed; and the calls and names that are refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decascade.errors import FormatError, UnsafeModelError
from decascade.formats.keras.by_name import translated
from decascade.formats.keras.format import FORMAT
from decascade.formats.keras.mend import check_meaning, mended
from decascade.ir.ops import Foreign

h5py: Any = pytest.importorskip("h5py")
FOLDER = Path(__file__).parent / "keras_2"
FILES = [f"{name}{ending}" for name in ("calls", "layers", "sequence") for ending in (".h5", ".keras")]


@pytest.mark.parametrize("file", FILES)
def test_same_function_as_keras_2(file: str) -> None:
    document = FORMAT.read(FOLDER / file)
    saved = np.load((FOLDER / file).with_suffix(".npz"))
    (name,) = document.graph.inputs
    found = FORMAT.run(document.native, {name: saved["x"]})
    assert len(found) == len(saved.files) - 1
    for i, output in enumerate(document.graph.outputs):
        expected = saved[f"output_{i}"]
        # divisions are read as products with the reciprocal, which moves last bits
        np.testing.assert_allclose(found[output], expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def test_calls_are_understood_where_their_layers_are() -> None:
    document = FORMAT.read(FOLDER / "calls.h5")
    carried = {n.name for n in document.graph.nodes if isinstance(n.op, Foreign)}
    assert carried == {"tf.math.maximum", "tf.reshape", "tf.compat.v1.transpose", "tf.image.resize", "tf.image.resize_1"}


@pytest.mark.parametrize("file", FILES)
def test_what_is_read_can_be_written(file: str, tmp_path: Path) -> None:
    document = FORMAT.read(FOLDER / file)
    FORMAT.save(document.native, tmp_path / file)
    again = FORMAT.read(tmp_path / file)
    x = {document.graph.inputs[0]: np.load((FOLDER / file).with_suffix(".npz"))["x"]}
    for before, after in zip(FORMAT.run(document.native, x).values(), FORMAT.run(again.native, x).values(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_names_without_slashes_stay_apart() -> None:
    # "inner/net" becomes inner_net, which another layer has already
    names = [layer.name for layer in FORMAT.read(FOLDER / "layers.h5").native.layers]
    assert {"in_x", "inner_net", "inner_net_", "up_conv"} <= set(names)


def call(function: str, *first: Any, **options: Any) -> dict[str, Any]:
    """A model whose layer `f` calls a function; `first`: the tensors or the number that come first."""
    rows = [[v, 0, 0, options] if isinstance(v, str) else ["_CONSTANT_VALUE", -1, v, options] for v in first]
    node = rows[0] if len(rows) == 1 else rows
    f = {"class_name": "TFOpLambda", "name": "f", "config": {"name": "f", "function": function}, "inbound_nodes": [node]}
    return {"class_name": "Functional", "config": {"name": "m", "layers": [f]}}


def sequential(part: dict[str, Any]) -> dict[str, Any]:
    return {"class_name": "Sequential", "config": {"layers": [part]}}


def layer(config: dict[str, Any]) -> dict[str, Any]:
    return config["config"]["layers"][0]


KNOWN: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "number first": (call("math.subtract", 2.0, y=["a", 0, 0]), "Rescaling", {"scale": -1.0, "offset": 2.0}),
    "number second": (call("math.subtract", "a", y=2), "Rescaling", {"scale": 1.0, "offset": -2.0}),
    "division": (call("math.truediv", "a", y=4), "Rescaling", {"scale": 0.25, "offset": 0.0}),
    "two tensors": (call("math.minimum", "a", y=["b", 0, 0]), "Minimum", {}),
    "keepdims": (call("math.reduce_mean", "a", axis=[1, 2], keepdims=True), "GlobalAveragePooling2D",
                 {"keepdims": True, "data_format": "channels_last"}),
    "one dimension": (call("pad", "a", paddings=[[0, 0], [2, 1], [0, 0]]), "ZeroPadding1D", {"padding": [2, 1]}),
}


@pytest.mark.parametrize("row", KNOWN)
def test_known_calls(row: str) -> None:
    config, kind, own = KNOWN[row]
    found, names = translated(config)
    part = layer(found)
    assert (part["class_name"], part["config"], names) == (kind, {"name": "f", **own}, {"f"})
    assert all(reference[3] == {} for node in part["inbound_nodes"] for reference in node)
    assert layer(config)["class_name"] == "TFOpLambda"


REFUSED: dict[str, dict[str, Any]] = {
    "another function": call("io.read_file", "a"),
    "a function of Python": call("__import__", "os"),
    "no function": {**call("x", "a"), "config": {"layers": [{"class_name": "TFOpLambda", "config": {"name": "f"}}]}},
    "division by nought": call("math.truediv", "a", y=0),
    "a number by a tensor": call("math.truediv", 1.0, y=["a", 0, 0]),
    "a table of numbers": call("math.add", "a", y=[1.0, 2.0, 3.0]),
    "not a number": call("math.add", "a", y=float("nan")),
    "infinite": call("math.multiply", float("inf"), y=["a", 0, 0]),
    "beyond all floats": call("math.multiply", "a", y=10**400),
    "a truth value": call("math.multiply", "a", y=True),
    "two numbers": call("math.add", 1.0, y=2.0),
    "an argument that is unknown": call("nn.relu", "a", other=1),
    "clip from below nought": call("clip_by_value", "a", clip_value_min=-1.0, clip_value_max=1.0),
    "larger than another number": call("math.maximum", "a", y=1.0),
    "reflected padding": call("pad", "a", paddings=[[0, 0], [1, 1], [1, 1], [0, 0]], mode="REFLECT"),
    "padded channels": call("pad", "a", paddings=[[0, 0], [1, 1], [1, 1], [0, 1]]),
    "padding of -1": call("pad", "a", paddings=[[0, 0], [-1, 1], [1, 1], [0, 0]]),
    "mean over channels": call("math.reduce_mean", "a", axis=[3]),
    "mean over all": call("math.reduce_mean", "a"),
    "batch joined": call("concat", "a", "b", axis=0),
    "one tensor joined": call("concat", "a", axis=1),
    "pool of one number": call("nn.max_pool2d", "a", ksize=[2], strides=2, padding="SAME"),
    "pool with explicit padding": call("nn.max_pool2d", "a", ksize=2, strides=2, padding=[[0, 0], [1, 1], [1, 1], [0, 0]]),
    "channels first": call("nn.avg_pool2d", "a", ksize=2, strides=2, padding="SAME", data_format="NCHW"),
    "cubic": call("image.resize", "a", size=[4, 4], method="bicubic"),
    "antialiased": call("image.resize", "a", size=[4, 4], antialias=True),
    "batch reshaped": call("reshape", "a", shape=[4, -1]),
    "two unknown sizes": call("reshape", "a", shape=[-1, -1, 4]),
    "batch moved": call("compat.v1.transpose", "a", perm=[1, 0, 2]),
    "axes twice": call("compat.v1.transpose", "a", perm=[0, 1, 1]),
    "slope of no number": call("nn.leaky_relu", "a", alpha=["b", 0, 0]),
}


@pytest.mark.parametrize("row", REFUSED)
def test_other_calls_are_left_and_refused(row: str, tmp_path: Path) -> None:
    config = REFUSED[row]
    found, names = translated(config)
    assert found == config or row == "not a number"
    assert not names
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["model_config"] = json.dumps(config)
    words = r"layer f \(TFOpLambda\) calls a TensorFlow function by name, which was not run; Keras 3 does not know it, and"
    with pytest.raises(UnsafeModelError, match=words):
        FORMAT.read(tmp_path / "m.h5")


@pytest.mark.parametrize("nodes", [
    None, [], {}, [[]], [None], [[[]]], [["a", 0, 0]], [["a", 0, 0, None]], [[["a", 0, 0, {}], 1]],
    [["_CONSTANT_VALUE", -1, [1.0], {"y": ["a", 0, 0]}]], [["a", 0, 0, {}], ["b", 0, 0, {}]],
])
def test_references_of_other_forms_are_left(nodes: Any) -> None:
    config = call("__operators__.add", "a", y=["b", 0, 0])
    layer(config)["inbound_nodes"] = nodes
    assert translated(config) == (config, set())


def test_ranks_that_differ_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    path.write_bytes((FOLDER / "calls.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        # what was added to a is a mean of it
        by_name = {part["name"]: part for part in config["config"]["layers"]}
        by_name["c1"] |= {"class_name": "GlobalAveragePooling2D", "config": {"name": "c1"}}
        del file.attrs["model_config"]
        file.attrs["model_config"] = json.dumps(config)
    words = r"m.h5: layer tf.__operators__.add combines tensors of 2 and 4 axes, which TensorFlow and Keras line up differently"
    with pytest.raises(FormatError, match=words):
        FORMAT.read(path)


@pytest.mark.parametrize("activation", ["hard_sigmoid", {"class_name": "function", "config": "hard_sigmoid"}])
@pytest.mark.parametrize("key", ["activation", "recurrent_activation"])
def test_hard_sigmoid_was_another_function(activation: Any, key: str) -> None:
    config = sequential({"class_name": "Dense", "config": {"name": "d", key: activation}})
    words = r"m.h5: layer d uses hard_sigmoid of Keras 2.10.0, clip\(0.2 x \+ 0.5, 0, 1\), by which name Keras 3 knows another"
    with pytest.raises(FormatError, match=words):
        check_meaning(config, "2.10.0", "m.h5")
    check_meaning(config, "3.5.0", "m.h5")


@pytest.mark.parametrize("ending", [".h5", ".keras"])
def test_hard_sigmoid_in_a_file(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"m{ending}"
    if ending == ".h5":
        path.write_bytes((FOLDER / "sequence.h5").read_bytes())
        with h5py.File(path, "r+") as file:
            text = file.attrs["model_config"].replace('"activation": "linear"', '"activation": "hard_sigmoid"')
            del file.attrs["model_config"]
            file.attrs["model_config"] = text
    else:
        with zipfile.ZipFile(FOLDER / "sequence.keras") as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist():
                new.writestr(name, old.read(name).replace(b'"activation": "linear"', b'"activation": "hard_sigmoid"'))
    with pytest.raises(FormatError, match="uses hard_sigmoid of Keras 2"):
        FORMAT.read(path)


def test_other_values_of_gone_keys_stay() -> None:
    # so that Keras says what it does not know
    for name, inner in (("Conv2DTranspose", {"groups": 2}), ("LSTM", {"time_major": True})):
        assert mended({"class_name": name, "config": inner})["config"] == inner


def test_a_nested_sequential_of_keras_3_keeps_its_calls() -> None:
    twice = [[["x", 0, 0, {}]], [["x", 0, 0, {}]]]
    nested = {"class_name": "Sequential", "name": "s", "config": {"name": "s"}, "inbound_nodes": twice}
    config = {"class_name": "Functional", "config": {"layers": [nested], "output_layers": [["s", 0, 0], ["s", 1, 0]]}}
    assert mended(config)["config"]["output_layers"] == [["s", 0, 0], ["s", 1, 0]]
