"""What happened, as plain values: the report's JSON is these dataclasses, field by field (see schema.json)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from decascade.report.facts.parts import CompressionFacts, ErrorMap, GraphFacts, Measure
from decascade.report.facts.shown import renderer

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
    map: ErrorMap | None = None


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
class ProofRow:
    """What a certificate claims of one activation, checked again: of `channels` so many are `confirmed` or `refuted`; `reason`
    why not all are confirmed.  `looked_at`: False where that needs data which is not given."""

    node: str
    layers: tuple[str, ...]
    tier: str
    channels: int
    confirmed: int
    refuted: int
    reason: str = ""
    looked_at: bool = True


@dataclass(frozen=True)
class ProofFacts:
    """A certificate checked again from nothing: over `box` (per input, channels first), observed claims on `samples`."""

    held: bool
    box: dict[str, Any]
    rows: tuple[ProofRow, ...]
    samples: int
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def complaint(self) -> str:
        """What is wrong in half a sentence; empty where every claim that was looked at holds."""
        wrong = [r for r in self.rows if r.looked_at and r.confirmed < r.channels]
        if not wrong:
            return ""
        r = wrong[0]
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        return f"{r.channels - r.confirmed} of {r.channels} channels of {r.node} are not confirmed: {r.reason}{more}"

    def to_json(self) -> str:
        """The facts as JSON text."""
        return to_json(self)

    def __str__(self) -> str:
        return renderer().text(self)


@dataclass(frozen=True)
class ValidityFacts:
    """Where alone a merged model is equal to the one that it was made of.

    `box`: per input the lowest and the highest values, channels first; empty where only data tell.  `proven`, `observed`: the
    activations that this rests on.  `samples`: of the data; `bound`: 3/N, the 95 % bound on the share of such inputs that
    breaks one observed activation.
    """

    tier: Literal["proven", "observed"]
    box: dict[str, Any]
    proven: tuple[str, ...]
    observed: tuple[str, ...]
    samples: int = 0
    bound: float | None = None


@dataclass(frozen=True)
class VerificationFacts:
    """Two models on the same inputs.  All errors are absolute maxima over samples and outputs, but for `max_rel`.

    max_abs, max_rel: the framework's outputs (without the framework: float64 outputs) of the two models; relative to
        the largest value of that output.
    tolerance: the difference that float32 rounding can explain on these inputs.
    by: "framework", or "float64" where the framework could not run both models; `unrun` says why.
    exact_error: the two models in float64; None where a model cannot be run in NumPy.
    exact_tolerance: the difference that rounding of the stored weights can explain there.
    original_fp32_error, merged_fp32_error: each model in its framework against the *original* in float64:
    root mean square over all outputs, each output measured by its largest value.
    proofs: where one of the models carries a certificate that the other one is needed to check.
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
    proofs: ProofFacts | None = None
    unrun: str = ""

    @property
    def where(self) -> str:
        """Where the outputs were computed that `max_abs` compares."""
        return "in the framework" if self.by == "framework" else f"in float64 ({self.unrun or 'no framework at hand'})"

    @property
    def where_in_short(self) -> str:
        """The same without what the framework said, which is among the notes."""
        return replace(self, unrun=self.unrun.partition(":")[0]).where

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

    def to_json(self) -> str:
        """The facts as JSON text."""
        return to_json(self)

    def __str__(self) -> str:
        return renderer().text(self)


@dataclass(frozen=True)
class Layers:
    """Number of convolution and dense layers; `corrections`: small convolutions beside them that only correct borders."""

    before: int
    after: int
    corrections: int = 0


@dataclass(frozen=True)
class Report:
    """All that a command found out.  `output` is None for `inspect` and before the result is saved.

    `graphs`, `compression` and `measures` are for drawing; an older report has none of them.
    """

    action: Literal["inspect", "merge", "compress"]
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
    validity: ValidityFacts | None = None
    certificates: tuple[dict[str, Any], ...] = ()
    outside: VerificationFacts | None = None
    schema: int = SCHEMA
    graphs: GraphFacts | None = field(default=None, repr=False)
    compression: CompressionFacts | None = field(default=None, repr=False)
    measures: tuple[Measure, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts, strings and numbers, as in the JSON file."""
        return json.loads(to_json(self))

    def to_json(self, path: Path | str | None = None) -> str:
        """The report as JSON text; also written to `path` where one is given."""
        text = to_json(self)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def to_html(self, path: Path | str | None = None) -> str:
        """The report as one page that needs no network; also written to `path` where one is given."""
        text = renderer().page(self)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def _repr_html_(self) -> str:
        """What notebooks show."""
        return renderer().inline(self)

    def render(self) -> RenderableType:
        """The report as something that rich prints in colour; `str(report)` is the same in plain text."""
        return renderer().rich(self)

    def __str__(self) -> str:
        return renderer().text(self)


def to_json(facts: Report | VerificationFacts | ProofFacts) -> str:
    """Facts as JSON text; a number that is not finite, which JSON lacks, becomes null."""
    return json_text(asdict(facts))


WIDTH = 120


def json_text(value: Any) -> str:
    """JSON that a person can read: what fits on a line of 120 characters stands on one."""
    return _indented(_plain(value), "") + "\n"


def _indented(value: Any, indent: str) -> str:
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if not isinstance(value, dict | list) or len(indent) + len(line) <= WIDTH:
        return line
    deeper = indent + "  "
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value).items()
        items, ends = [f"{json.dumps(k, ensure_ascii=False)}: {_indented(v, deeper)}" for k, v in pairs], "{}"
    else:
        items, ends = [_indented(v, deeper) for v in cast("list[Any]", value)], "[]"
    inside = f",\n{deeper}".join(items)
    return f"{ends[0]}\n{deeper}{inside}\n{indent}{ends[1]}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in cast("dict[Any, Any]", value).items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in cast("list[Any]", value)]
    return None if isinstance(value, float) and not isfinite(value) else value
