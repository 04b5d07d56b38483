"""Ranges equalised across layers before int8: a positive scale per channel goes through ReLU from one layer to the next.

    first' = first / s,   second' = second · s    per channel between them: the same function in real numbers

int8 has one step for a whole map, so channels of small range lose theirs to the largest one; weights have a step per output
channel, so a kernel whose input channels differ widely loses too.  s_c = r_c^½ / w_c^½ shares the burden between the map's
range r_c and the second kernel's largest weight w_c of that channel (Xiao et al., SmoothQuant, 2023, with α = ½; Nagel et
al., 2019, for weights on both sides); behind a depthwise kernel, whose channels have steps of their own, s_c = r_c.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv
from decascade.checking.samples import Batch
from decascade.cost.folding import folded
from decascade.cost.macs import Macs
from decascade.ir.graph import Graph, Node
from decascade.ir.interpret import run
from decascade.ir.ops import Dense
from decascade.ir.ops.traits import is_homogeneous, layer_of

F64 = NDArray[np.float64]
BUDGET, LEAST, MOST = 2e9, 4, 32
"""Multiply-accumulates that the ranges may take in float64, and samples at least and at most."""
SPREAD = 1e3
"""Largest scale over the smallest: beyond it float32 weights would lose digits for channels that are as good as dead."""


@dataclass(frozen=True)
class Pair:
    """Two layers and the tensor between them, as the second one reads it."""

    first: Node
    second: Node
    between: str


def equalised(graph: Graph, batches: Sequence[Batch]) -> tuple[Graph, int]:
    """The same function with equalised ranges, its normalisations folded, and between how many pairs of layers.

    `batches`: samples in the graph's layout that the ranges are taken from.

    Raises:
        CannotInterpret: an operation without meaning in NumPy.
    """
    graph = folded(graph)
    pairs = find_pairs(graph)
    if not pairs:
        return graph, 0
    ranges = _ranges(graph, [pair.between for pair in pairs], batches)
    made = {node.name: node for node in graph.nodes}
    for pair in pairs:
        scale = scales(ranges[pair.between], pair.second)
        made[pair.first.name] = _outputs_over(made[pair.first.name], scale)
        made[pair.second.name] = _inputs_times(made[pair.second.name], scale)
    return replace(graph, nodes=tuple(made[node.name] for node in graph.nodes)), len(pairs)


def find_pairs(graph: Graph) -> list[Pair]:
    """Convolutions and dense layers that alone feed another, directly or through a homogeneous activation."""
    found = list[Pair]()
    for node in graph.nodes:
        if not _scalable(node):
            continue
        tensor = node.output
        reader = _only_reader(graph, tensor)
        if reader is not None and is_homogeneous(reader.op):
            tensor = reader.output
            reader = _only_reader(graph, tensor)
        # a dense layer on a map scales its last axis, not its channels
        vectors = all(len(graph.shape(name) or ()) == 2 for name in (tensor, node.output)) or not isinstance(node.op, Dense)
        if reader is not None and _scalable(reader) and vectors and isinstance(reader.op, Conv) == isinstance(node.op, Conv):
            found.append(Pair(node, reader, tensor))
    return found


def _scalable(node: Node) -> bool:
    layer = layer_of(node.op)
    return isinstance(layer, Conv) and not (isinstance(node.op, Dense) and layer.groups > 1)


def _only_reader(graph: Graph, tensor: str) -> Node | None:
    readers = graph.consumers[tensor]
    return readers[0] if len(readers) == 1 and tensor not in graph.outputs and readers[0].inputs.count(tensor) == 1 else None


def _ranges(graph: Graph, tensors: Sequence[str], batches: Sequence[Batch]) -> Mapping[str, F64]:
    """Per tensor the largest absolute value of every channel."""
    count = int(min(max(BUDGET // max(Macs().graph_cost(graph).value, 1.0), LEAST), MOST))
    rows = {name: np.concatenate([batch[name] for batch in batches])[:count] for name in graph.inputs}
    values = run(graph, rows, keep=tensors)
    return {name: np.abs(values[name]).max(axis=tuple(i for i in range(values[name].ndim) if i != 1)) for name in tensors}


def scales(ranges: F64, second: Node) -> F64:
    """One positive number per channel between two layers, around 1; dead channels keep theirs."""
    layer = layer_of(second.op)
    assert isinstance(layer, Conv)
    weights = _by_input(layer)
    alive = (ranges > 0) & (weights > 0)
    if not alive.any():
        return np.ones_like(ranges)
    depthwise = layer.groups == layer.in_channels > 1
    found = ranges if depthwise else np.sqrt(np.divide(ranges, weights, out=np.ones_like(ranges), where=alive))
    found = np.where(alive, found, 1.0)
    middle = float(np.exp(np.log(found[alive]).mean()))
    return np.where(alive, np.clip(found / middle, SPREAD**-0.5, SPREAD**0.5), 1.0)


def _by_input(layer: Conv) -> F64:
    """The largest weight that each input channel meets."""
    groups, within = layer.groups, layer.weight.shape[1]
    parts = np.abs(layer.weight.astype(np.float64)).reshape(groups, -1, within, int(np.prod(layer.kernel)))
    return parts.max(axis=(1, 3)).reshape(-1)


def _outputs_over(node: Node, scale: F64) -> Node:
    if isinstance(node.op, Dense):
        return replace(node, op=Dense(_rows_over(node.op.layer, scale)))
    return replace(node, op=_rows_over(node.op, scale)) if isinstance(node.op, Conv) else node


def _rows_over(layer: Conv, scale: F64) -> Conv:
    column = scale.reshape(-1, *(1,) * (layer.weight.ndim - 1))
    bias = None if layer.bias is None else layer.bias.astype(np.float64) / scale
    return replace(layer, weight=layer.weight.astype(np.float64) / column, bias=bias)


def _inputs_times(node: Node, scale: F64) -> Node:
    if isinstance(node.op, Dense):
        return replace(node, op=Dense(_columns_times(node.op.layer, scale)))
    return replace(node, op=_columns_times(node.op, scale)) if isinstance(node.op, Conv) else node


def _columns_times(layer: Conv, scale: F64) -> Conv:
    groups, within = layer.groups, layer.weight.shape[1]
    parts = layer.weight.astype(np.float64).reshape(groups, -1, within, *layer.kernel)
    rows = scale.reshape(groups, 1, within, *(1,) * layer.rank)
    return replace(layer, weight=(parts * rows).reshape(layer.weight.shape))
