"""Decisions in words that a user understands.  Pure functions of what the partition found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from decascade.algebra.border import Kind
from decascade.cost import Cost, Target
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import Affine, Dense
from decascade.ir.ops.traits import folded_as, layer_of
from decascade.regions.candidates import Candidate
from decascade.regions.chains import Chain
from decascade.regions.lower import is_convolution, is_linear
from decascade.regions.partition import Block, Partition

WORDS = {
    "conv": "",
    "shift": ", the inner bias carried by a constant added to its input",
    "ones": ", the inner bias carried by a channel of ones",
    "map": ", the inner bias carried by a constant map",
    "tiles": ", one kernel per border class",
    "strips": ", corrected along the edges by thin convolutions",
    "transposed": "",
}


def merged_reason(nodes: Sequence[Node], chosen: Candidate, new: Sequence[Node]) -> str:
    """What a merge did: "3 layers -> one 5x5 convolution, one kernel per border class (9 convolutions)".

    A single layer that takes up what stands beside it is no merge of layers: "scale and shift folded into one 3x3
    convolution".
    """
    kernels = [n for n in new if layer_of(n.op) is not None]
    more = f" ({len(kernels)} convolutions)" if len(kernels) > 1 else ""
    if sum(map(is_convolution, nodes)) == 1:
        words = dict.fromkeys(taken for n in nodes if (taken := folded_as(n.op)))
        return f"{' and '.join(words) or 'neighbours'} folded into one {_kind(chosen, new)}{WORDS[chosen.form]}{more}"
    return f"{len(nodes)} layers -> one {_kind(chosen, new)}{WORDS[chosen.form]}{more}"


def _kind(chosen: Candidate, new: Sequence[Node]) -> str:
    if chosen.form == "transposed":
        return f"{times(chosen.kernel)} transposed convolution"
    if any(isinstance(n.op, Dense) for n in new):
        return "dense layer"
    if all(isinstance(n.op, Affine) for n in new):
        return "scale and shift per channel"
    return f"{times(chosen.kernel)} convolution"


def times(kernel: Sequence[int]) -> str:
    return "x".join(map(str, kernel)) if kernel else "dense"


def amount(value: float, target: Target) -> str:
    return f"{value:,.0f} {target.unit}"


def left_reason(partition: Partition, blocks: Sequence[Block], before: Cost) -> tuple[str, Kind | Literal[""], Cost | None]:
    """Why several blocks stay several: (words, border kind, what one layer would cost)."""
    entry, exit_ = blocks[0].entry, blocks[-1].exit
    partition.merged(blocks)
    found, refusal = partition.known.get((entry, exit_)), partition.refusals.get((entry, exit_))
    if found is None:
        return (refusal.reason if refusal else "no single layer does the same"), "", None
    return dearer(found, before, partition.options.target), found.kind, found.cost


def dearer(found: Candidate, before: Cost, target: Target) -> str:
    """"one 3x3 convolution would cost 8.7x: 100 MACs -> 870 MACs"."""
    what = f"one {times(found.kernel)} {'transposed ' if found.form == 'transposed' else ''}convolution"
    what = "one dense layer" if not found.kernel else what
    if found.cost.value == before.value:
        stored = f"{found.cost.parameters:,} parameters instead of {before.parameters:,}"
        return f"{what} would cost the same {target.unit} and store {stored}"
    ratio = f"{found.cost.value / before.value:.2f}x" if before.value else "more"
    return f"{what} would cost {ratio}: {amount(before.value, target)} -> {amount(found.cost.value, target)}"


def apart(graph: Graph, chains: Sequence[Chain]) -> Iterator[tuple[tuple[Node, ...], str]]:
    """Convolutions that follow each other by linear operations alone and yet in no common chain, and what keeps them
    apart: the last convolution before the cut and the first behind it, with what is between."""
    home = {n.name: c for c in chains for n in c.nodes}
    for chain in chains:
        behind = next((i for i, n in enumerate(chain.nodes) if is_convolution(n)), None)
        before = graph.producer.get(chain.units[0].entry)
        if behind is None or before is None:
            continue
        ahead = home[before.name].nodes if before.name in home else (before,)
        at = ahead.index(before)
        start = next((i for i in range(at, -1, -1) if is_convolution(ahead[i])), None)
        reason = _why_apart(graph, before, chain)
        if start is not None and reason:
            yield (*ahead[start : at + 1], *chain.nodes[: behind + 1]), reason


def _why_apart(graph: Graph, before: Node, chain: Chain) -> str:
    if before.pinned:
        return before.pinned
    if not is_linear(before):
        return ""
    if before.output in graph.outputs:
        return f"the output of {_called(before)} is an output of the model and has to stay"
    inside = {n.name for n in chain.nodes}
    readers = sorted({_called(r) for r in graph.consumers[before.output] if r.name not in inside})
    return f"the output of {_called(before)} is also read by {', '.join(readers)} and has to stay" if readers else ""


def _called(node: Node) -> str:
    return node.origin[-1] if node.origin else node.name
