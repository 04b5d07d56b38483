"""What was found out about a file for a device, as plain values; the JSON of `--report` is these dataclasses."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from decascade.report.facts.report import VerificationFacts, json_text
from decascade.report.facts.shown import renderer


@dataclass(frozen=True)
class FidelityFacts:
    """The exported file against the model on the same samples.

    max_abs: the largest difference; max_rel: over the largest value of that output; rms_rel: root mean square difference
    over root mean square value, of the output where it is largest.  agreement: share of samples (of positions) whose
    largest channel of the first output is the same.  Accuracies where there were labels.
    """

    samples: int
    max_abs: float
    max_rel: float
    rms_rel: float
    agreement: float | None = None
    accuracy_before: float | None = None
    accuracy_after: float | None = None


@dataclass(frozen=True)
class MicroFacts:
    """The file in TensorFlow Lite for Microcontrollers: bytes of its arena (head: activations, tail: what persists).

    `equal`: share of outputs that LiteRT's reference kernels give alike; `largest`: the largest difference, in stored steps.
    `apart`: the first operation whose result differs on the first sample that does, with its place; empty where none does.
    """

    arena: int
    head: int
    tail: int
    samples: int
    equal: float
    largest: float
    apart: str = ""


@dataclass(frozen=True)
class ChipFacts:
    """Standalone C on an emulated microcontroller: instructions of one inference, bytes of flash (code and constants),
    of static RAM, and of the stack as far as it was used; the largest difference from onnxruntime on the test vector."""

    machine: str
    instructions: int
    flash: int
    ram: int
    stack: int
    max_abs: float


@dataclass(frozen=True)
class StreamFacts:
    """Streamed int8 C: bytes of RAM with rows pushed one by one (`rows`), and with the whole input in RAM (`whole`).

    On an emulated machine: instructions of one inference with the whole input, bytes of flash and of stack, which comes on top.
    """

    rows: int
    whole: int
    machine: str = ""
    instructions: int | None = None
    flash: int | None = None
    stack: int | None = None


@dataclass(frozen=True)
class EqualiseFacts:
    """What equalising ranges across layers did to the int8 file: root mean square error and agreement, without and with."""

    pairs: int
    rms_before: float
    rms_after: float
    agreement_before: float | None
    agreement_after: float | None
    kept: bool


@dataclass(frozen=True)
class ExportFacts:
    """All that `export` found out.  `bytes`: of each file written, by name.  `flash`: what the device stores of them."""

    model: str
    output: str
    kind: str
    files: dict[str, int]
    flash: int
    operations: dict[str, int]
    verification: VerificationFacts | None
    fidelity: FidelityFacts | None
    micro: MicroFacts | None
    chip: ChipFacts | None
    equalised: EqualiseFacts | None
    versions: dict[str, str]
    seconds: float
    notes: tuple[str, ...] = ()
    streamed: StreamFacts | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts, strings and numbers, as in the JSON file."""
        return asdict(self)

    def to_json(self) -> str:
        """As JSON text."""
        return json_text(self.to_dict())

    def __str__(self) -> str:
        return renderer().text(self)
