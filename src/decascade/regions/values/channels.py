"""Which channels of every tensor have to be there.

What must stay: all channels of the graph's inputs and outputs, and of what an operation reads or writes that has no rule here.
From these the rules go on, backwards and forwards, to the least set that is closed under them:

- a convolution without groups needs, for its kept outputs that are no constants, the inputs that they weigh; not those that are
  constants that its bias can take up, nor those that are a multiple of another one, which is then needed instead;
- operations on single channels, sums and products keep the same channels on all sides;
- a group of a convolution stays or goes as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import (
    Activation,
    Add,
    Affine,
    BiasMap,
    Concat,
    Dense,
    Flatten,
    GlobalPool,
    Identity,
    Pad,
    Pool,
    Product,
    Select,
    Slice,
    Upsample,
)
from decascade.regions.values.facts import Facts, channels_of, owners
from decascade.regions.values.twins import Labels

Bools = NDArray[np.bool_]
Kept = dict[str, Bools]


@dataclass(frozen=True, eq=False)
class Known:
    """A graph, and what is known of its channels."""

    graph: Graph
    facts: Mapping[str, Facts]
    twins: Mapping[str, Labels]

    def absorbed(self, node: Node, layer: Conv) -> Bools:
        """Inputs of a layer that are constants which its bias can take up, (I,)."""
        facts = self.facts[node.inputs[0]]
        free = all(lo <= 0 and hi <= 0 for lo, hi in layer.padding)
        return facts.zero | (facts.constant & free)


def mixing(graph: Graph, node: Node) -> Conv | None:
    """The layer of a node in which every output may read every input."""
    op = node.op
    if isinstance(op, Dense):
        return op.layer if op.layer.groups == 1 and len(graph.shape(node.inputs[0]) or ()) == 2 else None
    return op if isinstance(op, Conv) and op.groups == 1 else None


def kept_channels(known: Known) -> Kept:
    """The least set of channels (C,) per tensor that has to be there."""
    graph = known.graph
    kept = {name: np.zeros(len(facts.value), bool) for name, facts in known.facts.items()}
    for name in (*graph.inputs, *graph.outputs):
        _all(kept, name)
    rules = [(node, _rule(known, node)) for node in graph.nodes]
    for node, rule in rules:
        if rule is None:
            for name in (*node.inputs, *node.outputs):
                _all(kept, name)
    before = -1
    while (count := sum(int(k.sum()) for k in kept.values())) != before:
        before = count
        for node, rule in (*reversed(rules), *rules):
            if rule is not None:
                rule(known, kept, node)
                _not_empty(kept, node)
    return kept


def _rule(known: Known, node: Node) -> Rule | None:
    rule = RULES.get(type(node.op))
    fits = not node.pinned and len(node.outputs) == 1 and all(n in known.facts for n in (*node.inputs, *node.outputs))
    if rule is None or not fits or (isinstance(node.op, Activation) and node.op.kind == "softmax"):
        return None
    if isinstance(node.op, Dense) and mixing(known.graph, node) is None:
        return None
    if isinstance(node.op, Pad) and min(node.op.channels) < 0:
        return None
    if isinstance(node.op, Add) and len({channels_of(known.graph, n) for n in node.inputs}) > 1:
        return None
    if isinstance(node.op, Flatten) and known.graph.spatial(node.inputs[0]) is None:
        return None
    return rule


def _all(kept: Kept, name: str) -> None:
    if name in kept:
        kept[name][:] = True


def _not_empty(kept: Kept, node: Node) -> None:
    """A node that stays reads something, though what it reads may not matter."""
    if isinstance(node.op, Concat) or not kept[node.output].any():
        return
    for name in node.inputs:
        if not kept[name].any():
            kept[name][0] = True


def _layer(known: Known, kept: Kept, node: Node) -> None:
    layer = mixing(known.graph, node)
    if layer is None:
        assert isinstance(node.op, Conv)
        _grouped(kept, node, node.op.groups)
        return
    live = kept[node.output] & ~known.facts[node.output].constant
    weighed = np.any(layer.weight[live] != 0, axis=(0, *range(2, layer.weight.ndim)))
    weighed &= ~known.absorbed(node, layer)
    kept[node.inputs[0]][known.twins[node.inputs[0]].first[weighed]] = True


def _grouped(kept: Kept, node: Node, groups: int) -> None:
    reads, writes = kept[node.inputs[0]].reshape(groups, -1), kept[node.output].reshape(groups, -1)
    stays = reads.any(axis=1) | writes.any(axis=1)
    reads[stays] = True
    writes[stays] = True


def _tied(known: Known, kept: Kept, node: Node) -> None:
    names = [n for n in (*node.inputs, node.output) if len(kept[n]) == len(kept[node.output])]
    stays = np.any([kept[n] for n in names], axis=0)
    for name in names:
        kept[name][:] = stays


def _pad(known: Known, kept: Kept, node: Node) -> None:
    op, out, inside = node.op, kept[node.output], kept[node.inputs[0]]
    assert isinstance(op, Pad)
    first, last = op.channels[0], op.channels[0] + len(inside)
    out[:first], out[last:] = True, True
    stays = out[first:last] | inside
    out[first:last] = stays
    inside[:] = stays


def _concat(known: Known, kept: Kept, node: Node) -> None:
    op = node.op
    assert isinstance(op, Concat)
    if op.axis != 1:
        _tied(known, kept, node)
        return
    at = 0
    for name in node.inputs:
        part = kept[node.output][at : at + len(kept[name])]
        stays = part | kept[name]
        part[:] = stays
        kept[name][:] = stays
        at += len(stays)


def _select(known: Known, kept: Kept, node: Node) -> None:
    assert isinstance(node.op, Select)
    kept[node.inputs[0]][node.op.indices[kept[node.output]]] = True


def _flatten(known: Known, kept: Kept, node: Node) -> None:
    assert isinstance(node.op, Flatten)
    inside, out = kept[node.inputs[0]], kept[node.output]
    owner = owners(node.op, len(inside), known.graph.spatial(node.inputs[0]))
    assert owner is not None
    inside[owner[out]] = True
    out[:] = inside[owner]


Rule = Callable[[Known, Kept, Node], None]
RULES: Mapping[type, Rule] = {
    Conv: _layer, Dense: _layer, Affine: _tied, Activation: _tied, Pool: _tied, GlobalPool: _tied,
    Identity: _tied, Slice: _tied, Upsample: _tied, BiasMap: _tied, Add: _tied, Product: _tied, Pad: _pad, Concat: _concat,
    Select: _select, Flatten: _flatten,
}
"""The rule of each operation; what reads or writes with another keeps all channels."""


def positions(kept: Bools, wanted: Sequence[int] | NDArray[Any]) -> NDArray[np.int64]:
    """Where channels stand among the kept ones."""
    return (np.cumsum(kept) - 1)[np.asarray(wanted, np.int64)]
