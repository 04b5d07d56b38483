"""verify: are two models the same function; recheck: does a certificate hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from decascade.api.common import InputRange, InputShape, Progress, check_seed, read_model
from decascade.api.finding import samples_of, seals_of
from decascade.bounds import Box
from decascade.checking.guards import without_guard
from decascade.checking.models import Subject, compare
from decascade.checking.plan import plan, with_data
from decascade.checking.proofs import Effort, recheck
from decascade.checking.ranges import box_of, check_inside, ranges
from decascade.checking.samples import DEFAULT
from decascade.checking.seals import Seal, derived, digest, intersection
from decascade.errors import UsageError
from decascade.regions.linearise import Claim
from decascade.report.facts.load import from_dict, load_report
from decascade.report.facts.report import ProofFacts, Report, VerificationFacts


@dataclass(frozen=True, eq=False)
class _Pair:
    """Two models, and the certificates by which one is derived from the other: `base` is what these are about."""

    first: Subject
    second: Subject
    seals: tuple[Seal, ...]
    base: Subject | None

    @staticmethod
    def of(first: Subject, second: Subject) -> _Pair:
        mine, other = derived(seals_of(first), seals_of(second))
        base = first if not mine else second if not other else None
        bare = [_bare(first, mine), _bare(second, other)]
        return _Pair(bare[0], bare[1], tuple(s for s in (*mine, *other) if s.claims), base)


def _bare(subject: Subject, seals: Sequence[Seal]) -> Subject:
    """The model without the guards that it has beyond the other."""
    for name in (s.guard for s in reversed(seals) if s.guard):
        subject = without_guard(subject, name)
    return subject


def verify(
    a: object, b: object = None, *, data: object = None, input_range: InputRange | None = None,
    input_shape: InputShape | None = None, prove_seconds: float = 60.0, seed: int = 0, progress: Progress | None = None,
) -> VerificationFacts:
    """Whether two models, of whatever formats, are the same function up to rounding; the worst error and where.

    `data`: an array, a mapping of input names to arrays, a `.npz` file with `x` or the input names, or a `.npy` file, in
    the layout of `a`; without it random inputs from `input_range` (default −1 to 1), its corners and single pixels.
    `input_shape`: as for `inspect`.

    Where one of the models carries a certificate of being equal to the other within a range, that range is the default, and
    what the certificate claims is proved again from nothing, within `prove_seconds` (`proofs` of the result).  Then `b` may be
    left out if the model that `a` was made of lies beside it.

    Raises:
        FormatError: a model that cannot be read.
        UsageError: inputs or outputs that do not correspond, data that does not fit.
        VerificationError: `b` does not run on an input that `a` runs on.
    """
    check_seed(seed)
    _check_seconds(prove_seconds)
    first = Subject(*read_model(a, input_shape))
    first, second = (_origin(first), first) if b is None else (first, Subject(*read_model(b, input_shape)))
    pair, rng = _Pair.of(first, second), np.random.default_rng(seed)
    box = None if input_range is None else box_of(first, input_range)
    if box is None:
        box = intersection(first.graph, pair.seals)
    batches = None if data is None else samples_of(first, data)
    if box is not None and batches is not None:
        check_inside(batches, box)
    limits = DEFAULT if box is None else ranges(box)
    chosen = plan(first, limits, rng) if batches is None else with_data(first, batches)
    facts = compare(pair.first, pair.second, chosen, rng, progress)
    if not pair.seals:
        return facts
    effort = Effort(prove_seconds, seed, progress)
    return replace(facts, proofs=_proofs(pair, box, effort, batches))


def recheck_certificate(
    model: object, certificate: str | Path | Mapping[str, Any], *, data: object = None, input_range: InputRange | None = None,
    input_shape: InputShape | None = None, prove_seconds: float = 60.0, seed: int = 0, progress: Progress | None = None,
) -> ProofFacts:
    """Whether what a report claims of the activations of a model is so: everything is proved again from nothing.

    `certificate`: the JSON report of an `inspect` or `merge` with an input range, or its dictionary.  `input_range`: another
    range than the report's own.  `data`: samples on which observed claims are looked at again.

    Raises:
        FormatError: a model that cannot be read.
        UsageError: a report that holds no certificate, or one that does not fit the model.
    """
    check_seed(seed)
    _check_seconds(prove_seconds)
    subject = Subject(*read_model(model, input_shape))
    claims, box = _claims(certificate, subject)
    if input_range is not None:
        box = box_of(subject, input_range)
    batches = None if data is None else samples_of(subject, data)
    return recheck(subject.graph, claims, box, Effort(prove_seconds, seed, progress), batches)


def _check_seconds(seconds: float) -> None:
    if not seconds > 0:
        raise UsageError(f"prove_seconds = {seconds:g}: give a number of seconds above 0")


def _origin(merged: Subject) -> Subject:
    """The model that another one was made of, by its certificate, if it lies beside it unchanged."""
    seals, source = seals_of(merged), merged.document.source
    if not seals or source is None:
        raise UsageError("one model alone can only be checked where it is a file that carries a certificate: give two models, "
                         "or --certificate with a report")
    seal = seals[-1]
    place = source.parent / Path(seal.model).name if seal.model else None
    if place is None or not place.is_file() or digest(place) != seal.digest:
        what = f"{seal.model} (SHA-256 {seal.digest[:12]}…)" if seal.model else "a live model"
        raise UsageError(f"{source} was made of {what}, which does not lie beside it: give that model too")
    return Subject(*read_model(place))


def _proofs(pair: _Pair, box: Box | None, effort: Effort, batches: list[Any] | None) -> ProofFacts:
    seals, base = pair.seals, pair.base
    if base is None:
        note = "both models carry certificates of their own, about other models: nothing was proved again"
        return ProofFacts(True, {}, (), 0, 0.0, (note,))
    found = recheck(base.graph, seals[0].claims, box, effort, batches)
    notes = list(found.notes)
    if seals[0].digest and base.document.source is not None and digest(base.document.source) != seals[0].digest:
        name = base.document.source.name
        if not any(node.name == claim.node for node in base.graph.nodes for claim in seals[0].claims):
            note = f"{name} is not the file that the certificate names and has none of its activations: nothing was proved"
            return ProofFacts(True, {}, (), 0, 0.0, (note,))
        notes.append(f"{name} is not the file that the certificate names; its claims were looked at there all the same")
    notes += [f"the certificate about {s.model or 'a live model'}, made in between, was not looked at" for s in seals[1:]]
    return replace(found, notes=tuple(notes))


def _claims(certificate: str | Path | Mapping[str, Any], subject: Subject) -> tuple[list[Claim], Box | None]:
    """Everything that a report says is settled, and over which box."""
    report = from_dict(dict(certificate)) if isinstance(certificate, Mapping) else load_report(certificate)
    tables = report.certificates if isinstance(report, Report) else ()
    try:
        claims = [_claim(table["tier"], row) for table in tables for row in table["activations"]]
        given = next((table["box"] for table in tables if table["box"]), None)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"the report's certificate is damaged ({reason}): inspect the model again") from None
    claims = [c for c in claims if c.channels]
    if not claims:
        raise UsageError("the report claims nothing of any activation: give one of inspect or merge with an input range")
    return claims, None if given is None else Box.of(subject.graph, given)


def _claim(tier: str, row: Mapping[str, Any]) -> Claim:
    settled = [c for c, status in enumerate(row["status"]) if status in ("proven", "observed")]
    return Claim(
        str(row["node"]), tuple(map(str, row["layers"])), str(row["kind"]), "observed" if tier == "observed" else "proven",
        tuple(map(str, row["regimes"])), tuple(settled), tuple(int(row["regime"][c]) for c in settled),
    )
