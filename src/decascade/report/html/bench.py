"""The page of a measurement: totals per target, one model beside the other, and what single layers cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from decascade.report.facts.bench import BenchFacts, ModelCost, TargetFacts
from decascade.report.facts.parts import Measure
from decascade.report.facts.quantities import change, quantity


def bench_parts(f: BenchFacts) -> dict[str, Any]:
    """What the template and the scripts show of a measurement."""
    return {
        "title": " and ".join(f.models), "action": "bench", "verdict": _verdict(f), "tiles": [_tile(t) for t in f.targets],
        "promises": [], "checks": [], "notes": list(f.notes),
        "footer": f"On {f.machine}. {f.seconds:,.1f} s. " + ", ".join(f"{name} {v}" for name, v in f.versions.items()),
        "measures": [asdict(m) for t in f.targets for m in _measures(t)],
        "layers": [_layers(f, t) for t in f.targets if any(m.layers for m in t.models)],
    }


def _verdict(f: BenchFacts) -> str:
    first = f.targets[0]
    if len(f.models) == 1:
        return f"{f.models[0]} takes {_number(first.models[0].total)} {first.unit} on {first.target}."
    words = change(first.models[0].total, first.models[1].total)
    told = f"{words} than" if words not in ("", "the same") else "the same as"
    totals = " → ".join(_number(m.total) for m in first.models)
    return f"{f.models[1]} takes {told} {f.models[0]} on {first.target}: {totals} {first.unit}."


def _interval(t: TargetFacts) -> str:
    low, high = t.interval or (0.0, 0.0)
    return f"95 % sure of a ratio from {low:.3g} to {high:.3g}"


def _tile(t: TargetFacts) -> dict[str, str]:
    *before, last = [_number(m.total) for m in t.models]
    more = change(t.models[0].total, t.models[-1].total) if before else ""
    return {"what": f"{t.target}, {t.unit}", "before": "".join(before), "value": last, "mood": "",
            "more": f"{more}; {_interval(t)}" if t.interval else more}


def _measures(t: TargetFacts) -> Iterator[Measure]:
    pairs: list[tuple[str, list[float | None], str]] = [("total", [m.total for m in t.models], "")]
    if any(m.together not in (None, m.total) for m in t.models):
        pairs.append(("layers by themselves", [m.together for m in t.models], _off(t)))
    spreads = [m.spread for m in t.models]
    if spreads[0] is not None:
        runs = f"{spreads[0].runs:,} runs each, in turn"
        pairs += [(name, [None if s is None else float(getattr(s, key)) for s in spreads], runs)
                  for name, key in (("median of runs", "median"), ("95 % of runs are below", "p95"))]
    for name, values, note in pairs:
        if values[-1] is not None:
            before = values[0] if len(values) > 1 else None
            yield Measure(t.target, name, t.unit, before, values[-1], note=note)


def _off(t: TargetFacts) -> str:
    def share(m: ModelCost) -> str:
        return f"{(m.together or 0) / m.total - 1:+.0%}" if m.total else "0"

    predicted = "" if t.predicted is None else f"; predicts {t.predicted:.3g} ×"
    return f"the sum is off the total by {' and '.join(map(share, t.models))}{predicted}"


def _layers(f: BenchFacts, t: TargetFacts) -> dict[str, Any]:
    models = [[name, [[x.name, x.layer, x.cost] for x in m.layers]] for name, m in zip(f.models, t.models, strict=True)]
    return {"target": t.target, "unit": t.unit, "models": models}


def _number(value: float) -> str:
    return quantity(value) if value >= 1e5 else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
