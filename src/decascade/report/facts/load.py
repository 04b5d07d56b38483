"""From JSON back to facts: the dataclasses' own annotations say what is right, and every error says where it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from decascade.errors import UsageError
from decascade.reading.text import parse_json, read_text
from decascade.report.facts.bench import BenchFacts
from decascade.report.facts.boxes import box_text
from decascade.report.facts.device import ExportFacts
from decascade.report.facts.parts import NodeFacts
from decascade.report.facts.report import SCHEMA, ProofFacts, Report, VerificationFacts

T = TypeVar("T")
Facts = Report | VerificationFacts | ProofFacts | ExportFacts | BenchFacts
LARGEST = 1 << 28
"""Bytes of the largest file that is read as a report."""
NUMBERS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def load_report(path: str | Path) -> Facts:
    """The report in a JSON file that `--report` wrote.

    Raises:
        UsageError: a file that is missing, too large, no JSON, or no report of this schema; the message says where.
    """
    place = Path(path)
    text = read_text(place, "report", "report", most=LARGEST)
    try:
        found: Any = parse_json(text)
    except ValueError as error:
        raise UsageError(f"{place} is not JSON ({error}): give what --report FILE.json has written") from error
    try:
        return from_dict(found)
    except UsageError as error:
        raise UsageError(f"{place} is not a report of decascade: {error}") from error


def from_dict(found: object) -> Facts:
    """The facts whose JSON this is: `same` only a comparison has, `held` only a certificate that was checked again, `flash`
    only an export, `targets` only a measurement.

    Raises:
        UsageError: something missing, unknown or of the wrong kind; the message says where.
    """
    if not isinstance(found, dict):
        raise UsageError("the outermost value is no object")
    facts = cast("dict[str, Any]", found)
    if "same" in facts:
        found = build(VerificationFacts, facts)
        if found.proofs is not None:
            _check_box(found.proofs.box, "proofs.box")
        return found
    if "held" in facts:
        proofs = build(ProofFacts, facts)
        _check_box(proofs.box, "box")
        return proofs
    if "flash" in facts:
        return build(ExportFacts, facts)
    if "targets" in facts:
        return build(BenchFacts, facts)
    _check_schema(facts.get("schema"))
    report = build(Report, facts)
    if report.validity is not None:
        _check_box(report.validity.box, "validity.box")
    if report.graphs is not None:
        before, after = len(report.graphs.before), len(report.cascades)
        _check_places(report.graphs.before, "graphs.before", after, None)
        _check_places(report.graphs.after, "graphs.after", after, before)
    return report


def _check_schema(found: object) -> None:
    if found == SCHEMA and not isinstance(found, bool):
        return
    told = f"schema is {_shown(found)}, this version reads {SCHEMA}"
    if isinstance(found, int) and not isinstance(found, bool):
        told += ("; an older version of decascade wrote it: run its command again" if found < SCHEMA else
                 "; a newer version of decascade wrote it: draw it with that one")
    raise UsageError(told)


def _check_box(box: dict[str, Any], where: str) -> None:
    try:
        box_text(box)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{where} is no box of lowest and highest values: {type(error).__name__}: {error}") from error


def _check_places(nodes: tuple[NodeFacts, ...], where: str, cascades: int, kept: int | None) -> None:
    """That what nodes say of other nodes and of cascades is there."""
    for i, node in enumerate(nodes):
        places = (("inputs", node.inputs, i), ("cascades", node.cascades, cascades),
                  ("same", () if node.same is None else (node.same,), kept or 0))
        for name, found, end in places:
            wrong = next((place for place in found if not 0 <= place < end), None)
            if wrong is not None:
                raise UsageError(f"{where}[{i}].{name} names {wrong}, where places from 0 below {end} can stand")


def build(kind: type[T], value: object, where: str = "") -> T:
    """A dataclass of plain values, nested ones too, from its JSON.

    Raises:
        UsageError: as for `from_dict`.
    """
    if not isinstance(value, dict):
        raise UsageError(f"{where or 'the report'} is {_shown(value)}: an object was expected")
    given, hints = cast("Mapping[str, Any]", value), get_type_hints(kind)
    known = {f.name: f for f in fields(cast("Any", kind))}
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        raise UsageError(f"{_under(where, unknown[0])} is not known to this version")
    missing = [n for n, f in known.items() if n not in given and f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise UsageError(f"{_under(where, missing[0])} is missing")
    return kind(**{name: _value(hints[name], v, _under(where, name)) for name, v in given.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _one_of(arguments, value, where)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool):
            raise UsageError(f"{where} is {_shown(value)}: one of {', '.join(map(repr, arguments))} was expected")
        return value
    if origin is tuple:
        return _tuple(arguments, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise UsageError(f"{where} is {_shown(value)}: an object was expected")
        return {k: _value(arguments[1], v, f"{where}.{k}") for k, v in cast("dict[str, Any]", value).items()}
    if hint is Any:
        return value
    return build(cast("type[Any]", hint), value, where) if is_dataclass(hint) else _scalar(hint, value, where)


def _tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise UsageError(f"{where} is {_shown(value)}: a list was expected")
    items = cast("list[Any]", value)
    inner = [arguments[0]] * len(items) if len(arguments) == 2 and arguments[1] is ... else list(arguments)
    if len(inner) != len(items):
        raise UsageError(f"{where} has {len(items)} entries: {len(inner)} were expected")
    return tuple(_value(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(inner, items, strict=True)))


def _one_of(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    """`X | None`, or one of several plain kinds."""
    if value is None and NoneType in arguments:
        return None
    rest = [a for a in arguments if a is not NoneType]
    if len(rest) == 1:
        return _value(rest[0], value, where)
    for kind in rest:
        if type(value) is kind:
            return value
    raise UsageError(f"{where} is {_shown(value)}: {' or '.join(NUMBERS.get(a, str(a)) for a in rest)} was expected")


def _scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is float and value is None:
        return float("nan")  # what is not finite was written as null
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e308:
        return float(value)
    if type(value) is not kind:
        raise UsageError(f"{where} is {_shown(value)}: {NUMBERS.get(kind, kind.__name__)} was expected")
    return value


def _under(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."
