"""What was proved and what was seen of every activation over a box; plain values that become JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.typing import F64


class Status(StrEnum):
    """What is known of a channel or neuron.

    PROVEN: it stays in one linear regime on the whole box.  MIXED: every position does, but not all in the same regime.
    WITNESSED: inputs in the box are known that take it to two regimes, or into a curved one.  OPEN: neither.
    OBSERVED: it stayed in one linear regime on all samples of some data, which proves nothing.
    """

    PROVEN = "proven"
    MIXED = "mixed"
    WITNESSED = "witnessed"
    OPEN = "open"
    OBSERVED = "observed"


SETTLED = (Status.PROVEN, Status.OBSERVED)
"""In one linear regime, each in its own sense."""


@dataclass(frozen=True)
class Witness:
    """One channel outside a linear regime: its pre-activation takes `values` at `position` on the inputs `samples`.

    `samples` index `Certificate.witnesses`.  The values were computed in float64 and again in float32 with the same
    verdict.  With the positions of one class (see `geometry`) the two may be at different positions: a shift of the
    picture takes the one to the other.
    """

    channel: int
    values: tuple[float, ...]
    positions: tuple[tuple[int, ...], ...]
    samples: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ActivationRecord:
    """One activation: per channel the bounds of its input over all positions, the regime it is proved to stay in
    (index into `regimes`, −1 for none) and its status; and how many neurons (channels × positions) are in which status.

    `margin`: the least distance of a proved channel's bounds from the end of its regime.  `classes`: how many channels ×
    classes of positions are in which status; over a box that is the same everywhere these are the neurons that differ, as all
    positions of a class see the same up to a shift of the picture (see `geometry`).
    """

    node: str
    layers: tuple[str, ...]
    kind: str
    regimes: tuple[str, ...]
    lo: F64
    hi: F64
    regime: NDArray[np.int8]
    status: tuple[Status, ...]
    neurons: Mapping[str, int]
    margin: float | None
    witnesses: tuple[Witness, ...] = ()
    classes: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def channels(self) -> int:
        return len(self.status)

    @property
    def counts(self) -> dict[str, int]:
        """Channels per status, the proven ones by regime ("proven-active")."""
        pairs = zip(self.status, self.regime, strict=True)
        names = [f"{s}-{self.regimes[r]}" if s in SETTLED else str(s) for s, r in pairs]
        return dict(Counter(names))

    @property
    def linear(self) -> bool:
        """Whether every channel is proved linear, or, in an observed certificate, was linear on all samples."""
        return all(s in SETTLED for s in self.status)

    def facts(self) -> dict[str, Any]:
        return {
            "node": self.node, "layers": list(self.layers), "kind": self.kind, "regimes": list(self.regimes),
            "channels": self.counts, "neurons": dict(self.neurons), "classes": dict(self.classes), "margin": self.margin,
            "regime": self.regime.tolist(), "status": [str(s) for s in self.status],
            "lo": _numbers(self.lo), "hi": _numbers(self.hi),
            "witnesses": [{"channel": w.channel, "values": list(w.values), "positions": [list(p) for p in w.positions],
                           "samples": list(w.samples)} for w in self.witnesses],
        }


@dataclass(frozen=True, eq=False)
class Certificate:
    """Everything known of a graph's activations over a box.

    `witnesses`: per graph input the inputs (N, C, *S) that the records' witnesses refer to, at the size `analysed`: the
    smallest picture with the same position classes.  `tier` "proven" rests on the box alone; "observed" on `samples`.
    """

    box: Mapping[str, Any]
    activations: tuple[ActivationRecord, ...]
    seconds: float
    analysed: Mapping[str, tuple[int, ...]]
    tier: str = "proven"
    samples: int = 0
    notes: tuple[str, ...] = ()
    witnesses: Mapping[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]], repr=False)

    @property
    def channels(self) -> dict[str, int]:
        """Channels of all activations per status."""
        return dict(Counter(str(s) for a in self.activations for s in a.status))

    @property
    def neurons(self) -> dict[str, int]:
        """Channels × positions of all activations per status."""
        total: Counter[str] = Counter()
        for a in self.activations:
            total.update(a.neurons)
        return dict(total)

    @property
    def classes(self) -> dict[str, int]:
        """Channels × classes of positions of all activations per status."""
        total: Counter[str] = Counter()
        for a in self.activations:
            total.update(a.classes)
        return dict(total)

    def decided(self, of: str = "channels") -> float:
        """The share of channels (or "neurons", or "classes") that is proven or witnessed; 1 where there is none."""
        counts = self.channels if of == "channels" else self.neurons if of == "neurons" else self.classes
        total = sum(counts.values())
        return 1.0 if not total else 1 - counts.get(Status.OPEN, 0) / total

    @property
    def bound(self) -> float | None:
        """With N samples that broke nothing, the 95 % bound 3/N on the share of inputs that would."""
        return 3 / self.samples if self.tier == "observed" and self.samples else None

    def facts(self) -> dict[str, Any]:
        """The certificate as JSON values; the witness inputs themselves stay out."""
        return {
            "tier": self.tier, "box": dict(self.box), "analysed": {k: list(v) for k, v in self.analysed.items()},
            "seconds": self.seconds, "channels": self.channels, "neurons": self.neurons, "classes": self.classes,
            "samples": self.samples,
            "notes": list(self.notes), "activations": [a.facts() for a in self.activations],
        }


def _numbers(values: F64) -> list[float | None]:
    """JSON has no infinity."""
    return [float(v) if np.isfinite(v) else None for v in values]
