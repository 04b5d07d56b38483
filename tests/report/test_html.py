"""The page: a pure function of the facts, self-contained, below a megabyte, nothing from a model unescaped; its layout."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import decascade as dc
from decascade.cli import run
from decascade.report.facts.device import ChipFacts, EqualiseFacts, ExportFacts, FidelityFacts, MicroFacts
from decascade.report.facts.load import from_dict, load_report
from decascade.report.facts.parts import GraphFacts, Measure, NodeFacts
from decascade.report.facts.report import CascadeFacts, CostFacts, ProofFacts, ProofRow, Report, VerificationFacts, Worst
from decascade.report.html.data import DECADES, LEVELS, MAPS, NODES, _level, page_data
from decascade.report.html.layout import NODE, layouts
from decascade.report.html.page import _tiles as tiles
from decascade.report.html.page import inline, page
from report_examples import DIGITS, check_against, compressed, large, merged, proven

EVIL = '</script><script>alert(1)</script><img src=x onerror=alert(2)>\'"&<!--'


class Tags(HTMLParser):
    """Every element of a page, its attributes, and the text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] not in ("script", "style"):
            self.words.append(data)


def embedded(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found is not None
    return json.loads(found.group(1))


@pytest.mark.parametrize("make", [merged, proven, compressed])
def test_a_page_is_a_function_of_the_json(make: Any) -> None:
    report: Report = make()
    again = from_dict(json.loads(report.to_json()))
    assert page(again) == page(report) == report.to_html()


def test_the_page_names_nothing_outside_itself() -> None:
    for report in (merged(), proven(), compressed()):
        text = page(report)
        tags = Tags(text)
        used = {name for _, attributes in tags.found for name in attributes}
        assert not {name for name in used if name in ("src", "srcset", "style") or name.startswith("on")}
        assert {a["href"] for _, a in tags.found if "href" in a} == {"#main"}
        addresses = set(re.findall(r"[a-z]+://[^\s\"'`)]+", text))
        assert addresses == {"http://www.w3.org/2000/svg"}, "a name space, never fetched"
        policy = next(a["content"] for _, a in tags.found if a.get("http-equiv") == "Content-Security-Policy") or ""
        assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-")


def test_a_thousand_cascades_stay_below_a_megabyte() -> None:
    text = page(large(1000))
    assert len(text.encode()) < 1_000_000
    rows = embedded(text)["cascades"]
    assert len(rows) == 1000
    assert sum(row[-1] is not None for row in rows) == MAPS


def test_a_network_too_large_to_draw_is_said_to_be() -> None:
    report = large(NODES // 5)
    found = page_data(report)
    assert found["graphs"] is None
    assert "too many operations to be drawn here" in page(report)
    assert "too many operations" not in page(large(10))


def evil_report() -> Report:
    """Text that would leave its place, wherever a report has text from outside."""
    base = merged()
    assert base.graphs is not None
    nodes = tuple(replace(n, name=EVIL, layers=(EVIL,), kind=EVIL, shape=(EVIL, 3)) for n in base.graphs.before)
    rows = tuple(replace(c, layers=(EVIL, *c.layers), reason=EVIL) for c in base.cascades)
    assert base.verification is not None
    check = replace(base.verification, notes=(EVIL,), worst=Worst(EVIL, (0,), 1.0, 2.0))
    return replace(
        base, model=EVIL, output=EVIL, target=EVIL, cascades=rows, verification=check, notes=(EVIL,), versions={EVIL: EVIL},
        graphs=GraphFacts(nodes, nodes), cost=replace(base.cost, unit=EVIL),
    )


def test_nothing_from_a_model_is_markup() -> None:
    text = page(evil_report())
    plain = [tag for tag, _ in Tags(page(merged())).found]
    tags = Tags(text)
    assert "img" not in [tag for tag, _ in tags.found]
    assert [tag for tag, _ in tags.found if tag == "script"] == ["script", "script"]
    assert plain.count("script") == 2
    assert "".join(tags.words).count(EVIL) > 3, "shown as the text that it is"
    data = embedded(text)
    assert EVIL in data["words"]
    raw = text[text.index('id="data">'):text.index("</script>", text.index('id="data">'))]
    assert "<" not in raw.removeprefix('id="data">')


def test_names_that_are_no_unicode_and_numbers_that_are_none() -> None:
    base = merged()
    row = CascadeFacts(("a\ud800b", "\u202eevil"), "left", "exact", "why\u2028not", "", CostFacts(1.0, None, "MACs", 1, None))
    check = VerificationFacts(False, float("inf"), float("nan"), 0.0, 1, "float64", Worst("y\ud800", (), float("nan"), 0.0))
    text = page(replace(base, model="a\ud800", cascades=(row,), verification=check, graphs=None))
    text.encode("utf-8")
    assert "Not the same function" in text
    assert "NaN" not in json.dumps(embedded(text))


def test_notebooks_show_the_page_in_a_frame() -> None:
    report = merged()
    found = Tags(report._repr_html_()).found
    assert [tag for tag, _ in found] == ["iframe"]
    assert found[0][1]["srcdoc"] == page(report)
    assert found[0][1]["sandbox"] == "allow-scripts"
    assert inline(report) == report._repr_html_()


def test_the_page_says_in_a_sentence_what_happened() -> None:
    words = " ".join("".join(Tags(page(merged())).words).split())
    for told in ("5 of 8 cascades were replaced: 4.09 × less MACs.", "14 → 9", "6.45 M → 1.58 M", "same function",
                 "5 exact: equal in real arithmetic on every input, borders included.", "The network before and after"):
        assert told in words
    planned = "".join(Tags(page(dc.inspect(DIGITS))).words)
    assert "5 of 8 cascades would be replaced" in planned
    assert "inspect changes nothing" in planned
    assert "Valid only for image in [0, 1]. It rests on relu_1." in "".join(Tags(page(proven())).words)
    nothing = page(replace(merged(), cascades=(), graphs=None))
    assert "there is nothing to merge" in nothing


@pytest.mark.parametrize(("rows", "after", "words"), [
    (("left",), 100.0, "The one cascade was left alone: it says why below."),
    (("merged",), 50.0, "The one cascade was replaced: 2 × less MACs."),
    (("left", "left"), 100.0, "0 of 2 cascades were replaced."),
    (("merged", "left"), 0.0, "1 of 2 cascades was replaced."),
])
def test_verdicts(rows: tuple[Any, ...], after: float, words: str) -> None:
    cost = CostFacts(100.0, after, "MACs", 10, 10)
    cascades = tuple(CascadeFacts(("a", "b"), decision, "exact", "why", "", cost) for decision in rows)
    assert f">{words}<" in page(replace(merged(), cascades=cascades, graphs=None, cost=cost))


def test_a_check_alone_is_a_page_too(tmp_path: Path) -> None:
    assert run(["verify", str(DIGITS), str(DIGITS), "--report", str(tmp_path / "v.html"), "-q"]) == 0
    words = "".join(Tags((tmp_path / "v.html").read_text(encoding="utf-8")).words)
    assert "digits.onnx and digits.onnx" in words
    assert "The same function up to rounding." in words
    wrong = VerificationFacts(False, 0.5, 0.1, 1e-6, 4, "framework", exact_error=0.5, exact_tolerance=1e-7)
    assert "Not the same function: off by 0.5, where rounding explains 1e-06." in page(wrong)
    proofs = ProofFacts(False, {"x": {"lo": 0, "hi": 1}}, (ProofRow("relu", ("r",), "proven", 4, 3, 1, "found one"),), 0, 0.1)
    text = page(proofs, "seal.json")
    assert "The certificate does not hold: 1 of 4 channels of relu are not confirmed: found one." in text
    assert "For x in [0, 1]." in text


@pytest.mark.parametrize("command", ["inspect", "merge"])
def test_report_option_draws_the_page(command: str, tmp_path: Path) -> None:
    out = ["-o", str(tmp_path / "o.onnx")] if command == "merge" else []
    assert run([command, str(DIGITS), *out, "--report", str(tmp_path / "r.html"), "-q"]) == 0
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "digits.onnx" in Tags(text).words
    assert len(embedded(text)["cascades"]) == 8


def test_colours_of_errors() -> None:
    """The scale ends at what rounding can explain and begins 1/10,000 below it."""
    assert _level(0.0, 1.0) == 0
    assert _level(1.0, 1.0) == _level(5.0, 1.0) == LEVELS - 1
    assert _level(10.0**-DECADES, 1.0) == _level(1e-9, 1.0) == 1
    assert _level(10.0 ** (-DECADES / 2), 1.0) == LEVELS // 2
    assert _level(1.0, 0.0) == LEVELS - 1


@st.composite
def graphs(draw: st.DrawFn) -> GraphFacts:
    """Random graphs with long edges, the second with some of the nodes of the first."""
    def nodes(count: int, same: bool) -> tuple[NodeFacts, ...]:
        found = list[NodeFacts]()
        for i in range(count):
            reads = draw(st.lists(st.integers(0, i - 1), max_size=3, unique=True)) if i else []
            kept = i if same and i < 5 else None
            found.append(NodeFacts(f"n{i}", "sum", (), tuple(reads), None, 0.0, 0, (), kept))
        return tuple(found)

    return GraphFacts(nodes(draw(st.integers(5, 14)), False), nodes(draw(st.integers(0, 14)), draw(st.booleans())))


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_no_edge_runs_over_a_node(facts: GraphFacts) -> None:
    for nodes, found in zip((facts.before, facts.after), layouts(facts), strict=True):
        places = list(zip(found.columns, found.rows, strict=True))
        assert len(set(places)) == len(places), "no two nodes in one place"
        assert {(u, v) for u, v, _ in found.edges} == {(u, v) for v, n in enumerate(nodes) for u in n.inputs}
        for u, v, x in found.edges:
            assert found.rows[u] < found.rows[v]
            assert (x is not None) == (found.rows[v] - found.rows[u] > 1)
            if x is not None:
                between = range(found.rows[u] + 1, found.rows[v])
                assert not [place for place in places if place[1] in between and abs(place[0] - x) <= NODE // 2]
                assert 0 < x < found.width


def test_kept_nodes_stand_at_one_height() -> None:
    facts = merged().graphs
    assert facts is not None
    before, after = layouts(facts)
    kept = [(i, n.same) for i, n in enumerate(facts.after) if n.same is not None]
    assert kept
    assert all(after.rows[i] == before.rows[old] for i, old in kept if old is not None)


def test_two_vertical_edges_do_not_lie_on_each_other() -> None:
    """Three nodes in a column, each read by the last but one: every long edge has a track of its own."""
    reads: tuple[tuple[int, ...], ...] = ((), (0,), (1, 0), (2, 0, 1), (3, 0, 1, 2))
    nodes = tuple(NodeFacts(f"n{i}", "sum", (), r, None, 0.0, 0) for i, r in enumerate(reads))
    found = layouts(GraphFacts(nodes, ()))[0]
    spans = [(x, found.rows[u], found.rows[v]) for u, v, x in found.edges if x is not None]
    for i, (x, start, end) in enumerate(spans):
        for y, first, last in spans[i + 1:]:
            assert x != y or end <= first or last <= start


EXPORTED = ExportFacts(
    model="m.onnx", output="m.tflite", kind="tflite int8", files={"m.tflite": 12_345}, flash=12_345,
    operations={"CONV_2D": 3, "ADD": 1}, verification=None, fidelity=FidelityFacts(50, 0.4, 0.05, 0.012, 0.98, 0.881, 0.876),
    micro=MicroFacts(4096, 4000, 96, 8, 1.0, 0.0), chip=ChipFacts("cortex-m4", 1_500_000, 20_000, 900, 700, 1e-6),
    equalised=EqualiseFacts(2, 0.02, 0.012, 0.97, 0.98, True), versions={"decascade": "0"}, seconds=1.5, notes=("a note",),
)


def test_figures_in_the_head() -> None:
    """What both models have; where there is no such figure, what the finished model has."""
    report = compressed()
    shown = [t["what"] for t in tiles(report)]
    assert shown[3:5] == ["accuracy (%)", "latency (ms)"]
    alone = (Measure("fitted", "agreement", "%", None, 91.0), Measure("distilled", "agreement", "%", None, 97.5, "higher"))
    told = tiles(replace(report, measures=alone))[3]
    assert (told["what"], told["before"], told["value"], told["more"]) == ("agreement (%)", "", "97.5", "distilled")
    assert [t["what"] for t in tiles(replace(report, measures=()))][3].startswith("how sure")


def test_an_export_is_a_page_too(tmp_path: Path) -> None:
    text = page(EXPORTED)
    words = "".join(Tags(text).words)
    assert "Written as tflite int8: m.tflite (12,345 bytes)." in words
    assert "4 operations: 3 CONV_2D, 1 ADD." in words
    figures = {m["name"]: (m["before"], m["after"]) for m in embedded(text)["measures"]}
    assert figures["arena"] == (None, 4096)
    assert figures["instructions per inference"] == (None, 1_500_000)
    assert figures["accuracy"] == (88.1, 87.6)
    assert figures["error, root mean square"] == (2, 1.2), "the last of two figures of that name: equalising"
    (tmp_path / "e.json").write_text(EXPORTED.to_json())
    assert load_report(tmp_path / "e.json") == EXPORTED
    check_against("export", json.loads(EXPORTED.to_json()))
    assert run(["report", str(tmp_path / "e.json"), "-o", str(tmp_path / "e.html")]) == 0
    assert (tmp_path / "e.html").read_text(encoding="utf-8") == text
