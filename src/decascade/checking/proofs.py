"""The claims of a certificate, proved again from nothing on the model that they are about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from decascade.bounds import Box, Certificate, prove
from decascade.bounds.certificate import SETTLED, ActivationRecord
from decascade.bounds.geometry import part
from decascade.bounds.observe import observe
from decascade.checking.samples import Batch
from decascade.ir.graph import Graph
from decascade.regions.fixed_pools import MAX_POOL, fixed_winners
from decascade.regions.linearise import Claim
from decascade.report.facts.report import ProofFacts, ProofRow
from decascade.typing import Progress

SHARES = (1 / 16, 3 / 16, 3 / 4)
"""Of the time given, for one attempt after the other: most proofs need little of it."""


@dataclass(frozen=True)
class Effort:
    """What a proof may take: seconds, and the seed of its random inputs."""

    seconds: float = 60.0
    seed: int = 0
    progress: Progress | None = None


def recheck(
    graph: Graph, claims: Sequence[Claim], box: Box | None, effort: Effort, data: Sequence[Batch] | None = None
) -> ProofFacts:
    """Every claim, with how many of its channels hold again: by proof over the box, observed ones on `data`.

    Without data, observed claims are listed as not looked at.
    """
    start = perf_counter()
    proven, seen = ([c for c in claims if c.tier == tier] for tier in ("proven", "observed"))
    ahead = _ahead(graph, proven)
    proofs = None if box is None or not proven else _proved(ahead, proven, box, effort)
    sights = observe(graph, data, effort.progress) if data is not None and seen else None
    rows = tuple(_row(ahead, claim, proofs if claim.tier == "proven" else sights) for claim in claims)
    return ProofFacts(
        held=_held(rows), box=box.facts() if box is not None else {}, rows=rows,
        samples=sights.samples if sights is not None else 0, seconds=round(perf_counter() - start, 3),
        notes=proofs.notes if proofs is not None else (),
    )


def _held(rows: Iterable[ProofRow]) -> bool:
    return all(r.confirmed == r.channels for r in rows if r.looked_at)


def _ahead(graph: Graph, claims: Sequence[Claim]) -> Graph:
    """The graph up to the last node that something is claimed of."""
    names = {c.node for c in claims}
    return part(graph, [n.output for n in graph.nodes if n.name in names] or list(graph.outputs))


def _proved(graph: Graph, claims: Sequence[Claim], box: Box, effort: Effort) -> Certificate:
    """What is known of the activations; more time is taken only where a share of it did not do."""
    within, found = Box({name: box.intervals[name] for name in graph.inputs}), None
    for share in SHARES:
        found = prove(graph, within, share * effort.seconds, None, effort.progress, effort.seed, thorough=False)
        rows = [_row(graph, claim, found) for claim in claims]
        if _held(rows) or any(r.refuted for r in rows):
            break
    assert found is not None
    return found


def _row(graph: Graph, claim: Claim, found: Certificate | None) -> ProofRow:
    layers, channels = claim.layers or (claim.node,), len(claim.channels)
    if found is None:
        return ProofRow(claim.node, layers, claim.tier, channels, 0, 0, "not looked at again", looked_at=False)
    if claim.kind == MAX_POOL:
        taps = fixed_winners(graph, found).get(claim.node)
        winners: list[int] = [] if taps is None else taps.tolist()
        confirmed = _alike(claim, dict(enumerate(winners)))
        reason = "" if confirmed == channels else "another tap may win"
        return ProofRow(claim.node, layers, claim.tier, channels, confirmed, 0, reason)
    record = next((a for a in found.activations if a.node == claim.node), None)
    if record is None or record.channels <= max(claim.channels, default=0) or record.regimes != claim.names:
        return ProofRow(claim.node, layers, claim.tier, channels, 0, 0, "the model has no such activation")
    held = {c: int(r) for c, r in enumerate(record.regime.tolist()) if record.status[c] in SETTLED}
    confirmed = _alike(claim, held)
    refuted, reason = _against(claim, record)
    open_ = channels - confirmed - refuted
    return ProofRow(claim.node, layers, claim.tier, channels, confirmed, refuted,
                    reason or (f"{open_} channels could not be decided in the time given" if open_ else ""))


def _alike(claim: Claim, held: Mapping[int, int]) -> int:
    return sum(held.get(c) == r for c, r in zip(claim.channels, claim.regime, strict=True))


def _against(claim: Claim, record: ActivationRecord) -> tuple[int, str]:
    """How many channels are known to leave the regime that is claimed, and the first of them in words."""
    wrong = [c for c, r in zip(claim.channels, claim.regime, strict=True)
             if record.status[c] in SETTLED and int(record.regime[c]) != r]
    seen = {w.channel: w.values for w in record.witnesses}
    refuted = [c for c in claim.channels if c in seen or c in wrong]
    if not refuted:
        return 0, ""
    first = refuted[0]
    values = seen.get(first, (float(record.lo[first]), float(record.hi[first])))
    low, high = float(np.min(values)), float(np.max(values))
    return len(refuted), f"channel {first} takes {low:.4g} and {high:.4g}"
