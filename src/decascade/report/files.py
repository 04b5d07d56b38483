"""A report as a file: the extension says whether as JSON or as a page."""

from __future__ import annotations

from pathlib import Path

from decascade.report.facts import ProofFacts, Report, VerificationFacts, to_json

PAGES = (".html", ".htm")
KINDS = (".json", *PAGES)


def write_report(facts: Report | VerificationFacts | ProofFacts, path: Path, title: str = "") -> None:
    """Write the report in the kind that the path's extension asks for; `title` is for the page of a comparison."""
    if path.suffix.lower() in PAGES:
        from decascade.report.html import page

        text = page(facts, title)
    else:
        text = to_json(facts)
    path.write_text(text, encoding="utf-8")
