"""What an ONNX file may state and ask for: sizes, element types, opsets, constants that grow, calls; one line each, at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from decascade.cli import run
from decascade.errors import FormatError, LimitExceededError
from decascade.formats.onnx.format import FORMAT
from formats.onnx_cases import FLOAT, N, model, numbers, ops

NEWEST = onnx.defs.onnx_opset_version()


def good(shape: Any = ("N", 3, 8, 8)) -> Any:
    weights = {"a": numbers(40, 3, 1, 1), "k": numbers(4, 40, 3, 3)}
    return model([N("Conv", ["x", "a"], ["t"]), N("Conv", ["t", "k"], ["y"])], shape, weights)


def refused(proto: Any, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: type = FormatError) -> None:
    """As a live model and as a file, which `merge` leaves alone: exit code 2, one line."""
    with pytest.raises(FormatError, match="^" + re.escape(words)) as caught:
        FORMAT.read(proto)
    assert type(caught.value) is kind
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    assert run(["merge", str(path), "-o", str(tmp_path / "out.onnx")]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("decascade: ")
    assert words in err
    assert err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def with_sizes(*sizes: int, place: str = "input") -> Any:
    proto = good()
    info = helper.make_tensor_value_info("x" if place == "input" else "t", FLOAT, sizes)
    entries = proto.graph.input if place == "input" else proto.graph.value_info
    del entries[:]
    entries.append(info)
    return proto


@pytest.mark.parametrize("sizes", [(0, 3, 8, 8), (1, 3, 0, 8), (1, 0, 8, 8), (1, 3, 8, -2), (1, 3, -(2**62), 8)])
def test_sizes_that_no_input_has(sizes: tuple[int, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = min(sizes)
    words = f"input x is stated to have the size {wrong}: sizes are 1 or more, or names where they are open; export the model"
    refused(with_sizes(*sizes), words, tmp_path, capsys)


@pytest.mark.parametrize("sizes", [(1, 3, 2**31, 8), (1, 3, 2**62, 1), (2**62, 3, 8, 8), (1, 3, 2**16, 2**16)])
@pytest.mark.parametrize("place", ["input", "tensor"])
def test_sizes_beyond_the_limit(place: str, sizes: tuple[int, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "input x" if place == "input" else "tensor t"
    words = f"{name} has {' × '.join(map(str, sizes))} elements, 2,147,483,647 are the limit: give the model smaller inputs"
    refused(with_sizes(*sizes, place=place), words, tmp_path, capsys, LimitExceededError)


def test_a_tensor_that_only_follows_from_what_is_stated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = model([N("Conv", ["x", "a"], ["t"]), N("Relu", ["t"], ["y"])], (1, 1, 2**14, 2**14), {"a": numbers(64, 1, 1, 1)})
    words = "tensor t has 1 × 64 × 16384 × 16384 elements, 2,147,483,647 are the limit"
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    refused(proto, words, tmp_path, capsys, LimitExceededError)


def test_minus_one_is_an_open_size() -> None:
    assert ops(FORMAT.read(with_sizes(-1, 3, 8, 8))) == ["Conv", "Conv"]


@pytest.mark.parametrize("kind", [TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.FLOAT4E2M1])
@pytest.mark.parametrize("place", ["output", "tensor"])
def test_an_element_type_that_is_not_what_the_node_writes(
    place: str, kind: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proto = good()
    if place == "output":
        proto.graph.output[0].type.tensor_type.elem_type = kind
    else:
        proto.graph.value_info.append(helper.make_tensor_value_info("t", kind, ("N", 40, 8, 8)))
    name = "y" if place == "output" else "t"
    refused(proto, f"tensor {name} is stated as ", tmp_path, capsys)
    with pytest.raises(FormatError, match=r"stated as \w+, node Conv_[01] writes it as float32: the file is damaged"):
        FORMAT.read(proto)


@pytest.mark.parametrize("opset", [0, -1, 6, 99, NEWEST + 1, 2**31, 2**62])
def test_opsets_that_are_not_known(opset: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = good()
    proto.opset_import[0].version = opset
    repair = (
        "update onnx, or export the model again" if opset > 6 else "convert it to opset 7 or later (onnx.version_converter)"
    )
    words = f"the model states opset {opset}: {repair}; opsets 7 to {NEWEST} are known"
    refused(proto, words, tmp_path, capsys)


@pytest.mark.parametrize("domain", ["", "own"])
def test_no_opset_for_the_operators(domain: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = good()
    del proto.opset_import[:]
    proto.opset_import.extend([helper.make_opsetid(domain, 1)] * bool(domain))
    words = (
        f"the model states no opset: convert it to opset 7 or later (onnx.version_converter); opsets 7 to {NEWEST} are known"
    )
    refused(proto, words, tmp_path, capsys)


def test_a_model_of_other_operators_needs_no_opset() -> None:
    proto = model([N("Relu", ["x"], ["y"])], ("N", 3))
    proto.graph.node[0].domain = "own"
    proto.opset_import[0].domain = "own"
    assert ops(FORMAT.read(proto)) == ["[own::Relu]"]
