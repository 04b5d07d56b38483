"""Activations that do nothing where they stand, or nothing that their neighbour does not do too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from decascade.ir.graph import Graph, Node
from decascade.ir.ops import Activation, Add, Affine, Identity, Op, Product
from decascade.regions.values.facts import Facts

UNTOUCHED = {"relu", "leaky_relu", "prelu", "abs", "elu"}
"""The identity where the argument is not negative."""


@dataclass(frozen=True, eq=False)
class Simpler:
    """An operation on some of the inputs in the place of a node, and why."""

    op: Op
    inputs: tuple[str, ...]
    words: str


def simpler(graph: Graph, node: Node, facts: Mapping[str, Facts]) -> Simpler | None:
    """What a node may become because of what it reads; None where it is needed as it is."""
    if node.pinned or len(node.outputs) != 1 or any(n not in facts for n in (*node.inputs, *node.outputs)):
        return None
    op = node.op
    if isinstance(op, Activation):
        return _idle(node, op, facts) or _joined(graph, node, op)
    if isinstance(op, (Add, Product)):
        return _with_constant(graph, node, facts)
    return None


def _idle(node: Node, op: Activation, facts: Mapping[str, Facts]) -> Simpler | None:
    if op.kind in UNTOUCHED and facts[node.inputs[0]].low.all():
        return Simpler(Identity(), node.inputs, f"its {op.kind} does nothing: what it reads is never negative")
    return None


def _range(op: Op) -> tuple[float, float] | None:
    """The ends of a clip; a ReLU is one from 0 to infinity."""
    if not isinstance(op, Activation) or op.kind not in ("relu", "clip"):
        return None
    return (0.0, float("inf")) if op.kind == "relu" else (op.params[0], op.params[1])


def _joined(graph: Graph, node: Node, op: Activation) -> Simpler | None:
    """Two clips in sequence are one, where the first one has no other reader."""
    before = graph.producer.get(node.inputs[0])
    if before is None or before.pinned or node.inputs[0] in graph.outputs or len(graph.consumers[node.inputs[0]]) != 1:
        return None
    first, second = _range(before.op), _range(op)
    if first is None or second is None:
        return None
    lo, hi = (min(max(end, second[0]), second[1]) for end in first)
    joined = Activation("relu") if (lo, hi) == (0.0, float("inf")) else Activation("clip", (lo, hi))
    return Simpler(joined, before.inputs, "two activations in sequence are one")


def _with_constant(graph: Graph, node: Node, facts: Mapping[str, Facts]) -> Simpler | None:
    """A sum or product of one tensor and constants is a scale and shift per channel."""
    op, shape = node.op, graph.shape(node.output)
    fixed = [bool(facts[n].constant.all()) and graph.shape(n) == shape for n in node.inputs]
    if fixed.count(False) != 1 or shape is None:
        return None
    at = fixed.index(False)
    if graph.shape(node.inputs[at]) != shape:
        return None
    values = [facts[n].value for n in node.inputs]
    if isinstance(op, Add):
        signs = op.signs or (1,) * len(values)
        shift = np.sum([s * v for i, (s, v) in enumerate(zip(signs, values, strict=True)) if i != at], axis=0)
        scale = np.full(len(shift), float(signs[at]))
    else:
        scale = np.prod([v for i, v in enumerate(values) if i != at], axis=0)
        shift = np.zeros(len(scale))
    same = np.all(scale == 1) and not np.any(shift)
    return Simpler(Identity() if same else Affine(scale, shift), (node.inputs[at],), "all else that it reads is constant")
