"""What a format module offers: read a native model into a graph, write a changed graph back natively, run both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from decascade.ir.graph import Graph

Arrays = Mapping[str, NDArray[Any]]
NOTE = "decascade"
"""The name under which a model carries a text of decascade's own."""


@dataclass(frozen=True, eq=False)
class Document:
    """A model that was read: the graph for analysis beside the native object that it was read from.

    `native` is never changed.  `source` is the file, None for a live object.  `notes` are remarks for the user
    ("read as in eval mode").
    """

    format: str
    graph: Graph
    native: Any
    source: Path | None = None
    notes: tuple[str, ...] = ()
    state: Any = field(default=None, repr=False)


class Format(Protocol):
    """One framework.  Adding one is one module with these functions and one row in `formats.registry`."""

    name: str
    extensions: tuple[str, ...]

    def owns(self, model: object) -> bool:
        """Whether a live object is of this framework; must not import the framework."""
        ...

    def read(self, source: Path | object) -> Document:
        """A file of one of `extensions`, or a live object `owns` said yes to.

        Raises:
            FormatError: missing, empty, truncated, not this format, NaN or infinite weights.
            UnsafeModelError: content that would be executed, or data outside the model's folder.
        """
        ...

    def write(self, document: Document, graph: Graph) -> Any:
        """A new native model: the user's own, replayed, with the nodes that `graph` lacks left out and the nodes
        with an empty `origin` put in.  Kept nodes are untouched: names, metadata, dtype survive.  A node whose op is not
        the very object of the document (its weights were trained) is put in anew, under its name where that is possible.
        New weights are stored in the dtype of the tensor they produce.  Outputs that `graph` has beyond the document's, at the
        end, become outputs of the model."""
        ...

    def annotated(self, native: Any, text: str) -> Any:
        """A model that `write` gave, with a text in its metadata that `save` stores and `write` hands on."""
        ...

    def annotation(self, document: Document) -> str:
        """The text that a model carries; "" where it carries none."""
        ...

    def save(self, native: Any, path: Path) -> None:
        """Write the native model to exactly this path (the caller makes it a temporary name and renames)."""
        ...

    def run(self, native: Any, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs of the framework itself, by the graph's output names; arrays in the model's own layout and type, but
        for bfloat16, which NumPy lacks, as float32."""
        ...

    def to_graph(self, document: Document, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """A native array of the graph input or output `name` in the graph's channels-first layout."""
        ...
