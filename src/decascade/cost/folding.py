"""Normalisations folded into the layer before them, as every deployment does: what is counted should not hold them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from decascade.algebra.conv import Conv, ConvTranspose
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import Affine, Dense, Identity, Op


def folded(graph: Graph) -> Graph:
    """The same function: each Affine that alone reads a convolution or dense layer becomes part of it; identities go."""
    graph = _without_identities(graph)
    while (better := _fold_one(graph)) is not None:
        graph = better
    return graph


def _fold_one(graph: Graph) -> Graph | None:
    for node in graph.nodes:
        before = graph.producer.get(node.inputs[0]) if isinstance(node.op, Affine) else None
        if before is None or node.inputs[0] in graph.outputs or len(graph.consumers[node.inputs[0]]) != 1:
            continue
        op = _scaled(before.op, node.op) if isinstance(node.op, Affine) else None
        if op is not None:
            joined = replace(before, op=op, outputs=node.outputs)
            return graph.with_nodes(joined if n is before else n for n in graph.nodes if n is not node)
    return None


def _scaled(op: Op, affine: Affine) -> Op | None:
    scale, shift = affine.scale.astype(np.float64), affine.shift.astype(np.float64)
    match op:
        case Conv():
            weight = op.weight.astype(np.float64) * scale.reshape(-1, *(1,) * (op.weight.ndim - 1))
            return replace(op, weight=weight, bias=op.bias64 * scale + shift)
        case ConvTranspose():
            rows = scale.reshape(op.groups, 1, -1, *(1,) * op.rank)
            parts = op.weight.astype(np.float64).reshape(op.groups, -1, *op.weight.shape[1:]) * rows
            return replace(op, weight=parts.reshape(op.weight.shape), bias=op.bias64 * scale + shift)
        case Dense():
            layer = _scaled(op.layer, affine) if op.layer.out_channels == len(scale) else None
            return Dense(layer) if isinstance(layer, Conv) else None
        case _:
            return None


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
