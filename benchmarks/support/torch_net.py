"""A graph of the project as an nn.Module of plain nn.Conv2d and nn.Linear, for tools that trace and change such; and back.

The way back keeps the graph's names, so that a changed net can be compared with the original tensor by tensor.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from decascade.algebra.conv import Conv
from decascade.compression.torch_graph.ops import step_of
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import Dense
from decascade.ir.shapes import infer_graph


class Net(nn.Module):
    """The graph's function on one tensor; `layers` are its convolutions and dense layers by place."""

    def __init__(self, graph: Graph, wanted: str) -> None:
        super().__init__()
        self.graph, self.wanted = graph, wanted
        self.layers = nn.ModuleDict({str(i): layer(node) for i, node in enumerate(graph.nodes) if weighted(node)})

    def forward(self, x: Any) -> Any:
        values = {self.graph.inputs[0]: x}
        for i, node in enumerate(self.graph.nodes):
            inputs = [values[name] for name in node.inputs]
            if str(i) in self.layers:
                values[node.output] = self.layers[str(i)](*inputs)
            else:
                values[node.output] = step_of(node.op, torch.float32).function(*inputs)
            if node.output == self.wanted:
                break
        return values[self.wanted]

    def to_graph(self) -> Graph:
        """The graph with the layers as they are now, its shapes inferred anew."""
        nodes = [self._current(i, node) for i, node in enumerate(self.graph.nodes)]
        return reshaped(replace(self.graph, nodes=tuple(nodes)))

    def _current(self, place: int, node: Node) -> Node:
        if str(place) not in self.layers:
            return node
        now: Any = self.layers[str(place)]
        now = now[-1] if isinstance(now, nn.Sequential) else now
        weight, bias = now.weight.detach().numpy().astype(np.float64), now.bias.detach().numpy().astype(np.float64)
        if isinstance(node.op, Dense):
            return replace(node, op=Dense(Conv(weight, bias)))
        return replace(node, op=replace(node.op, weight=weight, bias=bias, groups=now.groups))


def weighted(node: Node) -> bool:
    return isinstance(node.op, Conv | Dense)


def reshaped(graph: Graph) -> Graph:
    """The graph with the shapes behind its inputs inferred anew."""
    return infer_graph(replace(graph, tensors={name: graph.tensors[name] for name in graph.inputs}))


def layer(node: Node) -> Any:
    """nn.Linear or nn.Conv2d with the node's weights; uneven padding as a layer of its own before."""
    if isinstance(node.op, Dense):
        op = node.op.layer
        made: Any = nn.Linear(op.in_channels, op.out_channels)
        return filled(made, op)
    op = node.op
    assert isinstance(op, Conv)
    even = all(a == b for a, b in op.padding)
    made = nn.Conv2d(op.in_channels, op.out_channels, op.kernel, op.stride, tuple(a for a, _ in op.padding) if even else 0,
                     op.dilation, op.groups)
    filled(made, op)
    (top, bottom), (left, right) = op.padding
    return made if even else nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), made)


def filled(made: Any, op: Conv) -> Any:
    with torch.no_grad():
        made.weight.copy_(torch.as_tensor(np.array(op.weight)).reshape(made.weight.shape))
        made.bias.copy_(torch.as_tensor(np.array(op.bias64)))
    return made
