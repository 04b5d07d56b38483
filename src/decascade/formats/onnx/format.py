"""The ONNX format: `.onnx` files, live `onnx.ModelProto`, `onnx_ir.Model` and `torch.onnx.ONNXProgram`; opset 7 and up."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from decascade.errors import FormatError
from decascade.formats.base import NOTE, Arrays, Document
from decascade.formats.input_shapes import InputShapes
from decascade.formats.onnx.model import OnnxModel, from_ir, from_proto, load_model, save_model
from decascade.formats.onnx.read import graph_of
from decascade.formats.onnx.run import run_model
from decascade.formats.onnx.sizes import sized
from decascade.formats.onnx.view import View, view_of
from decascade.formats.onnx.write import rewritten
from decascade.frameworks import needed
from decascade.ir.graph import Graph


@dataclass(frozen=True, eq=False)
class _State:
    """What `write` needs of a document beside its graph; `kind` is the class that the user gave.

    `exported`: the torch program that an `ONNXProgram` was made of, by which it takes its arguments.
    """

    view: View
    kind: str
    exported: Any = None


class OnnxFormat:
    """Satisfies `formats.base.Format`.

    `Document.native` is an `OnnxModel`, a snapshot of what was read.  `write` gives an `OnnxModel` where a file was read,
    and an `onnx.ModelProto`, `onnx_ir.Model` or `torch.onnx.ONNXProgram` where one was given.  `read`, `run` and `save` take
    all four.
    """

    name = "onnx"
    extensions: tuple[str, ...] = (".onnx",)

    def owns(self, model: object) -> bool:
        """Whether it is one of the live objects above, or an `OnnxModel`; imports none of their packages."""
        return isinstance(model, OnnxModel) or _kind(model) in ("ModelProto", "Model", "ONNXProgram")

    def read(self, source: Path | object, input_shape: InputShapes | None = None) -> Document:
        """Read a file or a live model.

        `input_shape`: sizes for what the model leaves open; it then states them itself, and so does what is written.

        Raises:
            FormatError: missing, empty, truncated, of another format, an opset below 7, NaN or infinite weights, sizes that
                are not the model's.
            UnsafeModelError: external data outside the model's folder; nothing of it is read.
        """
        path = Path(source) if isinstance(source, str | Path) else None
        _need_onnx()
        model = _held(source) if input_shape is None else sized(_held(source), input_shape)
        view = view_of(model)
        state = _State(view, _kind(source), getattr(source, "exported_program", None))
        return Document("onnx", graph_of(view), model, path, state=state)

    def write(self, document: Document, graph: Graph) -> Any:
        """The model with the nodes that `graph` lacks left out and its new ones put in.

        Raises:
            FormatError: an operation that the model's opset cannot say, or weights that leave its element type.
        """
        state: _State = document.state
        model = rewritten(state.view, document.graph, graph)
        if state.kind in ("Model", "ONNXProgram"):
            plain = import_module("onnx_ir.serde").deserialize_model(model.proto())
            return plain if state.kind == "Model" else import_module("torch.onnx").ONNXProgram(plain, state.exported)
        return model.proto() if state.kind == "ModelProto" else model

    def annotated(self, native: Any, text: str) -> Any:
        """The text becomes an entry of the model's `metadata_props`."""
        if isinstance(native, OnnxModel):
            shell: Any = import_module("onnx").ModelProto()
            shell.CopyFrom(native.shell)
            return OnnxModel(_with_entry(shell, text), native.weights, native.external)
        if _kind(native) in ("Model", "ONNXProgram"):
            (native if _kind(native) == "Model" else native.model).metadata_props[NOTE] = text
            return native
        return _with_entry(native, text)

    def annotation(self, document: Document) -> str:
        """The entry of `metadata_props`."""
        return next((str(p.value) for p in document.native.shell.metadata_props if p.key == NOTE), "")

    def live(self, native: Any) -> Any:
        """The object a user expects in place of an `OnnxModel`: an `onnx.ModelProto`."""
        return native.proto() if isinstance(native, OnnxModel) else native

    def save(self, native: Any, path: Path) -> None:
        """Write to exactly `path`; where the weights pass 2 GiB, or came as external data, they go to a file beside it."""
        save_model(_held(native), path)

    def run(self, native: Any, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """The outputs that onnxruntime gives, unoptimised, on one thread; in the model's own element types.

        Raises:
            FormatError: onnxruntime is not installed, or does not accept the model.
            UsageError: inputs that are not those of the model.
        """
        return run_model(_held(native), inputs)

    def to_graph(self, document: Document, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """ONNX is channels-first, as the graph is: the array itself."""
        return array


def _with_entry(proto: Any, text: str) -> Any:
    entry = next((p for p in proto.metadata_props if p.key == NOTE), None) or proto.metadata_props.add()
    entry.key, entry.value = NOTE, text
    return proto


def _kind(model: object) -> str:
    """The name of a live object's class where its package is ONNX's, or PyTorch's exporter to it; else ""."""
    kind = type(model)
    package = kind.__module__.partition(".")[0]
    exporter = kind.__name__ == "ONNXProgram" and kind.__module__.startswith("torch.onnx")
    return kind.__name__ if package in ("onnx", "onnx_ir") or exporter else ""


def _held(source: Any) -> OnnxModel:
    if isinstance(source, OnnxModel):
        return source
    if isinstance(source, str | Path):
        return load_model(Path(source))
    if _kind(source) == "ModelProto":
        return from_proto(source)
    if _kind(source) in ("Model", "ONNXProgram"):
        return from_ir(source if _kind(source) == "Model" else source.model)
    kind = type(source).__name__
    takes = "a path, a ModelProto, an onnx_ir.Model or an ONNXProgram"
    raise FormatError(f"an object of type {kind} is no ONNX model: give {takes}")


def _need_onnx() -> None:
    needed("onnx", "reading an ONNX model")


FORMAT = OnnxFormat()
