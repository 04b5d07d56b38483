"""The proven tier from end to end: graph and box in, the cheapest graph that is equal on the box out, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from decascade.bounds import Box, Certificate, prove
from decascade.bounds.prove import Progress
from decascade.cost import Cost
from decascade.ir.graph import Graph, Node
from decascade.regions.candidates import Options
from decascade.regions.linearise import Change, Linearised, linearise, restored
from decascade.regions.merge import Cascade, merge_graph, sized


@dataclass(frozen=True, eq=False)
class Proven:
    """`graph`: the result.  `reference`: the user's graph with what was proved put in place, equal to the user's on the
    box and, unlike it, equal to the result on every input: what replacements are to be compared with."""

    graph: Graph
    reference: Graph
    cascades: tuple[Cascade, ...]
    certificate: Certificate
    linearised: Linearised

    @property
    def notes(self) -> tuple[str, ...]:
        """What was proved, in lines for the user; first the range, within which alone the result is equal."""
        c = self.certificate
        if not c.activations:
            return c.notes
        counts = ", ".join(f"{n} {what}" for what, n in sorted(c.channels.items()))
        valid = any(row.tier != "exact" and row.decision == "merged" for row in self.cascades)
        ends = "; ".join(f"{name} in [{_ends(b['lo'])}, {_ends(b['hi'])}]" for name, b in c.box.items())
        head = f"the result is equal to the model only for {ends}" if valid else f"nothing was merged by proof for {ends}"
        refused = (r.reason for r in self.linearised.refusals if "is not" in r.reason)
        return (*c.notes, f"{head}; activation channels: {counts}", *self.linearised.notes, *refused)


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


def merge_with(graph: Graph, certificate: Certificate, options: Options, progress: Progress | None = None) -> Proven:
    """The same from a certificate that is there already."""
    linearised = linearise(graph, certificate)
    merged, cascades = merge_graph(linearised.graph, options, progress)
    result = restored(merged, linearised, graph)
    deletions = [_deletion(graph, change, options) for change in linearised.changes if change.made]
    rows = tuple(_told(c, graph, linearised, certificate.tier) for c in (*deletions, *cascades))
    return Proven(result, linearised.graph, rows, certificate, linearised)


def _ends(bound: Any) -> str:
    return f"{bound:g}" if isinstance(bound, float) else "…"


def _deletion(graph: Graph, change: Change, options: Options) -> Cascade:
    """A row for channels that were deleted, at the cost of the layers as they were before and after this one change."""
    made = [n for n in change.graph.nodes if n.name in change.made]
    old = [n for n in change.before.nodes if n.name in change.replaced]
    return Cascade(
        tuple(n.name for n in old), "merged", "proven", change.words, "free", _cost(options, change.before, old),
        _cost(options, change.graph, made), old[0].inputs[0], old[-1].output, tuple(n.name for n in old),
        tuple(n.name for n in made),
    )


def _cost(options: Options, graph: Graph, nodes: Iterable[Node]) -> Cost:
    return options.target.segment_cost(tuple(nodes), sized(graph).tensors)


def _told(cascade: Cascade, graph: Graph, linearised: Linearised, tier: str) -> Cascade:
    """The row under the user's names, and under the certificate's tier where it rests on it."""
    by_name = {n.name: n.origin or (n.name,) for n in graph.nodes}

    def layers(names: Iterable[str]) -> tuple[str, ...]:
        old = (o for name in names for o in linearised.made.get(name, (name,)))
        return tuple(dict.fromkeys(layer for o in old for layer in by_name.get(o, (o,))))

    used = linearised.linear.union(linearised.made)
    rests = any(name in used for name in (*cascade.removed, *cascade.layers))
    removed = tuple(dict.fromkeys(o for name in cascade.removed for o in linearised.nodes.get(name, (name,))))
    return replace(cascade, layers=layers(cascade.layers), removed=removed, tier=tier if rests else cascade.tier)
