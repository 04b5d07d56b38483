"""The page of an export: the figures of the file for the device, and how it compares with the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from decascade.report.facts.device import ChipFacts, ExportFacts, FidelityFacts, MicroFacts
from decascade.report.facts.parts import Measure
from decascade.report.html.checks import check_parts


def export_parts(f: ExportFacts) -> dict[str, Any]:
    """What the template and the scripts show of an export."""
    figures = measures(f)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(f.operations.items(), key=lambda kv: -kv[1]))
    made = ", ".join(f"{name} ({size:,} bytes)" for name, size in f.files.items())
    return {
        "title": f.model, "action": "export", "verdict": f"Written as {f.kind}: {made}.",
        "tiles": [_tile(m) for m in figures if m.after is not None][:5],
        "promises": [f"{sum(f.operations.values())} operations: {kinds}."] if f.operations else [],
        "checks": [] if f.verification is None else check_parts(f.verification, "Verification", ("model", "file")),
        "notes": list(f.notes), "footer": f"Written to {f.output}. {f.seconds:,.1f} s. " + ", ".join(
            f"{name} {version}" for name, version in f.versions.items()),
        "measures": [asdict(m) for m in figures],
    }


def measures(f: ExportFacts) -> list[Measure]:
    """Every figure of an export."""
    found = [Measure("the file", "flash", "bytes", None, float(f.flash), note="what the device stores")]
    found += [] if f.micro is None else _micro(f.micro)
    found += [] if f.chip is None else _chip(f.chip)
    found += [] if f.fidelity is None else _fidelity(f.fidelity)
    if f.equalised is not None:
        note = f"{f.equalised.pairs} pairs of layers; {'kept' if f.equalised.kept else 'gained nothing, left out'}"
        found.append(Measure("ranges equalised across layers", "error, root mean square", "%", 100 * f.equalised.rms_before,
                             100 * f.equalised.rms_after, note=note))
    return found


def _micro(m: MicroFacts) -> Iterator[Measure]:
    group = "TensorFlow Lite for Microcontrollers"
    note = f"{m.head:,} for activations, {m.tail:,} persistent"
    yield Measure(group, "arena", "bytes", None, float(m.arena), note=note)
    if m.samples:
        note = f"{m.samples} samples; {m.largest:g} steps apart at most"
        yield Measure(group, "outputs equal to LiteRT's", "%", None, 100 * m.equal, "higher", note)


def _chip(c: ChipFacts) -> Iterator[Measure]:
    note = f"{c.max_abs:.1g} from onnxruntime on the test vector"
    yield Measure(c.machine, "instructions per inference", "", None, float(c.instructions), note=note)
    for name, value in (("flash", c.flash), ("static RAM", c.ram), ("stack", c.stack)):
        yield Measure(c.machine, name, "bytes", None, float(value))


def _fidelity(f: FidelityFacts) -> Iterator[Measure]:
    group = f"the file against the model, {f.samples} samples"
    yield Measure(group, "error, root mean square", "%", None, 100 * f.rms_rel, note=f"{100 * f.max_rel:.2f} % at most")
    if f.agreement is not None:
        yield Measure(group, "largest output is the same", "%", None, 100 * f.agreement, "higher")
    if f.accuracy_before is not None and f.accuracy_after is not None:
        yield Measure(group, "accuracy", "%", 100 * f.accuracy_before, 100 * f.accuracy_after, "higher")


def _tile(m: Measure) -> dict[str, str]:
    def told(value: float | None) -> str:
        return "" if value is None else f"{value:,.0f}" if m.unit in ("bytes", "") else f"{value:.4g} {m.unit}"

    return {"what": m.name, "before": told(m.before), "value": told(m.after) + (" bytes" if m.unit == "bytes" else ""),
            "more": m.group, "mood": ""}
