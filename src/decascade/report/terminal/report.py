"""The report for people: rich tables that fit 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import IO

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from decascade.printable import printable_facts
from decascade.report.facts.quantities import change, quantity
from decascade.report.facts.report import CascadeFacts, CostFacts, Report, VerificationFacts
from decascade.report.terminal.measures import render_front, render_measures
from decascade.report.terminal.tables import WIDTH, indented, plain_table, plain_text
from decascade.report.terminal.validity import render_activations, render_outside, render_proofs, render_validity


def console(file: IO[str] | None = None) -> Console:
    """A console on `file` (default: standard output): as wide as the terminal, 80 columns where there is none."""
    probe = Console(file=file, highlight=False, markup=False, emoji=False)
    return probe if probe.is_terminal else Console(file=file, highlight=False, markup=False, emoji=False, width=WIDTH)


def report_text(report: Report) -> str:
    """The report in plain text, 80 columns."""
    return plain_text(render(report))


def verification_text(facts: VerificationFacts) -> str:
    """A verification in plain text, 80 columns."""
    return plain_text(render_verification(facts, ("first", "second")))


def render(report: Report) -> RenderableType:
    """The whole report as something that rich can print."""
    report = printable_facts(report)
    merged = [c for c in report.cascades if c.decision == "merged"]
    left = [c for c in report.cascades if c.decision == "left"]
    planned = report.action == "inspect"
    parts: list[RenderableType] = [_headline(report, len(merged), planned)]
    if merged:
        parts += [Text("\nTo merge" if planned else "\nMerged", style="bold green"), _cascades(merged)]
    if left:
        parts += [Text("\nLeft alone", style="bold yellow"), _cascades(left)]
    parts += [Text("\nThe model", style="bold"), _totals(report)]
    if report.measures:
        parts.append(render_measures(report.measures))
    if report.compression is not None and report.compression.front:
        parts.append(render_front(report.compression))
    parts += [render_activations(c) for c in report.certificates if c["activations"]]
    if report.certificates:
        parts += [Text(""), render_validity(report.validity, planned)]
    if report.verification is not None:
        parts.append(render_verification(report.verification))
    if report.outside is not None:
        parts.append(render_outside(report.outside))
    parts += [Text(f"Note: {note}") for note in report.notes]
    parts += [Text(f"\nNext: {hint}", style="italic") for hint in _hints(report)]
    if report.output is not None:
        parts.append(Text(f"Written to {report.output}"))
    return Group(*parts)


def _hints(report: Report) -> Iterator[str]:
    """What can be tried where nothing got cheaper."""
    after = report.cost.after
    if report.action == "compress" or after is None or after < 0.99 * report.cost.before:
        return
    if any(c.decision == "left" and c.cost.after is not None for c in report.cascades):
        yield ("--policy always merges what is dearer too, for devices that count layers; decascade bench measures whether"
               " that is yours")
    yield "decascade compress replaces activations too; it needs samples of the model's inputs (--data)"


def render_verification(facts: VerificationFacts, names: tuple[str, str] = ("original", "merged")) -> RenderableType:
    """The comparison in a few lines; `names` stand for the two models."""
    facts, names = printable_facts(facts), printable_facts(names)
    verdict = "same function up to rounding" if facts.same else "NOT the same function"
    style = "bold green" if facts.same else "bold red"
    head = "Verified: " if facts.same else "Checked: "
    lines: list[RenderableType] = [Text.assemble((head, "bold"), (verdict, style), f", {facts.samples} samples")]
    table = Table.grid(padding=(0, 2, 0, 0))
    by = f"  {facts.where_in_short}"
    rows = (by, facts.max_abs, facts.tolerance), ("  in float64", facts.exact_error, facts.exact_tolerance)
    for name, error, limit in rows:
        if error is not None and (name == by or facts.by == "framework"):
            told = f"{error:.2g}" if limit is None else f"{error:.2g}, rounding can explain {limit:.2g}"
            table.add_row(name, "differ by", told)
    if facts.original_fp32_error is not None and facts.merged_fp32_error is not None:
        ratio = "" if facts.fp32_ratio is None else f" ({facts.fp32_ratio:.2f} times)"
        told = f"{facts.original_fp32_error:.2g} of the largest value (RMS)"
        table.add_row("  float32 error", Text(clipped(names[0])), told)
        table.add_row("", Text(clipped(names[1])), f"{facts.merged_fp32_error:.2g}{ratio}")
    if facts.worst is not None and facts.max_abs > 0:
        w = facts.worst
        place = f"{w.output}{list(w.index)}, {facts.max_rel:.1g} of its largest value: {w.a:.9g} → {w.b:.9g}"
        table.add_row("  differ most", "at", Text(place))
    lines.append(table)
    proofs = [] if facts.proofs is None else [render_proofs(facts.proofs)]
    return Group(*lines, *(indented(note) for note in facts.notes), *proofs)


def clipped(name: str, width: int = 16) -> str:
    """A name that leaves room beside it: of a long one its end, where the extension is."""
    return name if len(name) <= width else f"…{name[1 - width:]}"


def chain(layers: Sequence[str]) -> str:
    """The layers of a cascade in a few words."""
    shown = list(layers) if len(layers) <= 4 else [*layers[:2], f"… {len(layers) - 3} more …", layers[-1]]
    return " → ".join(shown)


def _headline(report: Report, merged: int, planned: bool) -> Text:
    found = len(report.cascades)
    verb = "to merge" if planned else "merged"
    count = "no cascade" if not found else "1 cascade" if found == 1 else f"{found} cascades"
    split = f": {merged} {verb}, {found - merged} left alone" if found else " of linear layers: nothing to merge"
    return Text.assemble((report.model, "bold"), f": {count}{split} (target\u00a0{report.target})")


def _cascades(rows: Iterable[CascadeFacts]) -> Table:
    table = plain_table()
    table.add_column("layers", ratio=9, overflow="fold")
    table.add_column("what and why", ratio=10, overflow="fold")
    table.add_column("cost", ratio=6, overflow="fold")
    shown, folds = _without_folds(rows)
    for row in shown:
        table.add_row(Text(chain(row.layers)), Text(_why(row)), Text(_cost(row.cost)))
    if folds:
        errors = [r.error.max_rel for r in folds if r.error is not None]
        error = f"; error {max(errors):.0e}" if errors else ""
        more = f" and {len(folds) - 1} more like it" if len(folds) > 1 else ""
        table.add_row(Text(chain(folds[0].layers) + more), Text(f"{folds[0].reason}; {folds[0].tier}{error}"),
                      Text("the same"))
    return table


def _without_folds(rows: Iterable[CascadeFacts]) -> tuple[list[CascadeFacts], list[CascadeFacts]]:
    """The rows one by one, and those that are one story many times: a normalisation folded into its convolution."""
    shown, folds = list[CascadeFacts](), list[CascadeFacts]()
    for row in rows:
        fold = row.decision == "merged" and row.reason.startswith("scale and shift folded")
        (folds if fold and row.cost.before == row.cost.after else shown).append(row)
    return shown, folds


def _why(row: CascadeFacts) -> str:
    borders = {"free": "", "bias": "bias corrected at the border", "ring": "ring corrected at the border", "": ""}
    border = borders[row.border]
    if row.decision == "left":
        return row.reason
    error = "" if row.error is None else f"; error {row.error.max_rel:.0e}"
    return f"{row.reason}; {row.tier}{f'; {border}' if border else ''}{error}"


def _cost(cost: CostFacts) -> str:
    if cost.after is None:
        return quantity(cost.before)
    return f"{quantity(cost.before)} → {quantity(cost.after)}\n{change(cost.before, cost.after)}"


def _totals(report: Report) -> Table:
    table = plain_table()
    for name in ("", "before", "after", ""):
        table.add_column(name, justify="left" if not name else "right")
    cost, layers = report.cost, report.layers
    rows: list[tuple[str, float, float | None]] = [
        ("convolution and dense layers", float(layers.before), float(layers.after)),
        (cost.unit, cost.before, cost.after),
        ("parameters", float(cost.parameters_before), _float(cost.parameters_after)),
    ]
    if layers.corrections:
        rows.insert(1, ("small convolutions that correct borders", 0.0, float(layers.corrections)))
    for name, before, after in rows:
        table.add_row(name, quantity(before), "" if after is None else quantity(after), change(before, after))
    return table


def _float(value: int | None) -> float | None:
    return None if value is None else float(value)
