"""A TFLite file as a subject: it runs on the graph's arrays as the model that it was made from does."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from decascade.checking.models import Subject
from decascade.deploy.tflite.litert import Model
from decascade.formats.base import Arrays, Document, Format
from decascade.ir.graph import Graph


class _File:
    """The part of `formats.base.Format` that a subject is run with; inputs and outputs are in the graph's order."""

    name = "tflite"

    def __init__(self, graph: Graph, plain: Collection[str]) -> None:
        self._graph, self._plain = graph, plain

    def run(self, native: Model, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        """The outputs as real values, sample by sample."""
        given = [np.asarray(inputs[name], np.float32) for name in self._graph.inputs]
        stored = [port.stored(array) for port, array in zip(native.inputs, given, strict=True)]
        rows = [native.run([array[i : i + 1] for array in stored]) for i in range(len(given[0]))]
        columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
        real = [port.real(column) for port, column in zip(native.outputs, columns, strict=True)]
        return dict(zip(self._graph.outputs, real, strict=True))

    def to_graph(self, document: Document, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """Channels-last in the file, channels-first in the graph."""
        return np.moveaxis(array, -1, 1) if array.ndim > 2 and name not in self._plain else array


def to_file(array: NDArray[Any]) -> NDArray[Any]:
    """An array in the graph's layout as the file takes it: channels last, float32."""
    return np.ascontiguousarray(np.moveaxis(array, 1, -1) if array.ndim > 2 else array, np.float32)


def deployed(graph: Graph, data: bytes, reference: bool = False, plain: Collection[str] = ()) -> Subject:
    """A file that was made from the graph; it is run, never read or written.  `plain`: outputs in the graph's own layout."""
    return Subject(cast(Format, _File(graph, plain)), Document("tflite", graph, Model(data, reference)))
