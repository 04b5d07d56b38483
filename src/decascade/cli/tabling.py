"""decascade table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from decascade.cli.app import app
from decascade.cli.options import Debug, ModelPath, Quiet
from decascade.cli.show import progress_bar, say


@app.command()
def table(
    model: ModelPath,
    template: Annotated[Path, typer.Option(metavar="FOLDER", show_default=False, help="A new folder for layers.csv.")],
    int8: Annotated[bool, typer.Option("--int8", help="Make the .tflite files full-integer.")] = False,
    students: Annotated[bool, typer.Option("--students", help="List the layers of what compress could put in, too.")] = False,
    quiet: Quiet = False, debug: Debug = False,
) -> None:
    """List the layers whose cost on your own hardware decides what merge and compress do, with a model file of each.

    Run the files on the device, fill in the column cost of layers.csv (any unit that adds up), and merge with
    --target table:layers.csv. Rows that are left empty are never chosen; the model's own layers have to be there. For compress
    give --students here: there are many, and those that are measured are the ones that it chooses among.

    Examples:

        decascade table model.onnx --template board

        decascade merge model.onnx -o small.onnx --target table:board/layers.csv
    """
    from decascade import api

    with progress_bar(quiet) as progress:
        written = api.table_template(model, template, int8=int8, students=students, progress=progress)
    if not quiet:
        say(f"Written to {written}, one row for each file beside it: fill in its column cost")
