"""Channels that are constant behind an activation are deleted from the layers before and after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv
from decascade.bounds.certificate import ActivationRecord
from decascade.bounds.regimes import regimes
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.names import Names
from decascade.ir.ops import Activation, Dense, Flatten, Identity, Op, Pool, traits
from decascade.ir.ops.traits import is_per_channel, with_channels
from decascade.regions.linearise import F64, Change, Ints, instead, line
from decascade.regions.lower import Refusal


@dataclass(frozen=True)
class DeleteConstant:
    """Made where a convolution or dense layer without groups writes what the activation reads, operations on single channels
    in between left aside, and only such layers read what it writes.

    A constant other than zero adds to their bias, so they must not pad it.
    """

    def apply(self, graph: Graph, node: Node, record: ActivationRecord, names: Names) -> Change | Refusal:
        op = node.op
        if not isinstance(op, Activation):
            return Refusal(f"{node.name} is no activation", node.name)
        slope, shift = line(regimes(op, record.channels), record.regime)
        constant = (record.regime >= 0) & (slope == 0)
        if not constant.any():
            return Refusal(f"{node.name} has no channel that is constant", node.name)
        if constant.all():
            return Refusal(f"{node.name} is constant on all channels: nothing of the layer would be left", node.name)
        before = writers(graph, node, "constant")
        if isinstance(before, Refusal):
            return before
        after = _readers(graph, node, shift[constant])
        if isinstance(after, Refusal):
            return after
        return _deleted(graph, [*before, node], after, np.flatnonzero(~constant), np.where(constant, shift, 0.0), names)


def writers(graph: Graph, node: Node, what: str) -> list[Node] | Refusal:
    """The layer that writes what the activation reads and the operations on single channels between, in order."""
    found, name = list[Node](), node.inputs[0]
    while True:
        writer = graph.producer.get(name)
        if writer is None:
            return Refusal(f"{what} channels of {node.name} stay: no layer writes them", node.name)
        if writer.pinned or len(graph.consumers[name]) != 1 or name in graph.outputs:
            return Refusal(f"{what} channels of {node.name} stay: {name} is read elsewhere too", node.name)
        found.insert(0, writer)
        if layer_of(graph, writer) is not None:
            return found
        if not is_per_channel(writer.op):
            return Refusal(f"{what} channels of {node.name} stay: {writer.name} mixes them with others", node.name)
        name = writer.inputs[0]


def _readers(graph: Graph, node: Node, values: F64) -> list[Node] | Refusal:
    """What reads the activation: pools of single channels, a flatten, and the layers that end it; in order."""
    found, names = list[Node](), [node.output]
    while names:
        name = names.pop()
        if name in graph.outputs:
            return Refusal(f"constant channels of {node.name} stay: {name} is an output", node.name)
        for reader in graph.consumers[name]:
            layer = layer_of(graph, reader)
            if reader.pinned or len(reader.inputs) != 1:
                return Refusal(f"constant channels of {node.name} stay: {reader.name} reads them as they are", node.name)
            if layer is None and not _hands_on(reader.op, graph.spatial(name)):
                return Refusal(f"constant channels of {node.name} stay: {reader.name} reads them as they are", node.name)
            edge = layer.padding if layer is not None else reader.op.padding if isinstance(reader.op, Pool) else ()
            if np.any(values) and any(p > 0 for pair in edge for p in pair):
                return Refusal(f"constant channels of {node.name} stay: {reader.name} pads what is not zero", node.name)
            found.append(reader)
            names += [reader.output] if layer is None else []
    return found


def _hands_on(op: Op, size: tuple[int, ...] | None) -> bool:
    """Whether a constant channel is the same constant behind the operation."""
    return isinstance(op, (Identity, Pool)) or (isinstance(op, Flatten) and size is not None)


def layer_of(graph: Graph, node: Node) -> Conv | None:
    """The layer of a node that mixes all channels of its input; a dense layer on the last of more axes does not."""
    if isinstance(node.op, Dense) and len(graph.shape(node.inputs[0]) or ()) != 2:
        return None
    layer = traits.layer_of(node.op)
    return layer if isinstance(layer, Conv) and layer.groups == 1 else None


def _deleted(
    graph: Graph, before: Sequence[Node], after: Sequence[Node], kept: Ints, values: F64, names: Names
) -> Change:
    """All nodes again with the kept channels alone; `values` per channel are the constants that go, else zero."""
    activation = before[-1]
    narrow = {n.output: names.tensor(f"{n.output}/kept") for n in (*before, *(n for n in after if layer_of(graph, n) is None))}
    tensors, nodes, made = dict[str, Tensor](), dict[str, list[Node]](), dict[str, str]()
    lanes = {activation.output: (kept, values)}
    for node in (*before, *after):
        op: Op
        if node is before[0]:
            op = with_layer(node.op, rows(layer_of(graph, node), kept))
        elif node.inputs[0] in lanes:
            lane, constants = lanes[node.inputs[0]]
            layer = layer_of(graph, node)
            op = node.op if layer is None else with_layer(node.op, columns(layer, lane, constants))
            if layer is None:
                lanes[node.output] = _spread(node.op, lane, constants, graph.spatial(node.inputs[0]))
        else:
            op = with_channels(node.op, kept)
        output = narrow.get(node.output, node.output)
        count = len(lanes[node.output][0]) if node.output in lanes else len(kept)
        if node.output in narrow:
            tensors[output] = narrow_tensor(graph, node.output, output, count)
        inputs = tuple(narrow.get(n, n) for n in node.inputs)
        new = Node(names.node(f"{node.name}/kept"), op, inputs, (output,), sized=node.sized)
        nodes[node.name] = [new]
        made[new.name] = node.name
    (now,) = nodes[activation.name]
    constant = np.setdiff1d(np.arange(len(values)), kept)
    words = f"{len(constant)} of {len(values)} channels are constant behind the activation and leave the layers around it"
    changed = graph.with_nodes(instead(graph.nodes, nodes), tensors)
    return Change(graph, changed, now.name, words, constant, made, kept)


def narrow_tensor(graph: Graph, name: str, new: str, channels: int) -> Tensor:
    """A tensor like another one, of another number of channels."""
    old = graph.tensors[name]
    return replace(old, name=new, shape=old.shape and (old.shape[0], channels, *old.shape[2:]))


def _spread(op: Op, kept: Ints, values: F64, size: tuple[int, ...] | None) -> tuple[Ints, F64]:
    """Kept entries and constants behind an operation that works channel by channel."""
    if not isinstance(op, Flatten):
        return kept, values
    assert size is not None
    index = np.arange(len(values) * int(np.prod(size)))
    owner = index // int(np.prod(size)) if op.order == "channels_first" else index % len(values)
    return np.flatnonzero(np.isin(owner, kept)), values[owner]


def with_layer(op: Op, layer: Conv) -> Op:
    """The operation with another layer."""
    return Dense(layer) if isinstance(op, Dense) else layer


def rows(layer: Conv | None, kept: NDArray[np.int64]) -> Conv:
    """The layer with some of its outputs."""
    assert layer is not None
    bias = None if layer.bias is None else layer.bias[kept]
    return Conv(layer.weight[kept], bias, layer.stride, layer.dilation, layer.padding)


def columns(layer: Conv, kept: Ints, values: F64) -> Conv:
    """The layer on the kept inputs, the others' constants in its bias."""
    bias = layer.bias
    if np.any(values):
        total = layer.weight.astype(np.float64).sum(axis=tuple(range(2, layer.weight.ndim))) @ values
        bias = layer.bias64 + total
    return Conv(layer.weight[:, kept], bias, layer.stride, layer.dilation, layer.padding)
