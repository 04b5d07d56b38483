"""export from end to end: every kind of file from every format, what is said of it, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install decascade[device]")
pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install decascade[device]")
pytest.importorskip("tflite_micro", reason="tflite-micro is not installed: pip install decascade[device]")

import decascade as dc
from decascade.checking.models import Subject
from decascade.cli import run
from decascade.deploy.onnx.model import onnx_of
from decascade.deploy.tflite.convert import to_int8
from decascade.deploy.tflite.deployed import deployed
from decascade.deploy.tflite.export import traced
from decascade.deploy.tflite.litert import Model, Port
from decascade.deploy.tflite.tflm import run_micro
from decascade.errors import OutputError, UsageError, VerificationError
from decascade.formats.registry import format_of
from deploy.small import MODELS, net
from report_examples import check_against

RESNET8 = MODELS / "mlperf_tiny_resnet8_cifar10.h5"
MISSING = "the published models are not beside the checkout"
CHIP = pytest.mark.skipif(
    which("qemu-system-arm") is None or which("arm-none-eabi-gcc") is None, reason="run scripts/install-device-tools.sh"
)


@pytest.fixture
def onnx_net(tmp_path: Path, rng: np.random.Generator) -> Path:
    path = tmp_path / "net.onnx"
    import_module("onnx").save_model(onnx_of(net(rng), None).proto(), str(path))
    return path


@pytest.fixture
def data(tmp_path: Path, rng: np.random.Generator) -> Path:
    path = tmp_path / "d.npz"
    np.savez(path, x=rng.uniform(-1, 1, (40, 3, 10, 10)).astype(np.float32), y=rng.integers(0, 4, 40))
    return path


def test_float_file_is_the_same_function(onnx_net: Path, tmp_path: Path) -> None:
    facts = dc.export(onnx_net, tmp_path / "net.tflite")
    assert facts.verification is not None
    assert facts.verification.same
    assert facts.kind == "tflite float32"
    assert facts.files == {"net.tflite": (tmp_path / "net.tflite").stat().st_size}
    assert facts.operations == {"CONV_2D": 2, "ADD": 1, "MEAN": 1, "FULLY_CONNECTED": 1}
    assert Model((tmp_path / "net.tflite").read_bytes()).inputs[0].shape == (1, 10, 10, 3)


def test_int8_file_is_compared_and_run_on_the_microcontroller_interpreter(onnx_net: Path, tmp_path: Path, data: Path) -> None:
    facts = dc.export(onnx_net, tmp_path / "net.tflite", int8=True, data=data, calibrate=20)
    model = Model((tmp_path / "net.tflite").read_bytes())
    assert model.inputs[0].dtype == model.outputs[0].dtype == np.int8
    assert facts.fidelity is not None
    assert facts.fidelity.samples == 40
    assert 0 < facts.fidelity.rms_rel < 0.1
    assert facts.fidelity.agreement is not None
    assert facts.fidelity.accuracy_before is not None
    assert facts.micro is not None
    assert facts.micro.arena == facts.micro.head + facts.micro.tail
    assert facts.micro.equal > 0.9
    assert any("come from 20 samples" in note for note in facts.notes)
    assert "arena" in str(facts)


def test_layout_of_the_file_is_that_of_the_device(onnx_net: Path, tmp_path: Path, data: Path, rng: np.random.Generator) -> None:
    """Height and width cannot be mistaken for each other, nor channels for either."""
    facts = dc.export(onnx_net, tmp_path / "net.tflite", data=data)
    assert any("channels-last (N, height, width, C)" in note for note in facts.notes)
    x = np.load(data)["x"][:1]
    form = format_of(onnx_net)
    expected = form.run(form.read(onnx_net).native, {"x": x})["y"]
    found = Model((tmp_path / "net.tflite").read_bytes()).run([np.ascontiguousarray(x.transpose(0, 2, 3, 1))])[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@CHIP
@pytest.mark.skipif(which("cc") is None, reason="no C compiler")
def test_c_runs_here_and_on_the_emulated_chip(onnx_net: Path, tmp_path: Path) -> None:
    pytest.importorskip("emx_onnx_cgen", reason="emx-onnx-cgen is not installed: pip install decascade[device]")
    facts = dc.export(onnx_net, tmp_path / "net.c")
    assert set(facts.files) == {"net.c", "net.h", "net_test.c"}
    assert facts.chip is not None
    assert facts.chip.max_abs < 1e-5
    assert facts.chip.instructions > 3 * 22_400  # multiply-accumulates of the first layer alone: a load, a load, a fused one
    assert "BatchNormalization" not in facts.operations
    assert any("net_test.c on this machine: largest difference from onnxruntime" in note for note in facts.notes)
    text = (tmp_path / "net.h").read_text()
    assert "void net_run(const float *x, float *y);" in text
    assert "#define NET_X_SIZE 300 /* 1 x 3 x 10 x 10 */" in text


def test_onnx_from_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    conv, dense = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Linear(256, 2)
    model = torch.nn.Sequential(conv, torch.nn.ReLU(), torch.nn.Flatten(), dense)
    facts = dc.export(model.eval(), tmp_path / "t.onnx", input_shape=(1, 3, 8, 8))
    assert facts.verification is not None
    assert facts.verification.same
    dc.export(model.eval(), tmp_path / "t.tflite", input_shape=(1, 3, 8, 8))
    assert "TRANSPOSE" not in Model((tmp_path / "t.tflite").read_bytes(), reference=True).operations


def test_onnx_stays_as_it_is(onnx_net: Path, tmp_path: Path) -> None:
    facts = dc.export(onnx_net, tmp_path / "again.onnx")
    assert facts.operations["BatchNormalization"] == 1


def test_keras_model_with_a_layer_that_is_not_understood(tmp_path: Path) -> None:
    """Keras models are converted as they are: what decascade cannot read TensorFlow still can."""
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    x = keras.Input((6, 6, 2), name="x")
    layers = keras.layers
    y = layers.Permute((2, 1, 3))(layers.Conv2D(3, 3, name="c")(x))
    dc.export(keras.Model(x, layers.Flatten(name="y")(y)), tmp_path / "k.tflite")
    sequential = keras.Sequential([keras.Input((6, 6, 2)), layers.Conv2D(3, 3), layers.GlobalAveragePooling2D()])
    dc.export(sequential, tmp_path / "s.tflite")


needs_resnet8 = pytest.mark.skipif(not RESNET8.exists(), reason=MISSING)


@cache
def resnet8() -> Subject:
    form = format_of(RESNET8)
    return Subject(form, form.read(RESNET8))


@cache
def images() -> tuple[np.ndarray, np.ndarray]:
    with np.load(MODELS.parent / "data" / "cifar10_test_first500.npz") as held:
        return held["x"].astype(np.float32), held["y"]


@cache
def resnet8_int8(batch: int | None) -> bytes:
    return to_int8(traced(resnet8(), batch), [[x[None]] for x in images()[0][:100]])


@needs_resnet8
def test_arena_of_the_published_resnet8() -> None:
    """With an open batch the file carries four more operations, which compute a shape: the 56,528 bytes have them."""
    open_batch = run_micro(resnet8_int8(None)).arena
    assert abs(open_batch - 56_528) <= 565
    assert 0.98 * 56_528 < run_micro(resnet8_int8(1)).arena <= open_batch


@needs_resnet8
def test_both_runtimes_agree_bit_for_bit_up_to_the_dense_layer() -> None:
    """The dense layer LiteRT rounds once and the microcontroller twice: one step apart at most."""
    data = resnet8_int8(1)
    model = Model(data, reference=True, keep=True)
    for x in images()[0][:4]:
        sample = [model.inputs[0].stored(x[None])]
        model.run(sample)
        results = model.results()
        assert [kind for kind, _, _ in results[-2:]] == ["FULLY_CONNECTED", "SOFTMAX"]
        micro = run_micro(data, sample, 1, [index for _, index, _ in results])
        for kind, index, value in results[:-1]:
            gap = np.abs(value.reshape(-1).astype(int) - micro.tensors[index].astype(int)).max()
            assert gap <= (1 if kind == "FULLY_CONNECTED" else 0), kind


@needs_resnet8
def test_accuracy_of_the_published_resnet8_in_int8() -> None:
    x, y = images()
    file = deployed(resnet8().graph, resnet8_int8(1), reference=True)
    found = file.framework({"input_1": np.moveaxis(x, -1, 1)})["dense"]
    model = resnet8().framework({"input_1": np.moveaxis(x, -1, 1)})["dense"]
    assert abs(np.mean(found.argmax(1) == y) - np.mean(model.argmax(1) == y)) <= 0.01


def test_command(onnx_net: Path, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, report = tmp_path / "o.tflite", tmp_path / "r.json"
    assert run(["export", str(onnx_net), "-o", str(out), "--int8", "--data", str(data), "--report", str(report)]) == 0
    told = capsys.readouterr().out
    assert "net.onnx as tflite int8" in told
    assert "LiteRT = TFLM" in told
    assert f"Written to {out.name}" in told
    facts = json.loads(report.read_text())
    check_against("export", facts)
    assert facts["micro"]["arena"] > 0
    assert facts["versions"]["tflite-micro"]
    assert facts["output"] == str(out)


def test_a_merged_flatten_leaves_keras(tmp_path: Path) -> None:
    """Where a merge moves a flatten, Keras needs a Permute for it: one flatten for everyone else."""
    keras: Any = pytest.importorskip("keras")
    x = keras.Input((6, 6, 3))
    y = keras.layers.Conv2D(4, 3, use_bias=False, name="conv")(x)
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.Flatten()(keras.layers.Permute((3, 1, 2))(y))))
    model.save(tmp_path / "m.keras")
    facts = dc.export(tmp_path / "m.keras", tmp_path / "m.onnx")
    assert facts.operations == {"Conv": 1, "Flatten": 1, "Gemm": 1}
    assert facts.verification is not None
    assert facts.verification.same


@pytest.mark.parametrize("better", [True, False])
def test_dense_layers_that_are_rounded_differently(
    better: bool, onnx_net: Path, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where TFLM and LiteRT differ first in a dense layer, it becomes a convolution, if then they agree on more."""
    module: Any = import_module("decascade.deploy.tflite.export")
    real = module.micro_facts

    def facts(graph: Any, file: bytes, batches: Any) -> Any:
        found = real(graph, file, batches)
        dense = "FULLY_CONNECTED" in Model(file, reference=True).operations
        return replace(found, equal=0.9, apart="FULLY_CONNECTED, 5 of 6") if dense or not better else found

    monkeypatch.setattr(module, "micro_facts", facts)
    found = dc.export(onnx_net, tmp_path / "o.tflite", int8=True, data=data)
    assert ("FULLY_CONNECTED" in found.operations) != better
    told = "dense layers are convolutions of one pixel: LiteRT and TFLM round FULLY_CONNECTED differently"
    assert (told in found.notes) == better
    assert found.micro is not None
    assert (found.micro.equal == 1) == better


REFUSALS: list[tuple[dict[str, Any], str, type[Exception], str]] = [
    ({"int8": True}, "o.tflite", UsageError, "int8 needs samples to take the ranges of activations from: give --data"),
    ({"int8": True}, "o.onnx", UsageError, "--int8 is for .tflite and .c: .*o.onnx would be float32"),
    ({}, "o.bin", OutputError, "give an output name that ends in .tflite, .onnx, .c"),
    ({"calibrate": 0}, "o.tflite", UsageError, "calibrate = 0: give a number of samples from 1 on"),
    ({}, "net.onnx", OutputError, "is the input itself, which is never changed"),
]


@pytest.mark.parametrize(("options", "name", "kind", "words"), REFUSALS)
def test_refusals(
    options: dict[str, Any], name: str, kind: type[Exception], words: str, onnx_net: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(kind, match=words):
        dc.export(onnx_net, tmp_path / name, **options)
    assert sorted(tmp_path.iterdir()) == before


def test_files_beside_are_not_overwritten(onnx_net: Path, tmp_path: Path) -> None:
    (tmp_path / "o_test.c").write_text("mine")
    with pytest.raises(OutputError, match=r"o_test.c exists: choose another name"):
        dc.export(onnx_net, tmp_path / "o.c")
    assert not (tmp_path / "o.c").exists()


def test_fixed_batch_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "two.onnx"
    import_module("onnx").save_model(onnx_of(net(rng), 2).proto(), str(path))
    with pytest.raises(UsageError, match="input x has a fixed batch of 2: a device file takes one sample"):
        dc.export(path, tmp_path / "o.tflite")


def test_file_that_computes_something_else_is_not_written(
    onnx_net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import decascade.deploy.tflite.export as module

    real = module.as_deployed

    def broken(subject: Subject, data: bytes, reference: bool = False) -> Subject:
        file = real(subject, data, reference)
        native = file.document.native
        run_it = native.run
        native.run = lambda stored: [y * np.float32(1.001) for y in run_it(stored)]
        return file

    monkeypatch.setattr(module, "as_deployed", broken)
    with pytest.raises(VerificationError, match=r"the exported file is off by .*; nothing was written"):
        dc.export(onnx_net, tmp_path / "o.tflite")
    assert not (tmp_path / "o.tflite").exists()


def test_labels_that_do_not_fit_are_told(onnx_net: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.uniform(-1, 1, (6, 3, 10, 10)).astype(np.float32)
    facts = dc.export(onnx_net, tmp_path / "o.tflite", data={"x": x, "y": np.zeros(3)})
    assert any("labels of shape (3,) for 6 samples: no accuracy is given" in note for note in facts.notes)
    hot = dc.export(onnx_net, tmp_path / "p.tflite", data={"x": x, "y": np.eye(4)[[0, 1, 2, 3, 0, 1]]})
    assert hot.fidelity is not None
    assert hot.fidelity.accuracy_before == hot.fidelity.accuracy_after


def test_stored_values_are_clamped_and_rounded_half_to_even() -> None:
    port = Port((1, 3), np.int8, 0.5, 10)
    np.testing.assert_array_equal(port.stored(np.array([[0.25, 0.75, 1e9]])), [[10, 12, 127]])
    np.testing.assert_allclose(port.real(np.array([[10, 12, -128]], np.int8)), [[0.0, 1.0, -69.0]])


def test_file_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="LiteRT does not accept the file"):
        Model(b"not a model")
    with pytest.raises(UsageError, match="TensorFlow Lite for Microcontrollers does not run the file"):
        run_micro(b"TFL3" * 20)


def onnx_model(nodes: list[Any], shape: list[int], out: list[int], **weights: np.ndarray) -> Any:
    onnx = import_module("onnx")
    helper, numpy_helper = onnx.helper, import_module("onnx.numpy_helper")
    ports = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", shape), ("y", out))]
    held = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def onnx_node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    return import_module("onnx.helper").make_node(kind, inputs.split(), [output], **attributes)


MOVED: dict[str, tuple[list[Any], list[int], list[int]]] = {
    "detector head": ([("Transpose", "x", "t", {"perm": [0, 2, 3, 1]}), ("Reshape", "t s", "y", {})], [1, 4, 6, 5], [1, 30, 4]),
    "depth to space": ([("DepthToSpace", "x", "y", {"blocksize": 2})], [1, 12, 4, 5], [1, 3, 8, 10]),
    "depth to space, columns first": (
        [("DepthToSpace", "x", "y", {"blocksize": 2, "mode": "CRD"})], [1, 12, 4, 5], [1, 3, 8, 10]),
    "there and back": ([("Transpose", "x", "t", {"perm": [0, 3, 1, 2]}), ("Transpose", "t", "u", {"perm": [0, 2, 3, 1]}),
                        ("Relu", "u", "y", {})], [1, 4, 6, 5], [1, 4, 6, 5]),
}


@pytest.mark.parametrize("case", MOVED)
def test_onnx_operations_that_only_move_values(case: str, tmp_path: Path) -> None:
    """Detector heads and the like: not understood by the graph, and yet in the file."""
    nodes, shape, out = MOVED[case]
    model = onnx_model([onnx_node(k, i, o, **a) for k, i, o, a in nodes], shape, out, s=np.array(out))
    facts = dc.export(model, tmp_path / "m.tflite")
    assert facts.verification is not None
    assert facts.verification.same
    file = Model((tmp_path / "m.tflite").read_bytes())
    if case == "detector head":
        assert file.outputs[0].shape == (1, 30, 4)


@pytest.mark.parametrize(
    ("node", "out", "words"),
    [
        (("CumSum", "x a", "y", {}), [1, 4, 6, 5], "CumSum is not understood, so it cannot be exported to TFLite from here"),
        (("Transpose", "x", "y", {"perm": [1, 0, 2, 3]}), [4, 1, 6, 5], r"a Transpose by \[1, 0, 2, 3\] moves the batch"),
    ],
)
def test_onnx_operations_that_are_refused(node: Any, out: list[int], words: str, tmp_path: Path) -> None:
    kind, inputs, output, attributes = node
    model = onnx_model([onnx_node(kind, inputs, output, **attributes)], [1, 4, 6, 5], out, a=np.array(2))
    with pytest.raises(UsageError, match=words):
        dc.export(model, tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())
