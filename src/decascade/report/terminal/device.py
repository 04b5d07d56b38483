"""Facts about device files for people: lines and tables that fit 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from decascade.printable import printable_facts
from decascade.report.facts.device import ChipFacts, EqualiseFacts, ExportFacts, FidelityFacts, MicroFacts, StreamFacts
from decascade.report.facts.quantities import quantity
from decascade.report.terminal.report import plain_text, render_verification


def export_text(facts: ExportFacts) -> str:
    """An export in plain text, 80 columns."""
    return plain_text(render_export(facts))


def render_export(facts: ExportFacts) -> RenderableType:
    """An export as something that rich can print."""
    facts = printable_facts(facts)
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, told in _rows(facts):
        table.add_row(Text(f"  {name}"), Text(told))
    parts: list[RenderableType] = [Text.assemble((facts.model, "bold"), f" as {facts.kind}"), table]
    if facts.verification is not None:
        parts.append(render_verification(facts.verification, ("model", "file")))
    parts += [Text(f"Note: {note}") for note in facts.notes]
    parts.append(Text(f"Written to {', '.join(facts.files)}"))
    return Group(*parts)


def _rows(facts: ExportFacts) -> Iterator[tuple[str, str]]:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(facts.operations.items(), key=lambda kv: -kv[1]))
    yield "operations", f"{sum(facts.operations.values())}: {kinds}"
    yield "flash", f"{facts.flash:,} bytes"
    if facts.micro is not None:
        yield from _micro(facts.micro, "int8" in facts.kind)
    if facts.streamed is not None:
        yield from _streamed(facts.streamed)
    if facts.chip is not None:
        yield from _chip(facts.chip)
    if facts.fidelity is not None:
        yield from _fidelity(facts.fidelity)
    if facts.equalised is not None:
        yield from _equalised(facts.equalised)


def _micro(micro: MicroFacts, integers: bool) -> Iterator[tuple[str, str]]:
    yield "arena", f"{micro.arena:,} bytes ({micro.head:,} activations, {micro.tail:,} persistent)"
    if integers and micro.samples:
        most = f"in {micro.equal:.2%} of the outputs, {micro.largest:g} steps apart at most"
        same = "bit for bit" if micro.equal == 1 else most
        apart = f"; the first to differ is {micro.apart}" if micro.apart else ""
        yield "LiteRT = TFLM", f"{same} ({micro.samples} samples, reference kernels){apart}"


def _chip(chip: ChipFacts) -> Iterator[tuple[str, str]]:
    yield chip.machine, f"{quantity(chip.instructions)} instructions, {chip.stack:,} bytes of stack, {chip.ram:,} of static RAM"
    yield "", f"{chip.max_abs:.1g} from onnxruntime on the test vector"


def _streamed(found: StreamFacts) -> Iterator[tuple[str, str]]:
    yield "RAM", f"{found.rows:,} bytes with rows pushed one by one, {found.whole:,} with the whole input"
    if found.stack is not None and found.instructions is not None:
        yield "with stack", f"{found.rows + found.stack:,} and {found.whole + found.stack:,} bytes"
        yield found.machine, f"{quantity(found.instructions)} instructions"


def _fidelity(found: FidelityFacts) -> Iterator[tuple[str, str]]:
    yield "error", f"{found.rms_rel:.2%} root mean square, {found.max_rel:.2%} at most, over {found.samples} samples"
    if found.agreement is not None:
        yield "agreement", f"the largest output is the same in {found.agreement:.2%}"
    if found.accuracy_before is not None and found.accuracy_after is not None:
        yield "accuracy", f"{found.accuracy_before:.2%} → {found.accuracy_after:.2%}"


def _equalised(found: EqualiseFacts) -> Iterator[tuple[str, str]]:
    verb = "kept" if found.kept else "gained nothing, left out"
    agreement = ""
    if found.agreement_before is not None and found.agreement_after is not None:
        agreement = f", agreement {found.agreement_before:.2%} → {found.agreement_after:.2%}"
    yield "equalised", f"{found.pairs} pairs of layers: error {found.rms_before:.2%} → {found.rms_after:.2%}{agreement}; {verb}"
