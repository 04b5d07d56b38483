"""Rewrites of neighbouring operations that commute with activations, made before regions are looked for.

In the order in which they are tried, each until it no longer applies:
    PoolFirst     1×1 convolution → average pool without padding   becomes  pool → convolution
    ScaleFirst    ReLU/LeakyReLU/PReLU → positive scale            becomes  scale → activation
    MaxPoolFirst  monotone activation → max pool                   becomes  max pool → activation
Each is made only where the target's cost falls, or, for ScaleFirst, where a convolution before it takes the scale up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from decascade.algebra.conv import Conv
from decascade.cost import Target
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.names import Names
from decascade.ir.ops import Affine, GlobalPool, Pool
from decascade.ir.ops.traits import is_homogeneous, is_monotone, is_total
from decascade.ir.shapes import infer
from decascade.regions.candidates import Options


@dataclass(frozen=True)
class PoolFirst:
    """A 1×1 convolution and an average pool that does not reach over the edge commute; the pool goes first."""

    words: ClassVar[str] = "average pool moved before a 1x1 convolution"

    def applies(self, graph: Graph, first: Node, second: Node, target: Target) -> bool:
        conv, pool = first.op, second.op
        if not isinstance(conv, Conv) or not isinstance(pool, (Pool, GlobalPool)) or pool.kind != "avg":
            return False
        if isinstance(pool, GlobalPool) and not pool.keepdims:
            return False
        if isinstance(pool, Pool) and any(lo > 0 or hi > 0 for lo, hi in pool.padding):
            return False
        point = all(k == 1 and s == 1 and p == (0, 0)
                    for k, s, p in zip(conv.kernel, conv.stride, conv.padding, strict=True))
        return point and bool(conv.rank) and _cheaper(graph, first, second, target)


@dataclass(frozen=True)
class ScaleFirst:
    """A positive scale per channel goes through an activation with f(s·x) = s·f(x)."""

    words: ClassVar[str] = "positive scale moved before an activation"

    def applies(self, graph: Graph, first: Node, second: Node, target: Target) -> bool:
        scale = second.op
        if not is_homogeneous(first.op) or not isinstance(scale, Affine):
            return False
        before = graph.producer.get(first.inputs[0])
        takes_it = before is not None and isinstance(before.op, (Conv, Affine)) and not before.pinned
        alone = takes_it and len(graph.consumers[first.inputs[0]]) == 1 and first.inputs[0] not in graph.outputs
        return alone and bool(np.all(scale.scale > 0)) and not np.any(scale.shift)


@dataclass(frozen=True)
class MaxPoolFirst:
    """A monotone activation and a max pool commute; the activation then sees fewer samples."""

    words: ClassVar[str] = "max pool moved before a monotone activation"

    def applies(self, graph: Graph, first: Node, second: Node, target: Target) -> bool:
        if not isinstance(second.op, (Pool, GlobalPool)) or second.op.kind != "max":
            return False
        # a square root is no number below zero, and what a maximum makes of that differs
        monotone = is_monotone(first.op) and is_total(first.op)
        same_rank = not isinstance(second.op, GlobalPool) or second.op.keepdims
        return monotone and same_rank and _cheaper(graph, first, second, target)


Rewrite = PoolFirst | ScaleFirst | MaxPoolFirst
REWRITES: tuple[Rewrite, ...] = (PoolFirst(), ScaleFirst(), MaxPoolFirst())


@dataclass(frozen=True, eq=False)
class Move:
    """Nodes of the given graph that changed places, and those of the new graph that stand for them.

    `home`: for the name of every node that was made on the way, the given node that it is.
    """

    words: tuple[str, ...]
    old: tuple[Node, ...]
    new: tuple[Node, ...]
    home: Mapping[str, Node]


def rewrite_locally(graph: Graph, options: Options, names: Names | None = None) -> tuple[Graph, tuple[Move, ...]]:
    """The graph after all rewrites, and what they moved; moves that share a node are one."""
    moves, names = list[Move](), names or Names.of(graph)
    for rewrite in REWRITES:
        while (found := _find(graph, rewrite.applies, options.target)) is not None:
            graph, pair = _swap(graph, *found, names)
            touched = [m for m in moves if any(n in m.new for n in found)]
            moves = [*(m for m in moves if m not in touched), _joined(touched, rewrite.words, found, pair)]
    return graph, tuple(moves)


def _joined(moves: list[Move], words: str, before: tuple[Node, Node], after: tuple[Node, Node]) -> Move:
    home = {name: node for m in moves for name, node in m.home.items()}
    first, second = (home.get(n.name, n) for n in before)
    old = dict.fromkeys([*(n for m in moves for n in m.old), first, second])
    new = [n for m in moves for n in m.new if n not in before]
    return Move(tuple(dict.fromkeys([*(w for m in moves for w in m.words), words])), tuple(old), (*new, *after),
                {**home, after[0].name: second, after[1].name: first})


def _find(
    graph: Graph, applies: Callable[[Graph, Node, Node, Target], bool], target: Target
) -> tuple[Node, Node] | None:
    for second in graph.nodes:
        if len(second.inputs) != 1 or second.pinned:
            continue
        first = graph.producer.get(second.inputs[0])
        if first is None or first.pinned or len(first.inputs) != 1 or first.outputs[0] in graph.outputs:
            continue
        if len(graph.consumers[first.output]) == 1 and applies(graph, first, second, target):
            return first, second
    return None


def _swapped(graph: Graph, first: Node, second: Node, names: Names) -> tuple[tuple[Node, Node], Tensor]:
    middle_shape = infer(second.op, [graph.shape(first.inputs[0])])[0]
    middle = Tensor(names.tensor(f"{first.name}/swapped"), middle_shape, graph.tensors[second.output].dtype)
    a = _moved(second, names, first.inputs[0], middle.name)
    b = _moved(first, names, middle.name, second.output)
    return (a, b), middle


def _moved(node: Node, names: Names, source: str, output: str) -> Node:
    return Node(names.node(f"{node.name}/moved"), node.op, (source,), (output,), sized=node.sized)


def _cheaper(graph: Graph, first: Node, second: Node, target: Target) -> bool:
    pair, middle = _swapped(graph, first, second, Names.of(graph))
    tensors = {**graph.tensors, middle.name: middle}
    return target.segment_cost(pair, tensors) < target.segment_cost((first, second), tensors)


def _swap(graph: Graph, first: Node, second: Node, names: Names) -> tuple[Graph, tuple[Node, Node]]:
    pair, middle = _swapped(graph, first, second, names)
    nodes = [n for n in graph.nodes if n is not first]
    at = nodes.index(second)
    nodes[at : at + 1] = pair
    return graph.with_nodes(nodes, {middle.name: middle}), pair
