"""The exact tier from end to end: graph in, the cheapest equal graph out, and what was done or left, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from decascade.cost import Cost, Target
from decascade.cost.count import parameters
from decascade.ir.check import check
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.names import Names
from decascade.regions.candidates import Candidate, Options, is_cascade, realise
from decascade.regions.cascade import Cascade, layers_of
from decascade.regions.chains import Chain, find_chains
from decascade.regions.explain import apart, left_reason, merged_reason
from decascade.regions.lower import is_convolution
from decascade.regions.partition import Block, Partition
from decascade.regions.rewrites import Move, rewrite_locally
from decascade.regions.sizes import sized
from decascade.regions.split import cheaper_split
from decascade.regions.storage import unstorable
from decascade.regions.values.rows import Story
from decascade.regions.values.simplify import simplify

Progress = Callable[[str, float], None]

__all__ = ["Cascade", "Options", "layers_of", "merge_graph", "sized"]


def merge_graph(
    graph: Graph, options: Options, progress: Progress | None = None, names: Names | None = None
) -> tuple[Graph, tuple[Cascade, ...]]:
    """Replace every linear region by its cheapest exact partition under the options' target, and do what the values of the
    weights allow, before and after that.

    The result computes the same function in real arithmetic on every finite input.  Kept nodes are the same objects; new ones
    have an empty `origin`.  `names`: of what is made, where more is taken than the names of this graph.

    Raises:
        GraphError: the graph is not well formed.
    """
    names = names or Names.of(graph)
    first = simplify(graph, options.target, names)
    merged, rows = _merge_regions(first.graph, options, progress or _silent, names)
    last = simplify(merged, options.target, names)
    check(last.graph)
    return last.graph, _in_order(graph, Story(graph, first, rows, last, options.target).told())


def _merge_regions(graph: Graph, options: Options, report: Progress, names: Names) -> tuple[Graph, list[Cascade]]:
    local, moves = rewrite_locally(graph, options, names)
    partition = Partition(local, sized(local), options)
    chains, left, edits = find_chains(local), list[Cascade](), list[_Edit]()
    for i, chain in enumerate(chains):
        report("finding and costing cascades", i / len(chains))
        blocks, made = _solved(partition, chain, names)
        edits += made
        left += _left_rows(partition, chain, blocks)
    left += [_apart_row(partition, *pair) for pair in apart(local, chains)]
    kept = _paying(edits, lambda some: _apply(local, some), options)
    merged_graph = _apply(local, kept)
    cascades = [_merged_row(partition, e) if e in kept else _dropped_row(partition, e) for e in edits]
    if options.policy == "profitable":
        merged_graph, rows = _split(merged_graph, options, names)
        cascades = _joined(cascades, rows, merged_graph, options.target)
    cascades += left
    check(merged_graph)
    report("finding and costing cascades", 1.0)
    return merged_graph, _with_moves(cascades, moves, graph, merged_graph, options.target)


def _silent(stage: str, share: float) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True, eq=False)
class _Edit:
    """Nodes to be replaced, the last of them writing the exit, and those that stand for them."""

    old: tuple[Node, ...]
    nodes: tuple[Node, ...]
    tensors: dict[str, Tensor]
    chosen: Candidate | None = None

    @property
    def growth(self) -> int:
        """Stored numbers that it adds."""
        return sum(map(parameters, self.nodes)) - sum(map(parameters, self.old))


def _paying(edits: list[_Edit], apply: Callable[[Sequence[_Edit]], Graph], options: Options) -> list[_Edit]:
    """The edits without those that make the whole graph dearer.

    A peak is not a sum of parts: what is alive beside a segment counts, and of a segment that is not at the peak nothing
    does.  The edit that stores most goes first.
    """
    def cost(some: Sequence[_Edit]) -> Cost:
        return options.target.graph_cost(sized(apply(some)))

    if options.policy == "always" or not edits or not (total := cost(edits)).exceeds(before := cost([])):
        return edits
    kept = edits
    for edit in sorted(edits, key=lambda e: -e.growth):
        rest = [e for e in kept if e is not edit]
        if total.exceeds(before) and (without := cost(rest)) <= total:
            kept, total = rest, without
    return [] if total.exceeds(before) else kept


def _split(graph: Graph, options: Options, names: Names) -> tuple[Graph, list[Cascade]]:
    """Every layer of the merged graph whose kernel has a rank that makes two layers cheaper, as those two."""
    costed, edits = sized(graph), list[_Edit]()
    for node in graph.nodes:
        if (found := cheaper_split(graph, costed, node, options.target, names)) is not None:
            edits.append(_Edit((node,), found[0], {found[1].name: found[1]}))
    edits = _paying(edits, lambda some: _apply(graph, some), options)
    if not edits:
        return graph, []
    split = _apply(graph, edits)
    tensors, reason = sized(split).tensors, "1 layer -> two, exactly: its kernel has low rank"
    return split, [
        Cascade(layers_of(e.old), "merged", "exact", reason, "free", options.target.segment_cost(e.old, tensors),
                options.target.segment_cost(e.nodes, tensors), e.old[0].inputs[0], e.old[0].output, (e.old[0].name,),
                tuple(n.name for n in e.nodes))
        for e in edits
    ]


def _joined(cascades: Sequence[Cascade], splits: Sequence[Cascade], graph: Graph, target: Target) -> list[Cascade]:
    """A split of what a merge made is one story with that merge."""
    rows, rest, tensors = list[Cascade](), {row.removed[0]: row for row in splits}, sized(graph).tensors
    for c in cascades:
        parts = [rest.pop(name) if name in rest else None for name in c.added]
        count = sum(p is not None for p in parts)
        if count:
            added = tuple(n for old, p in zip(c.added, parts, strict=True) for n in (p.added if p else (old,)))
            after = target.segment_cost([n for n in graph.nodes if n.name in set(added)], tensors)
            what = "split in two" if len(parts) == 1 else f"{count} of them split in two"
            c = replace(c, added=added, after=after, reason=f"{c.reason}, {what} (low rank)")
        rows.append(c)
    return [*rows, *rest.values()]


def _solved(partition: Partition, chain: Chain, names: Names) -> tuple[tuple[Block, ...], list[_Edit]]:
    """The best partition of a chain all of whose new weights can be stored.  What they are shows only once they are composed:
    a replacement that cannot be stored is refused, and the rest solved again."""
    while True:
        blocks, edits, refused, trial = partition.solve(chain), list[_Edit](), False, names.trial()
        for chosen in (c for block in blocks for c in block.replacements):
            edit = _edit(partition.graph, chosen, trial)
            refusal = unstorable(edit.nodes, {**partition.graph.tensors, **edit.tensors})
            if refusal is not None:
                partition.refuse(chosen.segment, refusal)
                refused = True
            edits.append(edit)
        if not refused:
            names.accept(trial)
            return blocks, edits


def _edit(graph: Graph, chosen: Candidate, names: Names) -> _Edit:
    kernels = [n for n in chosen.segment.nodes if is_convolution(n)] or list(chosen.segment.nodes)
    base = kernels[-1].origin[-1] if kernels[-1].origin else kernels[-1].name
    built = realise(graph, chosen, f"{base}_merged", names)
    return _Edit(chosen.segment.nodes, tuple(built.nodes), built.tensors, chosen)


def _apply(graph: Graph, edits: Sequence[_Edit]) -> Graph:
    """All edits at once: the new nodes stand where the last of the replaced ones stood.  Dead nodes go."""
    gone = {n.name for edit in edits for n in edit.old}
    instead = {edit.old[-1].name: edit for edit in edits}
    nodes, tensors = list[Node](), dict[str, Tensor]()
    for node in graph.nodes:
        if node.name in instead:
            nodes += instead[node.name].nodes
            tensors.update(instead[node.name].tensors)
        elif node.name not in gone:
            nodes.append(node)
    return graph.with_nodes(_alive(nodes, graph.outputs), tensors)


def _alive(nodes: Sequence[Node], outputs: Iterable[str]) -> list[Node]:
    """The nodes that some output depends on."""
    wanted, kept = set(outputs), list[Node]()
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            kept.append(node)
            wanted.update(node.inputs)
    return kept[::-1]


def _merged_row(partition: Partition, edit: _Edit) -> Cascade:
    chosen, tensors = edit.chosen, {**partition.sized.tensors, **edit.tensors}
    assert chosen is not None
    return Cascade(
        layers_of(edit.old), "merged", "exact", merged_reason(edit.old, chosen, edit.nodes), chosen.kind,
        partition.cost(edit.old), partition.options.target.segment_cost(edit.nodes, tensors), chosen.segment.entry,
        chosen.segment.exit, tuple(n.name for n in edit.old), tuple(n.name for n in edit.nodes),
    )


def _dropped_row(partition: Partition, edit: _Edit) -> Cascade:
    """A merge that pays by itself and not in the whole model."""
    row = _merged_row(partition, edit)
    reason = f"{row.reason} costs less by itself, but makes the whole model dearer: what is alive beside it counts there"
    return replace(row, decision="left", reason=reason, removed=(), added=())


def _left_rows(partition: Partition, chain: Chain, blocks: Sequence[Block]) -> list[Cascade]:
    """A row for what of a chain stays several layers: the chain itself, or the blocks between its merges."""
    rows = list[Cascade]()
    for block in blocks:
        if block.merged is None and block.parts and is_cascade(block.nodes):
            rows.append(_left_row(partition, (block,)))
    weighted = [i for i, b in enumerate(blocks) if any(map(is_convolution, b.nodes))]
    if len(weighted) > 1:
        rows.append(_left_row(partition, blocks[weighted[0] : weighted[-1] + 1]))
    return [*rows, *_unstored_rows(partition, chain, {layer for row in rows for layer in row.layers})]


def _unstored_rows(partition: Partition, chain: Chain, shown: set[str]) -> list[Cascade]:
    """A row for what was left because the dtype does not hold the merged weights, where no other row is about these layers."""
    rows, inside = list[Cascade](), {n.name for n in chain.nodes}
    for segment, refusal in partition.unstored.values():
        layers = layers_of(segment.nodes)
        if inside.issuperset(n.name for n in segment.nodes) and not shown.issuperset(layers):
            rows.append(Cascade(layers, "left", "exact", refusal.reason, "", partition.cost(segment.nodes), None, segment.entry,
                                segment.exit))
            shown = shown.union(layers)
    return rows


def _left_row(partition: Partition, blocks: Sequence[Block]) -> Cascade:
    nodes = [n for b in blocks for n in b.nodes]
    before = partition.options.target.combine(b.cost for b in blocks)
    reason, border, after = left_reason(partition, blocks, before)
    parts = partition.unstored_within(nodes)
    if parts and (blocks[0].entry, blocks[-1].exit) not in partition.unstored:
        reason += "".join(f"; {' → '.join(layers_of(s.nodes))}: {refusal.reason}" for s, refusal in parts[:1])
    return Cascade(layers_of(nodes), "left", "exact", reason, border, before, after, blocks[0].entry, blocks[-1].exit)


def _apart_row(partition: Partition, nodes: tuple[Node, ...], reason: str) -> Cascade:
    cost = partition.cost(nodes)
    return Cascade(layers_of(nodes), "left", "exact", reason, "", cost, None, nodes[0].inputs[0], nodes[-1].output)


def _with_moves(
    cascades: Iterable[Cascade], moves: Sequence[Move], graph: Graph, new: Graph, target: Target
) -> list[Cascade]:
    """What local rewrites moved: told with the merge that took some of it up, else in a row of its own; nodes that they
    made give way to those that they made them of."""
    rows, home = list(cascades), {name: node for m in moves for name, node in m.home.items()}
    for move in moves:
        names = {n.name for n in move.new}
        stay = tuple(n for n in new.nodes if n in move.new)
        at = next((i for i, r in enumerate(rows) if names & set(r.removed)), None)
        if at is None:
            rows.append(Cascade(layers_of(move.old), "merged", "exact", " and ".join(move.words), "free", Cost(0.0), None,
                                "", "", tuple(n.name for n in move.old), tuple(n.name for n in stay)))
            continue
        row, kept = rows[at], tuple(n.name for n in stay)
        reason = f"{row.reason}, {' and '.join(move.words)}"
        rows[at] = replace(row, reason=reason, layers=(*row.layers, *kept), removed=(*row.removed, *kept),
                           added=(*row.added, *kept))
    if not moves:
        return rows
    before, after = sized(graph).tensors, sized(new).tensors
    return [_at_home(row, home, graph, new, lambda old, made: (target.segment_cost(old, before),
                                                               target.segment_cost(made, after))) for row in rows]


def _at_home(
    row: Cascade, home: Mapping[str, Node], graph: Graph, new: Graph,
    costs: Callable[[Sequence[Node], Sequence[Node]], tuple[Cost, Cost]],
) -> Cascade:
    """A row in the names of the given graph, with the costs of its nodes."""
    layers = tuple(dict.fromkeys(name for old in row.layers for name in (layers_of([home[old]]) if old in home else (old,))))
    given = {home[name].name if name in home else name for name in row.removed}
    removed, added = [n for n in graph.nodes if n.name in given], [n for n in new.nodes if n.name in set(row.added)]
    if not removed:
        return replace(row, layers=layers)
    before, after = costs(removed, added)
    return replace(row, layers=layers_of(removed), removed=tuple(n.name for n in removed), added=tuple(n.name for n in added),
                   before=before, after=after, entry=removed[0].inputs[0], exit=removed[-1].output)


def _in_order(graph: Graph, rows: Iterable[Cascade]) -> tuple[Cascade, ...]:
    """Rows in the order of the first layer that each removes, or of where it ends."""
    order = {n.name: i for i, n in enumerate(graph.nodes)}
    return tuple(sorted(rows, key=lambda c: min((order.get(n, 0) for n in c.removed), default=_place(graph, c))))


def _place(graph: Graph, cascade: Cascade) -> int:
    node = graph.producer.get(cascade.exit)
    return 0 if node is None else graph.nodes.index(node)
