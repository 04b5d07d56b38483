"""Figures before and after, for the terminal: one table per group."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.text import Text

from decascade.report.facts.parts import CompressionFacts, Measure
from decascade.report.terminal.tables import plain_table


def render_measures(measures: Sequence[Measure]) -> RenderableType:
    """The measures in their order; what stands behind all of a group is said once."""
    parts = list[RenderableType]()
    for group, some in groupby(measures, key=lambda m: m.group):
        rows = list(some)
        notes = [note for note in dict.fromkeys(row.note for row in rows) if note]
        parts.append(Text.assemble(("\n" + group.capitalize(), "bold"), f" ({'; '.join(notes)})" if notes else ""))
        table = plain_table()
        for title in ("", "original", "result"):
            table.add_column(title, justify="right" if title else "left")
        for row in rows:
            table.add_row(Text(row.name), figure(row.before, row.unit), figure(row.after, row.unit))
        parts.append(table)
    return Group(*parts)


def render_front(compression: CompressionFacts) -> RenderableType:
    """What plans lose at one cost after the other."""
    table = plain_table()
    for title in ("cost", compression.loss_unit, ""):
        table.add_column(Text(title), justify="left" if not title else "right")
    seen = {(p.cost, p.loss): p for p in sorted(compression.front, key=lambda p: p.chosen)}  # one row of plans that are alike
    for point in sorted(seen.values(), key=lambda p: -p.cost):
        table.add_row(f"{point.cost:,.0f}", f"{point.loss:.3g}", Text(point.words), style="bold" if point.chosen else "")
    return Group(Text("\nPlans", style="bold"), table)


def figure(value: float | None, unit: str) -> str:
    """A number with its unit: "86.2 %", "0.031 nats", "12 ms"; "" where there is none."""
    if value is None:
        return ""
    text = f"{value:.1f}" if unit == "%" else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} {unit}".strip()
