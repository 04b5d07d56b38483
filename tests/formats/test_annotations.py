"""decascade's own text in a model's metadata: it survives writing, saving, reading and writing again, in every container."""

from __future__ import annotations

import logging
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from decascade.formats.base import Document, Format
from decascade.formats.registry import format_of
from proven_models import FORMATS, saved

TEXT = '{"box": "[0, 1]", "more": "' + "ä" * 70_000 + '"}'
"""Longer than an HDF5 attribute may be."""


def rewritten(form: Format, document: Document) -> Any:
    """The model written with one node exchanged."""
    node = document.graph.nodes[0]
    nodes = (replace(node, name=f"{node.name}_new", origin=(), native=None), *document.graph.nodes[1:])
    return form.write(document, replace(document.graph, nodes=nodes))


@pytest.mark.parametrize("extension", FORMATS)
def test_a_text_stays_with_the_model(extension: str, tmp_path: Path) -> None:
    source, path = saved("seed_case", extension, tmp_path), tmp_path / f"noted{extension}"
    form = format_of(source)
    document = form.read(source)
    assert form.annotation(document) == ""
    form.save(form.annotated(rewritten(form, document), TEXT), path)
    again = form.read(path)
    assert form.annotation(again) == TEXT
    assert [n.op.__class__ for n in again.graph.nodes] == [n.op.__class__ for n in document.graph.nodes]
    second = rewritten(form, again)
    assert form.annotation(form.read(second)) == TEXT, "a changed model hands it on"
    assert form.annotation(form.read(form.annotated(second, "other"))) == "other", "and may be given another"
    framework_reads(path)


def framework_reads(path: Path) -> None:
    """The file is still one for the framework itself."""
    match path.suffix:
        case ".onnx":
            onnx: Any = pytest.importorskip("onnx")
            model = onnx.load(path)
            onnx.checker.check_model(model)
            assert [p.key for p in model.metadata_props] == ["decascade"]
        case ".pt2":
            torch: Any = pytest.importorskip("torch")
            files = {"decascade.json": ""}
            torch.export.load(path, extra_files=files)
            assert files == {"decascade.json": TEXT}
        case _:
            keras: Any = pytest.importorskip("keras")
            logging.getLogger("absl").setLevel(logging.ERROR)
            assert keras.saving.load_model(path, compile=False).count_params() > 0


def test_live_onnx_models_of_both_kinds() -> None:
    onnx: Any = pytest.importorskip("onnx")
    examples = Path(__file__).resolve().parents[2] / "examples"
    proto = onnx.load(examples / "digits.onnx")
    for live in (proto, pytest.importorskip("onnx_ir").serde.deserialize_model(proto)):
        form = format_of(live)
        noted = form.annotated(rewritten(form, form.read(live)), TEXT)
        assert type(noted) is type(live)
        assert form.annotation(form.read(noted)) == TEXT
        assert form.annotation(form.read(live)) == ""


def test_what_is_no_text_of_ours_is_left_alone(tmp_path: Path) -> None:
    h5py: Any = pytest.importorskip("h5py")
    path = saved("seed_case", ".h5", tmp_path)
    form = format_of(path)
    with h5py.File(path, "a") as file:
        file.create_group("decascade")
    assert form.annotation(form.read(path)) == ""
    archive = saved("seed_case", ".keras", tmp_path)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("decascade.json", b"\xff\xfe")
    assert form.annotation(form.read(archive)) == "��"
