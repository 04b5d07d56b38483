"""inspect: what there is to merge."""

from __future__ import annotations

from time import perf_counter

from decascade.api.common import Border, InputShape, Policy, Progress, merge_options, read_model
from decascade.api.reporting import cascade_facts, corrections, make_report
from decascade.cost import Target
from decascade.regions.merge import merge_graph
from decascade.report.facts import Report


def inspect(
    model: object, *, target: str | Target = "macs", policy: Policy = "profitable", border: Border = "exact",
    max_growth: float = 16.0, input_shape: InputShape | None = None, progress: Progress | None = None,
) -> Report:
    """Every cascade of a model: its layers, what `merge` would do with it, at what cost, and why not where it would not.

    `model`: a file or a live object (see `formats.registry`).  Nothing is run and nothing is written.  `input_shape`: for a
    live PyTorch module, which does not know the shapes of its inputs: (N, C, *S), or one by input name.

    Raises:
        FormatError: a model that cannot be read.
        UsageError: an option out of its domain.
    """
    start = perf_counter()
    options = merge_options(target, policy, border, max_growth)
    form, document = read_model(model, input_shape)
    graph, cascades = merge_graph(document.graph, options, progress)
    facts = tuple(cascade_facts(c, options.target.unit, None) for c in cascades)
    return make_report("inspect", model, form, document, graph, options.target, facts, None,
                   corrections(graph, cascades), start)
