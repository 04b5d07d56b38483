"""The inputs that show an activation not to be linear, at the model's own size.

Proofs look at the smallest picture that has all kinds of positions of the model's own (`bounds.geometry`), and so do the
witnesses that they find.  Here such a picture is laid into one of full size, against each of its corners, the rest continued
from its edges; what is kept was run again there, and shows the activation's input to be what the witness says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.bounds import Box, Certificate
from decascade.bounds.certificate import ActivationRecord, Witness
from decascade.bounds.forward import Values, run
from decascade.bounds.geometry import part
from decascade.bounds.problem import numbered
from decascade.ir.graph import Graph

Inputs = dict[str, NDArray[Any]]
Corner = tuple[bool, ...]
"""Per spatial axis whether the picture lies at the far end."""
AT_ONCE = 16
CLOSE = 1e-3
"""Relative difference at which a value counts as the one looked for: both pictures were run in float32."""


@dataclass(frozen=True)
class _Wanted:
    """One value of one witness: entry `place` of its values, on one sample."""

    node: str
    channel: int
    place: int
    value: float


@dataclass(eq=False)
class _Found:
    """The pictures that are kept and, for every value that one of them shows, which and where."""

    pictures: list[Inputs] = field(default_factory=list[Inputs])
    shown: dict[_Wanted, tuple[int, tuple[int, ...]]] = field(default_factory=dict[_Wanted, "tuple[int, tuple[int, ...]]"])


def at_full_size(graph: Graph, certificate: Certificate) -> tuple[Certificate, Inputs]:
    """The certificate with witnesses that refer to the second result: inputs (K, C, *S) of the graph's own size.

    A witness of which some value is shown on no picture of full size is left out.
    """
    if not any(record.witnesses for record in certificate.activations):
        return certificate, {}
    graph = numbered(graph, Box.of(graph, certificate.box))
    tensors = {n.name: n.inputs[0] for n in graph.nodes if n.inputs}
    ahead = part(graph, [tensors[r.node] for r in certificate.activations])
    wanted, found = _wanted(certificate.activations), _Found()
    samples = sorted(wanted)
    for corner in _corners(ahead, certificate):
        for i in range(0, len(samples), AT_ONCE):
            some = [s for s in samples[i : i + AT_ONCE] if any(w not in found.shown for w in wanted[s])]
            if some:
                _look(ahead, [_laid(ahead, certificate, s, corner) for s in some], [wanted[s] for s in some], tensors, found)
    records = tuple(_referring(r, found) for r in certificate.activations)
    full = {name: np.stack([p[name] for p in found.pictures]) for name in ahead.inputs} if found.pictures else {}
    return replace(certificate, activations=records, witnesses=full), full


def _wanted(records: Sequence[ActivationRecord]) -> dict[int, list[_Wanted]]:
    """What is to be shown, by the sample that shows it on the small picture."""
    found = dict[int, list[_Wanted]]()
    for record in records:
        for witness in record.witnesses:
            for k, (value, sample) in enumerate(zip(witness.values, witness.samples, strict=True)):
                found.setdefault(sample, []).append(_Wanted(record.node, witness.channel, k, value))
    return found


def _corners(graph: Graph, certificate: Certificate) -> Iterator[Corner]:
    """Against which ends of the axes a picture may lie; the near ones alone where it fills them."""
    name = graph.inputs[0]
    small, full = (s[1:] for s in (certificate.witnesses[name].shape[1:], tuple(graph.shape(name) or ())[1:]))
    yield from product(*((False,) if a == b else (False, True) for a, b in zip(small, full, strict=True)))


def _laid(graph: Graph, certificate: Certificate, sample: int, corner: Corner) -> Inputs:
    """The sample's pictures in ones of full size."""
    found: Inputs = {}
    for name in graph.inputs:
        small = certificate.witnesses[name][sample]
        more = [int(n) - m for n, m in zip((graph.shape(name) or ())[2:], small.shape[1:], strict=True)]
        ends = corner if len(corner) == len(more) else (False,) * len(more)
        width = [(0, 0), *((n, 0) if far else (0, n) for n, far in zip(more, ends, strict=True))]
        found[name] = np.pad(small, width, mode="edge")
    return found


def _look(
    graph: Graph, pictures: Sequence[Inputs], wanted: Sequence[Sequence[_Wanted]], tensors: Mapping[str, str], found: _Found
) -> None:
    """Run the pictures, and keep those that show something that was not shown before."""
    by_tensor = dict[str, list[tuple[int, _Wanted]]]()
    for n, some in enumerate(wanted):
        for w in some:
            if w not in found.shown:
                by_tensor.setdefault(tensors[w.node], []).append((n, w))
    places = dict[int, int]()

    def see(name: str, x: Values) -> None:
        for n, w in by_tensor.get(name, ()):
            at = _nearest(x[w.channel, ..., n], w.value)
            if at is not None:
                if n not in places:
                    places[n] = len(found.pictures)
                    found.pictures.append(pictures[n])
                found.shown[w] = places[n], at

    run(graph, {name: np.stack([p[name] for p in pictures], -1).astype(np.float32) for name in graph.inputs}, see)


def _nearest(x: Values, value: float) -> tuple[int, ...] | None:
    """Where x comes close to a value, on the same side of zero."""
    gap = np.abs(x - value)
    at = np.unravel_index(int(gap.argmin()), x.shape) if x.shape else ()
    there = float(x[at])
    return tuple(int(i) for i in at) if abs(there - value) <= CLOSE * abs(value) and there * value >= 0 else None


def _referring(record: ActivationRecord, found: _Found) -> ActivationRecord:
    kept = list[Witness]()
    for witness in record.witnesses:
        keys = [_Wanted(record.node, witness.channel, k, v) for k, v in enumerate(witness.values)]
        if all(key in found.shown for key in keys):
            samples, positions = zip(*(found.shown[key] for key in keys), strict=True)
            kept.append(Witness(witness.channel, witness.values, tuple(positions), tuple(samples)))
    return replace(record, witnesses=tuple(kept))
