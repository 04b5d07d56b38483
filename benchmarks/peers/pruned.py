"""torch-pruning: channels removed by importance over the whole net at once, in steps, until the net is as cheap as asked.

Importance as the package computes it over coupled layers: by the weights' magnitude (its GroupMagnitudeImportance), or by
Taylor expansion (GroupTaylorImportance) of the cross-entropy with the original's own decisions, its gradient taken anew before
every step, since there are no labels.  Normalisations are folded before, so that magnitudes hold their scales.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch_pruning

from peers.task import Made, Meter, Task, recovered
from support.torch_net import Net

STEPS = 200
"""Steps from the whole net to nothing."""
IMAGES = 256
"""Images that a gradient is taken on."""


def pruned(kind: str, task: Task, speedup: float, meter: Meter) -> Made:
    """`kind`: "magnitude" or "Taylor"."""
    net = Net(task.exact, task.wanted)
    images = task.images(IMAGES)
    with torch.no_grad():
        decided = net(images).argmax(1)
    importance = torch_pruning.importance
    rule = importance.GroupTaylorImportance() if kind == "Taylor" else importance.GroupMagnitudeImportance(p=2)
    pruner = torch_pruning.pruner.BasePruner(
        net, images[:2], rule, global_pruning=True, pruning_ratio=1.0, iterative_steps=STEPS,
        ignored_layers=[list(net.layers.values())[-1]],
    )
    for _ in range(STEPS):
        if task.macs(net.to_graph()) <= task.budget(speedup):
            break
        if kind == "Taylor":
            _gradients(net, images, decided)
        pruner.step()
    return recovered(task, net.to_graph(), meter, "channels: " + " ".join(map(str, _widths(net))))


def _gradients(net: Any, images: Any, decided: Any) -> None:
    net.zero_grad()
    torch.nn.functional.cross_entropy(net(images), decided).backward()


def _widths(net: Net) -> list[int]:
    return [m.out_channels for m in net.modules() if isinstance(m, torch.nn.Conv2d)]


by_magnitude, by_taylor = partial(pruned, "magnitude"), partial(pruned, "Taylor")
