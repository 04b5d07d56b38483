"""Channels that stay linear between two layers get a way of their own past those that do not.

y = W2·f(W1·x) = W2[:, rest]·f(W1[rest]·x) + W2[:, linear]·(slope·W1[linear]·x + shift): the second summand is a cascade,
which merges with the border rules of the exact tier.  That pays where the linear channels are many against the ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from decascade.algebra.conv import Conv
from decascade.bounds.certificate import ActivationRecord
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.names import Names
from decascade.ir.ops import Activation, Add
from decascade.ir.ops.traits import with_channels
from decascade.regions.candidates import Options
from decascade.regions.deletion import columns, layer_of, narrow_tensor, rows, with_layer, writers
from decascade.regions.linearise import Change, Ints, instead, line_op, only
from decascade.regions.lower import Refusal
from decascade.regions.merge import merge_graph, sized


@dataclass(frozen=True)
class Bypass:
    """Made where a layer without groups writes what the activation reads and another one alone reads what it writes, and
    where both ways together, merged, cost less than the two layers do."""

    options: Options

    def apply(self, graph: Graph, node: Node, record: ActivationRecord, names: Names) -> Change | Refusal:
        linear = np.flatnonzero(record.regime >= 0)
        rest = np.setdiff1d(np.arange(record.channels), linear)
        if not len(linear) or not len(rest):
            return Refusal(f"{node.name} has no linear channels beside others", node.name)
        if self.options.policy == "always":
            return Refusal(f"{node.name}: a bypass would make more layers, not fewer", node.name)
        before = writers(graph, node, "linear")
        if isinstance(before, Refusal):
            return before
        if any(isinstance(n.op, Activation) for n in before):
            return Refusal(f"linear channels of {node.name} stay: another activation is on their way", node.name)
        readers = graph.consumers[node.output]
        after = readers[0] if len(readers) == 1 and len(readers[0].inputs) == 1 and node.output not in graph.outputs else None
        if after is None or after.pinned or layer_of(graph, after) is None:
            return Refusal(f"linear channels of {node.name} stay: no single layer reads them", node.name)
        return self._paying(graph, [*before, node, after], record, linear, rest, names)

    def _paying(
        self, graph: Graph, old: Sequence[Node], record: ActivationRecord, linear: Ints, rest: Ints, names: Names
    ) -> Change | Refusal:
        made, tensors = _ways(graph, old, record, linear, rest, names)
        now, then = (self._cost(graph, nodes, tensors) for nodes in (old, made))
        if not then < now:
            reason = f"a bypass of its {len(linear)} linear channels would cost {then:,.0f} instead of {now:,.0f}"
            return Refusal(f"{record.node}: {reason} {self.options.target.unit}", record.node, {"before": now, "after": then})
        changed = graph.with_nodes(instead(graph.nodes, {n.name: () for n in old[:-1]} | {old[-1].name: made}), tensors)
        words = f"{len(linear)} of {record.channels} channels stay linear and bypass the others"
        ways = {n.name: old[i % len(old)].name for i, n in enumerate(made[:-1])} | {made[-1].name: old[-1].name}
        passing = frozenset(n.name for n in made[len(old) : -1])
        remark = f"for {len(linear)} of {record.channels} channels, which stay linear and bypass the others"
        return Change(graph, changed, made[len(old) - 2].name, words, linear, ways, rest, remark=remark, remarked=passing)

    def _cost(self, graph: Graph, nodes: Sequence[Node], tensors: dict[str, Tensor]) -> float:
        """What the nodes between the two ends cost once they are merged."""
        part = replace(graph, inputs=nodes[0].inputs, outputs=nodes[-1].outputs).with_nodes(nodes, tensors)
        merged, _ = merge_graph(part, self.options)
        return self.options.target.graph_cost(sized(merged)).value


def _ways(
    graph: Graph, old: Sequence[Node], record: ActivationRecord, linear: Ints, rest: Ints, names: Names
) -> tuple[list[Node], dict[str, Tensor]]:
    """The way of the rest, that of the linear channels, node by node as in `old`, and their sum."""
    nodes, tensors, ends, after = list[Node](), dict[str, Tensor](), list[str](), old[-1]
    layer, activation = layer_of(graph, after), old[-2].op
    assert layer is not None
    assert isinstance(activation, Activation)
    for way, channels in (("rest", rest), ("linear", linear)):
        part = only(record, channels)
        now = {n.output: names.tensor(f"{n.output}/{way}") for n in old}
        for node in old:
            if node is after:
                kept = columns(layer, channels, np.zeros(0))
                bias = kept.bias if way == "rest" else None
                op = with_layer(node.op, Conv(kept.weight, bias, kept.stride, kept.dilation, kept.padding))
            elif node is old[0]:
                op = with_layer(node.op, rows(layer_of(graph, node), channels))
            elif node is old[-2] and way == "linear":
                narrow = with_channels(activation, channels)
                assert isinstance(narrow, Activation)
                op = line_op(narrow, part)
            else:
                op = with_channels(node.op, channels)
            output = now[node.output]
            tensors[output] = narrow_tensor(graph, node.output, output, layer.out_channels if node is after else len(channels))
            inputs = tuple(now.get(n, n) for n in node.inputs)
            nodes.append(Node(names.node(f"{node.name}/{way}"), op, inputs, (output,), sized=node.sized))
        ends.append(now[after.output])
    return [*nodes, Node(names.node(f"{after.name}/sum"), Add(), tuple(ends), after.outputs)], tensors

