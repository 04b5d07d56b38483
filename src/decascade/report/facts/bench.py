"""What `bench` measured, as plain values; the JSON of `--report` is these dataclasses."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from decascade.report.facts.report import json_text
from decascade.report.facts.shown import renderer


@dataclass(frozen=True)
class Spread:
    """Wall-clock microseconds of single inferences: how many, the extremes and quantiles, and the mean of the fastest
    quarter, which a busy machine disturbs least."""

    runs: int
    fastest: float
    least: float
    p25: float
    median: float
    p75: float
    p95: float


@dataclass(frozen=True)
class LayerCost:
    """One layer, or a layer and the activation behind it, measured by itself."""

    name: str
    layer: str
    cost: float


@dataclass(frozen=True)
class ModelCost:
    """A model under one target: its total, its layers one by one, their sum, and for times how single runs spread.

    `layers` is empty and `together` None where the target's costs do not add up, or a layer cannot be measured alone.
    """

    total: float
    layers: tuple[LayerCost, ...]
    together: float | None
    spread: Spread | None = None


@dataclass(frozen=True)
class TargetFacts:
    """One target: the models' costs, and how many times the second is below the first, with its 95 % interval (times only).

    predicted: what the sums over single layers say of that ratio.
    """

    target: str
    unit: str
    models: tuple[ModelCost, ...]
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    predicted: float | None = None


@dataclass(frozen=True)
class BenchFacts:
    """All that `bench` measured of one or two models."""

    models: tuple[str, ...]
    targets: tuple[TargetFacts, ...]
    versions: dict[str, str]
    machine: str
    seconds: float
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts, strings and numbers, as in the JSON file."""
        return asdict(self)

    def to_json(self) -> str:
        """As JSON text."""
        return json_text(self.to_dict())

    def __str__(self) -> str:
        return renderer().text(self)
