"""Several targets at once: a weighted sum of their costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from decascade.cost.base import Cost, Target, unknown
from decascade.ir.graph import Graph, Node, Tensor


class Weighted:
    """Σ weight·cost, each cost in its own target's unit: `1*litert + 0.001*flash` says that a microsecond is worth 1,000 bytes.

    Costs keep their parts, so that times add up and peaks do not.
    """

    def __init__(self, terms: Sequence[tuple[float, Target]]) -> None:
        self.terms = tuple(terms)
        self.name = " + ".join(f"{weight:g}*{target.name}" for weight, target in self.terms)
        self.unit = " + ".join(f"{weight:g} {target.unit}" for weight, target in self.terms)

    def segment_cost(self, nodes: Sequence[Node], tensors: Mapping[str, Tensor]) -> Cost:
        return self._sum([target.segment_cost(nodes, tensors) for _, target in self.terms])

    def unknown(self, nodes: Sequence[Node], tensors: Mapping[str, Tensor]) -> frozenset[str]:
        return frozenset[str]().union(*(unknown(target, nodes, tensors) for _, target in self.terms))

    def combine(self, costs: Iterable[Cost]) -> Cost:
        listed = [c.parts or self._spread(c) for c in costs]
        columns = zip(*listed, strict=True) if listed else [() for _ in self.terms]
        return self._sum([target.combine(column) for (_, target), column in zip(self.terms, columns, strict=True)])

    def _spread(self, cost: Cost) -> tuple[Cost, ...]:
        """A number without parts as the same share of every term."""
        total = sum(weight for weight, _ in self.terms)
        return (Cost(cost.value / total, cost.parameters),) * len(self.terms)

    def graph_cost(self, graph: Graph) -> Cost:
        return self._sum([target.graph_cost(graph) for _, target in self.terms])

    def _sum(self, parts: Sequence[Cost]) -> Cost:
        value = sum(weight * part.value for (weight, _), part in zip(self.terms, parts, strict=True))
        return Cost(value, max((part.parameters for part in parts), default=0), tuple(parts))
