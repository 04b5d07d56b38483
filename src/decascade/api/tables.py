"""table: the list of layers to measure on real hardware, with a model file of each."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from decascade.api.attempts import SPAN
from decascade.api.common import InputShape, Progress, read_model
from decascade.compression.plan.candidates import candidates
from decascade.compression.students.families import written
from decascade.cost import Cost
from decascade.cost.count import macs, parameters
from decascade.cost.folding import folded
from decascade.cost.layers import layer_text, standalone
from decascade.cost.macs import Macs
from decascade.deploy.meters.tflite import tflite_of
from decascade.deploy.onnx.model import onnx_of
from decascade.errors import OutputError, UsageError
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.names import Names
from decascade.ir.ops.traits import joins_neighbours
from decascade.output import Item, write_all
from decascade.regions.merge import Options, merge_graph

REACH = 4.0
"""How many times the multiply-accumulates of what it replaces a new layer may have to be listed."""
COLUMNS = ("layer", "cost", "unit", "file", "multiply_accumulates", "of_the_model")


@dataclass
class Listing:
    """A target that remembers every layer it is asked about.  New layers are charged a `REACH`th of their
    multiply-accumulates, so that none that could pay on some device is passed over."""

    name: str = "listing"
    unit: str = "MACs"
    layers: dict[str, tuple[Node, Mapping[str, Tensor]]] = field(default_factory=dict[str, tuple[Node, Mapping[str, Tensor]]])

    def segment_cost(self, nodes: Sequence[Node], tensors: Mapping[str, Tensor]) -> Cost:
        total = 0.0
        for node in nodes:
            if not joins_neighbours(node.op):
                known = self.layers.get(layer_text(node, tensors))
                if known is None or (node.origin and not known[0].origin):
                    self.layers[layer_text(node, tensors)] = (node, tensors)
            total += macs(node, tensors) / (1.0 if node.origin else REACH)
        return Cost(total, sum(map(parameters, nodes)))

    def combine(self, costs: Iterable[Cost]) -> Cost:
        listed = list(costs)
        return Cost(sum(c.value for c in listed), sum(c.parameters for c in listed))

    def graph_cost(self, graph: Graph) -> Cost:
        return self.segment_cost(graph.nodes, graph.tensors)


def table_template(
    model: object, folder: str | Path, *, int8: bool = False, students: bool = False, input_shape: InputShape | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write into a new folder what has to be measured for `table:FILE.csv`: `layers.csv`, its column `cost` empty, and for
    each of its rows a model of that layer alone, `.onnx` and `.tflite` (float32, or `int8`).  The path of the CSV.

    `students`: list the layers of what `compress` could put in, too; a student with a layer that has no cost is never chosen.
    A layer without TFLite form, or any where TensorFlow is not installed, comes as `.onnx` alone.

    Raises:
        FormatError: a model that cannot be read.
        OutputError: the folder exists and is not empty, or cannot be written to.
    """
    place = Path(folder)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise OutputError(f"{place} exists and is not empty: give a new folder")
    _, document = read_model(model, input_shape)
    listing = Listing()
    merge_graph(document.graph, Options(listing))
    if students:
        _list_students(document.graph, listing)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{place} cannot be made: {error.strerror or error}") from error
    rows = sorted(listing.layers.items(), key=lambda item: (not item[1][0].origin, item[0]))
    items = list[Item]()
    for i, (_, (node, tensors)) in enumerate(rows):
        if progress is not None:
            progress("writing layers", i / len(rows))
        items += _files(place / f"layer_{i:03d}", node, tensors, int8)
    text = _text(rows)
    items.append(Item(place / "layers.csv", lambda path: path.write_text(text, encoding="utf-8")))
    write_all(items)
    return place / "layers.csv"


def _list_students(graph: Graph, listing: Listing) -> None:
    """Every layer of every student that saves multiply-accumulates."""
    folding = folded(graph, shapes_only=True)
    for candidate in candidates(folding, Macs(), SPAN):
        nodes, tensors = written(candidate.student, candidate.student.blank(), "student", Names.of(folding))
        listing.segment_cost(nodes, {**folding.tensors, **tensors})


def _files(stem: Path, node: Node, tensors: Mapping[str, Tensor], int8: bool) -> list[Item]:
    graph = standalone([node], tensors)
    contents = {".onnx": onnx_of(graph).proto().SerializeToString()}
    with suppress(UsageError):  # no TFLite form, or no TensorFlow
        contents[".tflite"] = tflite_of(graph, int8)
    return [Item(stem.with_suffix(suffix), lambda path, data=data: path.write_bytes(data)) for suffix, data in contents.items()]


def _text(rows: Sequence[tuple[str, tuple[Node, Mapping[str, Tensor]]]]) -> str:
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for i, (text, (node, tensors)) in enumerate(rows):
        writer.writerow([text, "", "us", f"layer_{i:03d}", macs(node, tensors), "yes" if node.origin else "no"])
    return out.getvalue()
