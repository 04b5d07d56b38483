"""Reports read back: what was written comes back, and what is wrong is said with its place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import jsonschema
import pytest

import decascade as dc
from decascade.cli import run
from decascade.errors import LimitExceededError, UsageError
from decascade.report.facts.load import LARGEST, from_dict, load_report
from decascade.report.facts.report import ProofFacts, ProofRow, Report, VerificationFacts, json_text, to_json
from report_examples import DIGITS, SCHEMA, compressed, merged, proven

EXAMPLES: dict[str, Callable[[], Report]] = {
    "merge": merged, "proof": proven, "compress": compressed, "inspect": lambda: dc.inspect(DIGITS),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_report_comes_back(name: str, tmp_path: Path) -> None:
    report = EXAMPLES[name]()
    report.to_json(tmp_path / "r.json")
    jsonschema.validate(report.to_dict(), SCHEMA, cls=jsonschema.Draft202012Validator)
    found = load_report(tmp_path / "r.json")
    assert isinstance(found, Report)
    assert found.to_dict() == report.to_dict()
    assert replace(found, certificates=(), validity=None) == replace(report, certificates=(), validity=None)


def test_checks_come_back() -> None:
    proofs = ProofFacts(True, {"x": {"lo": 0.0, "hi": 1.0}}, (ProofRow("r", ("a",), "proven", 3, 3, 0),), 4, 0.5)
    check = VerificationFacts(same=True, max_abs=1e-7, max_rel=1e-8, tolerance=1e-6, samples=4, by="float64", proofs=proofs)
    for facts in (check, proofs):
        assert from_dict(json.loads(to_json(facts))) == facts


def test_an_older_report_without_the_drawn_parts_is_read() -> None:
    facts = merged().to_dict()
    for part in ("graphs", "compression", "measures", "validity", "certificates", "outside"):
        del facts[part]
    found = from_dict(facts)
    assert isinstance(found, Report)
    assert found.graphs is None
    assert "drawings" in found.to_html()


def test_the_schema_knows_the_fields_of_every_dataclass() -> None:
    """Dataclasses and schema say the same: same names, and what has no default is required."""
    kinds = [Report]
    for kind in kinds:
        for hint in get_type_hints(kind).values():
            stack = [hint]
            while stack:
                found = stack.pop()
                stack += [a for a in get_args(found) if a is not NoneType]
                if is_dataclass(found) and found not in kinds:
                    kinds.append(found)  # type: ignore[arg-type]
    described = list(_objects(SCHEMA))
    for kind in kinds:
        names = {f.name for f in fields(kind)}
        assert names in [set(d["properties"]) for d in described], kind.__name__


def _objects(schema: Any) -> Any:
    if isinstance(schema, dict):
        if "properties" in schema:
            yield schema
        for value in schema.values():
            yield from _objects(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _objects(value)


SPOILED: dict[str, Callable[[Any], Any]] = {
    "schema is 9, this version reads 1; a newer version of decascade wrote it: draw it with that one":
        lambda d: d.update(schema=9),
    "schema is 0, this version reads 1; an older version of decascade wrote it: run its command again":
        lambda d: d.update(schema=0),
    "schema is \"1\", this version reads 1": lambda d: d.update(schema="1"),
    "schema is true, this version reads 1": lambda d: d.update(schema=True),
    "schema is null, this version reads 1": lambda d: d.pop("schema"),
    "target is missing": lambda d: d.pop("target"),
    "more is not known to this version": lambda d: d.update(more=1),
    "cascades[0].decision is \"maybe\": one of 'merged', 'left' was expected":
        lambda d: d["cascades"][0].update(decision="maybe"),
    "cascades[0].cost.before is \"much\": a number was expected": lambda d: d["cascades"][0]["cost"].update(before="much"),
    "layers is []: an object was expected": lambda d: d.update(layers=[]),
    "notes is \"none\": a list was expected": lambda d: d.update(notes="none"),
    "versions is 1: an object was expected": lambda d: d.update(versions=1),
    "layers.before is true: a whole number was expected": lambda d: d["layers"].update(before=True),
    "graphs.before[1].inputs names 7, where places from 0 below 1 can stand":
        lambda d: d["graphs"]["before"][1].update(inputs=[7]),
    "graphs.after[1].cascades names 99, where": lambda d: d["graphs"]["after"][1].update(cascades=[99]),
    "graphs.after[1].same names -1, where": lambda d: d["graphs"]["after"][1].update(same=-1),
    "graphs.before[0].shape[0] is 1.5: a whole number or text was expected":
        lambda d: d["graphs"]["before"][0].update(shape=[1.5]),
    "validity.box is no box of lowest and highest values": lambda d: d.update(validity={
        "tier": "proven", "box": {"x": 1}, "proven": [], "observed": [], "samples": 0, "bound": None}),
}


@pytest.mark.parametrize("words", SPOILED)
def test_what_is_wrong_is_said_with_its_place(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = merged().to_dict()
    SPOILED[words](facts)
    with pytest.raises(UsageError, match=f"^{re.escape(words)}"):
        from_dict(facts)
    (tmp_path / "r.json").write_text(json_text(facts))
    assert run(["report", str(tmp_path / "r.json"), "-o", str(tmp_path / "r.html")]) == 2
    told = capsys.readouterr().err
    assert f"r.json is not a report of decascade: {words}" in told
    assert told.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_a_certificate_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = merged().to_dict()
    facts["certificates"] = [{"tier": "proven", "activations": [{"layers": ["a"]}]}]
    (tmp_path / "r.json").write_text(json_text(facts))
    assert run(["report", str(tmp_path / "r.json"), "-o", str(tmp_path / "r.html")]) == 2
    assert "certificates[0] is no certificate: KeyError" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


FILES: dict[str, tuple[bytes | None, str]] = {
    "missing.json": (None, "missing.json does not exist: check the name"),
    "text.json": (b"decascade", "is not JSON"),
    "binary.json": (b"\xff\xfe\x00", "it is not UTF-8 text (byte 0xff at 0)"),
    "list.json": (b"[]", "is not a report of decascade: the outermost value is no object"),
    "deep.json": (b"[" * 100_000, "is not JSON"),
    "empty.json": (b"", "is not JSON"),
    "number.json": (b"9" * 5000, "is not JSON"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_reports(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, words = FILES[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert run(["report", str(tmp_path / name)]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


def test_a_file_too_large_to_be_a_report(tmp_path: Path) -> None:
    with (tmp_path / "r.json").open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(LimitExceededError, match="is larger than 268,435,456 bytes, which no report is"):
        load_report(tmp_path / "r.json")


def test_places_for_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "r.json"
    merged().to_json(source)
    assert run(["report", str(source), "-o", str(tmp_path / "r.pdf")]) == 2
    assert "r.pdf: a report is drawn as a page: give an output name that ends in .html" in capsys.readouterr().err
    assert run(["report", str(source), "-o", str(tmp_path / "r.html"), "-q"]) == 0
    assert run(["report", str(source), "-o", str(tmp_path / "r.html")]) == 2
    assert "r.html exists" in capsys.readouterr().err
    assert run(["report", str(source), "-o", str(tmp_path / "r.html"), "--force", "-q"]) == 0
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == merged().to_html()


def test_an_old_report_is_printed_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    merged().to_json(tmp_path / "r.json")
    assert run(["report", str(tmp_path / "r.json")]) == 0
    assert capsys.readouterr().out.split() == str(merged()).split()
