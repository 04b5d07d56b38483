"""Sizes that a model leaves open, given by its user: exported programs, ONNX models, and those that state their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import decascade as dc
from decascade.errors import FormatError, UsageError
from decascade.formats.onnx.format import FORMAT as ONNX
from decascade.ir.ops import Conv

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
W1, W2 = (np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
          for seed, shape in ((0, (8, 3, 3, 3)), (1, (3, 8, 3, 3))))


def onnx_model(*inputs: tuple[str, list[Any] | None]) -> Any:
    """Two padded convolutions on the sum of the inputs."""
    helper = pytest.importorskip("onnx").helper
    numpy_helper = pytest.importorskip("onnx").numpy_helper
    info = [helper.make_tensor_value_info(name, 1, shape) for name, shape in inputs]
    first = inputs[0][0]
    nodes = [helper.make_node("Add", [i[0] for i in inputs], ["sum"])] if len(inputs) > 1 else []
    nodes += [helper.make_node("Conv", ["sum" if nodes else first, "w1"], ["m"], "first", pads=[1] * 4),
              helper.make_node("Conv", ["m", "w2"], ["y"], "second", pads=[1] * 4)]
    shape = inputs[0][1]
    graph = helper.make_graph(
        nodes, "g", info, [helper.make_tensor_value_info("y", 1, shape)],
        [numpy_helper.from_array(W1, "w1"), numpy_helper.from_array(W2, "w2")],
        value_info=[helper.make_tensor_value_info("m", 1, None if shape is None else [shape[0], 8, *shape[2:]])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def shape_of(info: Any) -> list[Any]:
    return [d.dim_value if d.HasField("dim_value") else d.dim_param for d in info.type.tensor_type.shape.dim]


def test_open_sizes_of_an_onnx_model_are_put_in_everywhere() -> None:
    model = onnx_model(("x", ["N", 3, "H", "W"]))
    assert "size of the map is not known" in dc.inspect(model).cascades[0].reason
    result = dc.merge(model, input_shape=(None, 3, 12, 10))
    (row,) = result.report.cascades
    assert (row.decision, row.border) == ("merged", "ring")
    assert shape_of(result.model.graph.input[0]) == shape_of(result.model.graph.output[0]) == ["N", 3, 12, 10]
    x = np.random.default_rng(0).standard_normal((2, 3, 12, 10)).astype(np.float32)
    np.testing.assert_allclose(ONNX.run(result.model, {"x": x})["y"], ONNX.run(model, {"x": x})["y"], atol=1e-4)
    assert shape_of(model.graph.input[0]) == ["N", 3, "H", "W"]


def test_an_onnx_input_without_a_shape() -> None:
    document = ONNX.read(onnx_model(("x", None)), input_shape=(1, 3, 8, 8))
    assert document.graph.shape("x") == (1, 3, 8, 8)
    assert document.graph.shape("y") == (1, 3, 8, 8)


def test_shapes_by_name() -> None:
    model = onnx_model(("a", ["N", 3, "H", "W"]), ("b", ["N", 3, "H", "W"]))
    document = ONNX.read(model, input_shape={"b": (None, 3, 8, 9)})
    assert document.graph.shape("a") == document.graph.shape("y") == ("N", 3, 8, 9)


BAD_ONNX = {
    "another size": ((1, 4, 8, 8), "input x has the shape (N, 3, H, W), and input_shape says (1, 4, 8, 8): "
                                   "only sizes that the model leaves open can be given"),
    "other axes": ((1, 3, 8), "input x has the shape (N, 3, H, W), and input_shape says (1, 3, 8): give one size per axis"),
    "no size": ((1, 3, 0, 8), "input_shape (1, 3, 0, 8) has the size 0: sizes are 1 or more"),
    "a name that is no input": ({"z": (1, 3, 8, 8)}, "input_shape names z, the inputs are x"),
    "too many": (((1, 3, 8, 8), (1, 3, 8, 8)), "2 input shapes for the 1 inputs x: give one per input"),
}


@pytest.mark.parametrize("name", BAD_ONNX)
def test_bad_shape_of_an_onnx_model(name: str) -> None:
    given, words = BAD_ONNX[name]
    with pytest.raises(FormatError) as caught:
        dc.inspect(onnx_model(("x", ["N", 3, "H", "W"])), input_shape=given)
    assert words in str(caught.value)


def test_one_name_is_one_size() -> None:
    model = onnx_model(("a", ["N", 3, "H", "H"]))
    with pytest.raises(FormatError, match="the size H is given as 8 and as 9: it is one size"):
        ONNX.read(model, input_shape=(1, 3, 8, 9))


def test_keras_models_state_their_sizes() -> None:
    keras = pytest.importorskip("keras")
    x = keras.Input((8, 8, 3))
    model = keras.Model(x, keras.layers.Conv2D(4, 3)(x))
    with pytest.raises(UsageError, match="a keras model states the sizes of its inputs itself: leave the input shape out"):
        dc.inspect(model, input_shape=(1, 3, 8, 8))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Two padded convolutions exported with all sizes but the channels open, and stored."""
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 3, 3, padding=1)).eval()
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    found = torch.export.export(module, (torch.zeros(2, 3, 16, 20),), dynamic_shapes=(free,))
    path = tmp_path_factory.mktemp("program") / "open.pt2"
    torch.export.save(found, str(path))
    return module, path


def test_open_sizes_of_an_exported_program(program: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    module, path = program
    assert "size of the map is not known" in dc.inspect(path).cascades[0].reason
    result = dc.merge(path, input_shape=(None, 3, 12, 10))
    assert result.report.cascades[0].border == "ring"
    x = torch.randn(3, 3, 12, 10)
    torch.testing.assert_close(result.model(x), module(x), atol=1e-5, rtol=0)
    with pytest.raises(AssertionError, match="right only for inputs of size 12 along axis 2"):
        result.model(torch.randn(3, 3, 13, 10))
    result.save(tmp_path / "small.pt2")
    assert dc.verify(path, tmp_path / "small.pt2", input_shape=(None, 3, 12, 10)).same
    assert sum(isinstance(n.op, Conv) for n in read_again(tmp_path / "small.pt2").nodes) > 1


def read_again(path: Path) -> Any:
    from decascade.formats.torch.format import FORMAT

    document = FORMAT.read(path)
    assert document.graph.shape(document.graph.inputs[0]) == ("N", 3, 12, 10)
    return document.graph


def test_bad_shape_of_an_exported_program(program: Any) -> None:
    _, path = program
    for given, words in (
        ((1, 4, 8, 8), "only sizes that the model leaves open can be given"),
        ((1, 3, 8, None), "give every size but the batch"),
    ):
        with pytest.raises(FormatError, match=words):
            dc.inspect(path, input_shape=given)


def test_input_shape_on_the_command_line(program: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx

    from decascade.cli import run

    _, path = program
    open_model = tmp_path / "open.onnx"
    onnx.save(onnx_model(("x:0", ["N", 3, "H", "W"])), str(open_model))
    for model, shape in ((str(path), "N,3,12,10"), (str(open_model), "x:0:?,3,12,10")):
        out = str(tmp_path / f"small{Path(model).suffix}")
        assert run(["inspect", model, "--quiet", "--input-shape", shape]) == 0
        assert run(["merge", model, "-o", out, "--input-shape", shape]) == 0
        assert "2 layers -> one 5x5" in " ".join(capsys.readouterr().out.split())
        assert run(["verify", model, out, "--input-shape", shape, "--quiet"]) == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["1,3,x,8"], "--input-shape 1,3,x,8: give numbers, the batch first, as in 1,3,64,64; N or ? stays open"),
        (["a:"], "--input-shape a:: give numbers"),
        (["1,3,8,8", "1,3,8,8"], "--input-shape 1,3,8,8 --input-shape 1,3,8,8: give one per input, each as NAME:1,3,64,64"),
        (["1,4,8,8"], "only sizes that the model leaves open can be given"),
    ],
)
def test_bad_input_shape_on_the_command_line(
    given: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx

    from decascade.cli import run

    model, out = tmp_path / "open.onnx", tmp_path / "small.onnx"
    onnx.save(onnx_model(("x", ["N", 3, "H", "W"])), str(model))
    options = [item for text in given for item in ("--input-shape", text)]
    assert run(["merge", str(model), "-o", str(out), *options]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
