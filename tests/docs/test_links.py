"""Links of the documentation lead somewhere: pages, headings, pictures.  Addresses elsewhere are none of ours to fetch."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.pages import DOCS, FENCE, PAGES, ROOT, name

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
NOTEBOOKS = {p.with_suffix(".md") for p in (DOCS / "notebooks").glob("*.ipynb")}
"""Pages that are made of notebooks when the documentation is built."""


def prose(page: Path) -> str:
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """The names that headings get: lower case, words joined by hyphens."""
    heads = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", head.lower()).strip()) for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists() or target in NOTEBOOKS, f"{name(page)}: {link}"
        assert target.is_relative_to(ROOT), f"{name(page)}: {link} leaves the repository"
        if anchor:
            assert anchor in anchors(target), f"{name(page)}: {link} names no heading; there are {sorted(anchors(target))}"


def test_every_page_can_be_reached() -> None:
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in DOCS.rglob("*.md"):
        if "decisions" not in page.parts:
            assert page.relative_to(DOCS).as_posix() in listed, page.name
    for path in re.findall(r": ([\w/-]+\.md)$", listed, re.M):
        assert (DOCS / path).exists() or DOCS / path in NOTEBOOKS, path


def test_every_picture_is_used_and_drawn() -> None:
    used = {link for page in PAGES for link in LINK.findall(prose(page)) if link.endswith(".svg")}
    assert {Path(link).name for link in used} == {p.name for p in (DOCS / "pictures").glob("*.svg")}
