"""Keras files: every container, what Keras 2 wrote, what is refused before Keras sees it, and what is bad."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decascade.errors import FormatError, LimitExceededError, UnsafeModelError
from decascade.formats.keras.format import FORMAT
from decascade.ir.ops import Conv, Foreign
from formats.keras_cases import L, agrees, chain, keras, randomized, sample

h5py: Any = pytest.importorskip("h5py")


def small() -> Any:
    return chain((6, 6, 3), L.Conv2D(4, 3, name="c", activation="relu"), L.DepthwiseConv2D(2, name="w"), L.Dense(2, name="d"))


@pytest.fixture
def files(tmp_path: Path) -> Callable[[Any], list[Path]]:
    def saved(model: Any) -> list[Path]:
        paths = [tmp_path / f"model{extension}" for extension in (".keras", ".h5", ".hdf5")]
        for path in paths:
            FORMAT.save(model, path)
        return paths

    return saved


def test_every_container(files: Callable[[Any], list[Path]]) -> None:
    model = small()
    inputs = sample(FORMAT.read(model))
    for path in files(model):
        before = path.read_bytes()
        document = FORMAT.read(path)
        assert document.source == path
        assert path.read_bytes() == before
        assert [n.name for n in document.graph.nodes] == ["c", "c/relu", "w", "d"]
        np.testing.assert_array_equal(FORMAT.run(document.native, inputs)["d"], FORMAT.run(model, inputs)["d"])
        agrees(document.native, tolerance=1e-5)


def test_compiled_and_nested_compiled_models(files: Callable[[Any], list[Path]]) -> None:
    inner = small()
    inner.compile("sgd", "mse")
    x = keras.Input((6, 6, 3), name="x")
    model = keras.Model(x, inner(x))
    model.compile("adam", "mse")
    for path in files(model):
        assert not FORMAT.read(path).native.compiled


def test_how_a_nested_model_was_compiled_is_not_looked_up(tmp_path: Path) -> None:
    FORMAT.save(small(), tmp_path / "m.keras")
    config = config_of(tmp_path / "m.keras")
    loss = {"class_name": "MyLoss", "module": "my.losses", "config": {}, "registered_name": "MyLoss"}
    layer_of(config, "d")["compile_config"] = {"loss": loss}
    assert not FORMAT.read(with_config(tmp_path / "m.keras", config)).native.compiled


def test_layers_with_files_of_their_own(tmp_path: Path) -> None:
    lookup = L.StringLookup(vocabulary=["a", "b"], name="s")
    x, y = keras.Input((1,), dtype="string", name="text"), keras.Input((5, 5, 3), name="x")
    model = keras.Model([x, y], [lookup(x), L.Conv2D(2, 3, name="c")(y)])
    model.save(tmp_path / "m.keras")
    document = FORMAT.read(tmp_path / "m.keras")
    assert [type(n.op) for n in document.graph.nodes] == [Foreign, Conv]
    assert document.native.get_layer("s").get_vocabulary() == ["[UNK]", "a", "b"]


def config_of(path: Path) -> dict[str, Any]:
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json"))
    with h5py.File(path, "r") as file:
        return json.loads(file.attrs["model_config"])


def with_config(path: Path, config: Any, name: str = "") -> Path:
    """A copy of a file with another configuration."""
    target = path.with_name(name or f"changed{path.suffix}")
    text = config if isinstance(config, str) else json.dumps(config)
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(target, "w") as out:
            for entry in archive.namelist():
                out.writestr(entry, text if entry == "config.json" else archive.read(entry))
    else:
        shutil.copy(path, target)
        with h5py.File(target, "r+") as file:
            file.attrs["model_config"] = text
    return target


def layer_of(config: dict[str, Any], name: str) -> dict[str, Any]:
    return next(part for part in config["config"]["layers"] if part["config"]["name"] == name)


def keras_2(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration as Keras 2 wrote it: keys that Keras 3 refuses, shapes under another name."""
    for part in config["config"]["layers"]:
        inner = part["config"]
        if "Depthwise" in part["class_name"] or "Separable" in part["class_name"]:
            inner |= {"groups": 1, "kernel_initializer": "zeros", "kernel_regularizer": None, "kernel_constraint": None}
        if "batch_shape" in inner:
            inner["batch_input_shape"] = inner.pop("batch_shape")
    return config


def test_keras_2_configuration(files: Callable[[Any], list[Path]]) -> None:
    x = keras.Input((6, 6, 3), name="x")
    y = L.SeparableConv2D(3, 2, name="s")(L.DepthwiseConv2D(2, name="w")(x))
    model = randomized(keras.Model(x, L.BatchNormalization(name="b")(y)))
    inputs = sample(FORMAT.read(model))
    for path in files(model):
        old = keras_2(config_of(path))
        if path.suffix != ".keras":
            layer_of(old, "b")["config"]["axis"] = [3]
        document = FORMAT.read(with_config(path, old))
        np.testing.assert_array_equal(FORMAT.run(document.native, inputs)["b"], FORMAT.run(model, inputs)["b"])
        assert all(type(layer).__module__.startswith("keras.") for layer in document.native.layers)


@pytest.mark.parametrize("bare", [True, False])
def test_keras_2_sequential_without_an_input_layer(bare: bool, tmp_path: Path) -> None:
    model = randomized(keras.Sequential([keras.Input((6, 6, 3)), L.Conv2D(4, 3, name="c"), L.Dense(2, name="d")]))
    FORMAT.save(model, tmp_path / "m.h5")
    config = config_of(tmp_path / "m.h5")
    layers = config["config"]["layers"][1:]
    layers[0]["config"]["batch_input_shape"] = [None, 6, 6, 3]
    config["config"]["layers"] = layers
    config["config"].pop("build_input_shape", None)
    if bare:
        config["config"] = layers
    document = FORMAT.read(with_config(tmp_path / "m.h5", config))
    assert document.graph.inputs == ("c_input",)
    assert type(document.native) is keras.Sequential
    given = sample(document)["c_input"]
    name = model.inputs[0]._keras_history[0].name
    np.testing.assert_array_equal(
        FORMAT.run(document.native, {"c_input": given})["d"], FORMAT.run(model, {name: given})["d"]
    )


def evil(folder: Path) -> Callable[[Any], Any]:
    def function(x: Any) -> Any:
        (folder / "executed").touch()
        return x

    return function


def test_lambda_is_refused_and_not_run(files: Callable[[Any], list[Path]], tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    code = evil(tmp_path)
    x = keras.Input((3,), name="x")
    model = keras.Model(x, L.Lambda(lambda t: t + 1, output_shape=(3,), name="code")(x))
    assert code(1) == 1
    marker.unlink()
    for path in files(model):
        with pytest.raises(UnsafeModelError, match="layer code is a Lambda, Python code stored in the file; it was not run"):
            FORMAT.read(path)
    assert not marker.exists()


def changed(name: str, **fields: Any) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        layer_of(config, name).update(fields)

    return change


def inner(name: str, **fields: Any) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        layer_of(config, name)["config"].update(fields)

    return change


FN = {"class_name": "function", "registered_name": None}
UNSAFE: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "lambda in a field": (
        inner("c", activation={"class_name": "__lambda__", "config": {"value": "x"}}), "is a Lambda, Python code stored"),
    "module of another package": (
        changed("d", module="os", class_name="system"), "layer d is of class os.system, which is not Keras' own"),
    "function of another package": (
        inner("c", activation={**FN, "module": "os", "config": "system"}), "of class os.system, which is not Keras' own"),
    "function of keras.utils": (
        inner("c", activation={**FN, "module": "keras.utils", "config": "get_file"}), "of class keras.utils.get_file"),
    "class of keras.src.utils": (
        changed("d", module="keras.src.utils.file_utils", class_name="File"), "of class keras.src.utils.file_utils.File"),
    "look-alike package": (changed("d", module="keras_evil.layers"), "of class keras_evil.layers.Dense"),
    "own layer": (
        changed("d", module=None, registered_name="mine>Own", class_name="Own"),
        "layer d is of class mine>Own, which is not Keras' own, and no module was imported to find it: load the model "
        r"yourself with keras.saving.load_model\(path, custom_objects=...\) and pass the live model"),
    "own layer of a script": (changed("d", module="__main__", class_name="Own"), "layer d is of class __main__.Own"),
    "TensorFlow operation": (changed("d", class_name="TFOpLambda"), "layer d \\(TFOpLambda\\) calls a TensorFlow function"),
    "SavedModel": (changed("d", class_name="TFSMLayer"), "layer d \\(TFSMLayer\\) runs a program from outside the file"),
    "torch module": (changed("d", class_name="TorchModuleWrapper"), "layer d \\(TorchModuleWrapper\\) runs a program"),
    "vocabulary in another file": (
        changed("d", class_name="StringLookup", config={"name": "d", "vocabulary": "/etc/passwd"}),
        "layer d reads its vocabulary from '/etc/passwd', outside the model file"),
    "vocabulary in the archive": (
        changed("d", class_name="IntegerLookup", config={"name": "d"}),
        "layer d has its vocabulary in a file of its own, which is not unpacked: load the model yourself"),
    "layer that reads files": (
        changed("d", class_name="TextVectorization"),
        "layer d is of class (keras.layers.)?TextVectorization, which is not (among those that are built|Keras' own)"),
    "class as a function": (
        inner("c", activation={**FN, "module": "keras.layers", "config": "TFSMLayer"}),
        "layer c: its activation is of class keras.layers.TFSMLayer, which is not among those that are built from a file"),
    "dotted name of the module keras": (
        changed("d", module="keras", class_name="datasets.mnist.load_data"), "is of class keras.datasets.mnist.load_data"),
    "dotted name as a function": (
        inner("c", activation={**FN, "module": "keras", "config": "datasets.mnist.load_data"}), "datasets.mnist.load_data"),
    "registered name": (changed("d", registered_name="builtins>exec"), "layer d is of class builtins>exec, which is not"),
    "a layer in a wrapper": (
        changed("d", class_name="TimeDistributed", config={"layer": {"class_name": "Lambda", "config": {"name": "l"}}}),
        "layer l is a Lambda"),
    "a cell": (
        changed("d", class_name="RNN", config={"name": "d", "cell": {"class_name": "Cell", "module": "os", "config": {}}}),
        "is of class os.Cell"),
    "an object among numbers": (
        inner("c", strides={"class_name": "function", "module": "os", "config": "system"}), "is of class os.function"),
    "a call without a tensor": (
        changed("d", inbound_nodes=[{"args": [3], "kwargs": {}}]), "layer d is called without a tensor, so that it would run"),
    "an empty call": (changed("d", inbound_nodes=[[]]), "layer d is called without a tensor"),
    "a function among the arguments of a call": (
        changed("d", inbound_nodes=[{"args": [{**FN, "module": "os", "config": "system"}], "kwargs": {}}]),
        "layer d is of class os.function|is of class os.function"),
    "a name among the arguments of a call": (
        changed("d", inbound_nodes=[{"args": [], "kwargs": {"mode": "mine"}}]), "layer d is called with the name 'mine'"),
    **{f"operation {name}": (
        changed("d", module=f"keras.src.ops.{module}", class_name=name), f"layer d is of class keras.src.ops.{module}.{name}")
       for module, name in (("core", "Map"), ("core", "Scan"), ("core", "Switch"), ("core", "Cond"), ("core", "WhileLoop"),
                            ("core", "ForiLoop"), ("core", "AssociativeScan"), ("core", "VectorizedMap"), ("linalg", "JVP"),
                            ("function", "Function"), ("operation", "Operation"), ("numpy", "Vectorize"))},
}


@pytest.mark.parametrize("row", UNSAFE)
@pytest.mark.parametrize("extension", [".keras", ".h5"])
def test_executable_content_is_refused(row: str, extension: str, tmp_path: Path) -> None:
    change, words = UNSAFE[row]
    FORMAT.save(small(), tmp_path / f"m{extension}")
    config = config_of(tmp_path / f"m{extension}")
    change(config)
    path = with_config(tmp_path / f"m{extension}", config)
    with pytest.raises(UnsafeModelError, match=words) as refused:
        FORMAT.read(path)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(str(path))


def test_unknown_class_in_an_old_file(tmp_path: Path) -> None:
    FORMAT.save(small(), tmp_path / "m.h5")
    config = config_of(tmp_path / "m.h5")
    layer_of(config, "d")["class_name"] = "MyDense"
    for key in ("module", "registered_name"):
        layer_of(config, "d").pop(key, None)
    with pytest.raises(UnsafeModelError, match="layer d is of class MyDense, which is not Keras' own"):
        FORMAT.read(with_config(tmp_path / "m.h5", config))


@keras.saving.register_keras_serializable("tests")
class Registered(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return x * 3


def test_registered_classes_are_not_looked_up_by_names_in_a_file(files: Callable[[Any], list[Path]]) -> None:
    model = chain((5,), Registered(name="r"), L.Dense(2))
    assert isinstance(FORMAT.read(model).graph.nodes[0].op, Foreign)
    for path in files(model):
        with pytest.raises(UnsafeModelError, match="layer r is of class tests>Registered, which is not Keras' own"):
            FORMAT.read(path)


@pytest.mark.parametrize("extension", [".keras", ".h5"])
def test_what_inference_does_not_need_is_not_read(extension: str, tmp_path: Path) -> None:
    evil: dict[str, Any] = {"class_name": "__lambda__", "module": "os", "config": {}, "registered_name": "x"}
    FORMAT.save(small(), tmp_path / f"m{extension}")
    config = config_of(tmp_path / f"m{extension}")
    layer_of(config, "c")["config"].update(kernel_initializer=evil, kernel_regularizer=evil, bias_constraint=evil)
    layer_of(config, "d").update(build_config=evil, compile_config=evil)
    config["compile_config"] = evil
    document = FORMAT.read(with_config(tmp_path / f"m{extension}", config))
    assert not document.native.compiled
    assert document.native.get_layer("c").kernel_regularizer is None


@pytest.mark.parametrize("extension", [".keras", ".h5"])
@pytest.mark.parametrize("size", [2**31, 2**62, -(2**62), 10**400])
def test_sizes_beyond_all_limits(extension: str, size: int, tmp_path: Path) -> None:
    FORMAT.save(small(), tmp_path / f"m{extension}")
    call = changed("c", inbound_nodes=[{"args": [size], "kwargs": {}}])
    for change in (inner("d", units=size), inner("c", filters=size), call):
        config = config_of(tmp_path / f"m{extension}")
        change(config)
        with pytest.raises(LimitExceededError, match=r"layer [cd] has the number .* beyond the limit of 2,147,483,648"):
            FORMAT.read(with_config(tmp_path / f"m{extension}", config))


@pytest.mark.parametrize("extension", [".keras", ".h5"])
def test_stated_shapes(extension: str, tmp_path: Path) -> None:
    FORMAT.save(small(), tmp_path / f"m{extension}")
    config = config_of(tmp_path / f"m{extension}")
    entry = config["config"]["layers"][0]["config"]
    entry["batch_shape"] = [None, 0, 6, 3]
    with pytest.raises(FormatError, match=r"states the shape \[None, 0, 6, 3\]: give sizes of at least 1, or None where open"):
        FORMAT.read(with_config(tmp_path / f"m{extension}", config))
    entry["batch_shape"] = [None, 1 << 20, 1 << 20, 3]
    with pytest.raises(LimitExceededError, match=r"3,298,534,883,328 numbers, more than the limit of 2,147,483,648"):
        FORMAT.read(with_config(tmp_path / f"m{extension}", config))


@pytest.mark.parametrize("extension", [".keras", ".h5"])
def test_models_in_models_end(extension: str, tmp_path: Path) -> None:
    FORMAT.save(small(), tmp_path / f"m{extension}")
    config: dict[str, Any] = {"class_name": "Dense", "config": {"units": 2}}
    for _ in range(40):
        config = {"class_name": "Sequential", "config": {"name": "s", "layers": [config]}}
    with pytest.raises(LimitExceededError, match=r"nested more than 64 deep \(limit nesting\)"):
        FORMAT.read(with_config(tmp_path / f"m{extension}", config))


ATTACKS = [
    ("function", {**FN, "module": "keras.layers", "config": "TFSMLayer"}),
    ("class", {"module": "keras.src.utils.file_utils", "class_name": "get_file", "config": {"origin": "file:///etc/passwd"}}),
    ("import", {"module": "keras.canary", "class_name": "Canary", "config": {}, "registered_name": "Canary"}),
]
WATCH = """
import sys, pathlib
from decascade.errors import FormatError
from decascade.formats.keras.format import FORMAT
import keras
FORMAT.read(pathlib.Path(sys.argv[1]))
seen = []
def watch(event, arguments):
    text = str(arguments[0]) if arguments else ""
    if event == "import" and "canary" in text:
        seen.append((event, text))
    if event in ("os.system", "subprocess.Popen", "socket.connect", "os.mkdir", "exec", "marshal.loads", "pickle.find_class"):
        if event != "subprocess.Popen" or "-I" not in str(arguments[1]):
            if event != "exec" or "marshal" in text:
                seen.append((event, text))
sys.addaudithook(watch)
for path in sys.argv[2:]:
    try:
        FORMAT.read(pathlib.Path(path))
        seen.append(("loaded", path))
    except FormatError:
        pass
print(seen)
"""


@pytest.mark.parametrize("extension", [".keras", ".h5"])
def test_nothing_runs_and_nothing_is_imported(extension: str, tmp_path: Path) -> None:
    FORMAT.save(small(), tmp_path / f"m{extension}")
    paths = list[str]()
    for row, (_, attack) in enumerate(ATTACKS):
        for number, change in enumerate((inner("c", activation=attack), changed("d", **attack), inner("c", strides=attack))):
            config = config_of(tmp_path / f"m{extension}")
            change(config)
            paths.append(str(with_config(tmp_path / f"m{extension}", config, f"bad{row}{number}{extension}")))
    command = [sys.executable, "-W", "ignore", "-c", WATCH, str(tmp_path / f"m{extension}"), *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip().splitlines()[-1:] == ["[]"], done.stdout[-2000:] + done.stderr[-2000:]


def linked(path: Path, kind: str) -> None:
    with h5py.File(path, "r+") as file:
        group = file["model_weights/c"]
        if kind == "external link":
            group["other"] = h5py.ExternalLink("/etc/passwd", "/x")
        elif kind == "soft link":
            group["other"] = h5py.SoftLink("/model_weights/d")
        elif kind == "external data":
            group.create_dataset("other", (4,), "u1", external=[("/etc/passwd", 0, 4)])
        else:
            layout = h5py.VirtualLayout((4,), "f4")
            layout[:] = h5py.VirtualSource("/tmp/other.h5", "x", (4,))
            group.create_virtual_dataset("other", layout)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("external link", "/model_weights/c/other links to another file, '/etc/passwd': not followed"),
        ("soft link", "/model_weights/c/other is a symbolic link to '/model_weights/d': not followed"),
        ("external data", "the data of /model_weights/c/other lie in other files: not read"),
        ("virtual data", "the data of /model_weights/c/other lie in other files: not read"),
    ],
)
def test_links_out_of_the_file(kind: str, words: str, tmp_path: Path) -> None:
    FORMAT.save(small(), tmp_path / "m.h5")
    linked(tmp_path / "m.h5", kind)
    with pytest.raises(UnsafeModelError, match=words):
        FORMAT.read(tmp_path / "m.h5")


def test_hard_link_in_a_circle_ends(tmp_path: Path) -> None:
    FORMAT.save(small(), tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        file["model_weights/round"] = file["model_weights"]
    assert FORMAT.read(tmp_path / "m.h5").graph.outputs == ("d",)


def test_links_in_an_archive(tmp_path: Path) -> None:
    FORMAT.save(small(), tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        archive.extractall(tmp_path)
    with h5py.File(tmp_path / "model.weights.h5", "r+") as file:
        file["layers/other"] = h5py.ExternalLink("/etc/passwd", "/x")
    path = packed(tmp_path, "config.json", "metadata.json", "model.weights.h5")
    with pytest.raises(UnsafeModelError, match="/layers/other links to another file, '/etc/passwd': not followed"):
        FORMAT.read(path)


def packed(folder: Path, *names: str, **more: bytes) -> Path:
    with zipfile.ZipFile(folder / "packed.keras", "w") as archive:
        for name in names:
            archive.write(folder / name, name)
        for name, content in more.items():
            archive.writestr(name, content)
    return folder / "packed.keras"


def test_entry_that_points_outside_the_archive(tmp_path: Path) -> None:
    FORMAT.save(small(), tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras", "a") as archive:
        archive.writestr("assets/../../evil", b"x")
    with pytest.raises(UnsafeModelError, match=r"its entry 'assets/../../evil' points outside the archive: it was not"):
        FORMAT.read(tmp_path / "m.keras")


BAD: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "h5 that is a zip": (".h5", lambda _: b"PK\x03\x04 and so on", "is a zip archive, not HDF5: if Keras 3 wrote it"),
    "keras that is HDF5": (".keras", lambda _: b"\x89HDF\r\n\x1a\n....", "is HDF5, not a Keras 3 archive: rename it to bad.h5"),
    "text": (".h5", lambda _: b"hello", "holds no HDF5 data: it is truncated, or of another format than its name says"),
    "text as archive": (".keras", lambda _: b"hello", "holds no zip archive: it is truncated"),
    "empty": (".keras", lambda _: b"", "is empty"),
    "h5 cut": (".h5", lambda good: good[: len(good) // 2], "reading the HDF5 file \\(is it complete\\?\\) failed"),
    "h5 cut at the end": (".h5", lambda good: good[:-100], "reading the HDF5 file \\(is it complete\\?\\) failed"),
    "keras cut": (".keras", lambda good: good[: len(good) // 2], "is damaged or cut short \\(File is not a zip file\\)"),
    "keras scrambled": (".keras", lambda good: good[:3000] + b"\xff" * 2000 + good[5000:], "failed|damaged"),
}


@pytest.mark.parametrize("row", BAD)
def test_bad_file(row: str, tmp_path: Path) -> None:
    extension, make, words = BAD[row]
    FORMAT.save(small(), tmp_path / f"good{extension}")
    bad = tmp_path / f"bad{extension}"
    bad.write_bytes(make((tmp_path / f"good{extension}").read_bytes()))
    with pytest.raises(FormatError, match=words) as refused:
        FORMAT.read(bad)
    assert "\n" not in str(refused.value)


def test_missing_file() -> None:
    with pytest.raises(FormatError, match="does not exist"):
        FORMAT.read(Path("nowhere.keras"))


def test_weights_without_a_model(tmp_path: Path) -> None:
    small().save_weights(tmp_path / "m.weights.h5")
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["layer_names"] = [b"c"]
    for name in ("m.weights.h5", "old.h5"):
        words = rf"holds weights only, no model: build the model in Python, call its load_weights\('{name}'\) and pass the"
        with pytest.raises(FormatError, match=words):
            FORMAT.read(tmp_path / name)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(FormatError, match=r"is an HDF5 file without a Keras model \(no model_config\)"):
        FORMAT.read(tmp_path / "data.h5")


@pytest.mark.parametrize("extension", [".keras", ".h5"])
@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{ not json", "the model's configuration is not readable JSON"),
        ("[" * 100_000, "the model's configuration is not readable JSON"),
        ('{"class_name": "Functional", "config": ' + '{"a": ' * 900 + "1" + "}" * 901, "limit nesting|not readable JSON"),
        ('{"class_name": ["Functional"], "config": {"layers": []}}', "failed|the model is of class"),
        ("[1, 2]", "its configuration describes no Keras model: save it again with model.save"),
        ('{"class_name": "Functional", "config": {"name": "m", "layers": [{}]}}', "building the model with Keras failed"),
        ('{"class_name": "Dense", "config": {"name": "m", "units": 3, "trainable": true}}', "model|weights"),
    ],
)
def test_bad_configuration(extension: str, config: str, words: str, tmp_path: Path) -> None:
    FORMAT.save(small(), tmp_path / f"m{extension}")
    with pytest.raises(FormatError, match=words) as refused:
        FORMAT.read(with_config(tmp_path / f"m{extension}", config))
    assert "\n" not in str(refused.value)


def test_archive_without_its_parts(tmp_path: Path) -> None:
    FORMAT.save(small(), tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        archive.extractall(tmp_path)
    with pytest.raises(FormatError, match=r"is a zip archive without config.json: no Keras 3 model"):
        FORMAT.read(packed(tmp_path, "model.weights.h5"))
    with pytest.raises(FormatError, match=r"holds a model without model.weights.h5: save it again"):
        FORMAT.read(packed(tmp_path, "config.json"))


@pytest.mark.parametrize("extension", [".keras", ".h5"])
def test_weights_that_do_not_fit(extension: str, tmp_path: Path) -> None:
    FORMAT.save(small(), tmp_path / f"m{extension}")
    config = config_of(tmp_path / f"m{extension}")
    layer_of(config, "d")["config"]["units"] = 7
    with pytest.raises(FormatError, match="failed") as refused:
        FORMAT.read(with_config(tmp_path / f"m{extension}", config))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("extension", [".keras", ".h5"])
def test_weights_that_are_not_finite(extension: str, tmp_path: Path) -> None:
    model = small()
    model.get_layer("w").bias.assign(np.array([0, np.inf, 0, np.nan], "f"))
    FORMAT.save(model, tmp_path / f"m{extension}")
    with pytest.raises(FormatError, match=r"m\.\w+: 2 of 4 values of bias in layer w are NaN or infinite"):
        FORMAT.read(tmp_path / f"m{extension}")


ALONE = """
import sys
sys.path = [p for p in sys.path if "src" not in p.split("/")]
import warnings, numpy as np, keras
try:
    import decascade
    sys.exit("decascade is there")
except ImportError:
    pass
data = np.load(sys.argv[1])
for path in sys.argv[2:]:
    model = keras.saving.load_model(path, compile=False)
    out = np.asarray(model.predict_on_batch(data["x"]))
    assert np.allclose(out, data["y"], rtol=1e-5, atol=1e-6), path
    assert model.output_names == ["d"] and model.inputs[0].name == "x"
print("same")
"""


def test_written_files_need_no_decascade(tmp_path: Path) -> None:
    from formats.test_keras_write import every_new_kind

    document, graph = every_new_kind()
    model = FORMAT.write(document, graph)
    x = sample(document)["x"]
    np.savez(tmp_path / "data.npz", x=x, y=FORMAT.run(model, {"x": x})["d"])
    paths = [tmp_path / "m.keras", tmp_path / "m.h5"]
    for path in paths:
        FORMAT.save(model, path)
    command = [sys.executable, "-I", "-W", "ignore", "-c", ALONE, str(tmp_path / "data.npz"), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.strip().endswith("same"), done.stderr[-2000:]


def test_operations_in_an_hdf5_file(tmp_path: Path) -> None:
    """`x + y` and `x * 2` are stored as "Add" and "Multiply", without a module: not the layers of these names."""
    entry = keras.Input((6, 6, 2))
    x = L.Conv2D(2, 1)(entry)
    model = randomized(keras.Model(entry, (x + entry) * 2.0 + L.Add()([x, entry])))
    model.save(tmp_path / "m.h5")
    read = FORMAT.read(tmp_path / "m.h5").native
    given = sample(FORMAT.read(model))
    np.testing.assert_array_equal(*(next(iter(FORMAT.run(m, given).values())) for m in (model, read)))
