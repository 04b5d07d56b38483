"""inspect: what there is to merge."""

from __future__ import annotations

from time import perf_counter

from decascade.api.common import Border, InputRange, InputShape, Policy, Progress, merge_options, read_model
from decascade.api.finding import Asked, Tier, find
from decascade.api.reporting import cascade_facts, make_report
from decascade.checking.models import Subject
from decascade.cost import Target
from decascade.report.facts import Report


def inspect(
    model: object, *, target: str | Target = "macs", policy: Policy = "profitable", border: Border = "exact",
    max_growth: float = 16.0, tier: Tier | None = None, input_range: InputRange | None = None, data: object = None,
    input_shape: InputShape | None = None, prove_seconds: float = 20.0, seed: int = 0, progress: Progress | None = None,
) -> Report:
    """Every cascade of a model: its layers, what `merge` would do with it, at what cost, and why not where it would not.

    `model`: a file or a live object (see `formats.registry`).  Nothing is written.  `tier`, `input_range`, `data`,
    `prove_seconds`: as for `merge`; the report then says of every activation what is known of it there.  `input_shape`: for a
    live PyTorch module, which does not know the shapes of its inputs: (N, C, *S), or one by input name.

    Raises:
        FormatError: a model that cannot be read.
        UsageError: an option out of its domain.
    """
    start = perf_counter()
    options = merge_options(target, policy, border, max_growth, progress)
    asked = Asked(tier, input_range, data, prove_seconds, seed)
    subject = Subject(*read_model(model, input_shape))
    found = find(subject, options, asked, progress)
    facts = tuple(cascade_facts(c, options.target.unit, None) for c in found.cascades)
    return make_report("inspect", subject, found, options.target, facts, None, start)
