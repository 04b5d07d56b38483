"""Export to ONNX: an ONNX model as it is, any other through the graph, verified."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from decascade.checking.models import Subject
from decascade.deploy.made import Made, Source, verified
from decascade.deploy.onnx.model import onnx_of
from decascade.errors import UsageError
from decascade.formats.onnx.format import FORMAT
from decascade.formats.onnx.model import OnnxModel


def onnx_subject(model: OnnxModel) -> Subject:
    """The model read back: what was written is what is checked."""
    return Subject(FORMAT, FORMAT.read(model))


def onnx_file(source: Source, name: str) -> Made:
    """An .onnx file that equals the model up to rounding, its batch open where the model's is.

    Raises:
        UsageError: an operation without ONNX form.  VerificationError: it is not the same function.
    """
    source.told("converting", 0.0)
    own = source.subject.format.name == "onnx"
    fixed = any(isinstance((source.graph.shape(i) or ("",))[0], int) for i in source.graph.inputs)
    model = source.subject.document.native if own else onnx_of(source.graph, 1 if fixed else None)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / name
        FORMAT.save(model, place)
        files = {name: place.read_bytes()} | {p.name: p.read_bytes() for p in Path(folder).iterdir() if p.name != name}
        if len(files) > 1 and not own:
            raise UsageError("a model of more than 2 GiB is no model for a device")
        exported = onnx_subject(_loaded(place))
    verification = verified(source, exported)
    kinds = Counter(node.op_type for node in model.proto().graph.node)
    notes = () if own else ("the file's inputs and outputs are channels-first, float32",)
    return Made("onnx", files, sum(map(len, files.values())), dict(kinds), verification,
                tools=("onnx", "onnxruntime"), notes=notes)


def _loaded(place: Path) -> Any:
    return FORMAT.read(place).native
