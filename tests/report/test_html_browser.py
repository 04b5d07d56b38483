"""The page in a real browser: opened, clicked, filtered, its theme switched, by mouse and by keyboard; a silent console."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import CHROMIUM, Browser
from decascade.report.facts.bench import BenchFacts, LayerCost, ModelCost, TargetFacts
from decascade.report.facts.report import Report
from decascade.report.html.page import page
from report.test_html import EVIL, EXPORTED, evil_report
from report_examples import compressed, compressed_run, large, merged, proven

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian's package is called chromium)")
REPORTS = {"merge": merged, "proof": proven, "compress": compressed_run, "all parts": compressed}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = Browser()
    yield found
    found.close()


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Any:
    """Opens a report; at the end the console must have been silent and nothing but the file asked for."""
    place = tmp_path / "report.html"

    def opened(report: Report, **options: Any) -> Browser:
        report.to_html(place)
        browser.open(place, **options)
        return browser

    yield opened
    assert browser.problems == []
    assert browser.requests == [place.resolve().as_uri()]


def text(browser: Browser, selector: str) -> str:
    return browser.run(f"document.querySelector({selector!r}).innerText")


def count(browser: Browser, selector: str) -> int:
    return browser.run(f"document.querySelectorAll({selector!r}).length")


@pytest.mark.parametrize("name", REPORTS)
def test_a_cascade_is_clicked_the_table_filtered_the_theme_switched(name: str, show: Any) -> None:
    report = REPORTS[name]()
    shown = show(report)
    total = len(report.cascades)
    assert count(shown, "#table tbody tr") == total
    assert "no cascade chosen" in text(shown, "#which")

    shown.click("#before .node.merged")
    assert text(shown, "#which") == f"cascade 1 of {total}"
    assert "Cascade 1 of" in text(shown, "#detail")
    assert "After" in text(shown, "#detail"), "both versions are listed"
    assert count(shown, "#before .node.chosen") > 0
    assert count(shown, "#after .node.chosen") > 0
    assert count(shown, "#table tr.chosen") == 1

    shown.type("#words", report.cascades[-1].layers[-1])
    fits = sum(report.cascades[-1].layers[-1] in " ".join((*c.layers, c.reason)) for c in report.cascades)
    assert count(shown, "#table tbody tr") == fits
    assert text(shown, "#count") == f"{fits} of {total}"

    dark = shown.run("getComputedStyle(document.body).backgroundColor")
    shown.click("#theme")
    assert shown.run("document.documentElement.dataset.theme") == "dark"
    assert shown.run("getComputedStyle(document.body).backgroundColor") != dark


def test_the_table_is_sorted_and_filtered_by_kind(show: Any) -> None:
    shown = show(merged())
    shown.set("#decision", "left")
    assert count(shown, "#table tbody tr") == 3
    assert count(shown, "#table .badge.merged") == 0
    shown.set("#decision", "")
    shown.click("#table th:nth-child(7) button")
    costs = [c.cost.before for c in merged().cascades]
    first = "Number(document.querySelector('#table tbody tr').dataset.cascade)"
    assert costs[shown.run(first)] == min(costs)
    shown.click("#table th:nth-child(7) button")
    assert costs[shown.run(first)] == max(costs)
    assert shown.run("document.querySelector('#table th:nth-child(7)').getAttribute('aria-sort')") == "descending"


def test_keys_alone_reach_everything(show: Any) -> None:
    """Tab to a row's button, Enter chooses; the panes scroll by arrow keys; the steps go round."""
    shown = show(merged())
    shown.run("document.querySelector('#table tbody tr:nth-child(2) .pick').focus()")
    shown.key("Enter", 13)
    assert text(shown, "#which") == "cascade 2 of 8"
    shown.run("document.querySelector('#previous').focus()")
    shown.key("Enter", 13)
    shown.key("Enter", 13)
    assert text(shown, "#which") == "cascade 8 of 8"
    unreachable = shown.run("""[...document.querySelectorAll('button, select, input, .pane, .scroll')]
        .filter((e) => e.offsetParent && !e.disabled && e.tabIndex < 0).length""")
    assert unreachable == 0


def test_both_versions_move_and_zoom_together(show: Any) -> None:
    shown = show(large(40))
    tall = shown.run("document.querySelector('#before svg').getBoundingClientRect().height")
    shown.run("document.querySelector('#before').scrollTop = 3000")
    shown.settle()
    assert shown.run("document.querySelector('#after').scrollTop") == 3000
    seen = shown.run("[...document.querySelectorAll('#before .node')].map((n) => Number(n.dataset.node))")
    assert len(seen) < 100, "only what is looked at is drawn"
    shown.click("#larger")
    shown.settle()
    assert shown.run("document.querySelector('#before svg').getBoundingClientRect().height") > tall
    tops = shown.run("[...document.querySelectorAll('.pane')].map((p) => p.scrollTop)")
    assert tops[0] == tops[1] > 3000
    shown.click("#fit")
    shown.settle()
    assert shown.run("document.querySelector('#before svg').getBoundingClientRect().height") <= 620
    assert count(shown, "#before .node") == len(large(40).graphs.before)


def test_sections_of_a_compress_run(show: Any) -> None:
    shown = show(compressed())
    titles = shown.run("[...document.querySelectorAll('#compression figcaption')].map((f) => f.textContent)")
    assert titles == ["Error of a hidden layer against its width", "Plans: what each costs and loses",
                      "Training: distillation loss", "Training: accuracy, %"]
    assert "2 chosen" in text(shown, "#compression")
    assert count(shown, "#compression figure:nth-of-type(2) circle") == 6, "five plans, one of them marked"
    measures = " ".join(text(shown, "#measure-table").split())
    assert "accuracy 98.9 % 98.3 % −0.6 1,000 samples" in measures
    assert "latency 12.5 ms 7.9 ms 1.58 × less median of 50 runs" in measures


def test_sections_of_a_proof(show: Any) -> None:
    shown = show(proven())
    rows = shown.run("[...document.querySelectorAll('.activation')].map((a) => a.innerText)")
    known = proven().certificates[0]["activations"]
    assert len(rows) == len(known)
    assert all(row["layers"][0] in words for row, words in zip(known, rows, strict=True))
    assert "4 linear, 4 constant, 4 witnessed of 12 channels" in " ".join(rows[0].split())
    shown.click(".activation summary")
    shown.settle()
    assert count(shown, ".activation details[open] svg rect") == 12


def test_figures_of_an_export(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "e.html").write_text(page(EXPORTED), encoding="utf-8")
    browser.open(tmp_path / "e.html")
    told = " ".join(text(browser, "#measure-table").split())
    assert "cortex-m4 instructions per inference 1,500,000" in told
    assert "accuracy 88.1 % 87.6 % −0.5" in told
    assert browser.problems == []


def test_layers_of_a_measurement(browser: Browser, tmp_path: Path) -> None:
    """Bars of two models on one scale, the dearest first, all of them on demand."""
    layers = tuple(LayerCost(f"<b>layer {i}</b>", "3x3 convolution", 10.0 + i) for i in range(20))
    first, second = ModelCost(400.0, layers, 390.0), ModelCost(58.0, (LayerCost("all", "one", 58.0),), 58.0)
    facts = BenchFacts(("a.onnx", "b.onnx"), (TargetFacts("tflm", "bytes", (first, second)),), {}, "here", 1.0)
    (tmp_path / "b.html").write_text(page(facts), encoding="utf-8")
    browser.open(tmp_path / "b.html")
    assert text(browser, ".verdict") == "b.onnx takes 6.9 × less than a.onnx on tflm: 400 → 58 bytes."
    widths = browser.run("[...document.querySelectorAll('.layer .fill')].map((bar) => parseFloat(bar.style.width))")
    assert widths[0] == pytest.approx(50)
    assert widths[-1] == 100
    assert widths[:20] == sorted(widths[:20], reverse=True)
    assert count(browser, ".layer:not([hidden])") == 13
    assert "<b>layer 19</b>" in text(browser, ".layer .names"), "a name is no markup"
    browser.click("#layer-parts button")
    assert count(browser, ".layer:not([hidden])") == 21
    assert browser.problems == []


def test_errors_are_drawn_where_there_are_maps(show: Any) -> None:
    shown = show(merged())
    mapped = sum(c.error is not None and c.error.map is not None for c in merged().cascades)
    assert count(shown, "#maps canvas") == mapped > 0
    colours = shown.run("""(() => { const c = document.querySelector('#maps canvas');
        return new Set([...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].map(String)).size; })()""")
    assert colours > 3, "painted"
    shown.click("#maps .map")
    assert "Error over the picture" in text(shown, "#detail")


def test_columns_of_costs_choose_their_cascade(show: Any) -> None:
    shown = show(merged())
    assert count(shown, "#cost-bars .bar-before") == sum(n.cost > 0 for n in merged().graphs.before)
    shown.click("#cost-bars .column")
    assert "of 8" in text(shown, "#which")
    shown.set("#measure", "parameters")
    rows = {n.parameters > 0 for n in merged().graphs.before}
    assert rows == {True, False}
    assert count(shown, "#cost-bars .column.chosen") > 0, "what was chosen stays marked"


def test_a_phone_shows_one_version_at_a_time(show: Any) -> None:
    shown = show(merged(), width=390, height=800, phone=True)
    assert shown.run("document.documentElement.scrollWidth") <= 390
    visible = "[...document.querySelectorAll('.pane')].filter((p) => p.offsetParent).map((p) => p.id)"
    assert shown.run(visible) == ["before"]
    shown.click("#show-after")
    assert shown.run(visible) == ["after"]
    shown.click("#after .node.made")
    assert text(shown, "#which") == "cascade 1 of 8"
    assert count(shown, "#after .node") > 3


def test_nothing_from_a_model_becomes_markup(show: Any) -> None:
    shown = show(evil_report())
    shown.click("#before .node.merged")
    assert shown.run("document.title").startswith(EVIL)
    assert EVIL in text(shown, "#detail")
    assert EVIL in shown.run("document.querySelector('#table').textContent")
    assert count(shown, "img, script") == 2, "the page's own data and script"
    assert shown.run("getComputedStyle(document.body).display") == "block"


def test_the_policy_lets_no_other_script_run(show: Any, browser: Browser) -> None:
    shown = show(merged())
    shown.run("""(() => {
        const s = document.createElement('script'), b = document.createElement('b');
        s.textContent = 'window.broken = 1';
        b.setAttribute('onclick', 'window.broken = 2');
        document.body.append(s, b);
        b.click();
    })()""")
    assert shown.run("window.broken") is None
    assert len(browser.problems) == 2
    assert all("Content Security Policy" in p for p in browser.problems)
    browser.problems.clear()


def test_print_has_every_row(show: Any, tmp_path: Path) -> None:
    shown = show(large(150))
    assert count(shown, "#table tbody tr") == 100
    shown.pdf(tmp_path / "report.pdf")
    assert count(shown, "#table tbody tr") == 150
    assert (tmp_path / "report.pdf").stat().st_size > 20_000


def test_a_dark_system_gets_a_dark_page(show: Any) -> None:
    shown = show(merged(), dark=True)
    assert shown.run("document.documentElement.dataset.theme") == "dark"
    assert text(shown, "#theme") == "Light"


def test_contrast_of_text(show: Any) -> None:
    """Every text against what is behind it: at least 4.5 to 1, in both themes (WCAG AA)."""
    shown = show(compressed())
    shown.click("#table tbody tr .pick")
    for _ in range(2):
        assert shown.run(CONTRAST) == []
        shown.click("#theme")


CONTRAST = """(() => {
    const parse = (c) => (c.match(/[\\d.]+/g) || []).map(Number);
    const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const light = (c) => c.slice(0, 3).reduce((sum, v, i) => sum + linear(v / 255) * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (e) => {
        for (; e; e = e.parentElement) {
            const c = parse(getComputedStyle(e).backgroundColor);
            if (c.length === 3 || c[3] > 0.9) return c;
        }
        return [255, 255, 255];
    };
    const bad = [];
    const tags = 'p, td, th, h1, h2, h3, button, span, li, label, output, summary, figcaption, b, s';
    for (const e of document.querySelectorAll(tags)) {
        if (!e.offsetParent || ![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
        const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < 4.5) bad.push(`${e.tagName}.${e.className} ${e.textContent.slice(0, 20)} ${ratio.toFixed(2)}`);
    }
    return bad;
})()"""
