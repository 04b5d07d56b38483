"""What a backend does with each operation: one table per backend, by class, without a default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from decascade.ir.ops import Op

R = TypeVar("R")


class Table(Generic[R]):
    """The rules of one backend.  A class of operations has a rule, or a reason why it has none.

    `name` says of what it is the table.  `derived`: the rule that follows from an operation's traits, for classes without a
    rule of their own; None where none follows.  What has no rule is treated as `Foreign` is by that backend: it is new, and
    the table has not heard of it.
    """

    known: ClassVar[list[Table[Any]]] = []
    """Every table that has been made, for the test that no operation is forgotten in one."""

    def __init__(
        self, name: str, rules: Mapping[type[Any], R], refused: Mapping[type[Any], str],
        derived: Callable[[Op], R | None] | None = None,
    ) -> None:
        self.name = name
        self.rules: dict[type[Any], R] = dict(rules)
        self.refused: dict[type[Any], str] = dict(refused)
        self._derived = derived
        Table.known.append(self)

    def get(self, op: Op) -> R | None:
        """The rule for an operation, None where there is none."""
        rule = self.rules.get(type(op))
        if rule is not None or self._derived is None or type(op) in self.refused:
            return rule
        return self._derived(op)

    def __contains__(self, op: Op) -> bool:
        return self.get(op) is not None

    def why_not(self, op: Op) -> str:
        """Why an operation has no rule."""
        return self.refused.get(type(op), f"{type(op).__name__} is not known to {self.name}")
