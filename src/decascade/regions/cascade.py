"""What became of a cascade: a row of a report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from decascade.cost import Cost
from decascade.ir.graph import Node


@dataclass(frozen=True)
class Cascade:
    """One cascade: the layers as the user knows them, and what became of it.

    `after` is the cost of what replaces it, or would have; `removed` and `added` are node names of the old and the new
    graph between the tensors `entry` and `exit`.
    """

    layers: tuple[str, ...]
    decision: Literal["merged", "left"]
    tier: str
    reason: str
    border: Literal["free", "bias", "ring", ""]
    before: Cost
    after: Cost | None
    entry: str
    exit: str
    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


def layers_of(nodes: Iterable[Node]) -> tuple[str, ...]:
    """The names under which the user knows some nodes."""
    return tuple(dict.fromkeys(name for n in nodes for name in (n.origin or (n.name,))))
