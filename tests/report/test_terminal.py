"""The tables for people: 80 columns whatever the names, nothing of a name taken for markup, what to try next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from decascade.report.facts.bench import BenchFacts, LayerCost, ModelCost, TargetFacts
from decascade.report.facts.parts import FrontPoint, Measure
from decascade.report.facts.report import CascadeFacts, CostFacts, ProofFacts, ProofRow, Report, VerificationFacts, Worst
from decascade.report.terminal.measures import render_front
from decascade.report.terminal.report import clipped, render_verification
from decascade.report.terminal.tables import plain_text
from report.test_html import EXPORTED
from report_examples import compressed, merged, proven

EVIL = "[/red][bold]layer[/] :skull: [link=x]"
"""What rich would take for markup, or fail on."""
LONG = "features/" * 12 + "block_17_project_BatchNormalization_with_a_long_name"


def named(name: str) -> list[object]:
    """Facts of every kind in which this is the name of everything."""
    worst = Worst(name, (0, 3), 1.0, 1.5)
    proofs = ProofFacts(True, {name: {"lo": 0, "hi": 1}}, (ProofRow(name, (name,), "proven", 4, 4, 0, name),), 0, 0.1, (name,))
    check = VerificationFacts(False, 0.5, 0.1, 1e-6, 8, "framework", worst, 0.5, 1e-6, 1e-7, 2e-7, (name,), proofs)
    cost = CostFacts(100.0, 50.0, "MACs", 10, 5)
    left = CascadeFacts((name,), "left", "exact", name, "", cost)
    rows = (CascadeFacts((name, name), "merged", "exact", name, "ring", cost), left)
    measures = (Measure(name, name, "%", 1.0, 2.0, note=name),)
    compression = compressed().compression
    assert compression is not None
    report = replace(
        merged(), model=name, output=name, target=name, cascades=rows, verification=check, notes=(name,), measures=measures,
        compression=replace(compression, front=(FrontPoint(1.0, 1.0, True, name),), loss_unit=name),
    )
    layers = ModelCost(5.0, (LayerCost(name, name, 5.0),), 5.0)
    bench = BenchFacts((name, name), (TargetFacts("tflm", "bytes", (layers, layers)),), {}, name, 1.0, (name,))
    export = replace(
        EXPORTED, model=name, output=name, files={name: 3}, operations={name: 1}, notes=(name,), verification=check)
    return [report, check, proofs, bench, export]


@pytest.mark.parametrize("kind", range(5))
def test_names_are_no_markup(kind: int) -> None:
    assert "[/red][bold]layer[/]" in "".join(str(named(EVIL)[kind]).split())
    assert ":skull:" in str(named(EVIL)[kind])


@pytest.mark.parametrize("kind", range(5))
@pytest.mark.parametrize("name", [LONG, "x" * 300, "层" * 90, EVIL], ids=["path", "one word", "wide", "markup"])
def test_eighty_columns_whatever_the_names(name: str, kind: int) -> None:
    from rich.cells import cell_len

    assert max(map(cell_len, str(named(name)[kind]).splitlines())) <= 80


def test_a_long_name_leaves_room_for_the_figures() -> None:
    check = VerificationFacts(True, 1e-6, 1e-6, 1e-5, 8, "framework", None, 1e-7, 1e-6, 1e-7, 2e-7)
    told = plain_text(render_verification(check, ("mlperf_tiny_streaming_wakeword.h5", "small.h5")))
    assert "…ing_wakeword.h5  1e-07 of the largest value (RMS)" in told
    assert len(told.splitlines()) == 5, "one line each"
    assert clipped("small.h5") == "small.h5"
    assert clipped("x" * 16) == "x" * 16
    assert clipped("x" * 17) == "…" + "x" * 15


def test_plans_that_are_alike_are_one_row() -> None:
    compression = compressed().compression
    assert compression is not None
    points = (FrontPoint(5.0, 0.2, words="first"), FrontPoint(5.0, 0.2, True, "taken"), FrontPoint(9.0, 0.0, words="dear"))
    told = plain_text(render_front(replace(compression, front=(*points, points[0]))))
    assert [line.split()[-1] for line in told.splitlines()[-2:]] == ["dear", "taken"]


def test_what_can_be_tried_where_nothing_got_cheaper(tmp_path: Path) -> None:
    def told(report: Report) -> str:
        return " ".join(str(report).split())

    base = merged()
    assert "Next:" not in told(base)
    dear = replace(base, cost=replace(base.cost, after=base.cost.before))
    assert "Next: decascade compress replaces activations too" in told(dear)
    assert ("Next: --policy always merges what is dearer too" in told(dear)) == any(
        c.decision == "left" and c.cost.after is not None for c in base.cascades)
    assert "--policy always" not in told(replace(dear, cascades=()))
    assert "Next:" not in told(replace(compressed(), cost=dear.cost)), "a compressed model has been through it"
    assert "Next:" not in told(proven())
