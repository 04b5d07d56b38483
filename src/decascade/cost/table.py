"""Costs that the user measured on real hardware: a CSV with a row per layer."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from math import isfinite
from pathlib import Path

from decascade.cost.base import Cost
from decascade.cost.count import parameters
from decascade.cost.layers import layer_text
from decascade.errors import UsageError
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.ops.traits import joins_neighbours
from decascade.reading.text import read_text

COLUMNS = ("layer", "cost", "unit")
"""What the CSV must hold; `unit` may be left out, further columns are left alone."""


class Table:
    """Costs from a file: `layer` as `decascade table --template` writes it, `cost` in any unit that adds up.

    A layer that is not in the table is never chosen.  A model whose own layers are missing cannot be costed.

    Raises:
        UsageError: a file that is missing or is no such table; says in which line.
    """

    def __init__(self, path: Path) -> None:
        self.name = f"table:{path.name}"
        self._path = path
        self._costs, self.unit = _read(path)

    def segment_cost(self, nodes: Sequence[Node], tensors: Mapping[str, Tensor]) -> Cost:
        missing = list[str]()
        total = 0.0
        for node in nodes:
            text = layer_text(node, tensors)
            found = self._costs.get(text)
            if found is not None:
                total += found
            elif not joins_neighbours(node.op):
                missing.append(text)
        own = [text for node in nodes for text in [layer_text(node, tensors)] if node.origin and text in missing]
        if own:
            more = f" and {len(own) - 1} more of its layers" if len(own) > 1 else ""
            raise UsageError(
                f"table {self._path} has no cost for `{own[0]}`{more}: decascade table --template lists what to measure"
            )
        return Cost(float("inf") if missing else total, sum(map(parameters, nodes)))

    def combine(self, costs: Iterable[Cost]) -> Cost:
        listed = list(costs)
        return Cost(sum(c.value for c in listed), sum(c.parameters for c in listed))

    def graph_cost(self, graph: Graph) -> Cost:
        return self.segment_cost(graph.nodes, graph.tensors)


def _read(path: Path) -> tuple[dict[str, float], str]:
    costs, units = dict[str, float](), dict[str, None]()
    for line, row in _rows(path):
        if not (row["cost"] or "").strip():
            continue  # not measured
        layer, cost = (row["layer"] or "").strip(), _number(row["cost"], path, line)
        if costs.setdefault(layer, cost) != cost:
            both = f"{costs[layer]:g} and {cost:g}"
            raise UsageError(f"table {path}, line {line}: a second cost for `{layer[:80]}` ({both}): keep one of them")
        units[(row.get("unit") or "").strip()] = None
    if len(units) > 1:
        raise UsageError(f"table {path} mixes units ({', '.join(u or 'none' for u in units)}): give all costs in one")
    if not costs:
        raise UsageError(f"table {path} has no costs yet: fill in its column cost")
    return costs, next(iter(units)) or "cost"


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows by the columns of the first line, each with its line number."""
    reader = csv.DictReader(StringIO(read_text(path, "table", "table"), newline=None))
    try:
        if not {"layer", "cost"} <= set(reader.fieldnames or ()):
            expected = ", ".join(COLUMNS)
            raise UsageError(f"table {path} has no columns layer and cost in its first line: {expected} are expected")
        return list(enumerate(reader, start=2))
    except csv.Error as error:  # a field of more than 128 KiB, say
        raise UsageError(f"table {path}, line {reader.line_num}: {error}: mend that line") from None


def _number(text: str, path: Path, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not (isfinite(value) and value >= 0):
        raise UsageError(f"table {path}, line {line}: cost {text[:40]!r} is no number from 0 on")
    return value
