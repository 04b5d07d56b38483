"""PyTorch: live nn.Module (torch.fx, module names kept) and exported programs (.pt2).

`read(module, input_shape=…)` is what a live model is read with when the size of its input matters: for code that torch.fx
cannot trace, for storing as .pt2, and for positions in costs and reports.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from decascade.errors import FormatError, UnsafeModelError
from decascade.formats.base import Arrays, Document
from decascade.formats.files import checked_file
from decascade.formats.input_shapes import InputShapes
from decascade.formats.torch.common import NOTE_KEY, load, loaded, note_of
from decascade.ir.graph import Graph

PICKLES = (".pt", ".pth", ".th", ".ckpt", ".bin", ".pkl")
"""Extensions of what torch.save writes: pickles, which run code when they are loaded."""


class TorchFormat:
    """See `formats.base.Format`."""

    name = "torch"
    extensions = (".pt2",)

    def owns(self, model: object) -> bool:
        """Whether a live object is an nn.Module or an ExportedProgram; does not import torch."""
        torch = loaded()
        return torch is not None and isinstance(model, (torch.nn.Module, torch.export.ExportedProgram))

    def read(self, source: Path | object, input_shape: InputShapes | None = None) -> Document:
        """A .pt2 file, an nn.Module or an ExportedProgram.

        `input_shape`: a shape with the batch first, one per input, or a mapping by name.  A live module states no sizes at
        all; an exported program may leave some open, which it is exported again with.

        Raises:
            FormatError: no such file, not an exported program, code that cannot be traced, weights that are not finite.
            UnsafeModelError: a file that holds pickles or compiled code.
        """
        return read(source, input_shape)

    def write(self, document: Document, graph: Graph) -> Any:
        """A new nn.Module (an fx.GraphModule) that state_dict, export, compile, .to() and training work on."""
        from decascade.formats.torch.write import write_module

        module = write_module(document.state, graph)
        return self.annotated(module, text) if (text := self.annotation(document)) else module

    def annotated(self, native: Any, text: str) -> Any:
        """The text is an entry of an fx.GraphModule's `meta`, and an extra file of a .pt2 archive."""
        native.meta[NOTE_KEY] = text
        return native

    def annotation(self, document: Document) -> str:
        """The entry of `meta`; of a program from a file, what was stored with it."""
        return note_of(document.native)

    def save(self, native: Any, path: Path) -> None:
        """A .pt2 file by torch.export.save."""
        from decascade.formats.torch.run import save_module

        save_module(native, path)

    def run(self, native: Any, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """The outputs in eval mode, without gradients: "output", or "output_0" and on for several."""
        from decascade.formats.torch.run import run_module

        return run_module(native, inputs)

    def to_graph(self, document: Document, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """PyTorch is channels-first as the graph is."""
        return array


def read(source: Path | object, input_shape: InputShapes | None = None) -> Document:
    """As `TorchFormat.read`."""
    from decascade.formats.torch.export import trace_program, trace_sized
    from decascade.formats.torch.read import read_graph
    from decascade.formats.torch.trace import trace_module

    if isinstance(source, (str, Path)):
        return _read_file(Path(source), input_shape)
    torch = load()
    if isinstance(source, torch.export.ExportedProgram):
        traced = trace_program(source)
        if input_shape is not None:
            traced = trace_sized(source, traced, input_shape)
    elif isinstance(source, torch.nn.Module):
        traced = trace_module(source, input_shape)
    else:
        raise FormatError(f"{type(source).__name__} is no PyTorch model: give an nn.Module, an ExportedProgram or a .pt2 file")
    reading = read_graph(traced)
    return Document("torch", reading.graph, source, None, tuple(traced.notes), reading)


def _read_file(path: Path, input_shape: InputShapes | None) -> Document:
    from dataclasses import replace

    from decascade.formats.torch.archive import load_program

    checked_file(path)
    if path.suffix.lower() in PICKLES:
        raise UnsafeModelError(
            f"{path} is a pickle, which can run code when it is loaded and is never opened: load it yourself, put the weights "
            "into your model and pass the nn.Module, or store it with torch.export.save as .pt2"
        )
    return replace(read(load_program(path), input_shape), source=path)


FORMAT = TorchFormat()
