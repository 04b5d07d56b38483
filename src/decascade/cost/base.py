"""What a target has to answer: the cost of a run of operations, so that two ways of doing a job can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from decascade.ir.graph import Graph, Node, Tensor


@dataclass(frozen=True, order=True)
class Cost:
    """`value` in the target's unit; ties are broken by the number of stored parameters."""

    value: float
    parameters: int = 0


class Target(Protocol):
    """A device, or a stand-in for one.  Costs are for one sample; unknown sizes count as 1 (see `nominal`)."""

    name: str
    unit: str

    def segment_cost(self, nodes: Sequence[Node], tensors: Mapping[str, Tensor]) -> Cost:
        """Cost of a run of nodes.  Weights may be placeholders: only shapes may be read."""
        ...

    def combine(self, costs: Iterable[Cost]) -> Cost:
        """Cost of runs that are executed one after the other."""
        ...

    def graph_cost(self, graph: Graph) -> Cost:
        """Cost of a whole model."""
        ...
