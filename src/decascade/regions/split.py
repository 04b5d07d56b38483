"""Splitting a convolution again where its unfolded kernel has low rank: exact, and only where the target says cheaper."""

from __future__ import annotations

from collections.abc import Iterator

from decascade.algebra.conv import Conv
from decascade.algebra.factor import splits
from decascade.cost import Cost, Target
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.names import Names
from decascade.ir.ops import Dense
from decascade.ir.ops.traits import layer_of
from decascade.ir.shapes import infer
from decascade.regions.storage import unstorable

LARGEST = 1 << 21
"""Numbers in a kernel beyond which the rank is not looked for: the decomposition would take minutes."""


def cheaper_split(
    graph: Graph, sized: Graph, node: Node, target: Target, names: Names
) -> tuple[tuple[Node, Node], Tensor, Cost] | None:
    """The cheapest exact split of a convolution or dense layer, its middle tensor and its cost; None if none pays."""
    layer = layer_of(node.op)
    if not isinstance(layer, Conv) or node.pinned or layer.weight.size > LARGEST:
        return None
    found = list[tuple[Cost, tuple[Node, Node], Tensor]]()
    for pair, middle, costed in _pairs(graph, sized, node, layer, names):
        tensors = {**sized.tensors, middle.name: costed}
        if unstorable(pair, tensors) is not None:
            continue
        found.append((target.segment_cost(pair, tensors), pair, middle))
    if not found:
        return None
    cost, pair, middle = min(found, key=lambda f: f[0])
    return (pair, middle, cost) if cost < target.segment_cost([node], sized.tensors) else None


def _pairs(
    graph: Graph, sized: Graph, node: Node, layer: Conv, names: Names
) -> Iterator[tuple[tuple[Node, Node], Tensor, Tensor]]:
    dense, dtype = isinstance(node.op, Dense), graph.tensors[node.output].dtype
    # one pair at most is made of them
    name, *both = names.tensor(f"{node.name}/rank/out"), *(names.node(f"{node.name}_split/{n}") for n in ("first", "second"))
    for first, second in splits(layer):
        ops = (Dense(first), Dense(second)) if dense else (first, second)
        middle = Tensor(name, infer(ops[0], [graph.shape(node.inputs[0])])[0], dtype)
        costed = Tensor(name, infer(ops[0], [sized.shape(node.inputs[0])])[0], dtype)
        yield (Node(both[0], ops[0], node.inputs, (name,), sized=node.sized),
               Node(both[1], ops[1], (name,), node.outputs, sized=node.sized)), middle, costed
