"""A plan as data: which student stands for which segment, and what was expected of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from decascade.errors import UsageError

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
            found: dict[str, Any] = json.loads(text)
            if found.pop("version") != VERSION:
                raise UsageError(f"{source} was written by another version of decascade: make it anew")
            choices = tuple(_choice(one) for one in found.pop("choices"))
            return Plan(choices=choices, **found)
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
        try:
            return Plan.from_json(path.read_text(encoding="utf-8"), str(path))
        except OSError as error:
            raise UsageError(f"plan {path} cannot be read: {error.strerror or error}") from error


def _choice(given: Mapping[str, Any]) -> Choice:
    fields: dict[str, Any] = {**given, "nodes": tuple(given["nodes"])}
    return Choice(**fields)
