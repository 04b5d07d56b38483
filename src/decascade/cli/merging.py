"""decascade merge."""

from __future__ import annotations

from pathlib import Path

from decascade.cli.app import app
from decascade.cli.options import (
    Border,
    Debug,
    Force,
    Growth,
    Guard,
    InputShapes,
    Json,
    Limits,
    ModelPath,
    Output,
    Policy,
    ProveSeconds,
    Quiet,
    Range,
    RangeFile,
    ReportPath,
    Samples,
    Seed,
    Target,
    Tier,
    chosen_range,
    chosen_shape,
)
from decascade.cli.show import progress_bar, show


@app.command()
def merge(
    model: ModelPath,
    output: Output,
    target: Target = "macs", policy: Policy = "profitable", max_growth: Growth = 16.0, border: Border = "exact",
    tier: Tier = None, input_range: Range = None, input_range_file: RangeFile = None, input_shape: InputShapes = None,
    data: Samples = None, guard: Guard = False, limit: Limits = None, prove_seconds: ProveSeconds = 20.0,
    report: ReportPath = None, seed: Seed = 0, force: Force = False, quiet: Quiet = False, as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Replace cascades by the cheapest layers that compute the same; verify the result; write it.

    OUT is of the same format as MODEL and is written even where nothing was worth merging. If the result were not the
    same function up to rounding, nothing would be written (exit code 3).

    Examples:

        decascade merge model.onnx -o small.onnx

        decascade merge model.keras -o small.keras --target memory --report what.json

        decascade merge model.h5 -o small.h5 --policy always --max-growth 4 --input-range 0 1
    """
    from decascade import api
    from decascade.formats.registry import format_of

    api.check_output(format_of(model), output, Path(model), force, report)
    with progress_bar(quiet) as progress:
        result = api.merge(
            model, target=target, policy=policy, border=border, max_growth=max_growth, tier=tier,  # type: ignore[arg-type]
            input_range=chosen_range(input_range, input_range_file), input_shape=chosen_shape(input_shape), data=data,
            guard=guard, limit=limit, prove_seconds=prove_seconds, seed=seed, progress=progress,
        )
        result.save(output, force=force, report=report)
    show(result.report, result.report.render, quiet, as_json)
