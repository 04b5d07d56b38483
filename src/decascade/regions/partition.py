"""Which contiguous runs of a chain become one layer: dynamic programming over partitions (DESIGN §3).

A chain of n units is cut into groups; a group of one unit stays as it is (a parallel unit then has the best partition
of its own branches), a larger one becomes the cheapest form of the segment.  Chains longer than `WINDOW` are solved
over groups of at most that many units, and again over the groups, until nothing changes: linear in the length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from decascade.cost import Cost
from decascade.ir.graph import Graph, Node
from decascade.ir.ops.traits import is_view
from decascade.regions.candidates import Candidate, Options, Segment, candidate
from decascade.regions.chains import Chain, Unit
from decascade.regions.lower import Refusal

WINDOW = 12


@dataclass(frozen=True, eq=False)
class Block:
    """A stretch of a chain with the best that was found for it: `merged` is what replaces it, or `parts` are the
    replacements inside it (none: it stays as it is)."""

    entry: str
    exit: str
    nodes: tuple[Node, ...]
    cost: Cost
    layers: int
    operations: int
    merged: Candidate | None = None
    parts: tuple[Block, ...] = ()

    @property
    def replacements(self) -> tuple[Candidate, ...]:
        if self.merged is not None:
            return (self.merged,)
        return tuple(c for part in self.parts for c in part.replacements)


@dataclass(frozen=True, eq=False)
class _Prefix:
    """The best partition of the first blocks of a chain: its totals, its last block, and what comes before that."""

    cost: Cost
    layers: int
    operations: int
    changed: int
    before: _Prefix | None
    last: Block | None

    def blocks(self) -> tuple[Block, ...]:
        found, prefix = list[Block](), self
        while prefix.last is not None and prefix.before is not None:
            found.append(prefix.last)
            prefix = prefix.before
        return tuple(reversed(found))


_START = _Prefix(Cost(0.0), 0, 0, 0, None, None)


@dataclass
class Partition:
    """Solves the chains of one graph.  `refusals` remembers why a segment has no replacement, by its two tensors; `unstored`
    those of them whose new weights the dtype does not hold."""

    graph: Graph
    sized: Graph
    options: Options
    refusals: dict[tuple[str, str], Refusal] = field(default_factory=dict[tuple[str, str], Refusal])
    known: dict[tuple[str, str], Candidate] = field(default_factory=dict[tuple[str, str], Candidate])
    unstored: dict[tuple[str, str], tuple[Segment, Refusal]] = field(
        default_factory=dict[tuple[str, str], tuple[Segment, Refusal]])

    def refuse(self, segment: Segment, refusal: Refusal) -> None:
        """Take back a candidate whose new weights cannot be stored."""
        ends = segment.entry, segment.exit
        self.known.pop(ends, None)
        self.refusals[ends], self.unstored[ends] = refusal, (segment, refusal)

    def unstored_within(self, nodes: Sequence[Node]) -> list[tuple[Segment, Refusal]]:
        """What was taken back among these nodes."""
        names = {n.name for n in nodes}
        return [found for found in self.unstored.values() if names.issuperset(n.name for n in found[0].nodes)]

    def solve(self, chain: Chain) -> tuple[Block, ...]:
        """The best partition of a chain, block by block."""
        blocks = tuple(self.alone(unit) for unit in chain.units)
        while True:
            better = self._round(blocks)
            if len(better) == len(blocks):
                return better
            blocks = better

    def alone(self, unit: Unit) -> Block:
        """A unit by itself: as it is, its branches at their best, or (a parallel one) as one layer."""
        nodes = unit.nodes
        if not unit.inner:
            return Block(unit.entry, unit.exit, nodes, self.cost(nodes), _layers(nodes), _layers(nodes))
        parts = tuple(block for chain in unit.inner for block in self.solve(chain))
        rest = tuple(n for n in nodes if not any(n in block.nodes for block in parts))
        cost = self.options.target.combine([*(b.cost for b in parts), self.cost(rest)])
        layers = sum(b.layers for b in parts) + _layers(rest)
        operations = sum(b.operations for b in parts) + _layers(rest)
        block = Block(unit.entry, unit.exit, nodes, cost, layers, operations, None, parts)
        whole = self.merged((block,))
        return whole if whole is not None and self.better(whole, block) else block

    def _round(self, blocks: tuple[Block, ...]) -> tuple[Block, ...]:
        """One pass of the dynamic programme: the best partition of the first j blocks, over its last group."""
        best: list[_Prefix] = [_START]
        for j in range(1, len(blocks) + 1):
            options = [self._longer(best[j - 1], blocks[j - 1])]
            for i in range(j - 2, max(-1, j - 1 - WINDOW), -1):
                merged = self.merged(blocks[i:j])
                if merged is not None:
                    options.append(self._longer(best[i], merged))
            best.append(min(options, key=self._rank))
        return best[-1].blocks()

    def _longer(self, prefix: _Prefix, block: Block) -> _Prefix:
        cost = self.options.target.combine([prefix.cost, block.cost])
        changed = prefix.changed + len(block.replacements)
        return _Prefix(cost, prefix.layers + block.layers, prefix.operations + block.operations, changed, prefix, block)

    def _rank(self, prefix: _Prefix) -> tuple[float, ...]:
        """What is minimised.  Of equals the one with fewer operations, then with fewer replacements, so that nothing is
        changed for nothing."""
        cost = (prefix.cost.value, prefix.cost.parameters, prefix.operations, prefix.changed)
        return (prefix.layers, *cost) if self.options.policy == "always" else cost

    def merged(self, blocks: Sequence[Block]) -> Block | None:
        """The blocks as one replacement, where there is one that may pay."""
        entry, exit_ = blocks[0].entry, blocks[-1].exit
        nodes = tuple(n for block in blocks for n in block.nodes)
        if (entry, exit_) not in self.known and (entry, exit_) not in self.refusals:
            found = candidate(self.graph, self.sized, Segment(entry, exit_, nodes), self.options)
            if isinstance(found, Refusal):
                self.refusals[entry, exit_] = found
            else:
                self.known[entry, exit_] = found
        found = self.known.get((entry, exit_))
        return None if found is None or not found.kind else Block(entry, exit_, nodes, found.cost, 1, found.operations, found)

    def better(self, a: Block, b: Block) -> bool:
        return self._rank(self._longer(_START, a)) < self._rank(self._longer(_START, b))

    def cost(self, nodes: Sequence[Node]) -> Cost:
        return self.options.target.segment_cost(nodes, self.sized.tensors)


def _layers(nodes: Sequence[Node]) -> int:
    """Operations that do something: a dropout or a flatten alone is no reason to write a layer anew."""
    return sum(not is_view(n.op) for n in nodes)
