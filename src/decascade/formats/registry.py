"""The formats, in order.  Adding one is one module with a `FORMAT` and one row here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import cast

from decascade.errors import FormatError
from decascade.formats.base import Format


@dataclass(frozen=True)
class Row:
    """A format as known before its module is imported.

    `packages`: top-level packages whose classes a live object of this format is, or derives from.
    `accepts`: those live objects in words.  `refuses`: further extensions that this format says no to, and why.
    """

    name: str
    extensions: tuple[str, ...]
    module: str
    packages: tuple[str, ...]
    accepts: str
    refuses: tuple[str, ...] = ()

    @property
    def package(self) -> str:
        """The folder of the format's modules, with a dot behind it."""
        return self.module.rpartition(".")[0] + "."

    def load(self) -> Format:
        """The format's module, imported now; the framework itself is only imported when it is used."""
        return cast(Format, import_module(self.module).FORMAT)


# Keras before PyTorch: under its torch backend a keras.Model is also a torch.nn.Module.
ROWS: tuple[Row, ...] = (
    Row("onnx", (".onnx",), "decascade.formats.onnx.format", ("onnx", "onnx_ir", "torch"),
        "onnx.ModelProto, onnx_ir.Model, torch.onnx.ONNXProgram"),
    Row("keras", (".keras", ".h5", ".hdf5"), "decascade.formats.keras.format", ("keras",), "keras.Model"),
    Row("torch", (".pt2",), "decascade.formats.torch.format", ("torch",), "torch.nn.Module",
        refuses=(".pt", ".pth", ".th", ".ckpt", ".pkl")),
)


def format_of(model: object) -> Format:
    """The format of a file, by its extension, or of a live object, by the package of its class or a base of it.

    Raises:
        FormatError: no format has this extension, or owns this object; lists what is accepted.
    """
    if isinstance(model, str | Path):
        suffix = Path(model).suffix.lower()
        for row in ROWS:
            if suffix in row.extensions or suffix in row.refuses:
                return row.load()
        told = f"extension {suffix}" if suffix else "no extension"
        raise FormatError(f"{model}: {told}, so its format is unknown: {accepted()}")
    modules = [base.__module__ for base in type(model).__mro__]
    packages = {module.partition(".")[0] for module in modules}
    for row in ROWS:
        # a format's own holder of a model, say that of one read from a file, is a live object too
        if packages.intersection(row.packages) or any(module.startswith(row.package) for module in modules):
            found = row.load()
            if found.owns(model):
                return found
    if _is_state_dict(model):
        raise FormatError("a state_dict holds weights and no layers: put it into your module (module.load_state_dict(state)) "
                          "and pass the module")
    kind = type(model)
    raise FormatError(f"an object of type {kind.__module__}.{kind.__qualname__} is no model: {accepted()}")


def _is_state_dict(model: object) -> bool:
    """Whether it is a mapping to PyTorch's tensors; does not import torch."""
    if not isinstance(model, Mapping):
        return False
    values = cast("Mapping[str, object]", model).values()
    return any(type(value).__module__.partition(".")[0] == "torch" for value in values)


def accepted() -> str:
    """What may be given as a model, in words."""
    files = ", ".join(extension for row in ROWS for extension in row.extensions)
    return f"give a file ({files}) or a live object ({', '.join(row.accepts for row in ROWS)})"
