"""Keras models: .keras and HDF5 files, and live `keras.Model`s."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.errors import UsageError
from decascade.formats.base import Arrays, Document, Format
from decascade.formats.keras.base import body, keras, output_names, quiet, to_array, to_first
from decascade.formats.keras.files import ATTRIBUTE, check_finite, load, save
from decascade.formats.keras.graph import check_graph
from decascade.formats.keras.read import read_model
from decascade.formats.keras.write import write_model
from decascade.ir.graph import Graph


class KerasFormat:
    """See `formats.base.Format`."""

    name = "keras"
    extensions: tuple[str, ...] = (".keras", ".h5", ".hdf5")

    def owns(self, model: object) -> bool:
        classes = [(c.__module__.partition(".")[0], c.__name__) for c in type(model).__mro__]
        return ("keras", "Model") in classes

    def read(self, source: Path | object) -> Document:
        path = Path(source) if isinstance(source, str | Path) else None
        model: Any = source if path is None else load(path)
        if path is None:
            check_graph(model)
            check_finite(model, f"model {model.name}")
        graph, state = read_model(model)
        return Document(self.name, graph, model, path, state.notes, state)

    def write(self, document: Document, graph: Graph) -> Any:
        with quiet():
            model = write_model(document, graph)
        return self.annotated(model, text) if (text := self.annotation(document)) else model

    def annotated(self, native: Any, text: str) -> Any:
        """The text is an attribute of the live model, a member of a .keras archive, a dataset of an HDF5 file."""
        setattr(native, ATTRIBUTE, text)
        return native

    def annotation(self, document: Document) -> str:
        """The attribute, which reading a file sets."""
        return str(getattr(document.native, ATTRIBUTE, ""))

    def save(self, native: Any, path: Path) -> None:
        save(native, Path(path))

    def run(self, native: Any, inputs: Arrays) -> dict[str, NDArray[Any]]:
        k, tensors = keras(), body(native).inputs
        names = [t._keras_history[0].name for t in tensors]
        missing = [name for name in names if name not in inputs]
        if missing:
            raise UsageError(f"input {missing[0]} is missing: the model's inputs are {', '.join(names)}")
        given = [k.ops.convert_to_tensor(inputs[n], dtype=t.dtype) for n, t in zip(names, tensors, strict=True)]
        with quiet():
            results = native(k.tree.pack_sequence_as(body(native)._inputs_struct, given), training=False)
        found = [to_array(r) for r in k.tree.flatten(results)]
        return dict(zip(output_names(native), found, strict=True))

    def to_graph(self, document: Document, name: str, array: NDArray[Any]) -> NDArray[Any]:
        return to_first(np.asarray(array), document.state.layout)


FORMAT: Format = KerasFormat()
