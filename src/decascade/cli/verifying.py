"""decascade verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from decascade.cli.app import app
from decascade.cli.options import MODEL, Data, Debug, Force, Quiet, Range, RangeFile, ReportPath, Seed, chosen_range
from decascade.cli.show import console, progress_bar
from decascade.errors import VerificationError


@app.command()
def verify(
    a: Annotated[str, typer.Argument(metavar="A", help=MODEL, show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="Another, of any of these formats.", show_default=False)],
    data: Data = None, input_range: Range = None, input_range_file: RangeFile = None, report: ReportPath = None,
    seed: Seed = 0, force: Force = False, quiet: Quiet = False, debug: Debug = False,
) -> None:
    """Are two models the same function up to rounding? The worst error, and where. Exit code 3 if not.

    Examples:

        decascade verify model.onnx small.onnx

        decascade verify model.keras model.onnx --data samples.npz
    """
    from decascade import api
    from decascade.output import Item, write_all
    from decascade.report.facts import to_json
    from decascade.report.terminal import render_verification

    if report is not None:
        api.check_report(report, [Path(a), Path(b)], force)
    with progress_bar(quiet) as progress:
        limits = chosen_range(input_range, input_range_file)
        found = api.verify(a, b, data=data, input_range=limits, seed=seed, progress=progress)
    if report is not None:
        write_all([Item(report, lambda path: path.write_text(to_json(found), encoding="utf-8"))])
    if not quiet:
        console().print(render_verification(found, (Path(a).name, Path(b).name)))
    if not found.same:
        raise VerificationError(f"{a} and {b} are not the same function: {found.complaint}")
