"""All rules about values, to a fixed point: graph in, the graph that they leave out, and what was done.

In every round, in this order:
    zeros      subnormal weights become zeros (`zeros`), once
    idle       activations that do nothing, sums and products with constants (`idle`)
    support    kernels smaller than what stores them (`support`)
    channels   constant, unread and repeated channels (`channels`, `prune`)
Each is kept only where the target's cost of the whole graph does not rise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from decascade.cost import Cost, Target
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.names import Names
from decascade.ir.ops import Foreign, Identity, Op
from decascade.ir.shapes import infer
from decascade.regions.sizes import sized
from decascade.regions.storage import unstorable
from decascade.regions.values.facts import facts_of
from decascade.regions.values.idle import simpler
from decascade.regions.values.prune import alive, prune
from decascade.regions.values.support import smaller

Edit = tuple[tuple[Op, ...], tuple[str, ...]]
"""Operations in sequence, and the tensors that the first of them reads."""
ROUNDS = 8
"""More than any network needs; each round makes the graph smaller or is the last."""


@dataclass(frozen=True, eq=False)
class Simplified:
    """The graph that is left.

    `home`: for the name of every node that was made the node of the given graph that it stands for.  `words`: by the name of a
    node of the given graph that changed or went, why.  `context`: the names of those of them whose change rests on what the
    rest of the graph does: alone, between the tensors that they read and write, they are not equal to what they became.
    """

    graph: Graph
    home: Mapping[str, Node] = field(default_factory=dict[str, Node])
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, "tuple[str, ...]"])
    context: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class _Step:
    """One change of a graph: nodes made → the node that each stands for, and why the nodes that are gone went."""

    graph: Graph
    made: Mapping[str, Node]
    words: Mapping[str, str]
    context: bool


def simplify(graph: Graph, target: Target, names: Names | None = None) -> Simplified:
    """The graph after all rules; equal to it in real arithmetic on every finite input.  `names`: of what is made."""
    result, names = Simplified(graph), names or Names.of(graph)
    total = _total(graph, target)
    for _ in range(ROUNDS):
        before = result.graph
        for rule in (_idle, _support, _channels):
            trial = names.trial()
            step = rule(result.graph, target, trial)
            if step is None:
                continue
            after = _total(step.graph, target)
            new = [n for n in step.graph.nodes if n.name in step.made]
            if not after.exceeds(total) and unstorable(new, step.graph.tensors) is None:
                result, total = _taken(result, step), after
                names.accept(trial)
        if result.graph is before:
            break
    return result


def _total(graph: Graph, target: Target) -> Cost:
    return target.graph_cost(sized(graph))


def _taken(result: Simplified, step: _Step) -> Simplified:
    """The changes so far and one more, in terms of the graph that was given first."""
    def given(node: Node) -> Node:
        return result.home.get(node.name, node)

    nodes = {n.name: n for n in result.graph.nodes}
    there = {n.name for n in step.graph.nodes}
    home = {name: node for name, node in result.home.items() if name in there}
    home |= {name: given(node) for name, node in step.made.items() if name in there}
    words, context = dict(result.words), set(result.context)
    for name, why in step.words.items():
        old = given(nodes[name]).name
        words[old] = tuple(dict.fromkeys((*words.get(old, ()), why)))
        context.update([old] if step.context else [])
    return Simplified(step.graph, home, words, frozenset(context))


def _idle(graph: Graph, target: Target, names: Names) -> _Step | None:
    facts, edits, words = facts_of(graph), dict[str, Edit](), dict[str, str]()
    touched = set[str]()
    for node in graph.nodes:
        found = simpler(graph, node, facts)
        before = graph.producer.get(node.inputs[0]) if node.inputs else None
        if found is None or (before is not None and before.name in touched):
            continue
        edits[node.name], words[node.name] = ((found.op,), found.inputs), found.words
        touched.add(node.name)
    return _edited(graph, edits, words, names, context=True)


def _support(graph: Graph, target: Target, names: Names) -> _Step | None:
    edits, words, tensors = dict[str, Edit](), dict[str, str](), sized(graph).tensors
    for node in graph.nodes:
        found = smaller(node)
        if found is None:
            continue
        nodes, middle = _sequence(graph, node, found.ops, node.inputs, names.trial())
        costed = {**tensors, **{n: replace(t, shape=_shape(nodes, tensors, n)) for n, t in middle.items()}}
        left = [n for n in nodes if not isinstance(n.op, Identity)]
        if target.segment_cost(left, costed) < target.segment_cost([node], tensors):
            edits[node.name], words[node.name] = (found.ops, node.inputs), found.words
    return _edited(graph, edits, words, names, context=False)


def _shape(nodes: Sequence[Node], tensors: Mapping[str, Tensor], name: str) -> tuple[int | str, ...] | None:
    shapes = {n: tensors[n].shape for n in nodes[0].inputs}
    for node in nodes:
        shapes[node.output] = infer(node.op, [shapes[n] for n in node.inputs])[0]
    return shapes[name]


def _channels(graph: Graph, target: Target, names: Names) -> _Step | None:
    pruned = prune(graph, names)
    if pruned.graph is graph:
        return None
    why = f"{pruned.channels} channels removed: constant, never read, or a multiple of another channel"
    changed = [*pruned.home.values(), *pruned.gone]
    return _Step(pruned.graph, pruned.home, {n.name: why for n in changed}, context=True)


def _edited(
    graph: Graph, edits: Mapping[str, Edit], words: Mapping[str, str], names: Names, *, context: bool
) -> _Step | None:
    """The graph with sequences of operations in the places of nodes; an identity goes where it can."""
    if not edits:
        return None
    nodes, tensors, made, idle = list[Node](), dict[str, Tensor](), dict[str, Node](), list[Node]()
    for node in graph.nodes:
        if node.name not in edits:
            nodes.append(node)
            continue
        ops, inputs = edits[node.name]
        new, middle = _sequence(graph, node, ops, inputs, names)
        nodes += new
        tensors |= middle
        made |= {n.name: node for n in new}
        idle += [n for n in new if isinstance(n.op, Identity)]
    changed = graph.with_nodes(alive(nodes, graph.outputs), tensors)
    for node in idle:
        changed = _without(changed, node.name, names, made)
    there = {n.name for n in changed.nodes}
    stands = {node.name for name, node in made.items() if name in there}
    gone = {n.name: "nothing reads it any more" for n in graph.nodes if n.name not in there | stands}
    beside = dict.fromkeys(stands, "what stood beside it is gone")
    return _Step(changed, made, beside | gone | dict(words), context)


def _without(graph: Graph, name: str, names: Names, made: dict[str, Node]) -> Graph:
    """The graph without an identity: what it reads is written in its place, or read in its place, where that is possible."""
    idle = next((n for n in graph.nodes if n.name == name), None)
    if idle is None:
        return graph
    source, writer, readers = idle.inputs[0], graph.producer.get(idle.inputs[0]), graph.consumers[idle.output]
    alone = source not in graph.outputs and len(graph.consumers[source]) == 1
    if writer is not None and alone and _movable(writer):
        instead = {writer.name: _moved(writer, names, made, outputs=(idle.output,))}
    elif idle.output not in graph.outputs and all(map(_movable, readers)):
        instead = {n.name: _moved(n, names, made, inputs=tuple(source if i == idle.output else i for i in n.inputs))
                   for n in readers}
    else:
        return graph
    return graph.with_nodes(instead.get(n.name, n) for n in graph.nodes if n is not idle)


def _movable(node: Node) -> bool:
    return not node.pinned and not isinstance(node.op, Foreign) and len(node.outputs) == 1


def _moved(node: Node, names: Names, made: dict[str, Node], **ends: tuple[str, ...]) -> Node:
    """The node between other tensors; a node of the user's is another one then."""
    if node.name in made or not node.origin:
        return replace(node, **ends)
    new = replace(node, name=names.fresh(f"{node.name}/moved"), origin=(), native=None, **ends)
    made[new.name] = node
    return new


def _sequence(
    graph: Graph, node: Node, ops: Sequence[Op], inputs: tuple[str, ...], names: Names
) -> tuple[list[Node], dict[str, Tensor]]:
    """Nodes for operations in sequence between the inputs and the output of a node."""
    nodes, tensors, source = list[Node](), dict[str, Tensor](), inputs
    for i, op in enumerate(ops):
        name = names.fresh(f"{node.name}/smaller")
        output = node.output
        if i < len(ops) - 1:
            output = names.fresh(f"{name}/out")
            shapes = [graph.shape(n) if n in graph.tensors else tensors[n].shape for n in source]
            tensors[output] = Tensor(output, infer(op, shapes)[0], graph.tensors[node.output].dtype)
        nodes.append(Node(name, op, source, (output,), sized=node.sized))
        source = (output,)
    return nodes, tensors
