"""How long a browser takes to open reports of many cascades, all of them merged, each with a map of its errors.

Chromium without a window opens the page anew several times.  The wall time is the page's own clock, from the start of the
navigation to the frame behind the load event, scripts and first drawing included; the processor time is that of the page's
process, all of its threads, into which other work on the machine does not count.

    python benchmarks/a_thousand_cascades_open_in_two_seconds.py
"""

from __future__ import annotations

import support.setup  # noqa: F401  threads and paths, before all else

# isort: split
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from support.results import write_results
from support.setup import ROOT

sys.path.insert(0, str(ROOT / "tests"))
from browser import CHROMIUM, Browser
from report_examples import large

NAME = "a_thousand_cascades_open_in_two_seconds"
COUNTS, TIMES = (100, 1000, 3000), 5
CLOCK = """new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done({
    drawn: performance.now(), elements: document.querySelectorAll('*').length }))))"""


def processor(browser: Browser) -> float:
    """Seconds of processor time that the page's process has taken so far, over all that it has opened."""
    told = browser._send("Performance.getMetrics")["metrics"]
    return next(m["value"] for m in told if m["name"] == "ProcessTime")


def measure(browser: Browser, path: Path) -> dict[str, Any]:
    browser.open(path)  # the first attaches to a page
    browser._send("Performance.enable", timeDomain="threadTicks")
    wall, spent, told = list[float](), list[float](), dict[str, Any]()
    for _ in range(TIMES):
        start = processor(browser)
        browser.open(path)
        told = browser.run(CLOCK)
        end = processor(browser)
        assert end > start, "the page got a new process, whose count begins anew"
        spent.append(end - start)
        wall.append(told["drawn"] / 1000)
    assert browser.problems == [], browser.problems
    return {"wall_seconds": sorted(wall), "processor_seconds": sorted(spent), "elements": told["elements"]}


def main() -> None:
    if CHROMIUM is None:
        sys.exit("Chromium is not installed")
    rows, found = list[list[str]](), dict[str, Any]()
    browser = Browser()
    with tempfile.TemporaryDirectory() as folder:
        for count in COUNTS:
            path = Path(folder) / f"{count}.html"
            size = path.write_text(large(count).to_html(), encoding="utf-8")
            told = measure(browser, path) | {"bytes": size}
            found[f"{count} cascades"] = told
            spent, wall = told["processor_seconds"], told["wall_seconds"]
            seconds = (median(spent), wall[0], median(wall))
            rows.append([f"{count:,}", *(f"{s:.2f} s" for s in seconds), f"{size / 1e6:.2f} MB", f"{told['elements']:,}"])
    browser.close()
    load = os.getloadavg()[1]
    head = ["cascades", "processor time, median", "wall time, least", "wall time, median", "size", "elements"]
    write_results(NAME, {**found, "load": load}, [("Opening a report", head, rows)], [
        f"2 cores, shared with other work (load {load:.1f}) while this ran: the processor time is what counts, {TIMES} "
        "openings each. Beyond 12,000 operations the page has no drawing, and says so.",
    ])


if __name__ == "__main__":
    main()
