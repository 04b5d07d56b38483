"""What follows from a certificate, before any merging: each activation is offered to the rewrites in turn.

Rules, in order (max pools whose winner is fixed have become linear before, see `fixed_pools`):
    DropLinear      every channel stays in one linear regime: the identity, a scale and shift per channel
    DeleteConstant  a channel that is constant (a dead ReLU, a clip at its end) leaves the layers on both of its sides;
                    what it was adds to the bias of the next layer (`deletion`)
    Bypass          channels that stay linear get a way of their own past those that do not, where that is cheaper (`bypass`)
Each is tried first with what is proved, then with what was observed on data, if that was asked for; a change keeps the
weaker of the two.

An activation that DropLinear made linear keeps its node's name.  Where no merge takes it up, `restored` puts the activation
back, so that nothing changes that does not pay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from decascade.bounds.certificate import ActivationRecord, Certificate, Status
from decascade.bounds.regimes import Regime, regimes
from decascade.ir.graph import Graph, Node
from decascade.ir.names import Names
from decascade.ir.ops import Activation, Affine, Identity, Op
from decascade.regions.lower import Refusal
from decascade.regions.storage import unstorable

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]
Tier = Literal["proven", "observed"]


@dataclass(frozen=True, eq=False)
class Change:
    """One rewrite that was made, in words, with the graph before and after it.

    `made`: new node → the node that it replaces, or is a part of.  `node`: what the activation is called now; `kept`: which of
    its channels it still has.  `claims`: the channels whose regime the change rests on.  `remark`: words for a merge that
    takes up one of the nodes `remarked`.
    """

    before: Graph
    graph: Graph
    node: str
    words: str
    claims: Ints
    made: Mapping[str, str] = field(default_factory=dict[str, str])
    kept: Ints | None = None
    tier: Tier = "proven"
    remark: str = ""
    remarked: frozenset[str] = frozenset()

    @property
    def replaced(self) -> frozenset[str]:
        return frozenset(self.made.values())


@dataclass(frozen=True)
class Claim:
    """What a change of the model rests on: these channels of one of the user's activations stay in these regimes.

    `names`: the regimes of the activation; `regime`: one index into them per entry of `channels`.
    """

    node: str
    layers: tuple[str, ...]
    kind: str
    tier: Tier
    names: tuple[str, ...]
    channels: tuple[int, ...]
    regime: tuple[int, ...]


class Rewrite(Protocol):
    """`record` tells of the channels that the node has now, in their order; `names` gives names to what is made."""

    def apply(self, graph: Graph, node: Node, record: ActivationRecord, names: Names) -> Change | Refusal: ...


@dataclass(frozen=True, eq=False)
class Linearised:
    """The graph after all rewrites.  `linear`: nodes that are linear now → what they were.  `made`: new node → layers that it
    stands for; `nodes`: new node → the user's nodes that it stands for.  `tiers`: what a changed or linear node rests on.
    `claims` under the name of the node that a claim comes with, "" where it does not hang on one.  `names`: of all nodes and
    tensors on the way."""

    graph: Graph
    linear: Mapping[str, Node]
    changes: tuple[Change, ...]
    made: Mapping[str, tuple[str, ...]]
    nodes: Mapping[str, tuple[str, ...]]
    tiers: Mapping[str, Tier]
    claims: tuple[tuple[str, Claim], ...]
    refusals: tuple[Refusal, ...]
    names: Names

    def upheld(self, merged: Graph) -> tuple[Claim, ...]:
        """The claims that the merged graph rests on: those of activations that were put back are none."""
        there = {n.name for n in merged.nodes}
        return tuple(claim for name, claim in self.claims if name not in self.linear or name not in there)


@dataclass(frozen=True)
class DropLinear:
    """An activation all of whose channels stay linear becomes Identity, or Affine with its slopes and shifts."""

    def apply(self, graph: Graph, node: Node, record: ActivationRecord, names: Names) -> Change | Refusal:
        op = node.op
        if not isinstance(op, Activation):
            return Refusal(f"{node.name} is no activation", node.name)
        if node.pinned:
            return Refusal(f"{node.name} stays: {node.pinned}", node.name)
        if not record.linear:
            return Refusal(_why_not(record), node.name, record.counts)
        nodes = [replace(n, op=line_op(op, record)) if n is node else n for n in graph.nodes]
        words = f"all {record.channels} channels stay linear ({_counts(record)})"
        return Change(graph, graph.with_nodes(nodes), node.name, words, np.arange(record.channels))


def linearise(
    graph: Graph, certificate: Certificate | None, rewrites: Sequence[Rewrite] = (DropLinear(),),
    observed: Certificate | None = None, selected: Mapping[str, tuple[Node, Claim]] | None = None,
) -> Linearised:
    """The graph that a certificate allows, before any merging; every activation gives a change or a refusal.

    `selected`: max pools that the caller has made linear already, and what the claims of that are.
    """
    work = _Work(graph, Names.of(graph), {n.name: n.origin or (n.name,) for n in graph.nodes})
    for name, (pool, claim) in (selected or {}).items():
        work.linear[name], work.tiers[name] = pool, "proven"
        work.claims.append((name, claim))
    seen = {record.node: record for record in observed.activations} if observed is not None else {}
    proven = {record.node: record for record in certificate.activations} if certificate is not None else {}
    for node in graph.nodes:
        chances: list[tuple[Tier, ActivationRecord | None]] = [
            ("proven", proven.get(node.name)), ("observed", seen.get(node.name))]
        name, alive = node.name, None
        for tier, record in chances:
            for rewrite in rewrites if record is not None else ():
                if name in work.linear or record is None:
                    break
                alive = np.arange(record.channels) if alive is None else alive
                found = work.tried(rewrite, name, only(record, alive), tier)
                if found is not None:
                    work.claim(found, record, alive)
                    name, alive = found.node, alive if found.kept is None else alive[found.kept]
    return work.done()


@dataclass(eq=False)
class _Work:
    """The graph so far and what was noted of the changes."""

    graph: Graph
    names: Names
    origins: Mapping[str, tuple[str, ...]]
    linear: dict[str, Node] = field(default_factory=dict[str, Node])
    changes: list[Change] = field(default_factory=list[Change])
    stands: dict[str, tuple[str, ...]] = field(default_factory=dict[str, "tuple[str, ...]"])
    tiers: dict[str, Tier] = field(default_factory=dict[str, Tier])
    claims: list[tuple[str, Claim]] = field(default_factory=list[tuple[str, Claim]])
    refusals: list[Refusal] = field(default_factory=list[Refusal])

    def tried(self, rewrite: Rewrite, name: str, record: ActivationRecord, tier: Tier) -> Change | None:
        node = next(n for n in self.graph.nodes if n.name == name)
        names = self.names.trial()
        found = rewrite.apply(self.graph, node, record, names)
        if isinstance(found, Change):
            kept = set(map(id, self.graph.nodes))
            found = unstorable([n for n in found.graph.nodes if id(n) not in kept], found.graph.tensors) or found
        if isinstance(found, Refusal):
            self.refusals.append(found)
            return None
        self.names = names
        self.take(replace(found, tier=tier), node)
        return self.changes[-1]

    def take(self, change: Change, node: Node) -> None:
        self.graph = change.graph
        self.changes.append(change)
        if not change.made:
            self.linear[node.name], self.tiers[node.name] = node, change.tier
        for new, old in change.made.items():
            self.stands[new] = self.stands.get(old, (old,))
            self.tiers[new] = weaker(change.tier, self.tiers.get(old))
        for old in change.replaced:
            self.stands.pop(old, None)

    def claim(self, change: Change, record: ActivationRecord, alive: Ints) -> None:
        channels = alive[change.claims]
        made = Claim(record.node, record.layers, record.kind, change.tier, record.regimes, tuple(channels.tolist()),
                     tuple(record.regime[channels].tolist()))
        self.claims.append((change.node if not change.made else "", made))

    def done(self) -> Linearised:
        made = {new: tuple(dict.fromkeys(layer for o in old for layer in self.origins.get(o, (o,))))
                for new, old in self.stands.items()}
        return Linearised(self.graph, self.linear, tuple(self.changes), made, self.stands, self.tiers, tuple(self.claims),
                          tuple(self.refusals), self.names)


def weaker(*tiers: str | None) -> Tier:
    """The tier of something that rests on several."""
    return "observed" if "observed" in tiers else "proven"


def restored(merged: Graph, linearised: Linearised) -> Graph:
    """The merged graph with the activations where no merge took up the linear node that stood for one."""
    return merged.with_nodes([linearised.linear.get(n.name, n) for n in merged.nodes])


def only(record: ActivationRecord, channels: Ints) -> ActivationRecord:
    """What the record says of some of its channels."""
    at: dict[int, int] = {int(c): i for i, c in enumerate(channels.tolist())}
    witnesses = tuple(replace(w, channel=at[w.channel]) for w in record.witnesses if w.channel in at)
    status = tuple(record.status[c] for c in at)
    return replace(record, lo=record.lo[channels], hi=record.hi[channels], regime=record.regime[channels], status=status,
                   witnesses=witnesses)


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


def line(pieces: tuple[Regime, ...], regime: NDArray[np.int8]) -> tuple[F64, F64]:
    """Slope and shift per channel of the regime it is in; NaN where it is in none."""
    slope, shift = np.full(len(regime), np.nan), np.full(len(regime), np.nan)
    for r, piece in enumerate(pieces):
        if piece.slope is not None:
            slope, shift = np.where(regime == r, piece.slope, slope), np.where(regime == r, piece.shift, shift)
    return slope, shift


def line_op(op: Activation, record: ActivationRecord) -> Op:
    """The activation on channels that all stay in one linear regime."""
    slope, shift = line(regimes(op, record.channels), record.regime)
    return Identity() if np.all(slope == 1) and not np.any(shift) else Affine(slope, shift)


def instead(nodes: Iterable[Node], new: Mapping[str, Sequence[Node]]) -> list[Node]:
    """The nodes with others in the places of some."""
    return [n for node in nodes for n in new.get(node.name, (node,))]
