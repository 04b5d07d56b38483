"""The report: JSON by its schema, tables that fit, words that say what happened."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import decascade
from decascade.report.facts.quantities import change, quantity
from decascade.report.facts.report import CascadeFacts, CostFacts, ErrorFacts, Layers, Report, VerificationFacts, Worst, to_json
from decascade.report.terminal.report import chain

SCHEMA: dict[str, Any] = json.loads((Path(decascade.__file__).parent / "report" / "schema.json").read_text())


def cost(before: float, after: float | None) -> CostFacts:
    return CostFacts(before, after, "MACs", 100, None if after is None else 50)


VERIFIED = VerificationFacts(
    same=True, max_abs=1.2e-6, max_rel=1e-7, tolerance=2e-5, samples=24, by="framework",
    worst=Worst("logits", (3, 2), 1.25, 1.5),
    exact_error=3e-7, exact_tolerance=1e-6, original_fp32_error=1e-6, merged_fp32_error=1.1e-6, notes=("a note",),
)
MERGED = CascadeFacts(
    ("expand", "project"), "merged", "exact", "2 layers -> one 3x3 convolution", "ring", cost(1e6, 2e5),
    ErrorFacts(1e-7, 3e-8, 1e-6, 3),
)
LEFT = CascadeFacts(
    tuple(f"a_rather_long_model_name/block_{i}/Conv2D" for i in range(9)), "left", "exact",
    "one 5x5 convolution would cost 1.39x: 3,000,000 MACs -> 4,100,000 MACs", "", cost(3e6, 4.1e6),
)
FOLD = CascadeFacts(
    ("conv1", "bn1"), "merged", "exact", "scale and shift folded into the convolution", "", CostFacts(5, 5, "MACs", 12, 10),
    ErrorFacts(1e-7, 3e-8, 1e-6, 3),
)
REPORT = Report(
    action="merge", model="m.onnx", output="out.onnx", target="macs", cost=cost(12_345_678, 2_345_678), layers=Layers(12, 5),
    cascades=(MERGED, LEFT), verification=VERIFIED, versions={"decascade": "0"}, seconds=1.25, notes=("read as in eval mode",),
)
VARIANTS = {
    "merge": REPORT,
    "inspect": replace(REPORT, action="inspect", output=None, verification=None),
    "nothing found": replace(REPORT, cascades=()),
    "cost unknown": replace(REPORT, cascades=(replace(LEFT, cost=cost(5, None)),)),
    "no framework": replace(
        REPORT, verification=VerificationFacts(same=True, max_abs=0, max_rel=0, tolerance=0, samples=1, by="float64")
    ),
    "not finite": replace(REPORT, verification=replace(VERIFIED, max_abs=inf, worst=Worst("y", (), nan, 0.0))),
    "corrections": replace(REPORT, layers=Layers(12, 5, 8)),
    "folds": replace(REPORT, cascades=(FOLD, replace(FOLD, layers=("conv2", "bn2")), LEFT)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_json_fits_the_schema(name: str, tmp_path: Path) -> None:
    text = VARIANTS[name].to_json(tmp_path / "r.json")
    assert (tmp_path / "r.json").read_text(encoding="utf-8") == text
    jsonschema.validate(json.loads(text), SCHEMA, cls=jsonschema.Draft202012Validator)
    assert VARIANTS[name].to_dict() == json.loads(text)


def test_schema_is_strict() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for spoil in (lambda d: d.pop("target"), lambda d: d.update(more=1), lambda d: d["cascades"][0].update(decision="maybe")):
        facts = REPORT.to_dict()
        spoil(facts)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(facts, SCHEMA)


def test_json_has_the_keys_that_the_design_names() -> None:
    facts = REPORT.to_dict()
    assert facts["schema"] == 1
    assert {"before", "after", "unit"} <= facts["cost"].keys()
    assert {"layers", "decision", "tier", "reason", "border", "cost", "error"} == facts["cascades"][0].keys()
    assert {"max_abs", "max_rel", "samples", "original_fp32_error"} <= facts["verification"].keys()


def test_not_finite_becomes_null() -> None:
    assert json.loads(to_json(replace(VERIFIED, max_abs=float("inf"))))["max_abs"] is None


@pytest.mark.parametrize("name", VARIANTS)
def test_text_fits_eighty_columns(name: str) -> None:
    assert max(map(len, str(VARIANTS[name]).splitlines())) <= 80


def test_text_says_what_happened() -> None:
    text = " ".join(str(REPORT).split())
    for words in (
        "m.onnx: 2 cascades: 1 merged, 1 left alone (target macs)", "expand → project", "exact; ring",
        "5 × less", "1.37 × more", "… 6 more …", "Verified: same function up to rounding, 24 samples", "(1.10 times)",
        "12.3 M 2.35 M", "a note", "Note: read as in eval mode", "Written to out.onnx",
    ):
        assert words in text


def test_folds_are_one_row() -> None:
    text = " ".join(str(VARIANTS["folds"]).split())
    assert "conv1 → bn1 and 1 more" in text
    assert "conv2" not in text
    assert "small convolutions that correct borders 0 8" in " ".join(str(VARIANTS["corrections"]).split())


def test_inspect_speaks_of_what_would_be() -> None:
    text = str(VARIANTS["inspect"])
    assert "1 to merge" in text
    assert "To merge" in text
    assert "Verified" not in text


def test_not_the_same_is_said_plainly() -> None:
    wrong = replace(VERIFIED, same=False, max_abs=0.5)
    assert "NOT the same function" in str(wrong)
    assert wrong.complaint == "off by 0.5 at output logits[3, 2], where rounding explains 2e-05"
    stored = replace(VERIFIED, same=False, exact_error=0.1)
    assert stored.complaint == "off by 0.1 in float64, where rounding of weights explains 1e-06"
    assert not VERIFIED.complaint


def test_ratio_needs_both_errors() -> None:
    assert VERIFIED.fp32_ratio == pytest.approx(1.1)
    assert replace(VERIFIED, original_fp32_error=None).fp32_ratio is None
    assert replace(VERIFIED, original_fp32_error=0.0).fp32_ratio is None


def test_numbers_in_words() -> None:
    assert [quantity(v) for v in (0, 480, 7424, 12_288, 1_234_567, 2.5e9)] == ["0", "480", "7,424", "12.3 k", "1.23 M", "2.5 G"]
    assert [change(*v) for v in ((10, 5), (10, 20), (3, 3), (3, None), (0, 3))] == ["2 × less", "2 × more", "the same", "", ""]
    assert chain(["a", "b"]) == "a → b"
    assert chain(list("abcdefg")) == "a → b → … 4 more … → g"
