"""Moved axes before a flatten: a format may say in two operations what is one here."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from decascade.errors import CannotInterpret, GraphError
from decascade.ir.graph import Graph, Node
from decascade.ir.interpret import evaluate
from decascade.ir.ops import Flatten, Foreign
from decascade.ir.ops.moves import flatten
from decascade.ir.ops.traits import is_view, moves_values

LARGEST = 1 << 24
"""Entries that float32 can still number one by one."""


def joined_moves(graph: Graph) -> Graph:
    """The same function: an operation that is not understood, but only moves entries about, and a flatten behind it become
    the flatten of what was moved where that is one.  It is run once on numbered entries to see."""
    nodes = list(graph.nodes)
    for after in graph.nodes:
        before = graph.producer.get(after.inputs[0]) if isinstance(after.op, Flatten) else None
        order = None if before is None else _order(graph, before, after)
        if before is not None and order is not None:
            joined = replace(after, op=order, inputs=before.inputs, origin=(*before.origin, *after.origin))
            nodes = [joined if n is after else n for n in nodes if n is not before]
    return graph if len(nodes) == len(graph.nodes) else graph.with_nodes(nodes)


def _order(graph: Graph, before: Node, after: Node) -> Flatten | None:
    """What both are together, if that is a flatten."""
    assert isinstance(after.op, Flatten)
    shape = graph.tensors[before.inputs[0]].shape if len(before.inputs) == 1 else None
    alone = len(graph.consumers[before.output]) == 1 and before.output not in graph.outputs
    sizes = [] if shape is None else [n for n in shape[1:] if isinstance(n, int)]
    carried = isinstance(before.op, Foreign) and before.op.evaluate is not None
    if not (carried or (moves_values(before.op) and not is_view(before.op))) or not alone or shape is None:
        return None
    if len(sizes) < len(shape) - 1 or len(sizes) < 2 or prod(sizes) > LARGEST:
        return None
    numbered = np.arange(prod(sizes), dtype=np.float32).reshape(1, *sizes)
    try:
        moved = flatten(after.op, evaluate(before.op, [numbered]))
    except (CannotInterpret, GraphError, ValueError, TypeError, RuntimeError):  # not made for such an input
        return None
    orders = (Flatten("channels_first"), Flatten("channels_last"))
    return next((o for o in orders if np.array_equal(flatten(o, [numbered]), moved)), None)
