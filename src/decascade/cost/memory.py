"""Peak activation memory: the bytes of all tensors that are alive while the busiest operation runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from decascade.cost.base import Cost
from decascade.cost.count import bytes_of, parameters
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.ops.traits import is_view


class Memory:
    """Peak bytes of inputs, outputs and what is kept for later, operations run in graph order, one sample.

    Identity and Flatten are views and take nothing.  Weights are not activations and do not count.
    """

    name = "memory"
    unit = "bytes"

    def segment_cost(self, nodes: Sequence[Node], tensors: Mapping[str, Tensor]) -> Cost:
        home = _homes(nodes)
        last = {home.get(name, name): i for i, node in enumerate(nodes) for name in node.inputs}
        written = {name for node in nodes for name in node.outputs}
        read = {name for node in nodes for name in node.inputs}
        last.update({home.get(name, name): len(nodes) for name in written - read})
        alive = {home.get(name, name) for name in read - written}
        peak = 0
        for i, node in enumerate(nodes):
            alive.update(home.get(name, name) for name in node.outputs)
            peak = max(peak, sum(bytes_of(tensors[name]) for name in alive))
            alive = {name for name in alive if last.get(name, i) > i}
        return Cost(float(peak), sum(parameters(n) for n in nodes))

    def combine(self, costs: Iterable[Cost]) -> Cost:
        listed = list(costs)
        return Cost(max((c.value for c in listed), default=0.0), sum(c.parameters for c in listed))

    def graph_cost(self, graph: Graph) -> Cost:
        return self.segment_cost(graph.nodes, graph.tensors)


def _homes(nodes: Sequence[Node]) -> dict[str, str]:
    """Views and the tensor whose bytes they are."""
    home: dict[str, str] = {}
    for node in nodes:
        if is_view(node.op):
            home[node.output] = home.get(node.inputs[0], node.inputs[0])
    return home
