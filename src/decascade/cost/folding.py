"""Normalisations folded into the layer before them, as every deployment does: what is counted should not hold them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from decascade.algebra.conv import Conv, ConvTranspose
from decascade.ir.graph import Graph, Node
from decascade.ir.moves import joined_moves
from decascade.ir.ops import Affine, Dense, Identity, Op


def folded(graph: Graph, shapes_only: bool = False) -> Graph:
    """The same function: each Affine that alone reads a convolution or dense layer becomes part of it; identities and moves
    before a flatten go.

    `shapes_only`: the weights are left as they are, for graphs whose weights nobody reads.
    """
    graph = _without_identities(joined_moves(graph))
    while (better := _fold_one(graph, shapes_only)) is not None:
        graph = better
    return graph


def _fold_one(graph: Graph, shapes_only: bool) -> Graph | None:
    for node in graph.nodes:
        before = graph.producer.get(node.inputs[0]) if isinstance(node.op, Affine) else None
        if before is None or node.inputs[0] in graph.outputs or len(graph.consumers[node.inputs[0]]) != 1:
            continue
        op = _scaled(before.op, node.op, shapes_only) if isinstance(node.op, Affine) else None
        if op is not None:
            joined = replace(before, op=op, outputs=node.outputs, origin=(*before.origin, *node.origin))
            return graph.with_nodes(joined if n is before else n for n in graph.nodes if n is not node)
    return None


def _scaled(op: Op, affine: Affine, shapes_only: bool) -> Op | None:
    if isinstance(op, Dense):
        layer = _scaled(op.layer, affine, shapes_only) if op.layer.out_channels == len(affine.scale) else None
        return Dense(layer) if isinstance(layer, Conv) else None
    if not isinstance(op, (Conv, ConvTranspose)):
        return None
    if shapes_only:
        return replace(op, bias=np.zeros(op.out_channels, np.float32))
    scale, shift = affine.scale.astype(np.float64), affine.shift.astype(np.float64)
    bias = op.bias64 * scale + shift
    weight = op.weight.astype(np.float64)
    if isinstance(op, Conv):
        return replace(op, weight=weight * scale.reshape(-1, *(1,) * (weight.ndim - 1)), bias=bias)
    rows = scale.reshape(op.groups, 1, -1, *(1,) * op.rank)
    parts = weight.reshape(op.groups, -1, *weight.shape[1:]) * rows
    return replace(op, weight=parts.reshape(weight.shape), bias=bias)


def _without_identities(graph: Graph) -> Graph:
    home = dict[str, str]()
    kept = list[Node]()
    for node in graph.nodes:
        inputs = tuple(home.get(name, name) for name in node.inputs)
        if isinstance(node.op, Identity) and node.output not in graph.outputs:
            home[node.output] = inputs[0]
        else:
            kept.append(replace(node, inputs=inputs) if inputs != node.inputs else node)
    return graph.with_nodes(kept) if home else graph
