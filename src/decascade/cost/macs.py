"""The default target: multiply-accumulates, ties broken by parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from decascade.cost.base import Cost
from decascade.cost.count import macs, parameters
from decascade.ir.graph import Graph, Node, Tensor


class Macs:
    """Multiply-accumulates of one sample."""

    name = "macs"
    unit = "MACs"

    def segment_cost(self, nodes: Sequence[Node], tensors: Mapping[str, Tensor]) -> Cost:
        return Cost(float(sum(macs(n, tensors) for n in nodes)), sum(parameters(n) for n in nodes))

    def combine(self, costs: Iterable[Cost]) -> Cost:
        listed = list(costs)
        return Cost(sum(c.value for c in listed), sum(c.parameters for c in listed))

    def graph_cost(self, graph: Graph) -> Cost:
        return self.segment_cost(graph.nodes, graph.tensors)
