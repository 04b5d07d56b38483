"""Bad input: one line that says what is wrong, and nothing outside the model's folder is ever read."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from decascade.errors import FormatError, UnsafeModelError, UsageError
from decascade.formats.files import checked_container
from decascade.formats.onnx import run as onnx_run
from decascade.formats.onnx.format import FORMAT
from decascade.formats.registry import format_of
from formats.onnx_cases import DOUBLE, HALF, N, model, numbers, ops, sample


def good() -> Any:
    weights = {"w": numbers(30, 3, 3, 3), "b": numbers(30)}
    return model([N("Conv", ["x", "w", "b"], ["t"]), N("Relu", ["t"], ["y"])], ("N", 3, 5, 5), weights)


def refused(source: Any, words: str, kind: type[FormatError] = FormatError) -> None:
    with pytest.raises(kind, match=re.escape(words)) as caught:
        FORMAT.read(source)
    assert "\n" not in str(caught.value)


def test_missing_empty_and_folder(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx", "none.onnx does not exist: check the name")
    (tmp_path / "empty.onnx").touch()
    refused(tmp_path / "empty.onnx", "empty.onnx is empty: the model was not written, or not fetched, to its end")
    (tmp_path / "folder.onnx").mkdir()
    refused(tmp_path / "folder.onnx", "folder.onnx is a folder: give the model file in it")
    refused(tmp_path / "nul\0.onnx", "nul")
    os.mkfifo(tmp_path / "pipe.onnx")
    refused(tmp_path / "pipe.onnx", "pipe.onnx is not a regular file: give a model file")


def test_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(good(), path)

    def closed(self: Path, *args: Any, **kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", closed)
    refused(path, "m.onnx cannot be read: Permission denied")


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.999])
def test_truncated(share: float, tmp_path: Path) -> None:
    data = good().SerializeToString()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, "cut.onnx is no ONNX model, or is truncated: it does not parse as one")


OTHERS: dict[str, tuple[bytes, str]] = {
    "hdf5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 64, "holds no ONNX model but HDF5 data (a Keras .h5 file?)"),
    "zip": (b"PK\x03\x04" + b"\0" * 64, "holds no ONNX model but a zip archive (a .keras or .pt2 file?)"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "holds no ONNX model but a git-lfs pointer"),
    "gzip": (b"\x1f\x8b\x08" + b"\0" * 64, "holds no ONNX model but gzip data: unpack it first"),
    "pickle": (b"\x80\x02}q\0.", "holds no ONNX model but a pickle, which is never loaded"),
    "html": (b"<!DOCTYPE html><html></html>", "holds no ONNX model but an HTML page: the download went wrong"),
    "noise": (bytes(range(255, 0, -1)) * 4, "is no ONNX model, or is truncated"),
    "text": (b"just some words in a file\n", "is no ONNX model, or is truncated"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_formats(case: str, tmp_path: Path) -> None:
    data, words = OTHERS[case]
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    refused(path, f"m.onnx {words}")


def test_containers_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "b")
    assert checked_container(path, "zip") == path
    with pytest.raises(FormatError, match="holds no HDF5 data but a zip archive"):
        checked_container(path, "hdf5")
    path.write_bytes(b"something")
    with pytest.raises(FormatError, match="holds no HDF5 data: it is truncated, or of another format than its name says"):
        checked_container(path, "hdf5")
    with pytest.raises(FormatError, match="holds no zip archive: it is truncated"):
        checked_container(path, "zip")


def test_protobufs_that_are_no_model(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    empty = onnx.ModelProto(ir_version=8)
    path.write_bytes(empty.SerializeToString())
    refused(path, "m.onnx holds no ONNX graph: it is another protobuf, or damaged")
    refused(empty, "the model holds no ONNX graph: it is another protobuf, or damaged")
    hollow = good()
    hollow.graph.ClearField("node")
    path.write_bytes(hollow.SerializeToString())
    refused(path, "m.onnx has a graph without a node: there is nothing to run in it")


def test_opsets() -> None:
    old = good()
    old.opset_import[0].version = 6
    refused(old, "the model states opset 6: convert it to opset 7 or later (onnx.version_converter)")
    del old.opset_import[:]
    refused(old, "the model states no opset: convert it to opset 7 or later")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["w", "b"])
def test_weights_that_are_not_finite(name: str, value: float, dtype: Any) -> None:
    proto = good()
    tensor = proto.graph.initializer["wb".index(name)]
    broken = numpy_helper.to_array(tensor).astype(dtype)
    broken.flat[7] = value
    tensor.CopyFrom(numpy_helper.from_array(broken, name))
    refused(proto, f"initializer {name} has NaN or infinite values: repair the model, nothing can be promised of it")


def test_constants_that_are_not_finite() -> None:
    nodes = [N("Constant", [], ["k"], value_floats=[1.0, float("nan"), 2.0]), N("Mul", ["x", "k"], ["y"])]
    refused(model(nodes, ("N", 3)), "constant k has NaN or infinite values")


def test_an_open_bound_is_no_broken_weight() -> None:
    proto = model([N("Clip", ["x", "low"], ["y"])], ("N", 3), {"low": np.float32(-np.inf)})
    assert ops(FORMAT.read(proto)) == ["Identity"]
    proto = model([N("Mul", ["x", "low"], ["y"])], ("N", 3), {"low": np.float32(-np.inf)})
    refused(proto, "initializer low has NaN or infinite values")


def test_data_that_does_not_fill_its_shape(tmp_path: Path) -> None:
    proto = good()
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-4]
    refused(proto, "initializer w holds 3236 bytes, its shape (30, 3, 3, 3) needs 3240: the file is damaged")
    proto = good()
    proto.graph.initializer[1].raw_data = b"1234"
    refused(proto, "initializer b holds 4 bytes, its shape (30,) needs 120: the file is damaged")


def test_tensors_that_are_not_there() -> None:
    proto = good()
    proto.graph.node[1].input[0] = "nowhere"
    refused(proto, "node Relu_1 reads nowhere, which nothing writes: the file is damaged, or its nodes are not sorted")
    proto = good()
    proto.graph.node[0].input[0] = "y"
    refused(proto, "node Conv_0 reads y, before Relu_1 writes it: the file is damaged, or its nodes are not sorted")
    proto = good()
    proto.graph.node[1].output[0] = "t"
    refused(proto, "tensor t is written twice, the second time by node Relu_1: the file is damaged")
    proto = good()
    proto.graph.output[0].name = "z"
    refused(proto, "output z is written by no node: the file is damaged")


def test_an_element_type_from_the_future() -> None:
    proto = good()
    proto.graph.initializer[1].data_type = 200
    refused(proto, "initializer b has element type 200, which the installed onnx does not know: update onnx, or the file")


DAMAGED: dict[str, Any] = {
    "axis is text": N("Softmax", ["x"], ["y"], axis="one"),
    "axis beyond": N("Flatten", ["x"], ["y"], axis=9),
    "no kernel": N("MaxPool", ["x"], ["y"]),
    "pads too short": N("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], pads=[0, 1, 2]),
    "alpha is a list": N("LeakyRelu", ["x"], ["y"], alpha=[0.1]),
    "perm repeats": N("Transpose", ["x"], ["y"], perm=[0, 1, 1, 2]),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_nodes_are_carried_through(case: str) -> None:
    proto = good()
    node = DAMAGED[case]
    proto.graph.node[1].CopyFrom(node)
    proto.graph.node[1].input[0] = "t"
    found = ops(FORMAT.read(proto))
    assert found[0] == "Conv"
    assert found[1] in (f"[{node.op_type}]", "Activation")


def test_sparse_initializers() -> None:
    proto = good()
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [1], [1.0])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, helper.make_tensor("", 7, [1], [0]), [4]))
    refused(proto, "the model has a sparse initializer (sparse), which is not supported: store it dense")


def external(tmp_path: Path, location: str, **entries: str) -> Path:
    """A model in tmp_path/in whose weight w claims to lie at `location`."""
    folder = tmp_path / "in"
    folder.mkdir(exist_ok=True)
    proto = good()
    tensor = proto.graph.initializer[0]
    data = tensor.raw_data
    for place in (tmp_path / "secret.bin", folder / "w.bin"):
        place.write_bytes(data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


OUTSIDE: dict[str, Callable[[Path], str]] = {
    "absolute": lambda root: str(root / "secret.bin"),
    "above": lambda root: "../secret.bin",
    "there and back": lambda root: "sub/../../secret.bin",
    "within by way of outside": lambda root: "../in/w.bin",
    "windows": lambda root: "..\\secret.bin",
    "drive": lambda root: "C:\\secret.bin",
    "nothing": lambda root: "",
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_external_data_outside_the_folder(case: str, tmp_path: Path) -> None:
    location = OUTSIDE[case](tmp_path)
    path = external(tmp_path, location)
    refused(path, f"m.onnx: the data of w is at {location!r}, outside the model's folder: external data", UnsafeModelError)


def test_external_data_through_a_link(tmp_path: Path) -> None:
    path = external(tmp_path, "link.bin")
    (tmp_path / "in" / "link.bin").symlink_to(tmp_path / "secret.bin")
    refused(path, "the data of w is at 'link.bin', a link that leaves the model's folder", UnsafeModelError)
    (tmp_path / "in" / "away").symlink_to(tmp_path)
    refused(external(tmp_path, "away/secret.bin"), "a link that leaves the model's folder", UnsafeModelError)
    (tmp_path / "in" / "near.bin").symlink_to(tmp_path / "in" / "w.bin")
    assert ops(FORMAT.read(external(tmp_path, "near.bin"))) == ["Conv", "Activation"]


def test_nothing_is_read_before_all_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = external(tmp_path, "w.bin")
    proto = onnx.load(path, load_external_data=False)
    other = proto.graph.initializer[1]
    other.ClearField("raw_data")
    other.data_location = TensorProto.EXTERNAL
    other.external_data.add(key="location", value="../secret.bin")
    path.write_bytes(proto.SerializeToString())
    opened: list[Any] = []
    monkeypatch.setattr(np, "memmap", lambda *args: opened.append(args))
    refused(path, "the data of b is at '../secret.bin', outside the model's folder", UnsafeModelError)
    assert not opened


def test_external_data_of_a_constant_in_a_subgraph(tmp_path: Path) -> None:
    tensor = TensorProto(name="k", data_type=1, dims=[3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/hostname")
    inner = helper.make_graph([N("Constant", [], ["k"], value=tensor)], "g", [], [helper.make_tensor_value_info("k", 1, (3,))])
    proto = model([N("Relu", ["x"], ["y"])], ("N", 3))
    proto.graph.node.append(N("If", ["flag"], ["z"], then_branch=inner, else_branch=inner))
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    refused(path, "the data of k is at '/etc/hostname', outside the model's folder", UnsafeModelError)


BROKEN: dict[str, tuple[dict[str, str], str]] = {
    "missing": ({"location": "none.bin"}, "none.bin, which is not there: keep the files together"),
    "short": ({"offset": "8"}, "ends at byte 3248 of"),
    "beyond": ({"offset": "999999", "length": "3240"}, "it is truncated"),
    "wrong length": ({"length": "12"}, "should take 3240 bytes, its entry says 12 at 0: the file is damaged"),
    "negative": ({"offset": "-4"}, "its entry says 3240 at -4: the file is damaged"),
    "words": ({"offset": "zero"}, "has an offset or length that is no number: the file is damaged"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_external_data_that_is_broken(case: str, tmp_path: Path) -> None:
    entries, words = BROKEN[case]
    refused(external(tmp_path, **{"location": "w.bin", **entries}), words)


def test_external_data_without_a_folder(tmp_path: Path) -> None:
    proto = onnx.load(external(tmp_path, "w.bin"), load_external_data=False)
    refused(proto, "the model: the data of w is external and there is no folder to find it in: give the path of the file")


def test_external_data_of_a_live_ir_model(tmp_path: Path) -> None:
    loaded = onnx_ir.load(external(tmp_path, "w.bin"))
    assert ops(FORMAT.read(loaded)) == ["Conv", "Activation"]
    tensor = loaded.graph.initializers["w"].const_value
    assert isinstance(tensor, onnx_ir.ExternalTensor)
    moved = onnx_ir.ExternalTensor("../secret.bin", None, None, tensor.dtype, shape=onnx_ir.Shape([30, 3, 3, 3]), name="w",
                                   base_dir=tmp_path / "in")
    loaded.graph.initializers["w"].const_value = moved
    refused(loaded, "outside the model's folder", UnsafeModelError)


def test_objects_that_are_no_model() -> None:
    refused(3, "an object of type int is no ONNX model: give a path, a ModelProto, an onnx_ir.Model or an ONNXProgram")


def test_formats_are_found_by_extension_and_owner(tmp_path: Path) -> None:
    assert format_of("some/model.ONNX") is FORMAT
    assert format_of(Path("model.onnx")) is FORMAT
    assert format_of(good()) is FORMAT
    for name, words in (("m.tflite", "extension .tflite"), ("model", "no extension")):
        with pytest.raises(FormatError, match=re.escape(f"{name}: {words}, so its format is unknown: give a file")) as caught:
            format_of(name)
        assert "give a file (.onnx, .keras, .h5, .hdf5, .pt2) or a live object (onnx.ModelProto" in str(caught.value)
    with pytest.raises(FormatError, match=r"an object of type builtins\.dict is no model: give a file"):
        format_of({})
    with pytest.raises(FormatError, match="GraphProto is no model"):
        format_of(good().graph)


def test_running_says_what_is_wrong_with_inputs() -> None:
    native = FORMAT.read(good()).native
    with pytest.raises(UsageError, match="input x is missing: give an array for it"):
        FORMAT.run(native, {})
    with pytest.raises(UsageError, match="the model has no input z: its inputs are x"):
        FORMAT.run(native, {"x": numbers(1, 3, 5, 5), "z": numbers(1)})
    with pytest.raises(FormatError, match="onnxruntime cannot run the model: "):
        FORMAT.run(native, {"x": numbers(1, 4, 5, 5)})


def test_running_what_onnxruntime_does_not_know() -> None:
    proto = good()
    proto.graph.node[1].op_type = "Unheard"
    with pytest.raises(FormatError, match="onnxruntime does not accept the model: ") as caught:
        FORMAT.run(proto, sample(proto))
    assert "\n" not in str(caught.value)


def test_running_without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    actual = onnx_run.import_module

    def without(name: str) -> Any:
        if name == "onnxruntime":
            raise ImportError(name)
        return actual(name)

    monkeypatch.setattr("decascade.frameworks.import_module", without)
    with pytest.raises(FormatError, match=r'running an ONNX model needs onnxruntime, which .*: pip install "decascade.run."'):
        FORMAT.run(good(), sample(good()))


@pytest.mark.parametrize("kind", [HALF, DOUBLE])
def test_inputs_are_cast_to_what_the_model_takes(kind: int) -> None:
    proto = model([N("Abs", ["x"], ["y"])], ("N", 3), kind=kind)
    found = FORMAT.run(proto, {"x": numbers(2, 3)})["y"]
    assert found.dtype == helper.tensor_dtype_to_np_dtype(kind)


def test_large_weights_are_fed_instead_of_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = good()
    feeds = sample(proto)
    expected = FORMAT.run(FORMAT.read(proto).native, feeds)["y"]
    monkeypatch.setattr(onnx_run, "_LARGE", 1000)
    native = FORMAT.read(proto).native
    np.testing.assert_array_equal(FORMAT.run(native, feeds)["y"], expected)
    session = native.cache["session:disable"][0]
    assert [i.name for i in session.get_inputs()] == ["x", "w"]
    with pytest.raises(UsageError, match="its inputs are x"):
        FORMAT.run(native, {**feeds, "w": numbers(1)})
