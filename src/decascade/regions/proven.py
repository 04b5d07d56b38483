"""The proven and the observed tier from end to end: graph and certificates in, the cheapest graph that is equal where they
hold out, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from decascade.bounds import Box, Certificate, prove
from decascade.cost import Cost
from decascade.ir.graph import Graph, Node
from decascade.regions.bypass import Bypass
from decascade.regions.candidates import Options
from decascade.regions.deletion import DeleteConstant
from decascade.regions.fixed_pools import select_winners
from decascade.regions.linearise import Change, Claim, DropLinear, Linearised, Rewrite, linearise, restored, weaker
from decascade.regions.merge import Cascade, merge_graph, sized
from decascade.typing import Progress


@dataclass(frozen=True, eq=False)
class Proven:
    """`graph`: the result.  `reference`: the user's graph with what was proved put in place, equal to the user's where the
    certificates hold and, unlike it, equal to the result on every input: what replacements are to be compared with.
    `claims`: all that the result rests on; where there is none it is equal to the user's graph on every input."""

    graph: Graph
    reference: Graph
    cascades: tuple[Cascade, ...]
    claims: tuple[Claim, ...]
    linearised: Linearised
    certificate: Certificate | None = None
    observed: Certificate | None = None


def merge_on_box(
    graph: Graph, box: Box | object, options: Options, budget_seconds: float = 60.0,
    data: Mapping[str, NDArray[Any]] | None = None, progress: Progress | None = None, seed: int = 0,
) -> Proven:
    """Prove what stays linear on the box, merge through it, delete what is constant; undo what does not pay.

    Raises:
        UsageError: a box that does not fit.
        GraphError: the graph is not well formed.
    """
    certificate = prove(graph, box, budget_seconds, data, progress, seed, thorough=False)
    return merge_with(graph, certificate, options, progress)


def merge_with(
    graph: Graph, certificate: Certificate | None, options: Options, progress: Progress | None = None,
    observed: Certificate | None = None,
) -> Proven:
    """The same from certificates that are there already: of proofs, and of what data has shown."""
    plain: tuple[Rewrite, ...] = (DropLinear(), DeleteConstant())
    found = _merged(graph, certificate, observed, options, (*plain, Bypass(options)), progress)
    if options.policy == "profitable" and any(c.remarked for c in found.linearised.changes):
        # a bypass pays by itself; whether it does in the whole model shows only now
        without = _merged(graph, certificate, observed, options, plain, None)
        if _total(without.graph, options) <= _total(found.graph, options):
            return without
    return found


def _merged(
    graph: Graph, certificate: Certificate | None, observed: Certificate | None, options: Options,
    rewrites: tuple[Rewrite, ...], progress: Progress | None,
) -> Proven:
    own = {n.name: n for n in graph.nodes}
    selected, pools = (graph, dict[str, Claim]()) if certificate is None else select_winners(graph, certificate)
    linearised = linearise(selected, certificate, rewrites, observed, {n: (own[n], claim) for n, claim in pools.items()})
    merged, cascades = merge_graph(linearised.graph, options, progress, linearised.names)
    made = [_made_row(change, options) for change in linearised.changes if change.made and not change.remarked]
    rows = tuple(_told(c, own, linearised) for c in (*made, *cascades))
    return Proven(restored(merged, linearised), linearised.graph, rows, linearised.upheld(merged), linearised, certificate,
                  observed)


def _total(graph: Graph, options: Options) -> Cost:
    return options.target.graph_cost(sized(graph))


def _made_row(change: Change, options: Options) -> Cascade:
    """A row for channels that were deleted, at the cost of the layers as they were before and after this one change."""
    made = [n for n in change.graph.nodes if n.name in change.made]
    old = [n for n in change.before.nodes if n.name in change.replaced]
    return Cascade(
        tuple(n.name for n in old), "merged", change.tier, change.words, "free", _cost(options, change.before, old),
        _cost(options, change.graph, made), old[0].inputs[0], old[-1].output, tuple(n.name for n in old),
        tuple(n.name for n in made),
    )


def _cost(options: Options, graph: Graph, nodes: Iterable[Node]) -> Cost:
    return options.target.segment_cost(tuple(nodes), sized(graph).tensors)


def _told(cascade: Cascade, own: Mapping[str, Node], linearised: Linearised) -> Cascade:
    """The row under the user's names, and under the tier of what it rests on."""
    def layers(names: Iterable[str]) -> tuple[str, ...]:
        old = (o for name in names for o in linearised.made.get(name, (name,)))
        return tuple(dict.fromkeys(layer for o in old for layer in (own[o].origin or (o,) if o in own else (o,))))

    names = (*cascade.removed, *cascade.layers)
    tiers = [linearised.tiers[name] for name in names if name in linearised.tiers]
    removed = tuple(dict.fromkeys(o for name in cascade.removed for o in linearised.nodes.get(name, (name,))))
    remarks = [c.remark for c in linearised.changes if c.remarked.intersection(cascade.removed)]
    return replace(cascade, layers=layers(cascade.layers), removed=removed, reason=" ".join([cascade.reason, *remarks]),
                   tier=weaker(*tiers) if tiers and cascade.tier == "exact" else cascade.tier)
