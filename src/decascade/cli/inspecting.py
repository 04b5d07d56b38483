"""decascade inspect."""

from __future__ import annotations

from pathlib import Path

from decascade.cli.app import app
from decascade.cli.options import (
    Border,
    Debug,
    Force,
    Growth,
    InputShapes,
    Json,
    ModelPath,
    Policy,
    ProveSeconds,
    Quiet,
    Range,
    RangeFile,
    ReportPath,
    Samples,
    Target,
    Tier,
    Witnesses,
    chosen_range,
    chosen_shape,
)
from decascade.cli.show import progress_bar, show


@app.command()
def inspect(
    model: ModelPath, target: Target = "macs", policy: Policy = "profitable", max_growth: Growth = 16.0,
    border: Border = "exact", tier: Tier = None, input_range: Range = None, input_range_file: RangeFile = None,
    input_shape: InputShapes = None,
    data: Samples = None, prove_seconds: ProveSeconds = 20.0, witnesses: Witnesses = None,
    report: ReportPath = None, force: Force = False, quiet: Quiet = False, as_json: Json = False, debug: Debug = False,
) -> None:
    """List every cascade: its layers, what merge would do with it, at what cost, and why not.

    With an input range also every activation: which of its channels are proved linear there, and which are not.

    Examples:

        decascade inspect model.onnx

        decascade inspect model.keras --policy always --report found.json

        decascade inspect model.onnx --input-range 0 1 --witnesses why_not.npz
    """
    from decascade import api
    from decascade.output import Item, write_all
    from decascade.report.files import write_report

    if report is not None:
        api.check_report(report, [Path(model)], force)
    with progress_bar(quiet) as progress:
        found = api.inspect(
            model, target=target, policy=policy, border=border, max_growth=max_growth, tier=tier,  # type: ignore[arg-type]
            input_range=chosen_range(input_range, input_range_file), input_shape=chosen_shape(input_shape), data=data,
            prove_seconds=prove_seconds, witnesses=witnesses, force=force, progress=progress,
        )
    if report is not None:
        write_all([Item(report, lambda path: write_report(found, path))])
    show(found, found.render, quiet, as_json)
