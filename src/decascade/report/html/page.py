"""The report as one page: a pure function of its facts.  Self-contained, it loads nothing from anywhere.

What comes from a model or a file name reaches the page in two ways alone: through jinja2's escaping, and as JSON in which
no "<" is left, which the scripts set as text.  A policy in the page's head lets no other script run than the page's own.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from decascade.report.facts.bench import BenchFacts
from decascade.report.facts.boxes import box_text
from decascade.report.facts.device import ExportFacts
from decascade.report.facts.load import Facts
from decascade.report.facts.parts import Measure
from decascade.report.facts.quantities import change, quantity
from decascade.report.facts.report import ProofFacts, Report, VerificationFacts
from decascade.report.html.bench import bench_parts
from decascade.report.html.checks import check_parts, proof_parts
from decascade.report.html.data import finite, page_data, too_large
from decascade.report.html.export import export_parts

SCRIPTS = ("base.js", "graph.js", "table.js", "charts.js", "sections.js", "bench.js", "start.js")
"""In the order in which they are run, as one script."""
TIERS = {
    "exact": "equal in real arithmetic on every input, borders included",
    "proven": "equal in real arithmetic on every input within the declared range, for which each activation is proved linear",
    "observed": "their activations were linear on all samples of the data; not proved",
    "fitted": "least-squares fits to the data; not equal",
    "distilled": "trained against the original model; not equal",
}
INLINE_HEIGHT = 720
"""Pixels of a report that is shown in a notebook."""


def page(facts: Facts, title: str = "") -> str:
    """The whole page.  `title` is for a comparison, which does not know what it compared."""
    from markupsafe import Markup

    context = _report(facts) if isinstance(facts, Report) else _plain(facts, title)
    script = _script()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    ours = {"css": Markup(_asset("page.css")), "script": Markup(script), "data": Markup(_embedded(context.pop("data")))}
    return _template().render(**context, **ours, script_hash=f"sha256-{digest}").encode("utf-8", "replace").decode()


def inline(facts: Facts) -> str:
    """The page in a frame, as notebooks show it: its style and scripts stay apart from theirs."""
    from html import escape

    return (f'<iframe srcdoc="{escape(page(facts), quote=True)}" title="decascade report" sandbox="allow-scripts"'
            f' style="width:100%;height:{INLINE_HEIGHT}px;border:1px solid #8884;border-radius:8px"></iframe>')


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    return Environment(autoescape=True, undefined=StrictUndefined).from_string(_asset("page.html.j2"))


@cache
def _asset(name: str) -> str:
    return (files("decascade.report.html") / "templates" / name).read_text(encoding="utf-8")


@cache
def _script() -> str:
    parts = "\n".join(_asset(name) for name in SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}\n}})();'


def _embedded(data: Any) -> str:
    """JSON for a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(finite(data), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _report(r: Report) -> dict[str, Any]:
    planned = r.action == "inspect"
    checks = [] if r.verification is None else check_parts(r.verification, "Verification", ("original", "result"))
    if r.outside is not None:
        checks += check_parts(r.outside, "Beside the data, on random inputs", ("original", "result"))
    notes = list(r.notes)
    if too_large(r):
        notes.append("the network has too many operations to be drawn here; the JSON report has all of them")
    made = f"Written to {r.output}. " if r.output else ""
    versions = ", ".join(f"{name} {version}" for name, version in r.versions.items())
    return {
        "title": r.model, "action": r.action, "verdict": _verdict(r, planned), "tiles": _tiles(r), "promises": _promises(r),
        "drawn": r.graphs is not None and not too_large(r), "cascades": bool(r.cascades), "checks": checks, "notes": notes,
        "after_word": "After: what merge would make of it" if planned else "After",
        "merged_word": "cascade to be merged" if planned else "replaced cascade",
        "footer": f"{made}Target {r.target}. {r.seconds:,.1f} s. {versions}", "data": page_data(r),
    }


def _plain(f: VerificationFacts | ProofFacts | ExportFacts | BenchFacts, title: str) -> dict[str, Any]:
    """A page without cascades."""
    parts = (export_parts(f) if isinstance(f, ExportFacts) else bench_parts(f) if isinstance(f, BenchFacts)
             else _checked(f, title))
    lists = ("cascades", "measures", "activations", "words", "layers")
    data: dict[str, Any] = {"unit": "", "graphs": None, "compression": None, **{name: [] for name in lists}}
    data |= {name: parts.pop(name, []) for name in ("measures", "layers")}
    return {**parts, "drawn": False, "cascades": False, "after_word": "", "merged_word": "", "data": data}


def _checked(f: VerificationFacts | ProofFacts, title: str) -> dict[str, Any]:
    """A comparison, or a certificate that was checked again: no more than the check."""
    if isinstance(f, ProofFacts):
        verdict = "Every claim of the certificate holds." if f.held else f"The certificate does not hold: {f.complaint}."
        checks, tiles = [proof_parts(f)], list[dict[str, str]]()
    else:
        verdict = "The same function up to rounding." if f.same else f"Not the same function: {f.complaint}."
        checks, tiles = check_parts(f, "Verification", ("first", "second")), [_verified(f)]
    return {"title": title or "Two models compared", "action": "verify", "verdict": verdict, "tiles": tiles, "promises": [],
            "checks": checks, "notes": [], "footer": ""}


def _verdict(r: Report, planned: bool) -> str:
    """What happened, in a sentence."""
    merged = sum(c.decision == "merged" for c in r.cascades)
    count = len(r.cascades)
    if not count:
        return "No cascade of linear layers was found: there is nothing to merge."
    found = "The one cascade" if count == 1 else f"{merged} of {count} cascades"
    if count == 1 and not merged:
        return "The one cascade was left alone: it says why below."
    verb = "would be replaced" if planned else "was replaced" if merged == 1 else "were replaced"
    if r.cost.after is None or r.cost.after == r.cost.before:
        return f"{found} {verb}."
    words = change(r.cost.before, r.cost.after)
    return f"{found} {verb}: {words} {r.cost.unit}." if words else f"{found} {verb}."


def _tiles(r: Report) -> list[dict[str, str]]:
    cost, layers = r.cost, r.layers
    extra = f", and {layers.corrections} small ones that correct borders" if layers.corrections else ""
    stored = None if cost.parameters_after is None else float(cost.parameters_after)
    tiles = [
        _tile("convolution and dense layers", layers.before, layers.after, f"{layers.before - layers.after:,} fewer{extra}"
              if layers.after < layers.before else f"as many{extra}" if layers.after == layers.before else extra[2:]),
        _tile(cost.unit, cost.before, cost.after, change(cost.before, cost.after)),
        _tile("parameters", cost.parameters_before, stored, change(cost.parameters_before, stored)),
    ]
    tiles += [_figure(m) for m in _shown(r.measures)]
    if r.verification is not None:
        tiles.append(_verified(r.verification))
    elif r.action == "inspect":
        tiles.append({"what": "how sure", "before": "", "value": "not run", "more": "inspect changes nothing", "mood": ""})
    return tiles


def _shown(measures: Sequence[Measure]) -> Sequence[Measure]:
    """Two figures for the head: of those that both models have, else of the last group (the finished model's)."""
    both = [m for m in measures if m.before is not None and m.after is not None]
    return (both or [m for m in measures if m.after is not None and m.group == measures[-1].group])[:2]


def _figure(m: Measure) -> dict[str, str]:
    what, after = f"{m.name} ({m.unit})" if m.unit else m.name, m.after or 0.0
    return _tile(what, after if m.before is None else m.before, m.after, m.group, plain=True)


def _tile(what: str, before: float, after: float | None, more: str, plain: bool = False) -> dict[str, str]:
    def told(value: float) -> str:
        return f"{value:,.4g}" if plain else quantity(value)

    same = after is None or after == before
    return {"what": what, "before": "" if same else told(before), "value": told(before if after is None else after),
            "more": more, "mood": ""}


def _verified(v: VerificationFacts) -> dict[str, str]:
    told = f"differs by {v.max_abs:.2g}; rounding explains {v.tolerance:.2g}"
    value = "same function" if v.same else "not the same"
    return {"what": f"how sure: {v.samples} samples run", "before": "", "value": value, "more": told,
            "mood": "good" if v.same else "bad"}


def _promises(r: Report) -> list[str]:
    tiers = [c.tier for c in r.cascades if c.decision == "merged"]
    lines = [f"{tiers.count(tier)} {tier}: {words}." for tier, words in TIERS.items() if tier in tiers]
    if r.validity is not None:
        v = r.validity
        where = box_text(v.box) if v.box else "inputs like the data"
        lines.append(f"Valid only for {where}. It rests on {_names((*v.proven, *v.observed))}.")
        if v.bound is not None:
            lines.append(f"Seen on {v.samples:,} samples: 95 % sure that at most {v.bound:.2g} of such inputs break any one"
                         " observed activation.")
    return lines


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more activations"
