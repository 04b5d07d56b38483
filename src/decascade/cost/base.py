"""What a target has to answer: the cost of a run of operations, so that two ways of doing a job can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from decascade.ir.graph import Graph, Node, Tensor


@dataclass(frozen=True, order=True)
class Cost:
    """`value` in the target's unit; ties are broken by the number of stored parameters.

    `parts`: where it is a sum over several targets, the cost under each.  `width`: half of the 95 % interval of a measured
    whole.
    """

    value: float
    parameters: int = 0
    parts: tuple[Cost, ...] = field(default=(), compare=False)
    width: float = field(default=0.0, compare=False)

    def exceeds(self, other: Cost) -> bool:
        """Whether it is higher by more than what measuring leaves open."""
        return replace(self, value=self.value - self.width - other.width) > other


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


@runtime_checkable
class Measuring(Target, Protocol):
    """A target whose costs are measured, which takes time."""

    def unknown(self, nodes: Sequence[Node], tensors: Mapping[str, Tensor]) -> frozenset[str]:
        """What would have to be measured before a run has a cost: equal texts are one measurement."""
        ...


def unknown(target: Target, nodes: Sequence[Node], tensors: Mapping[str, Tensor]) -> frozenset[str]:
    """See `Measuring.unknown`; nothing where costs are counted."""
    return target.unknown(nodes, tensors) if isinstance(target, Measuring) else frozenset()
