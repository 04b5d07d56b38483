"""The comparison of two models on the page: how far they differ, on a scale of powers of ten, and what rounding explains."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, isfinite, log10
from typing import Any

from decascade.report.facts.boxes import box_text
from decascade.report.facts.report import ProofFacts, VerificationFacts

START, END, ROW = 190, 620, 30
"""Of the scale, in the picture's units: where it begins and ends, and the height of a row."""


def check_parts(v: VerificationFacts, head: str, names: tuple[str, str]) -> list[dict[str, Any]]:
    """What the template shows of a comparison, and of a certificate that was checked again with it."""
    verdict = f"Same function up to rounding, {v.samples} samples." if v.same else f"Not the same function: {v.complaint}."
    found = {"head": head, "same": v.same, "verdict": verdict, "rows": _rows(v, names), "notes": list(v.notes)}
    found.update(_scale(v, names))
    return [found] if v.proofs is None else [found, proof_parts(v.proofs)]


def _rows(v: VerificationFacts, names: tuple[str, str]) -> list[tuple[str, str]]:
    rows = [(f"differ {v.where} by", f"{v.max_abs:.2g}, where rounding can explain {v.tolerance:.2g}")]
    if v.exact_error is not None and v.by == "framework":
        limit = "" if v.exact_tolerance is None else f", where rounding of stored weights can explain {v.exact_tolerance:.2g}"
        rows.append(("differ in float64 by", f"{v.exact_error:.2g}{limit}"))
    if v.worst is not None and v.max_abs > 0:
        w, share = v.worst, f"{v.max_rel:.1g} of its largest value"
        rows.append(("differ most at", f"{w.output}{list(w.index)}: {w.a:.9g} → {w.b:.9g}, {share}"))
    if v.original_fp32_error is not None and v.merged_fp32_error is not None:
        ratio = "" if v.fp32_ratio is None else f", {v.fp32_ratio:.2f} times"
        told = f"{names[0]} {v.original_fp32_error:.2g}, {names[1]} {v.merged_fp32_error:.2g}{ratio}"
        rows.append(("float32 error, root mean square", f"{told} (of the largest value)"))
    return rows


def _scale(v: VerificationFacts, names: tuple[str, str]) -> dict[str, Any]:
    """Dots on a logarithmic scale, each with a bar up to what is allowed; none where there is nothing to compare."""
    by = "framework" if v.by == "framework" else "float64"
    told: list[tuple[str, float, float | None, str]] = []
    told.append((f"difference, {by}", v.max_abs, v.tolerance, "good" if v.same else "bad"))
    if v.exact_error is not None and v.by == "framework":
        told.append(("difference, float64", v.exact_error, v.exact_tolerance, "good" if v.same else "bad"))
    marks = [x for _, value, limit, _ in told for x in (value, limit) if x is not None and x > 0 and isfinite(x)]
    if len(marks) < 2:
        return {"dots": []}
    low, high = floor(log10(min(marks))), ceil(log10(max(marks)))
    high = max(high, low + 1)

    def x(value: float) -> float:
        inside = min(max(log10(value), low), high) if value > 0 and isfinite(value) else (low if value <= 0 else high)
        return round(START + (END - START) * (inside - low) / (high - low), 1)

    dots = [{"name": name, "x": x(value), "y": 16 + ROW * i, "mood": mood, "limit": x(limit) if limit else None}
            for i, (name, value, limit, mood) in enumerate(told)]
    step = max(1, ceil((high - low) / 6))
    ticks = [{"x": x(10.0 ** e), "text": f"1e{e}" if e else "1"} for e in range(low, high + 1, step)]
    return {"dots": dots, "ticks": ticks, "start": START, "height": 12 + ROW * len(dots) + 18,
            "label": f"{names[0]} and {names[1]}: difference (dot) against what rounding can explain (bar)"}


def proof_parts(p: ProofFacts) -> dict[str, Any]:
    """The same of a certificate alone."""
    verdict = "Every claim that was looked at holds." if p.held else f"It does not hold: {p.complaint}."
    rows = [(r.node, _proof(r.tier, r.confirmed, r.channels, r.looked_at, r.reason)) for r in p.rows]
    where = [f"For {box_text(p.box)}."] if p.box else []
    return {"head": "Certificate checked again", "same": p.held, "verdict": verdict, "rows": rows, "dots": [],
            "notes": [*where, *p.notes]}


def _proof(tier: str, confirmed: int, channels: int, looked_at: bool, reason: str) -> str:
    parts: Sequence[str] = (tier, f"{confirmed} of {channels} channels confirmed" if looked_at else "not looked at", reason)
    return "; ".join(p for p in parts if p)
