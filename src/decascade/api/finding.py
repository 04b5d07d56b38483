"""What inspect and merge have in common: the cascades of a model under the tier that was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from decascade.api.common import InputRange, Progress, check_seconds, check_seed, choice
from decascade.bounds import Box, Certificate, prove
from decascade.bounds.observe import observe
from decascade.checking.data import check_samples, load_data
from decascade.checking.models import Subject
from decascade.checking.ranges import box_of, check_inside, ranges
from decascade.checking.samples import DEFAULT, Batch, Ranges, from_data
from decascade.checking.seals import Seal, digest, from_text
from decascade.errors import UsageError
from decascade.ir.graph import Graph
from decascade.regions.linearise import Claim
from decascade.regions.merge import Cascade, Options, merge_graph
from decascade.regions.proven import merge_with
from decascade.report.facts.report import ValidityFacts

Tier = Literal["exact", "proven", "observed"]


@dataclass(frozen=True, eq=False)
class Asked:
    """The tier that is asked for and what it rests on: nothing; an input range, for which there are `prove_seconds`; data.

    `tier` None: proven where there is a range, else exact.
    """

    tier: Tier | None = None
    input_range: InputRange | None = None
    data: object = None
    prove_seconds: float = 20.0
    seed: int = 0
    guard: bool = False

    def __post_init__(self) -> None:
        check_seconds("prove_seconds", self.prove_seconds)
        check_seed(self.seed)
        choice("tier", self.wanted, ("exact", "proven", "observed"))
        if self.wanted == "proven" and self.input_range is None:
            raise UsageError("tier proven needs an input range: proofs are over the inputs in it (--input-range LO HI)")
        if self.guard and self.input_range is None:
            raise UsageError("a guard needs an input range to tell what lies outside of it (--input-range LO HI)")
        if self.wanted == "observed" and self.data is None:
            raise UsageError("tier observed needs data, which activations are watched on (--data D.npz)")

    @property
    def wanted(self) -> Tier:
        return self.tier or ("exact" if self.input_range is None else "proven")


@dataclass(frozen=True, eq=False)
class Found:
    """`graph`: the result.  `reference`: what it is equal to on every input.  `limits`: what to draw inputs from; `batches`:
    the data, if there are some.  `claims`: what the equality with the model rests on."""

    graph: Graph
    reference: Graph
    cascades: tuple[Cascade, ...]
    limits: Ranges = DEFAULT
    box: Box | None = None
    batches: tuple[Batch, ...] = ()
    claims: tuple[Claim, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def observed(self) -> bool:
        """Whether something rests on the data alone."""
        return any(c.tier == "observed" for c in self.claims)

    def seal(self, subject: Subject, guard: str) -> Seal:
        """The certificate for the model's metadata; `guard`: the output that is one."""
        source = subject.document.source
        box = self.box.facts() if self.box is not None else {}
        return Seal(source.name if source is not None else "", digest(source), box, self.claims,
                    sum(map(_count, self.batches)) if self.observed else 0, guard)

    @property
    def validity(self) -> ValidityFacts | None:
        """Where alone the result is equal to the model; None for everywhere."""
        if not self.claims:
            return None
        names = {t: tuple(dict.fromkeys(c.node for c in self.claims if c.tier == t)) for t in ("proven", "observed")}
        samples = sum(map(_count, self.batches)) if self.observed else 0
        box = self.box.facts() if self.box is not None else {}
        return ValidityFacts("observed" if self.observed else "proven", box, names["proven"], names["observed"], samples,
                             3 / samples if samples else None)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of a model before anything is decided under a target: proofs and what data shows, made once."""

    limits: Ranges
    box: Box | None = None
    data: tuple[Batch, ...] = ()
    proofs: Certificate | None = None
    sights: Certificate | None = None
    notes: tuple[str, ...] = ()


def find(subject: Subject, options: Options, asked: Asked, progress: Progress | None) -> Found:
    """Every cascade of the model and what becomes of it.

    Raises:
        UsageError: a range or data that do not fit the model, or data outside the range.
    """
    return find_on(subject, options, evidence(subject, asked, progress), progress)


def evidence(subject: Subject, asked: Asked, progress: Progress | None) -> Evidence:
    """The proofs over the range, and what is linear on the data, as the tier asks for.

    Raises:
        UsageError: a range or data that do not fit the model, or data outside the range.
    """
    graph, notes = subject.graph, _earlier(subject)
    if asked.input_range is not None and any(s.guard for s in seals_of(subject)):
        raise UsageError("the model has a guard output, which proofs over a range would find to be constant: merge it without a"
                         " range, or merge the model that it was made of")
    box = None if asked.input_range is None else box_of(subject, asked.input_range)
    limits = DEFAULT if box is None else ranges(box)
    data = () if asked.data is None else tuple(samples_of(subject, asked.data))
    if box is not None and data:
        check_inside(list(data), box)
    if asked.wanted == "exact":
        return Evidence(limits, box, data, notes=notes)
    seconds, seed = asked.prove_seconds, asked.seed
    proofs = None if box is None else prove(graph, box, seconds, _joined(data), progress, seed, thorough=False)
    return Evidence(limits, box, data, proofs, observe(graph, data, progress) if asked.wanted == "observed" else None, notes)


def find_on(subject: Subject, options: Options, known: Evidence, progress: Progress | None) -> Found:
    """Every cascade of the model and what becomes of it under a target, given what is known."""
    graph, certificates = subject.graph, tuple(c for c in (known.proofs, known.sights) if c is not None)
    if not certificates:
        merged, cascades = merge_graph(graph, options, progress)
        return Found(merged, graph, cascades, known.limits, known.box, known.data, notes=known.notes)
    found = merge_with(graph, known.proofs, options, progress, known.sights)
    notes = (*known.notes, *(note for c in certificates for note in c.notes))
    return Found(found.graph, found.reference, found.cascades, known.limits, known.box, known.data, found.claims, certificates,
                 notes)


def samples_of(subject: Subject, data: object) -> list[Batch]:
    """The user's data in the graph's layout, in batches.

    Raises:
        UsageError: data that cannot be read, or do not fit the model.
    """
    given = load_data(data, subject.graph.inputs)
    for name, array in given.items():
        check_samples(name, array, subject.graph.tensors[name].dtype)
    arrays = {name: subject.from_native(name, array) for name, array in given.items()}
    return from_data(subject.graph, arrays)


def seals_of(subject: Subject) -> tuple[Seal, ...]:
    """The certificates that a model carries.

    Raises:
        FormatError: its metadata is damaged.
    """
    document = subject.document
    name = str(document.source) if document.source is not None else f"the {subject.format.name} model"
    return from_text(subject.format.annotation(document), name)


def _earlier(subject: Subject) -> tuple[str, ...]:
    """What is to be said of a model that is itself valid only somewhere."""
    from decascade.report.terminal.validity import box_text

    return tuple(
        f"the model was itself made of {s.model or 'a live model'} and equals that only for "
        f"{box_text(s.box) if s.box else 'inputs like its data'}" for s in seals_of(subject)
    )


def _count(batch: Batch) -> int:
    return max(len(x) for x in batch.values())


def _joined(batches: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]] | None:
    """All samples in one array per input."""
    return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]} if batches else None
