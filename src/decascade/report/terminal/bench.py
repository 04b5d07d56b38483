"""Measurements for people: tables of 80 columns, and a plot."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from decascade.frameworks import needed
from decascade.printable import printable_facts
from decascade.report.facts.bench import BenchFacts, ModelCost, TargetFacts
from decascade.report.facts.quantities import change
from decascade.report.terminal.tables import plain_table, plain_text

SHOWN = 8
"""Layers of a model that the terminal shows: the dearest."""


COUNTED = ("macs", "flash", "flash:float")
"""Targets whose layers the terminal does not list."""


def bench_text(facts: BenchFacts) -> str:
    """The measurements in plain text, 80 columns."""
    return plain_text(render_bench(facts))


def render_bench(facts: BenchFacts) -> RenderableType:
    """The measurements as something that rich can print."""
    facts = printable_facts(facts)
    parts: list[RenderableType] = [Text(" and ".join(facts.models), style="bold"), _totals(facts)]
    for target in facts.targets:
        if target.models[0].layers and target.target not in COUNTED:
            parts += [Text(f"\nLayers under {target.target}, the dearest first", style="bold"), _layers(facts, target)]
    parts += [Text(f"Note: {note}") for note in facts.notes]
    parts.append(Text(f"On {facts.machine}"))
    return Group(*parts)


def _totals(facts: BenchFacts) -> RenderableType:
    table = plain_table()
    table.add_column("")
    for name in facts.models:
        table.add_column(Text(name), justify="right", overflow="fold")
    if len(facts.models) > 1:
        table.add_column("second", justify="right", overflow="fold")
    two = len(facts.models) > 1
    for target in facts.targets:
        first = target.models[0]
        row = [f"{target.target}, {target.unit}", *(_number(m.total) for m in target.models)]
        table.add_row(*row, *([_change(target)] if two else []))
        if first.spread is not None:
            table.add_row("  median, 95 %", *(_spread(m) for m in target.models), *([""] if two else []))
        if first.together is not None and (target.interval is not None or first.together != first.total):
            told = [f"{_number(m.together or 0)} ({_off(m)})" for m in target.models]
            predicted = "" if target.predicted is None else f"predicts {target.predicted:.3g} ×"
            table.add_row("  layers by themselves", *told, *([predicted] if two else []))
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _spread(model: ModelCost) -> str:
    return "" if model.spread is None else f"{_number(model.spread.median)}, {_number(model.spread.p95)}"


def _off(model: ModelCost) -> str:
    """How far the sum over single layers is from the whole."""
    return f"{(model.together or 0) / model.total - 1:+.0%}" if model.total else "0"


def _change(target: TargetFacts) -> str:
    words = change(target.models[0].total, target.models[1].total)
    if target.interval is None:
        return words
    low, high = target.interval
    return f"{words} ({low:.3g} to {high:.3g})"


def _layers(facts: BenchFacts, target: TargetFacts) -> RenderableType:
    table = plain_table()
    table.add_column("layer", overflow="fold", ratio=4)
    table.add_column("what", overflow="fold", ratio=6)
    table.add_column(target.unit, justify="right")
    table.add_column("share", justify="right")
    for name, model in zip(facts.models, target.models, strict=True):
        if len(facts.models) > 1:
            table.add_row(Text(name, style="bold"), "", "", "")
        ordered = sorted(model.layers, key=lambda layer: -layer.cost)
        for layer in ordered[:SHOWN]:
            share = f"{layer.cost / model.together:.0%}" if model.together else ""
            table.add_row(Text(layer.name), Text(layer.layer), _number(layer.cost), share)
        if len(ordered) > SHOWN:
            rest = sum(layer.cost for layer in ordered[SHOWN:])
            table.add_row(f"… {len(ordered) - SHOWN} more", "", _number(rest), f"{rest / (model.together or 1):.0%}")
    return table


def plot_html(facts: BenchFacts) -> str:
    """A page with a bar chart per target: the layers of each model side by side, and the spread of single runs.

    Raises:
        MissingPackageError: plotly is not installed.
    """
    graph_objects, subplots = needed("plotly.graph_objects", "a plot"), needed("plotly.subplots", "a plot")
    titles = [f"{t.target} ({t.unit})" for t in facts.targets]
    figure = subplots.make_subplots(rows=len(titles), cols=1, subplot_titles=titles)
    for row, target in enumerate(facts.targets, start=1):
        for i, (name, model) in enumerate(zip(facts.models, target.models, strict=True)):
            for bar in _bars(graph_objects, name, model, i, row == 1):
                figure.add_trace(bar, row=row, col=1)
    figure.update_layout(height=360 * len(titles), title=" and ".join(facts.models), barmode="stack", template="plotly_white")
    return figure.to_html(include_plotlyjs=True, full_html=True)


def _bars(graph_objects: Any, name: str, model: ModelCost, index: int, legend: bool) -> list[Any]:
    """One bar: stacked from the layers where they are known, with the interval of the middle half of all runs."""
    place = f"{index + 1}: {name}"
    if not model.layers:
        return [graph_objects.Bar(x=[place], y=[model.total], showlegend=False)]
    bars = [
        graph_objects.Bar(x=[place], y=[layer.cost], name=layer.name, hovertext=layer.layer, showlegend=legend and index == 0)
        for layer in model.layers
    ]
    if model.spread is not None:
        s = model.spread
        error = {"type": "data", "symmetric": False, "array": [s.p75 - s.median], "arrayminus": [s.median - s.p25]}
        middle = graph_objects.Scatter(x=[place], y=[s.median], error_y=error, mode="markers", name="runs", showlegend=False)
        bars.append(middle)
    return bars
