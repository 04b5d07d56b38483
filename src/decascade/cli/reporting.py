"""decascade report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from decascade.cli.app import app
from decascade.cli.options import Debug, Force, Quiet
from decascade.cli.show import draw

REPORT = "A report that --report FILE.json has written."
PAGE = "Where the page goes (.html); without it the report is printed."


@app.command()
def report(
    file: Annotated[Path, typer.Argument(metavar="REPORT.json", help=REPORT, show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="OUT.html", help=PAGE, show_default=False)
    ] = None,
    force: Force = False, quiet: Quiet = False, debug: Debug = False,
) -> None:
    """Draw an old report again: as one HTML page that needs no network, or in the terminal.

    Examples:

        decascade report what.json -o what.html

        decascade report what.json
    """
    from rich.text import Text

    from decascade import api
    from decascade.output import Item, write_all
    from decascade.report.facts.load import load_report
    from decascade.report.facts.report import Report
    from decascade.report.files import write_report

    if output is not None:
        api.check_page(output, [file], force)
    found = load_report(file)
    if output is not None:
        write_all([Item(output, lambda path: write_report(found, path, file.name))])
    elif not quiet:
        draw(found.render() if isinstance(found, Report) else Text(str(found)))
