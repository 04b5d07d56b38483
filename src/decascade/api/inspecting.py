"""inspect: what there is to merge."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

from decascade.api.common import Border, InputRange, InputShape, Policy, Progress, merge_options, read_model
from decascade.api.finding import Asked, Tier, find
from decascade.api.reporting import cascade_facts, make_report
from decascade.api.showing import check_witnesses, with_witnesses
from decascade.checking.models import Subject
from decascade.cost import Target
from decascade.report.facts.report import Report


def inspect(
    model: object, *, target: str | Target = "macs", policy: Policy = "profitable", border: Border = "exact",
    max_growth: float = 16.0, tier: Tier | None = None, input_range: InputRange | None = None, data: object = None,
    input_shape: InputShape | None = None, prove_seconds: float = 20.0, witnesses: str | Path | None = None,
    force: bool = False, seed: int = 0, progress: Progress | None = None,
) -> Report:
    """Every cascade of a model: its layers, what `merge` would do with it, at what cost, and why not where it would not.

    `model`: a file or a live object (see `formats.registry`); it is not changed.  `tier`, `input_range`, `data`,
    `prove_seconds`: as for `merge`; the report then says of every activation what is known of it there.  `input_shape`: for a
    live PyTorch module, which does not know the shapes of its inputs: (N, C, *S), or one by input name.

    `witnesses`: where the inputs go that show which activations are not linear, by input name in the model's own layout
    (.npz); a witness in the report names the samples in it, and the positions at which its channel takes its values.
    It is the only file that is written; `force` allows it to be overwritten.

    Raises:
        FormatError: a model that cannot be read.
        UsageError: an option out of its domain.
        OutputError: the witnesses cannot be written where they are asked for.
    """
    start = perf_counter()
    options = merge_options(target, policy, border, max_growth, progress)
    asked = Asked(tier, input_range, data, prove_seconds, seed)
    subject = Subject(*read_model(model, input_shape))
    place = None if witnesses is None else Path(witnesses)
    if place is not None:
        check_witnesses(place, subject, input_range is not None, force)
    found = find(subject, options, asked, progress)
    if place is not None:
        found = with_witnesses(subject, found, place)
    facts = tuple(cascade_facts(c, options.target.unit, None) for c in found.cascades)
    return make_report("inspect", subject, found, options.target, facts, None, start)
