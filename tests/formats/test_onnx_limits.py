"""What an ONNX file may state and ask for: sizes, element types, opsets, calls; one line each, at once."""

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


def tensor_cases() -> dict[str, tuple[Any, str]]:
    def initializer(**fields: Any) -> Any:
        proto = good()
        tensor = proto.graph.initializer[0]
        tensor.Clear()
        tensor.MergeFrom(TensorProto(**{"name": "a", "data_type": FLOAT, "dims": [40, 3, 1, 1], **fields}))
        return proto

    def constant(**fields: Any) -> Any:
        proto = good()
        value = TensorProto(**{"data_type": FLOAT, "dims": [2], **fields})
        proto.graph.node.append(N("Constant", [], ["c"], value=value))
        return proto

    strings = [b"w"] * 120
    return {
        "raw too short": (initializer(raw_data=bytes(479)), "initializer a holds 479 bytes, its shape (40, 3, 1, 1) needs 480"),
        "raw too long": (initializer(raw_data=bytes(484)), "initializer a holds 484 bytes, its shape (40, 3, 1, 1) needs 480"),
        "raw of another type": (
            initializer(raw_data=bytes(480), data_type=TensorProto.DOUBLE),
            "initializer a holds 480 bytes, its shape (40, 3, 1, 1) needs 960: the file is damaged",
        ),
        "raw of bfloat16": (
            initializer(raw_data=bytes(239), data_type=TensorProto.BFLOAT16),
            "initializer a does not hold the data of its shape (40, 3, 1, 1): the file is damaged",
        ),
        "numbers too few": (initializer(float_data=[1.0] * 119), "initializer a does not hold the data of its shape"),
        "numbers too many": (initializer(float_data=[1.0] * 121), "initializer a does not hold the data of its shape"),
        "numbers of another field": (initializer(int64_data=[1] * 120), "initializer a does not hold the data of its shape"),
        "no data": (initializer(), "initializer a does not hold the data of its shape (40, 3, 1, 1): the file is damaged"),
        "two fields": (
            initializer(raw_data=bytes(480), float_data=[1.0] * 120),
            "initializer a has data in raw_data and in float_data, and nothing says which counts: the file is damaged",
        ),
        "size below 0": (initializer(dims=[40, -3, -1, 1], raw_data=bytes(480)), "initializer a has the size -3: the file"),
        "huge size": (
            initializer(dims=[2**62, 1, 1, 1], raw_data=bytes(480)),
            f"initializer a has {2**62} × 1 × 1 × 1 elements",
        ),
        "no type": (
            initializer(data_type=0, raw_data=bytes(480)),
            "initializer a has no element type: the file is damaged",
        ),
        "unknown type": (
            initializer(data_type=99, raw_data=bytes(480)),
            "initializer a has element type 99, which the installed",
        ),
        "strings": (
            initializer(data_type=TensorProto.STRING, string_data=strings),
            "node Conv_0 (Conv) reads a, which holds strings: it takes numbers",
        ),
        "strings too few": (
            initializer(data_type=TensorProto.STRING, string_data=strings[1:]),
            "initializer a holds 119 strings, its shape (40, 3, 1, 1) needs 120: the file is damaged",
        ),
        "constant": (
            constant(raw_data=bytes(7)),
            "constant (no name) holds 7 bytes, its shape (2,) needs 8: the file is damaged",
        ),
        "constant of no known type": (constant(data_type=77, raw_data=bytes(8)), "constant (no name) has element type 77"),
    }


TENSORS = tensor_cases()


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_are_not_what_their_headers_say(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto, words = TENSORS[case]
    refused(proto, words, tmp_path, capsys, LimitExceededError if case == "huge size" else FormatError)


def functions(*bodies: list[str]) -> Any:
    """Functions f0, f1, …, each a chain of calls of the names given; the model calls f0."""
    proto = model([N("Relu", ["x"], ["y"])], ("N", 3))
    proto.opset_import.append(helper.make_opsetid("own", 1))
    proto.graph.node.insert(0, N("f0", ["x"], ["z"], domain="own"))
    proto.graph.node[1].input[0] = "z"
    for k, names in enumerate(bodies):
        nodes = [N(n, [f"v{i}"], [f"v{i + 1}"], domain="" if n == "Relu" else "own") for i, n in enumerate(names)]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        proto.functions.append(helper.make_function("own", f"f{k}", ["v0"], [f"v{len(names)}"], nodes, opsets))
    return proto


CALLS: dict[str, tuple[Any, str]] = {
    "exponential": (
        functions(*([f"f{k + 1}"] * 2 for k in range(30)), ["Relu"]),
        "local function own::f12 has 262,144 operations with its local functions expanded, 200,000 are the limit: split it",
    ),
    "itself": (functions(["Relu", "f0"]), "local function own::f0 calls itself: no such model can be run; the file is damaged"),
    "itself by others": (functions(["f1"], ["f2"], ["f0"]), "local function own::f0 calls itself: no such model can be run"),
    "deep": (
        functions(*([f"f{k + 1}"] for k in range(2000)), ["Relu"]),
        "local function own::f64 has calls of local functions more than 64 deep, which is the limit: inline them",
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_functions_that_call_each_other(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto, words = CALLS[case]
    kind = FormatError if "itself" in case else LimitExceededError
    refused(proto, words, tmp_path, capsys, kind)


def test_functions_that_may_be_called() -> None:
    assert ops(FORMAT.read(functions(*([f"f{k + 1}"] * 2 for k in range(10)), ["Relu"]))) == ["[own::f0]", "Activation"]
