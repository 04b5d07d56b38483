"""export of int8 .tflite files to streamed C: files, facts, and every refusal by its words."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed: pip install decascade[device]")

import decascade as dc
from decascade.errors import FormatError, UsageError
from decascade.stream.generate import generate
from stream.files import FileWriter, RandomNet


def test_two_files_and_what_they_take(tmp_path: Path) -> None:
    (tmp_path / "a-b.tflite").write_bytes(RandomNet(3).bytes())
    facts = dc.export(tmp_path / "a-b.tflite", tmp_path / "my-net.c")
    assert set(facts.files) == {"my-net.c", "my_net.h"}
    header = (tmp_path / "my_net.h").read_text()
    assert facts.streamed is not None
    assert f"#define MY_NET_CONTEXT_SIZE {facts.streamed.rows}\n" in header
    assert f"#define MY_NET_RUN_SIZE {facts.streamed.whole}\n" in header
    for word in ("my_net_context", "my_net_init", "my_net_push_row", "my_net_pull_row", "my_net_run", "MY_NET_INPUT_SIZE",
                 "MY_NET_OUTPUT_SIZE"):
        assert word in header
    assert "malloc" not in (tmp_path / "my-net.c").read_text()


def test_map_by_map_takes_more(tmp_path: Path) -> None:
    (tmp_path / "net.tflite").write_bytes(RandomNet(7).bytes())
    rows = dc.export(tmp_path / "net.tflite", tmp_path / "net.c")
    maps = dc.export(tmp_path / "net.tflite", tmp_path / "net.c", stream=False, force=True)
    assert rows.streamed is not None
    assert maps.streamed is not None
    assert rows.streamed.rows <= maps.streamed.rows
    assert maps.kind == "c int8, map by map"


def test_other_outputs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "net.tflite").write_bytes(RandomNet(3).bytes())
    with pytest.raises(UsageError, match=r"out\.onnx: a \.tflite file is exported to \.c only"):
        dc.export(tmp_path / "net.tflite", tmp_path / "out.onnx")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"gone\.tflite: cannot be read \(No such file or directory\)"):
        dc.export(tmp_path / "gone.tflite", tmp_path / "net.c")
    (tmp_path / "text.tflite").write_bytes(b"hello, this is text")
    with pytest.raises(FormatError, match=r"text\.tflite: not a TFLite file \(it has no TFL3 mark\)"):
        dc.export(tmp_path / "text.tflite", tmp_path / "net.c")
    assert not (tmp_path / "net.c").exists()


def test_damaged_files_end_in_an_error_of_ours() -> None:
    data = RandomNet(3).bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        cut = bytearray(data[: int(rng.integers(8, len(data)))] if rng.random() < 0.5 else data)
        for _ in range(int(rng.integers(1, 6))):
            cut[int(rng.integers(8, len(cut)))] = int(rng.integers(256))
        with suppress(FormatError, UsageError):  # whatever it is, never a trace of Python
            generate(bytes(cut), "net")


def one(kind: str, options: str = "", **fields: object) -> bytes:
    file = FileWriter()
    x, y = file.map((1, 4, 4, 2), 0.1, 0), file.map((1, 4, 4, 2), 0.1, 0)
    file.op(kind, [x], [y], options, **fields)
    return file.bytes([x], [y])


def test_operation_without_a_form_is_named_with_its_way_round() -> None:
    with pytest.raises(UsageError, match=r"FLOOR has no streamed form: replace it in the model, or export without streaming"):
        generate(one("FLOOR"), "net")


def test_float_files_are_refused() -> None:
    file = FileWriter()
    x, y = file.map((1, 4, 4, 2), 0.1, 0), file.map((1, 4, 4, 2), 0.1, 0)
    file.tensors[x].type = 0
    file.op("ADD", [x, x], [y], "AddOptions", fusedActivationFunction=0)
    with pytest.raises(UsageError, match=r"tensor t0 is float32: only int8 files are streamed; quantise the model"):
        generate(file.bytes([x], [y]), "net")


def test_batches_are_refused() -> None:
    file = FileWriter()
    x, y = file.map((2, 4, 4, 2), 0.1, 0), file.map((2, 4, 4, 2), 0.1, 0)
    file.op("ADD", [x, x], [y], "AddOptions", fusedActivationFunction=0)
    with pytest.raises(UsageError, match=r"tensor t0 has the shape \[2, 4, 4, 2\]: .* fix the batch at 1"):
        generate(file.bytes([x], [y]), "net")


def test_two_inputs_are_refused() -> None:
    file = FileWriter()
    x, y, z = (file.map((1, 4, 4, 2), 0.1, 0) for _ in range(3))
    file.op("ADD", [x, y], [z], "AddOptions", fusedActivationFunction=0)
    with pytest.raises(UsageError, match=r"the file has 2 inputs: streamed C takes one"):
        generate(file.bytes([x, y], [z]), "net")
