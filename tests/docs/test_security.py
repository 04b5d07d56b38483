"""The page on security names every limit, with its value."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from decascade.limits import LIMITS
from docs.pages import ROOT

UNITS = {"GiB": 1 << 30, "MiB": 1 << 20, "s": 1}


def stated(text: str) -> float:
    number, _, unit = text.replace(",", "").partition(" ")
    base, _, power = number.partition("^")
    return float(base) ** float(power or 1) * UNITS.get(unit, 1)


def test_every_limit_is_stated() -> None:
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `") and line.count("|") == 4]
    found = {row[1].strip(" `"): stated(row[2].strip()) for row in rows if row[1].strip(" `") in asdict(LIMITS)}
    assert found == pytest.approx(asdict(LIMITS))
