"""Flash: the bytes that the weights take on the device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from decascade.cost.base import Cost
from decascade.cost.count import parameters
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.ops import BiasMap
from decascade.ir.ops.traits import layer_of


class Flash:
    """Bytes of weights.  In int8 a kernel's weight takes one, a bias four, and a scale per output channel four more
    (TFLite, quantised per channel); a constant map one.  In float32 every number takes four.  Code is not counted, nor is what
    the file holds beside them: names, shapes, operations (a limit is held against the file itself, see `api.limits`)."""

    unit = "bytes"

    def __init__(self, int8: bool = True) -> None:
        self.name = "flash" if int8 else "flash:float"
        self._int8 = int8

    def segment_cost(self, nodes: Sequence[Node], tensors: Mapping[str, Tensor]) -> Cost:
        return Cost(float(sum(self._bytes(n) for n in nodes)), sum(map(parameters, nodes)))

    def _bytes(self, node: Node) -> int:
        layer = layer_of(node.op)
        if not self._int8:
            return 4 * parameters(node)
        if layer is not None:
            return layer.weight.size + (4 if layer.bias is None else 8) * layer.out_channels
        return node.op.values.size if isinstance(node.op, BiasMap) else 4 * parameters(node)

    def combine(self, costs: Iterable[Cost]) -> Cost:
        listed = list(costs)
        return Cost(sum(c.value for c in listed), sum(c.parameters for c in listed))

    def graph_cost(self, graph: Graph) -> Cost:
        return self.segment_cost(graph.nodes, graph.tensors)
