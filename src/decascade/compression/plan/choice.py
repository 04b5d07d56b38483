"""A plan as data: which student stands for which segment, and what was expected of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from decascade.errors import UsageError
from decascade.reading.text import parse_json, read_text

VERSION = 1


@dataclass(frozen=True)
class Choice:
    """One segment (the tensors it lies between, its node names) and the label of its student.

    `cost` and `before` are in the plan's unit, `error` is the unexplained share of the exit's variance on held-out samples,
    `sensitivity` the divergence of the model's output with only this student swapped in.
    """

    entry: str
    exit: str
    nodes: tuple[str, ...]
    student: str
    cost: float
    before: float
    error: float
    sensitivity: float


@dataclass(frozen=True)
class Plan:
    """The chosen students of a model.  `before`: the model's cost as it was given; `after`: with the students."""

    target: str
    unit: str
    before: float
    after: float
    choices: tuple[Choice, ...]
    span: int

    @property
    def speedup(self) -> float:
        return self.before / max(self.after, 1e-30)

    @property
    def sensitivity(self) -> float:
        """The sum over the choices: the expected divergence, to first order."""
        return sum(choice.sensitivity for choice in self.choices)

    def to_json(self) -> str:
        return json.dumps({"version": VERSION, **asdict(self)}, indent=1)

    @staticmethod
    def from_json(text: str, source: str = "the plan") -> Plan:
        """The plan that `to_json` wrote.

        Raises:
            UsageError: the text is something else.
        """
        try:
            found: Any = parse_json(text)
            if found.pop("version") != VERSION:
                raise UsageError(f"{source} was written by another version of decascade: make it anew")
            choices = tuple(_choice(one) for one in found.pop("choices"))
            return Plan(choices=choices, **_fields(found, target=str, unit=str, before=float, after=float, span=int))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"{source} is no plan of decascade: {' '.join(str(error).split())}: make it anew") from error

    @staticmethod
    def load(path: Path) -> Plan:
        """A plan from a file.

        Raises:
            UsageError: it is missing, or no plan.
        """
        return Plan.from_json(read_text(path, "plan", "plan"), str(path))


def _choice(given: Mapping[str, Any]) -> Choice:
    numbers = dict.fromkeys(("cost", "before", "error", "sensitivity"), float)
    nodes = given["nodes"]
    if not isinstance(nodes, list) or not all(isinstance(name, str) for name in cast("list[Any]", nodes)):
        raise TypeError("nodes must be a list of names")
    rest = {name: value for name, value in given.items() if name != "nodes"}
    return Choice(nodes=tuple(cast("list[str]", nodes)), **_fields(rest, entry=str, exit=str, student=str, **numbers))


def _fields(given: Mapping[str, Any], **kinds: type) -> dict[str, Any]:
    """The values, each of its kind; a whole number is a number too.

    Raises:
        TypeError: one is of another kind.
        KeyError: one is missing.
        ValueError: one is not known.
    """
    if unknown := [name for name in given if name not in kinds]:
        raise ValueError(f"{unknown[0][:40]!r} is not known")
    found = dict[str, Any]()
    for name, kind in kinds.items():
        value = given[name]
        wanted = (int, float) if kind is float else kind
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise TypeError(f"{name} is {type(value).__name__}, not {kind.__name__}")
        found[name] = float(value) if kind is float else value
    return found
