"""An architecture trained from scratch: random weights, then the same distillation from the original.

Kernels are drawn as He et al. (2015) do and then scaled layer by layer on data, so that every layer's output starts centred and
of size one, as batch normalisations would have it (Mishkin & Matas 2016).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import torch

from decascade.algebra.conv import Conv
from decascade.compression.torch_graph.graph import Lowered
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import Affine, Dense
from peers.task import Made, Meter, Task, recovered
from support.torch_net import reshaped, weighted

IMAGES = 256


def random_weights(graph: Graph, images: Any, seed: int) -> Graph:
    """The graph with all its weights drawn anew."""
    rng, lowered = np.random.default_rng(seed), None
    for node in graph.nodes:
        if not weighted(node) and not isinstance(node.op, Affine):
            continue
        graph = _put(graph, node, drawn(node, rng))
        lowered = Lowered(graph)
        with torch.no_grad():
            found = lowered.run({graph.inputs[0]: images}, [node.output])[node.output]
        axes = tuple(i for i in range(found.ndim) if i != 1)
        mean, size = (v.double().numpy() for v in (found.mean(axes), found.std(axes).clamp_min(1e-6)))
        op = next(n.op for n in graph.nodes if n.name == node.name)
        graph = _put(graph, node, _normalised(op, mean, size))
    return graph


def drawn(node: Node, rng: Any) -> Any:
    if isinstance(node.op, Affine):
        return Affine(np.ones(len(node.op.scale)), np.zeros(len(node.op.scale)))
    conv = node.op.layer if isinstance(node.op, Dense) else node.op
    assert isinstance(conv, Conv)
    deviation = (2 / prod(conv.weight.shape[1:])) ** 0.5
    made = replace(conv, weight=deviation * rng.standard_normal(conv.weight.shape), bias=np.zeros(conv.out_channels))
    return Dense(made) if isinstance(node.op, Dense) else made


def _normalised(op: Any, mean: Any, size: Any) -> Any:
    if isinstance(op, Affine):
        return Affine(op.scale / size, (op.shift - mean) / size)
    conv = op.layer if isinstance(op, Dense) else op
    weight = conv.weight / size.reshape(-1, *(1,) * (conv.weight.ndim - 1))
    made = replace(conv, weight=weight, bias=(conv.bias64 - mean) / size)
    return Dense(made) if isinstance(op, Dense) else made


def _put(graph: Graph, node: Node, op: Any) -> Graph:
    return replace(graph, nodes=tuple(replace(n, op=op) if n.name == node.name else n for n in graph.nodes))


def narrowed(graph: Graph, share: float) -> Graph:
    """Every layer but the last with this share of its channels, at least one; the weights are the first ones."""
    last = [node.name for node in graph.nodes if weighted(node)][-1]
    width: Callable[[int], int] = lambda channels: max(1, round(share * channels))  # noqa: E731
    nodes, first = list[Node](), True
    for node in graph.nodes:
        if weighted(node):
            conv: Any = node.op.layer if isinstance(node.op, Dense) else node.op
            rows = conv.out_channels if node.name == last else width(conv.out_channels)
            columns = conv.weight.shape[1] if first or conv.groups > 1 else width(conv.weight.shape[1])
            groups = 1 if conv.groups == 1 else rows
            made = replace(conv, weight=conv.weight[:rows, :columns], bias=conv.bias64[:rows], groups=groups)
            node, first = replace(node, op=Dense(made) if isinstance(node.op, Dense) else made), False
        nodes.append(node)
    return reshaped(replace(graph, nodes=tuple(nodes)))


def same_architecture(ours: Graph, task: Task, speedup: float, meter: Meter) -> Made:
    """The architecture that decascade ended with."""
    return recovered(task, random_weights(ours, task.images(IMAGES), 0), meter, "the architecture that decascade ends with")


def uniform(task: Task, speedup: float, meter: Meter) -> Made:
    """The original, uniformly narrower: the widest within the budget."""
    shares = [share for share in np.linspace(1, 0.05, 400) if task.macs(narrowed(task.exact, share)) <= task.budget(speedup)]
    student = narrowed(task.exact, shares[0])
    return recovered(task, random_weights(student, task.images(IMAGES), 0), meter, f"{shares[0]:.0%} of every layer's channels")
