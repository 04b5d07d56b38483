"""What happened, as plain values: the report's JSON is these dataclasses, field by field (see schema.json)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from rich.console import RenderableType

SCHEMA = 1


@dataclass(frozen=True)
class CostFacts:
    """Cost under the target and stored parameters, now and afterwards (None where no replacement is known)."""

    before: float
    after: float | None
    unit: str
    parameters_before: int
    parameters_after: int | None


@dataclass(frozen=True)
class ErrorFacts:
    """A replacement against what it replaces, both in float64, the new weights as stored.

    `allowed` is the error that rounding the weights for storage can cause where `max_abs` was found; both are absolute.
    `max_rel` is relative to the largest output of the segment.
    """

    max_abs: float
    max_rel: float
    allowed: float
    samples: int


@dataclass(frozen=True)
class CascadeFacts:
    """One cascade: its layers as the user knows them, and what was decided about it and why."""

    layers: tuple[str, ...]
    decision: Literal["merged", "left"]
    tier: str
    reason: str
    border: Literal["free", "bias", "ring", ""]
    cost: CostFacts
    error: ErrorFacts | None = None


@dataclass(frozen=True)
class Worst:
    """Where two models differ most: the output, the index in it (first number: the sample), both values there."""

    output: str
    index: tuple[int, ...]
    a: float
    b: float


@dataclass(frozen=True)
class VerificationFacts:
    """Two models on the same inputs.  All errors are absolute maxima over samples and outputs, but for `max_rel`.

    max_abs, max_rel: the framework's outputs (without the framework: float64 outputs) of the two models; relative to
        the largest value of that output.
    tolerance: the difference that float32 rounding can explain on these inputs.
    by: "framework", or "float64" where the framework is not installed.
    exact_error: the two models in float64; None where a model cannot be run in NumPy.
    exact_tolerance: the difference that rounding of the stored weights can explain there.
    original_fp32_error, merged_fp32_error: each model in its framework against the *original* in float64:
    root mean square over all outputs, each output measured by its largest value.
    """

    same: bool
    max_abs: float
    max_rel: float
    tolerance: float
    samples: int
    by: Literal["framework", "float64"]
    worst: Worst | None = None
    exact_error: float | None = None
    exact_tolerance: float | None = None
    original_fp32_error: float | None = None
    merged_fp32_error: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def fp32_ratio(self) -> float | None:
        """Float32 error of the merged model over the original's own; None where there is no float64 run or no error."""
        if not self.original_fp32_error or self.merged_fp32_error is None:
            return None
        return self.merged_fp32_error / self.original_fp32_error

    @property
    def complaint(self) -> str:
        """What is wrong in half a sentence; empty where the two are the same."""
        if self.same:
            return ""
        if self.max_abs <= self.tolerance and self.exact_error is not None and self.exact_tolerance is not None:
            return f"off by {self.exact_error:.3g} in float64, where rounding of weights explains {self.exact_tolerance:.3g}"
        where = f" at output {self.worst.output}{list(self.worst.index)}" if self.worst else ""
        return f"off by {self.max_abs:.3g}{where}, where rounding explains {self.tolerance:.3g}"

    def __str__(self) -> str:
        from decascade.report.terminal import verification_text

        return verification_text(self)


@dataclass(frozen=True)
class Layers:
    """Number of convolution and dense layers; `corrections`: small convolutions beside them that only correct borders."""

    before: int
    after: int
    corrections: int = 0


@dataclass(frozen=True)
class Report:
    """All that a command found out.  `output` is None for `inspect` and before the result is saved."""

    action: Literal["inspect", "merge"]
    model: str
    output: str | None
    target: str
    cost: CostFacts
    layers: Layers
    cascades: tuple[CascadeFacts, ...]
    verification: VerificationFacts | None
    versions: dict[str, str]
    seconds: float
    notes: tuple[str, ...] = ()
    schema: int = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts, strings and numbers, as in the JSON file."""
        return json.loads(to_json(self))

    def to_json(self, path: Path | str | None = None) -> str:
        """The report as JSON text; also written to `path` where one is given."""
        text = to_json(self)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def render(self) -> RenderableType:
        """The report as something that rich prints in colour; `str(report)` is the same in plain text."""
        from decascade.report.terminal import render

        return render(self)

    def __str__(self) -> str:
        from decascade.report.terminal import report_text

        return report_text(self)


def to_json(facts: Report | VerificationFacts) -> str:
    """Facts as JSON text; a number that is not finite, which JSON lacks, becomes null."""
    return json.dumps(_plain(asdict(facts)), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in cast("dict[Any, Any]", value).items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in cast("list[Any]", value)]
    return None if isinstance(value, float) and not isfinite(value) else value
