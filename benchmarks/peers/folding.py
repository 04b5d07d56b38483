"""Layer Folding (Dror et al., BMVC 2022): activations driven to be linear by a penalty, then folded away.

Every ReLU becomes α·x + (1 − α)·max(x, 0), which is a leaky ReLU of slope α, with one α per layer, and λ·|1 − α²| joins the
loss (λ = 0.25; folded where α ≥ 0.9).  Half of the time goes there, half to the recovery afterwards.  The paper's merge is
wrong at borders; here ours folds, which keeps the function.  Folding makes kernels larger, often dearer than what it saves:
where what passes the threshold does not reach the budget, the activations nearest to linear that do are folded,
tried as runs of neighbours and in the order of their slopes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from decascade.compression.pipeline import exact_tier
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import Activation
from peers.task import Made, Meter, Task, price, recovered, trained

PENALTY, THRESHOLD = 0.25, 0.9
START = 0.1
"""α at the start: at 0 the penalty has no gradient."""
SHARE = 0.5
"""Of the budget, for the training under the penalty."""
RATE, FASTER = 2e-3, 10.0
"""The slopes' learning rate over that of the weights: the paper has 100 epochs to move them from one end to the other."""
TEMPERATURE = 3.0


class Slopes:
    """The slopes of a training, found among its parameters, tied within each layer; the loss that drives them to 1."""

    def __init__(self, wanted: str, rate: float) -> None:
        self.wanted, self.rate, self.found = wanted, rate, list[Any]()

    def optimizer(self, parameters: list[Any]) -> Any:
        self.found = [p for p in parameters if p.ndim == 1 and bool((p == START).all())]
        for slope in self.found:
            slope.register_hook(lambda g: g.mean().expand_as(g).clone())
        slopes = set(map(id, self.found))
        others = [p for p in parameters if id(p) not in slopes]
        groups = [{"params": others}, {"params": self.found, "lr": FASTER * self.rate}]
        return torch.optim.AdamW(groups, self.rate, weight_decay=0.0)

    def loss(self, student: Any, original: Any, labels: Any) -> Any:
        q, p = (torch.log_softmax(x[self.wanted].float() / TEMPERATURE, 1) for x in (student, original))
        distance = (p.exp() * (p - q)).sum(1).mean() * TEMPERATURE**2
        return distance + PENALTY * sum((1 - slope.mean().square()).abs() for slope in self.found)


def folded_layers(task: Task, speedup: float, meter: Meter) -> Made:
    graph, slopes = leaky(task.exact), Slopes(task.wanted, RATE)
    with meter.stopped():
        steps = price(task, graph).steps(SHARE * meter.budget)
    found = trained(task, graph, steps, optimizer=slopes.optimizer, loss=slopes.loss, patience=1.0)
    alphas = {node.name: float(np.mean(node.op.slope)) for node in found.nodes if bent(node)}
    own = frozenset(name for name in alphas if alphas[name] >= THRESHOLD)
    with meter.stopped():  # costs of merged nets are looked up here by merging them
        chosen = nearest(task, found, own, alphas, task.budget(speedup))
        reached = task.job.work.before / task.macs(merged(task, found, own))
    told = (f"slopes {', '.join(f'{alpha:.2f}' for alpha in alphas.values())}; its threshold folds {len(own)} of {len(alphas)}"
            f" activations: {reached:.2f} times fewer MACs; folded for the budget: {len(chosen)}")
    return recovered(task, merged(task, found, chosen), meter, told)


def nearest(task: Task, graph: Graph, own: frozenset[str], alphas: Mapping[str, float], budget: float) -> frozenset[str]:
    """Those of `own`, and what has to go besides for the budget; all where nothing less is enough."""
    order, names = sorted(alphas, key=lambda name: -alphas[name]), list(alphas)
    runs = [names[i:j] for i in range(len(names) + 1) for j in range(i, len(names) + 1)]
    tried = {own | set(some) for some in (*runs, *(order[:count] for count in range(len(order) + 1)))}
    for some in sorted(tried, key=lambda some: sum(1 - alphas[name] for name in some)):
        if task.macs(merged(task, graph, some)) <= budget:
            return some
    return frozenset(names)


def leaky(graph: Graph) -> Graph:
    """Every ReLU as a leaky one with slope `START` per channel."""
    nodes = list[Node]()
    for node in graph.nodes:
        if isinstance(node.op, Activation) and node.op.kind == "relu":
            channels = graph.shape(node.output) or ()
            node = replace(node, op=Activation("prelu", slope=np.full(int(channels[1]), START)))
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def bent(node: Node) -> bool:
    return isinstance(node.op, Activation) and node.op.kind == "prelu"


def merged(task: Task, graph: Graph, folded: Collection[str]) -> Graph:
    """The graph with these activations gone, and everything merged that is exact and cheaper; the others keep their slopes."""
    home = {n.output: n.inputs[0] for n in graph.nodes if n.name in folded}

    def source(name: str) -> str:
        return source(home[name]) if name in home else name

    kept = [replace(n, inputs=tuple(map(source, n.inputs))) for n in graph.nodes if n.name not in folded]
    return exact_tier(graph.with_nodes(kept), task.job.work.target)
