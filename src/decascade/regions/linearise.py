"""What follows from a certificate: activations that are linear on the box become linear nodes, constant channels go.

Rules, in order:
    DropLinear      every channel proved to stay in one linear regime: identity, a scale and shift per channel
    DeleteConstant  a channel proved constant (a dead ReLU, a clip at its end) leaves the layers on both of its sides;
                    what it was adds to the bias of the next layer
Not done: a group of linear channels beside others that are not; maximum pools whose winner is fixed.

An activation that DropLinear made linear keeps its node's name.  Where no merge takes it up, `restored` puts the user's
own node back, so that nothing changes that does not pay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv
from decascade.bounds.certificate import ActivationRecord, Certificate, Status
from decascade.bounds.regimes import Regime, regimes
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.ops import Activation, Affine, Dense, Flatten, Identity, Op, Pool
from decascade.regions.lower import Refusal

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Change:
    """One rewrite that was made, in words, with the graph before and after it; `made`: new node → the node it replaces."""

    before: Graph
    graph: Graph
    node: str
    words: str
    made: Mapping[str, str]

    @property
    def replaced(self) -> frozenset[str]:
        return frozenset(self.made.values())


@dataclass(frozen=True, eq=False)
class Linearised:
    """The graph after all rewrites.  `linear`: activations that became linear.  `made`: new node → layers that it stands
    for; `nodes`: new node → the user's nodes that it stands for."""

    graph: Graph
    linear: frozenset[str]
    changes: tuple[Change, ...]
    made: Mapping[str, tuple[str, ...]]
    nodes: Mapping[str, tuple[str, ...]]
    refusals: tuple[Refusal, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(c.words for c in self.changes)


@dataclass(frozen=True)
class DropLinear:
    """An activation all of whose channels are proved linear becomes Identity, or Affine with its slopes and shifts."""

    def apply(self, graph: Graph, node: Node, record: ActivationRecord) -> Change | Refusal:
        op = node.op
        if not isinstance(op, Activation):
            return Refusal(f"{node.name} is no activation", node.name)
        if node.pinned:
            return Refusal(f"{node.name} stays: {node.pinned}", node.name)
        if not record.linear:
            return Refusal(_why_not(record), node.name, record.counts)
        slope, shift = _line(regimes(op, record.channels), record.regime)
        linear: Op = Identity() if np.all(slope == 1) and not np.any(shift) else Affine(slope, shift)
        nodes = [replace(n, op=linear) if n is node else n for n in graph.nodes]
        words = f"{node.name}: all {record.channels} channels stay linear ({_counts(record)})"
        return Change(graph, graph.with_nodes(nodes), node.name, words, {})


@dataclass(frozen=True)
class DeleteConstant:
    """Channels that are constant behind an activation are deleted from the layer before it and the layers after it.

    Made where a convolution or dense layer without groups writes what the activation reads (scales in between may be)
    and only such layers read what it writes.  A constant other than zero adds to their bias, so they must not pad it.
    """

    def apply(self, graph: Graph, node: Node, record: ActivationRecord) -> Change | Refusal:
        op = node.op
        if not isinstance(op, Activation):
            return Refusal(f"{node.name} is no activation", node.name)
        slope, shift = _line(regimes(op, record.channels), record.regime)
        constant = (record.regime >= 0) & (slope == 0)
        if not constant.any():
            return Refusal(f"{node.name} has no channel that is constant", node.name)
        if constant.all():
            return Refusal(f"{node.name} is constant on all channels: nothing of the layer would be left", node.name)
        before = _writers(graph, node)
        if isinstance(before, Refusal):
            return before
        after = _readers(graph, node, shift[constant])
        if isinstance(after, Refusal):
            return after
        return _deleted(graph, [*before, node], after, np.flatnonzero(~constant), np.where(constant, shift, 0.0))


Rewrite = DropLinear | DeleteConstant
REWRITES: tuple[Rewrite, ...] = (DropLinear(), DeleteConstant())


def linearise(graph: Graph, certificate: Certificate, rewrites: Sequence[Rewrite] = REWRITES) -> Linearised:
    """The graph that a certificate allows on its box, before any merging; every activation gives a change or a refusal."""
    linear, changes, refusals = set[str](), list[Change](), list[Refusal]()
    origins = {n.name: n.origin or (n.name,) for n in graph.nodes}
    stands = dict[str, tuple[str, ...]]()
    for record in certificate.activations:
        for rewrite in rewrites:
            name = next((new for new, old in stands.items() if old == (record.node,)), record.node)
            node = next((n for n in graph.nodes if n.name == name), None)
            if node is None or record.node in linear:
                break
            found = rewrite.apply(graph, node, record)
            if isinstance(found, Refusal):
                refusals.append(found)
                continue
            graph = found.graph
            changes.append(found)
            for new, old in found.made.items():
                stands[new] = stands.pop(old, (old,))
            if isinstance(rewrite, DropLinear):
                linear.add(record.node)
    made = {new: tuple(dict.fromkeys(layer for o in old for layer in origins.get(o, (o,)))) for new, old in stands.items()}
    return Linearised(graph, frozenset(linear), tuple(changes), made, stands, tuple(refusals))


def restored(merged: Graph, linearised: Linearised, original: Graph) -> Graph:
    """The merged graph with the user's own activations where no merge took up the linear node that stood for one."""
    own = {n.name: n for n in original.nodes if n.name in linearised.linear}
    return merged.with_nodes([own.get(n.name, n) for n in merged.nodes])


def _why_not(record: ActivationRecord) -> str:
    """The first channel that is in the way, with its witness where there is one."""
    counts = _counts(record)
    for witness in record.witnesses:
        if record.status[witness.channel] is Status.WITNESSED:
            low, high = min(witness.values), max(witness.values)
            values = f"channel {witness.channel} takes {low:.4g} and {high:.4g}"
            return f"{record.node} is not linear on the box ({counts}): {values}"
    return f"{record.node} is not proved linear on the box ({counts})"


def _counts(record: ActivationRecord) -> str:
    return ", ".join(f"{n} {what}" for what, n in record.counts.items())


def _line(pieces: tuple[Regime, ...], regime: NDArray[np.int8]) -> tuple[F64, F64]:
    """Slope and shift per channel of the regime it is in; NaN where it is in none."""
    slope, shift = np.full(len(regime), np.nan), np.full(len(regime), np.nan)
    for r, piece in enumerate(pieces):
        if piece.slope is not None:
            slope, shift = np.where(regime == r, piece.slope, slope), np.where(regime == r, piece.shift, shift)
    return slope, shift


def _writers(graph: Graph, node: Node) -> list[Node] | Refusal:
    """The layer that writes what the activation reads and the scales between, in order."""
    found, name = list[Node](), node.inputs[0]
    while True:
        writer = graph.producer.get(name)
        if writer is None or writer.pinned or len(graph.consumers[name]) != 1 or name in graph.outputs:
            return Refusal(f"constant channels of {node.name} stay: {name} is read elsewhere too", node.name)
        found.insert(0, writer)
        if _layer(writer.op) is not None:
            return found
        if not isinstance(writer.op, (Affine, Identity)):
            return Refusal(f"constant channels of {node.name} stay: {writer.name} mixes them with others", node.name)
        name = writer.inputs[0]


def _readers(graph: Graph, node: Node, values: F64) -> list[Node] | Refusal:
    """What reads the activation: pools of single channels, a flatten, and the layers that end it; in order."""
    found, names = list[Node](), [node.output]
    while names:
        name = names.pop()
        if name in graph.outputs:
            return Refusal(f"constant channels of {node.name} stay: {name} is an output", node.name)
        for reader in graph.consumers[name]:
            layer = _layer(reader.op)
            if reader.pinned or len(reader.inputs) != 1:
                return Refusal(f"constant channels of {node.name} stay: {reader.name} reads them as they are", node.name)
            if layer is None and not _channelwise(reader.op, graph.spatial(name)):
                return Refusal(f"constant channels of {node.name} stay: {reader.name} reads them as they are", node.name)
            edge = layer.padding if layer is not None else reader.op.padding if isinstance(reader.op, Pool) else ()
            if np.any(values) and any(p > 0 for pair in edge for p in pair):
                return Refusal(f"constant channels of {node.name} stay: {reader.name} pads what is not zero", node.name)
            found.append(reader)
            names += [reader.output] if layer is None else []
    return found


def _channelwise(op: Op, size: tuple[int, ...] | None) -> bool:
    return isinstance(op, (Identity, Pool)) or (isinstance(op, Flatten) and size is not None)


def _layer(op: Op) -> Conv | None:
    layer = op.layer if isinstance(op, Dense) else op
    return layer if isinstance(layer, Conv) and layer.groups == 1 else None


def _deleted(
    graph: Graph, before: Sequence[Node], after: Sequence[Node], kept: NDArray[np.int64], values: F64
) -> Change | Refusal:
    """All nodes again with the kept channels alone; `values` per channel are the constants that go, else zero."""
    activation = before[-1]
    narrow = {n.output: f"{n.output}/kept" for n in (*before, *(n for n in after if _layer(n.op) is None))}
    tensors, nodes, made = dict[str, Tensor](), dict[str, Node](), dict[str, str]()
    lanes = {activation.output: (kept, values)}
    for node in (*before, *after):
        op: Op
        if node is before[0]:
            op = _with_layer(node.op, _rows(_layer(node.op), kept))
        elif node.inputs[0] in lanes:
            lane, constants = lanes[node.inputs[0]]
            layer = _layer(node.op)
            op = node.op if layer is None else _with_layer(node.op, _columns(layer, lane, constants))
            if layer is None:
                lanes[node.output] = _spread(node.op, lane, constants, graph.spatial(node.inputs[0]))
        else:
            op = _narrowed(node.op, kept)
        output = narrow.get(node.output, node.output)
        count = len(lanes[node.output][0]) if node.output in lanes else len(kept)
        if output in narrow.values():
            old = graph.tensors[node.output]
            tensors[output] = replace(old, name=output, shape=old.shape and (old.shape[0], count, *old.shape[2:]))
        new = Node(f"{node.name}/kept", op, tuple(narrow.get(n, n) for n in node.inputs), (output,))
        nodes[node.name] = new
        made[new.name] = node.name
    gone = len(values) - len(kept)
    words = f"{activation.name}: {gone} of {len(values)} channels are constant and leave the layers around it"
    return Change(graph, graph.with_nodes(_instead(graph.nodes, nodes), tensors), activation.name, words, made)


def _instead(nodes: Iterable[Node], new: Mapping[str, Node]) -> list[Node]:
    return [new.get(n.name, n) for n in nodes]


def _spread(op: Op, kept: NDArray[np.int64], values: F64, size: tuple[int, ...] | None) -> tuple[NDArray[np.int64], F64]:
    """Kept entries and constants behind an operation that works channel by channel."""
    if not isinstance(op, Flatten):
        return kept, values
    assert size is not None
    index = np.arange(len(values) * int(np.prod(size)))
    owner = index // int(np.prod(size)) if op.order == "channels_first" else index % len(values)
    return np.flatnonzero(np.isin(owner, kept)), values[owner]


def _with_layer(op: Op, layer: Conv) -> Op:
    return Dense(layer) if isinstance(op, Dense) else layer


def _rows(layer: Conv | None, kept: NDArray[np.int64]) -> Conv:
    assert layer is not None
    bias = None if layer.bias is None else layer.bias[kept]
    return Conv(layer.weight[kept], bias, layer.stride, layer.dilation, layer.padding)


def _columns(layer: Conv, kept: NDArray[np.int64], values: F64) -> Conv:
    """The layer on the kept inputs, the others' constants in its bias."""
    bias = layer.bias
    if np.any(values):
        total = layer.weight.astype(np.float64).sum(axis=tuple(range(2, layer.weight.ndim))) @ values
        bias = layer.bias64 + total
    return Conv(layer.weight[:, kept], bias, layer.stride, layer.dilation, layer.padding)


def _narrowed(op: Op, kept: NDArray[np.int64]) -> Op:
    if isinstance(op, Affine):
        return Affine(op.scale[kept], op.shift[kept])
    if isinstance(op, Activation) and op.slope is not None:
        return replace(op, slope=op.slope[kept])
    return op
