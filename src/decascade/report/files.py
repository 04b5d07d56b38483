"""A report as a file: the extension says whether as JSON or as a page."""

from __future__ import annotations

from pathlib import Path

from decascade.report.facts.load import Facts

PAGES = (".html", ".htm")
KINDS = (".json", *PAGES)


def write_report(facts: Facts, path: Path, title: str = "") -> None:
    """Write the report in the kind that the path's extension asks for; `title` is for the page of a comparison."""
    if path.suffix.lower() in PAGES:
        from decascade.report.html.page import page

        text = page(facts, title)
    else:
        text = facts.to_json()
    path.write_text(text, encoding="utf-8")
