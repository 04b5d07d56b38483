"""What data show of the activations: the range of every channel's input over all samples and positions.

That a channel stayed in one regime on N samples proves nothing.  If N independent samples of the inputs to come show no
exception, then with 95 % confidence at most 3/N of those inputs do ("rule of three", Hanley & Lippman-Hand 1983).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.bounds.certificate import ActivationRecord, Certificate, Status, Witness
from decascade.bounds.forward import Values, run
from decascade.bounds.geometry import part
from decascade.bounds.problem import activations
from decascade.bounds.regimes import regime_of, regimes
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import Activation, Foreign
from decascade.typing import F64, Progress

AT_ONCE = 8
"""Samples that are run together in float64."""


@dataclass(eq=False)
class _Extremes:
    """Lowest and highest value per channel, and at which sample and position."""

    lo: F64
    hi: F64
    where: dict[int, list[tuple[int, tuple[int, ...]]]]
    positions: int = 1

    @staticmethod
    def of(channels: int) -> _Extremes:
        nowhere = [(0, tuple[int, ...]()) for _ in range(channels)]
        return _Extremes(np.full(channels, np.inf), np.full(channels, -np.inf), {-1: nowhere, 1: nowhere.copy()})

    def add(self, x: Values, start: int) -> None:
        """x (C, *S, N), the first of its samples being number `start`."""
        flat = x.reshape(len(x), -1)
        self.positions = flat.shape[1] // x.shape[-1]
        for side, at, found in ((-1, flat.argmin(axis=1), self.lo), (1, flat.argmax(axis=1), self.hi)):
            values = flat[np.arange(len(flat)), at]
            for c in np.flatnonzero(~(values * side <= found * side)).tolist():
                *position, sample = (int(i) for i in np.unravel_index(int(at[c]), x.shape[1:]))
                found[c], self.where[side][c] = values[c], (start + sample, tuple(position))


@dataclass(eq=False)
class _Watch:
    """The extremes of the inputs of all activations."""

    nodes: Mapping[str, Node]
    found: dict[str, _Extremes] = field(default_factory=dict[str, _Extremes])
    start: int = 0

    def see(self, name: str, x: Values) -> None:
        if name in self.nodes:
            self.found.setdefault(name, _Extremes.of(len(x))).add(x, self.start)


def observe(graph: Graph, batches: Sequence[Mapping[str, NDArray[Any]]], progress: Progress | None = None) -> Certificate:
    """A certificate of tier "observed" from samples (N, C, *S) per graph input, run in float64.

    Activations behind an operation that has no meaning in NumPy are left out.  A witness's `samples` are numbers of samples.
    """
    begin, nodes = perf_counter(), _within_reach(graph)
    ahead = part(graph, [n.inputs[0] for n in nodes])
    watch = _Watch({n.inputs[0]: n for n in nodes})
    total = sum(_count(b) for b in batches)
    for batch in batches if nodes else ():
        for i in range(0, _count(batch), AT_ONCE):
            given = {n: np.moveaxis(batch[n][i : i + AT_ONCE], 0, -1).astype(np.float64) for n in ahead.inputs}
            run(ahead, given, watch.see)
            watch.start += min(AT_ONCE, _count(batch) - i)
            if progress is not None:
                progress("running the data through the model", watch.start / total)
    records = tuple(_record(n, watch.found[n.inputs[0]]) for n in nodes)
    return Certificate({}, records, perf_counter() - begin, {}, "observed", total)


def _count(batch: Mapping[str, NDArray[Any]]) -> int:
    return max(len(x) for x in batch.values())


def _within_reach(graph: Graph) -> list[Node]:
    blind = set[str]()
    for node in graph.nodes:
        unknown = isinstance(node.op, Foreign) and node.op.evaluate is None
        if unknown or blind.intersection(node.inputs):
            blind.update(node.outputs)
    return [n for n in activations(graph) if n.inputs[0] not in blind]


def _record(node: Node, seen: _Extremes) -> ActivationRecord:
    assert isinstance(node.op, Activation)
    pieces = regimes(node.op, len(seen.lo))
    regime = regime_of(pieces, seen.lo, seen.hi)
    status = tuple(Status.OBSERVED if r >= 0 else Status.WITNESSED for r in regime)
    held: list[tuple[int, int]] = [(c, int(r)) for c, r in enumerate(regime.tolist()) if r >= 0]
    ends = [min(float(seen.lo[c]) - pieces[r].lo, pieces[r].hi - float(seen.hi[c])) for c, r in held]
    witnesses = tuple(
        Witness(c, (float(seen.lo[c]), float(seen.hi[c])), (seen.where[-1][c][1], seen.where[1][c][1]),
                (seen.where[-1][c][0], seen.where[1][c][0]))
        for c in np.flatnonzero(regime < 0).tolist()
    )
    counts = {str(s): seen.positions * status.count(s) for s in dict.fromkeys(status)}
    names = tuple(p.name for p in pieces)
    return ActivationRecord(node.name, node.origin, node.op.kind, names, seen.lo, seen.hi, regime, status, counts,
                            min(ends) if ends else None, witnesses)
