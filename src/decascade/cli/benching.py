"""decascade bench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from decascade.cli.app import app
from decascade.cli.options import Debug, Force, Json, ModelPath, Quiet, ReportPath
from decascade.cli.show import progress_bar, show
from decascade.errors import UsageError


@app.command()
def bench(
    model: ModelPath,
    other: Annotated[str | None, typer.Argument(metavar="[OTHER]", help="A second one beside it.", show_default=False)] = None,
    target: Annotated[str, typer.Option(metavar="NAMES", help="One target or several, with commas between them.")]
        = "onnxruntime",
    rounds: Annotated[int, typer.Option(metavar="N", help="Rounds of 30 runs at most; fewer where the ratio is known.")] = 20,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Draw the layers.", show_default=False)] = None,
    report: ReportPath = None, force: Force = False, quiet: Quiet = False, as_json: Json = False, debug: Debug = False,
) -> None:
    """What a model costs on a target, measured: in total, layer by layer, and beside another model.

    Whole models are run in turn on one thread; what is counted (macs, memory, flash, tflm, cortex-m) is exact.

    Examples:

        decascade bench model.onnx small.onnx

        decascade bench model.keras small.keras --target litert,tflm,flash --report costs.html
    """
    from decascade import api
    from decascade.output import Item, check_place, write_all
    from decascade.report.files import write_report
    from decascade.report.terminal.bench import plot_html, render_bench

    sources = [Path(m) for m in (model, other) if m is not None]
    if plot is not None:
        if plot.suffix.lower() != ".html":
            raise UsageError(f"--plot {plot}: give a name that ends in .html")
        check_place(plot, sources, force)
    if report is not None:
        api.check_report(report, sources, force)
    with progress_bar(quiet) as progress:
        facts = api.bench(model, other, target=[t.strip() for t in target.split(",")], rounds=rounds, progress=progress)
    items = list[Item]()
    if plot is not None:
        page = plot_html(facts)
        items.append(Item(plot, lambda path: path.write_text(page, encoding="utf-8")))
    if report is not None:
        items.append(Item(report, lambda path: write_report(facts, path)))
    write_all(items)
    show(facts, lambda: render_bench(facts), quiet, as_json)
