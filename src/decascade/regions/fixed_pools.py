"""A max pool in which one tap always wins selects that tap's values, which is linear."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product

import numpy as np

from decascade.algebra.conv import Conv
from decascade.bounds.backward import winners
from decascade.bounds.box import Box
from decascade.bounds.certificate import Certificate
from decascade.bounds.interval import Bounds, propagate
from decascade.bounds.problem import UnknownSizeError, numbered
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import GlobalPool, Pool
from decascade.regions.linearise import Claim, Ints

MAX_POOL = "max_pool"
"""The kind of a claim about a pool."""


def fixed_winners(graph: Graph, certificate: Certificate) -> dict[str, Ints]:
    """Per max pool that has one, the tap that wins in every window and on every input of the box; (C,) flat indices.

    By interval bounds, with what the certificate knows of the activations' inputs.
    """
    if not any(isinstance(n.op, Pool | GlobalPool) and n.op.kind == "max" for n in graph.nodes):
        return {}
    box = Box.of(graph, certificate.box)
    try:
        full = numbered(graph, box)
    except UnknownSizeError:
        return {}
    bounds = propagate(full, box, dict(_known(full, certificate)))
    found = dict[str, Ints]()
    for node in full.nodes:
        sized = all(graph.spatial(name) is not None for name in (*node.inputs, *node.outputs))
        pool = windowed(node, full)
        if pool is not None and pool.kind == "max" and sized and not node.pinned:
            winner, fixed = winners(pool, bounds[node.inputs[0]])
            winner, fixed = winner.reshape(len(winner), -1), fixed.reshape(len(fixed), -1)
            if fixed.all() and (winner == winner[:, :1]).all():
                found[node.name] = winner[:, 0]
    return found


def windowed(node: Node, graph: Graph) -> Pool | None:
    """A pool as it is, a global one as a pool whose one window is the whole map; None for one that drops the map's axes."""
    size = graph.spatial(node.inputs[0]) if node.inputs else None
    match node.op:
        case Pool():
            return node.op
        case GlobalPool(keepdims=True) if size is not None:
            rank = len(size)
            return Pool(node.op.kind, size, (1,) * rank, ((0, 0),) * rank, (1,) * rank)
        case _:
            return None


def _known(graph: Graph, certificate: Certificate) -> Iterator[tuple[str, Bounds]]:
    """What a certificate says of the inputs of activations, for every position."""
    inputs: Mapping[str, str] = {n.name: n.inputs[0] for n in graph.nodes if n.inputs}
    for record in certificate.activations:
        name = inputs[record.node]
        shape = tuple(int(n) for n in (graph.shape(name) or ())[1:])
        lo, hi = (np.broadcast_to(a.reshape(-1, *(1,) * (len(shape) - 1)), shape) for a in (record.lo, record.hi))
        yield name, Bounds(lo, hi, np.zeros(shape))


def selection(op: Pool, taps: Ints, sizes: tuple[tuple[int, ...], tuple[int, ...]]) -> Conv:
    """The depthwise convolution that takes one tap of every window: 1×1 where all channels take the same.

    `taps` (C,) index the window's positions in row-major order; `sizes` are those of the map before and behind the pool.
    """
    channels, places = len(taps), list(product(*map(range, op.kernel)))
    if len(set(taps.tolist())) > 1:
        weight = np.zeros((channels, 1, *op.kernel))
        for c, tap in enumerate(taps.tolist()):
            weight[(c, 0, *places[tap])] = 1
        return Conv(weight, None, op.stride, op.dilation, op.padding, channels)
    at = places[int(taps[0])]
    starts = [t * d - lo for t, d, (lo, _) in zip(at, op.dilation, op.padding, strict=True)]
    ends = zip(starts, sizes[1], op.stride, sizes[0], strict=True)
    padding = [(-start, start + (out - 1) * s + 1 - n) for start, out, s, n in ends]
    return Conv(np.ones((channels, 1, *(1,) * len(at))), None, op.stride, 1, padding, channels)


def select_winners(graph: Graph, certificate: Certificate) -> tuple[Graph, dict[str, Claim]]:
    """The graph with a convolution under the name of each pool that has a fixed winner, and what that rests on."""
    taps, claims, nodes = fixed_winners(graph, certificate), dict[str, Claim](), list[Node]()
    for node in graph.nodes:
        if node.name in taps and (pool := windowed(node, graph)) is not None:
            before, after = graph.spatial(node.inputs[0]), graph.spatial(node.output)
            assert before is not None
            assert after is not None
            claims[node.name] = pool_claim(node, pool, taps[node.name])
            node = replace(node, op=selection(pool, taps[node.name], (before, after)), sized=True)
        nodes.append(node)
    return graph.with_nodes(nodes), claims


def pool_claim(node: Node, op: Pool, taps: Ints) -> Claim:
    """That these taps always win."""
    names = tuple("tap " + ",".join(map(str, at)) for at in product(*map(range, op.kernel)))
    chosen = tuple(taps.tolist())
    return Claim(node.name, node.origin or (node.name,), MAX_POOL, "proven", names, tuple(range(len(taps))), chosen)
