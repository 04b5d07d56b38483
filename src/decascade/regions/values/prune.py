"""A graph again with the channels that have to be there, and no others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.names import Names
from decascade.ir.ops import Activation, Affine, BiasMap, Concat, Dense, Identity, Op, Select
from decascade.regions.values.channels import Kept, Known, kept_channels, mixing, positions
from decascade.regions.values.facts import facts_of
from decascade.regions.values.twins import twins_of

Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Pruned:
    """`home`: for the name of every node that was made the given node that it stands for.  `gone`: the given nodes that
    nothing stands for.  `channels`: how many channels went, over all tensors that layers write."""

    graph: Graph
    home: Mapping[str, Node] = field(default_factory=dict[str, Node])
    gone: tuple[Node, ...] = ()
    channels: int = 0


def prune(graph: Graph, names: Names | None = None) -> Pruned:
    """The graph without the channels that no output depends on, that are constant, or that are a multiple of another one,
    wherever what reads them can do without.

    The result is equal to the graph in real arithmetic on every finite input.
    """
    facts = facts_of(graph)
    known = Known(graph, facts, twins_of(graph, facts))
    kept = kept_channels(known)
    if all(k.all() for k in kept.values()):
        return Pruned(graph)
    return _Pruner(known, kept, names or Names.of(graph)).run()


class _Pruner:
    def __init__(self, known: Known, kept: Kept, free: Names) -> None:
        self.known, self.kept, self.graph, self.free = known, kept, known.graph, free
        self.names = {n: free.tensor(f"{n}/kept") for n, k in kept.items() if k.any() and not k.all()}
        self.home = dict[str, Node]()

    def run(self) -> Pruned:
        nodes, tensors = list[Node](), dict[str, Tensor]()
        for name, new in self.names.items():
            old = self.graph.tensors[name]
            assert old.shape is not None
            tensors[new] = replace(old, name=new, shape=(old.shape[0], int(self.kept[name].sum()), *old.shape[2:]))
        for node in self.graph.nodes:
            made = self._node(node)
            if made is not None:
                nodes.append(made)
        graph = self.graph.with_nodes(alive(nodes, self.graph.outputs), tensors)
        there = {n.name for n in graph.nodes}
        home = {name: node for name, node in self.home.items() if name in there}
        stays = there | {node.name for node in home.values()}
        layers = [n for n in self.graph.nodes if isinstance(n.op, (Conv, Dense)) and n.output in self.kept]
        return Pruned(graph, home, tuple(n for n in self.graph.nodes if n.name not in stays),
                      sum(int((~self.kept[n.output]).sum()) for n in layers))

    def _node(self, node: Node) -> Node | None:
        """The node on the kept channels; itself where nothing of it changed; None where nothing reads it any more."""
        if any(n in self.kept and not self.kept[n].any() for n in node.outputs):
            return None
        if not any(n in self.names or (n in self.kept and not self.kept[n].any()) for n in (*node.inputs, *node.outputs)):
            return node
        op, inputs = NARROW.get(type(node.op), _unchanged)(self, node)
        new = Node(self.free.node(f"{node.name}/kept"), op, tuple(self.names.get(n, n) for n in inputs),
                   tuple(self.names.get(n, n) for n in node.outputs), sized=node.sized)
        self.home[new.name] = node
        return new

    def layer(self, node: Node, layer: Conv) -> Conv:
        """Rows and columns that are kept; constants that go are added to the bias, multiples to the columns of their first."""
        if mixing(self.graph, node) is None:
            return self._grouped(node, layer)
        source, facts = node.inputs[0], self.known.facts
        reads, writes = self.kept[source], self.kept[node.output]
        weight, bias, target = layer.weight, layer.bias, facts[node.output]
        gone = np.flatnonzero(~reads & np.any(weight != 0, axis=(0, *range(2, weight.ndim))))
        if len(gone):
            weight, bias = self._without(node, layer, gone)
        fixed = writes & target.constant
        if fixed.any() and not np.array_equal(weight[fixed] != 0, np.zeros_like(weight[fixed], bool)):
            weight = np.where(fixed.reshape(-1, *(1,) * (weight.ndim - 1)), 0, weight)
            bias = np.where(fixed, target.value, layer.bias64 if bias is None else bias)
        return Conv(weight[writes][:, reads], None if bias is None else bias[writes], layer.stride, layer.dilation,
                           layer.padding)

    def _without(self, node: Node, layer: Conv, gone: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Weight and bias once the columns `gone` are not read: float64, since they are sums now."""
        source = node.inputs[0]
        labels, facts, absorbed = self.known.twins[source], self.known.facts[source], self.known.absorbed(node, layer)
        weight, bias = layer.weight.astype(np.float64).copy(), layer.bias64.copy()
        for column in gone:
            if absorbed[column]:
                bias += weight[:, column].reshape(len(weight), -1).sum(axis=1) * facts.value[column]
            else:
                weight[:, labels.first[column]] += labels.ratio[column] * weight[:, column]
        return weight, bias if layer.bias is not None or np.any(bias) else None

    def _grouped(self, node: Node, layer: Conv) -> Conv:
        writes = self.kept[node.output]
        groups = int(writes.reshape(layer.groups, -1).any(axis=1).sum())
        return Conv(layer.weight[writes], None if layer.bias is None else layer.bias[writes], layer.stride,
                           layer.dilation, layer.padding, groups)


def _unchanged(pruner: _Pruner, node: Node) -> tuple[Op, Sequence[str]]:
    return node.op, node.inputs


def _convolution(pruner: _Pruner, node: Node) -> tuple[Op, Sequence[str]]:
    assert isinstance(node.op, Conv)
    return pruner.layer(node, node.op), node.inputs


def _dense(pruner: _Pruner, node: Node) -> tuple[Op, Sequence[str]]:
    assert isinstance(node.op, Dense)
    return Dense(pruner.layer(node, node.op.layer)), node.inputs


def _affine(pruner: _Pruner, node: Node) -> tuple[Op, Sequence[str]]:
    assert isinstance(node.op, Affine)
    kept = pruner.kept[node.output]
    return Affine(node.op.scale[kept], node.op.shift[kept]), node.inputs


def _bias_map(pruner: _Pruner, node: Node) -> tuple[Op, Sequence[str]]:
    assert isinstance(node.op, BiasMap)
    return BiasMap(node.op.values[pruner.kept[node.output]]), node.inputs


def _activation(pruner: _Pruner, node: Node) -> tuple[Op, Sequence[str]]:
    assert isinstance(node.op, Activation)
    slope = node.op.slope
    return (node.op if slope is None else replace(node.op, slope=slope[pruner.kept[node.output]])), node.inputs


def _select(pruner: _Pruner, node: Node) -> tuple[Op, Sequence[str]]:
    assert isinstance(node.op, Select)
    reads = pruner.kept[node.inputs[0]]
    indices = positions(reads, node.op.indices[pruner.kept[node.output]])
    same = np.array_equal(indices, np.arange(int(reads.sum())))
    return (Identity() if same else Select(indices)), node.inputs


def _concat(pruner: _Pruner, node: Node) -> tuple[Op, Sequence[str]]:
    assert isinstance(node.op, Concat)
    inputs = [n for n in node.inputs if pruner.kept[n].any()]
    return (Identity() if len(inputs) == 1 else node.op), inputs


Narrow = Callable[[_Pruner, Node], tuple[Op, Sequence[str]]]
NARROW: Mapping[type, Narrow] = {
    Conv: _convolution, Dense: _dense, Affine: _affine, BiasMap: _bias_map,
    Activation: _activation, Select: _select, Concat: _concat,
}
"""Operations that store something for every channel; the others stay as they are."""


def alive(nodes: Sequence[Node], outputs: Sequence[str]) -> list[Node]:
    """The nodes that some output depends on."""
    wanted, found = set(outputs), list[Node]()
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            found.append(node)
            wanted.update(node.inputs)
    return found[::-1]
