"""The proven tier for people: where a result holds, what is known of every activation, certificates checked again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby, takewhile
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from decascade.printable import printable_facts
from decascade.report.facts.boxes import box_text
from decascade.report.facts.report import ProofFacts, ValidityFacts, VerificationFacts
from decascade.report.terminal.tables import indented, plain_table, plain_text

CELLS = 32
"""Width of a bar: a cell per channel, or, of more channels, shares."""
CONSTANT = frozenset({"inactive", "low", "high", "zero"})
"""Regimes in which an activation does not depend on its input."""
SIGNS = {"linear": ("█", "green"), "constant": ("░", "cyan"), "mixed": ("▒", "blue"), "open": ("?", "yellow"),
         "witnessed": ("x", "red")}
"""In the order of a bar."""


def render_validity(facts: ValidityFacts | None, planned: bool) -> RenderableType:
    """Where the result holds, in a sentence or two."""
    if facts is None:
        return Text(f"Nothing {'would be' if planned else 'was'} merged by proof: valid for every input.")
    valid = "Would be valid only for " if planned else "Valid only for "
    lines = [Text.assemble((valid, "bold"), box_text(facts.box) if facts.box else "inputs like the data", ":")]
    if facts.proven:
        lines.append(Text(f"  it rests on what is proved there of {_names(facts.proven)}"))
    if facts.observed:
        rate = "" if facts.bound is None else f"; 95 % sure that at most {facts.bound:.2g} of such inputs break any one of them"
        lines.append(Text(f"  and on what {facts.samples} samples show, unproved, of {_names(facts.observed)}{rate}"))
    return Group(*lines)


def render_outside(facts: VerificationFacts) -> RenderableType:
    """How far a result that rests on data is off elsewhere."""
    how = "no difference was found" if facts.same else f"it is off by up to {100 * facts.max_rel:.2g} % of the largest output"
    return Text(f"Beside the data, on {facts.samples} random inputs, {how}.")


def render_activations(certificate: Mapping[str, Any]) -> RenderableType:
    """A bar of regimes per activation."""
    rows: Sequence[Mapping[str, Any]] = certificate["activations"]
    observed = certificate["tier"] == "observed"
    title = f"Activations on {certificate['samples']} samples" if observed else (
        f"Activations for {box_text(certificate['box'])}")
    table, counts = plain_table(), Counter[str]()
    table.add_column("activation", ratio=5, overflow="fold")
    table.add_column("channels", width=CELLS, no_wrap=True)
    table.add_column("what is known", ratio=7, overflow="fold")
    for name, row in zip(_short([_name(row) for row in rows]), rows, strict=True):
        found = [_kind(row, c) for c in range(len(row["status"]))]
        counts.update(found)
        table.add_row(Text(f"{name} ({row['kind']})"), _bar(found), Text(_known(row)))
    legend = Text("   ").join(
        Text.assemble(SIGNS[k], f" {counts[k]:,} {_meaning(k, observed)}") for k in SIGNS if k in counts
    )
    return Group(Text(f"\n{title} ({certificate['seconds']:.1f} s)", style="bold"), table, legend)


def render_proofs(facts: ProofFacts) -> RenderableType:
    """A certificate that was checked again."""
    facts = printable_facts(facts)
    verdict, style = ("holds", "bold green") if facts.held else ("does NOT hold", "bold red")
    if not any(row.looked_at for row in facts.rows):
        verdict, style = "nothing was looked at", "bold yellow"
    over = f" for {box_text(facts.box)}" if facts.box else ""
    head = Text.assemble(("Certificate checked again: ", "bold"), (verdict, style), f"{over} ({facts.seconds:.1f} s)")
    table = Table.grid(padding=(0, 2, 0, 0))
    for row in facts.rows:
        count = f"{row.confirmed} of {row.channels} channels" if row.looked_at else f"{row.channels} channels"
        word = "" if not row.looked_at else " proved again" if row.tier == "proven" else f" again so on {facts.samples} samples"
        told = f"{count}{word}{f': {row.reason}' if row.reason else ''}"
        table.add_row(Text(f"  {row.node}"), row.tier, Text(told))
    return Group(head, table, *(indented(note) for note in facts.notes))


def proofs_text(facts: ProofFacts) -> str:
    """A certificate that was checked again, in plain text of 80 columns."""
    return plain_text(render_proofs(facts))


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6])
    return f"{shown} and {len(names) - 6} more" if len(names) > 6 else shown


def _name(row: Mapping[str, Any]) -> str:
    return str(row["layers"][-1] if row["layers"] else row["node"])


def _short(names: Sequence[str]) -> list[str]:
    """The names without the folders that all of them share."""
    folders = [name.split("/")[:-1] for name in names]
    shared = sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))) if len(names) > 1 else 0
    return ["/".join(name.split("/")[shared:]) for name in names]


def _kind(row: Mapping[str, Any], channel: int) -> str:
    status = row["status"][channel]
    if status in ("proven", "observed"):
        return "constant" if row["regimes"][row["regime"][channel]] in CONSTANT else "linear"
    return str(status)


def _meaning(kind: str, observed: bool) -> str:
    settled = "on all samples" if observed else "proved"
    return {
        "linear": f"linear, {settled}", "constant": f"constant, {settled}", "mixed": "linear, not alike everywhere",
        "open": "not decided", "witnessed": "not linear: an input shows it",
    }[kind]


def _bar(kinds: Sequence[str]) -> Text:
    """One cell per channel in order; of more channels than cells, every kind's share, at least one cell each."""
    if len(kinds) > CELLS:
        counts = {kind: kinds.count(kind) for kind in SIGNS if kind in kinds}
        cells = {kind: max(1, round(CELLS * n / len(kinds))) for kind, n in counts.items()}
        largest = max(cells, key=cells.__getitem__)
        cells[largest] += CELLS - sum(cells.values())
        kinds = [kind for kind, n in cells.items() for _ in range(n)]
    runs = [(kind, len(list(cells))) for kind, cells in groupby(kinds)]
    return Text.assemble(*((SIGNS[kind][0] * n, SIGNS[kind][1]) for kind, n in runs))


def _known(row: Mapping[str, Any]) -> str:
    told = [f"{n} {what}" for what, n in sorted(row["channels"].items())]
    shown = [w for w in row["witnesses"] if row["status"][w["channel"]] == "witnessed"]
    if not shown:
        return ", ".join(told)
    low, high = min(shown[0]["values"]), max(shown[0]["values"])
    return f"{', '.join(told)}: channel {shown[0]['channel']} takes {low:.3g} and {high:.3g}"
