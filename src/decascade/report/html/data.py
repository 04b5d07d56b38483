"""What the page's scripts read: the report in short arrays, the graphs with their layout.  Field order is that of data.js."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite, log10
from typing import Any

from decascade.errors import UsageError
from decascade.report.facts.parts import ErrorMap, NodeFacts
from decascade.report.facts.report import CascadeFacts, Report
from decascade.report.html.layout import Layout, layouts

LEVELS, DECADES = 32, 4
"""A map of errors has so many colours, over so many powers of ten below what rounding can explain."""
MAPS, NODES, CHANNELS = 256, 12_000, 8_000
"""The maps, the nodes and the channels' bounds that a page holds at most, so that it stays below a megabyte."""
CONSTANT = frozenset({"inactive", "low", "high", "zero"})
"""Regimes in which an activation does not depend on its input."""
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def page_data(report: Report) -> dict[str, Any]:
    """The report as the scripts want it: plain JSON."""
    words = _Words()
    return {
        "unit": report.cost.unit,
        "cascades": _cascades(report.cascades, words),
        "graphs": _graphs(report, words),
        "compression": None if report.compression is None else asdict(report.compression),
        "measures": [asdict(m) for m in report.measures],
        "activations": [row for i, found in enumerate(report.certificates) for row in _activations(found, i)],
        "layers": [],
        "words": list(words),  # last: it is filled by the others
    }


class _Words(dict[Any, int]):
    """Names, kinds, shapes, reasons: each once, the rows name their places."""

    def __missing__(self, word: Any) -> int:
        self[word] = len(self)
        return len(self) - 1


def too_large(report: Report) -> bool:
    """Whether the report has graphs that are too large to be drawn on a page."""
    return report.graphs is not None and len(report.graphs.before) + len(report.graphs.after) > NODES


def finite(value: Any) -> Any:
    """The same with null for what JSON lacks, and six digits of the rest."""
    if isinstance(value, float):
        return (int(value) if value.is_integer() and abs(value) < 1e15 else float(f"{value:.6g}")) if isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}  # type: ignore[misc]
    return [finite(v) for v in value] if isinstance(value, list | tuple) else value  # type: ignore[misc]


def _cascades(rows: Sequence[CascadeFacts], words: _Words) -> list[Any]:
    mapped = [i for i, c in enumerate(rows) if c.error is not None and c.error.map is not None]
    # the worst first, measured by what rounding can explain
    worst = set(sorted(mapped, key=lambda i: -_share(rows[i]))[:MAPS])
    return [_cascade(c, i in worst, words) for i, c in enumerate(rows)]


def _share(row: CascadeFacts) -> float:
    e = row.error
    return 0.0 if e is None or not e.allowed or not isfinite(e.max_abs / e.allowed) else e.max_abs / e.allowed


def _cascade(c: CascadeFacts, mapped: bool, words: _Words) -> list[Any]:
    cost, e = c.cost, c.error
    error = None if e is None else [e.max_abs, e.max_rel, e.allowed, e.samples]
    drawn = None if e is None or e.map is None or not mapped else _map(e.map, e.allowed)
    told = [words[w] for w in (c.decision, c.tier, c.reason, c.border)]
    return [[words[name] for name in c.layers], *told, cost.before, cost.after, cost.parameters_before, cost.parameters_after,
            error, drawn]


def _map(found: ErrorMap, allowed: float) -> list[Any]:
    rows = ["".join(DIGITS[_level(v, allowed)] for v in row) for row in found.rows]
    return [rows, list(found.size), list(found.edge)]


def _level(value: float, allowed: float) -> int:
    """0 for no error, else 1 to 31 over `DECADES` powers of ten up to what rounding can explain."""
    if not value > 0 or not isfinite(value):
        return 0
    share = value / allowed if allowed > 0 else 1.0
    return max(1, min(LEVELS - 1, 1 + round((LEVELS - 2) * (log10(share) / DECADES + 1))))


def _activations(certificate: Mapping[str, Any], place: int) -> list[list[Any]]:
    """Per activation its layers, kind, tier and, per channel, a letter for what is known and its bounds.

    Raises:
        UsageError: a certificate that is none.
    """
    try:
        tier, rows = str(certificate["tier"]), list(certificate["activations"])
        many = sum(len(row["status"]) for row in rows) > CHANNELS
        return [[list(map(str, row["layers"])), str(row["kind"]), tier, _letters(row),
                 None if many else [list(row["lo"]), list(row["hi"])]] for row in rows]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UsageError(f"certificates[{place}] is no certificate: {type(error).__name__}: {error}") from error


def _letters(row: Mapping[str, Any]) -> str:
    """l: linear and not constant; c: constant; m, o, w: mixed, open, witnessed."""
    names: Sequence[str] = row["regimes"]
    return "".join(("c" if names[regime] in CONSTANT else "l") if status in ("proven", "observed") else str(status)[:1]
                   for status, regime in zip(row["status"], row["regime"], strict=True))


def _graphs(report: Report, words: _Words) -> dict[str, Any] | None:
    graphs = report.graphs
    if graphs is None or too_large(report):
        return None
    before, after = layouts(graphs)
    return {
        "before": _drawn(graphs.before, before, (), words), "after": _drawn(graphs.after, after, graphs.before, words),
        "unit": graphs.unit, "rows": max((*before.rows, *after.rows), default=0) + 1,
    }


def _drawn(nodes: Sequence[NodeFacts], layout: Layout, old: Sequence[NodeFacts], words: _Words) -> dict[str, Any]:
    rows = [_node(n, y, x, old, words) for n, y, x in zip(nodes, layout.rows, layout.columns, strict=True)]
    return {"nodes": rows, "edges": layout.edges, "width": layout.width}


def _node(n: NodeFacts, y: int, x: int, old: Sequence[NodeFacts], words: _Words) -> list[Any]:
    """A kept node says only what differs from what it was."""
    layers: Any = 0 if n.layers == (n.name,) else [words[name] for name in n.layers]
    told: Any = [words[n.name], words[n.kind], layers, words[n.shape], n.cost, n.parameters]
    if n.same is not None and n.same < len(old):
        o = old[n.same]
        if (o.kind, o.shape, o.cost, o.parameters, o.layers) == (n.kind, n.shape, n.cost, n.parameters, n.layers):
            told = n.same
    return [told, n.cascades, y, x]
