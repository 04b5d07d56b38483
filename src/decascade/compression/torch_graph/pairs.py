"""Pairs of layers that are run as one: a grouped convolution of few channels per group and the 1×1 layer behind it.

Between them is nothing but a sum, so their kernels compose exactly, borders included: K[u, i] = Σ_o W₂[u, o]·W₁[o, i] and
b = W₂·b₁ + b₂.
Grouped convolutions leave most of a vector unit idle; the composed kernel has more products and takes less time.  The pair
keeps its own weights, and gradients reach them through the composition.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from decascade.algebra.conv import Conv
from decascade.compression.torch_graph.ops import Function, load_torch, step_of
from decascade.ir.graph import Node

LANES = 16
"""Products of a vector instruction; a convolution of one channel per group does one of them."""


def pairs(nodes: Sequence[Node], wanted: Sequence[str]) -> dict[str, Node]:
    """The first layers of the pairs among the nodes, by the names of the second; the tensor between has no other use."""
    makers = {node.output: node for node in nodes if len(node.outputs) == 1}
    uses = Counter(name for node in nodes for name in node.inputs)
    found = dict[str, Node]()
    for second in nodes:
        first = makers.get(second.inputs[0]) if second.inputs else None
        if first is None or uses[first.output] != 1 or first.output in wanted:
            continue
        if isinstance(first.op, Conv) and isinstance(second.op, Conv) and _worthwhile(first.op, second.op):
            found[second.name] = first
    return found


def _worthwhile(first: Conv, second: Conv) -> bool:
    rank = first.rank
    if first.groups == 1 or rank == 0 or rank != second.rank or second.groups != 1:
        return False
    if any(k != 1 for k in second.kernel) or any(s != 1 for s in second.stride) or any(p != (0, 0) for p in second.padding):
        return False
    taps, inner, outer = prod(first.kernel), first.out_channels, second.out_channels
    each = first.in_channels // first.groups
    apart = inner * taps * max(each, LANES) + inner * outer
    return outer * first.in_channels * taps < apart


def composed(first: Conv, second: Conv, dtype: Any) -> Function:
    """The pair as a function of its input and both layers' weights, the first one's before."""
    torch, groups, split = load_torch(), first.groups, 1 if first.bias is None else 2
    blank = np.zeros((second.out_channels, first.in_channels, *first.kernel))
    run = step_of(replace(first, weight=blank, bias=None, groups=1), dtype).function

    def joint(x: Any, *weights: Any) -> Any:
        (kernel, *inner), (mixing, *outer) = weights[:split], weights[split:]
        mixing = mixing.reshape(mixing.shape[0], groups, -1)
        weight = torch.einsum("ugo,goik->ugik", mixing, kernel.reshape(groups, -1, kernel.shape[1], prod(kernel.shape[2:])))
        weight = weight.reshape(blank.shape)
        bias = outer[0] if outer else None
        if inner:
            carried = mixing.flatten(1) @ inner[0]
            bias = carried if bias is None else bias + carried
        return run(x, weight, bias)

    return joint
