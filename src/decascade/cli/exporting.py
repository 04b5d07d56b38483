"""decascade export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from decascade.cli.app import app
from decascade.cli.options import Debug, Force, Json, ModelPath, Quiet, ReportPath, Seed
from decascade.cli.show import progress_bar, show


@app.command()
def export(
    model: ModelPath,
    output: Annotated[Path, typer.Option(
        "--output", "-o", metavar="OUT", show_default=False, help="The file to write: .tflite, .onnx, or .c.",
    )],
    int8: Annotated[bool, typer.Option("--int8", help="Full-integer, per channel (.tflite, .c); needs --data.")] = False,
    data: Annotated[Path | None, typer.Option(
        metavar="D.npz", show_default=False, help="Samples: .npz with x in MODEL's layout, and y for accuracies; or .npy.",
    )] = None,
    calibrate: Annotated[int, typer.Option(metavar="N", help="How many samples int8 ranges are taken from.")] = 200,
    equalise: Annotated[bool, typer.Option(help="For int8: scale channels across layers where the result is closer.")] = True,
    stream: Annotated[bool, typer.Option(help="Int8 C row by row, in a fraction of the RAM; else map by map.")] = True,
    report: ReportPath = None, seed: Seed = 0, force: Force = False, quiet: Quiet = False, as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a model as the file that a device eats, run that file, and say how it compares with the model.

    .tflite for LiteRT and TensorFlow Lite for Microcontrollers, .onnx, or .c: standalone C with a header and a test program
    beside it. With --int8, or for a MODEL that is an int8 .tflite file already, .c is C that executes the network row by row,
    byte for byte what TensorFlow Lite for Microcontrollers gives. If a float32 file were not the same function up to rounding,
    nothing would be written (exit code 3).

    Examples:

        decascade export model.keras -o model.tflite

        decascade export small.onnx -o small.tflite --int8 --data samples.npz --report how.json

        decascade export model.onnx -o net.c

        decascade export model.tflite -o net.c
    """
    from decascade import api
    from decascade.report.terminal.device import render_export

    with progress_bar(quiet) as progress:
        facts = api.export(
            model, output, int8=int8, data=data, calibrate=calibrate, equalise=equalise, seed=seed, force=force,
            stream=stream, report=report, progress=progress,
        )
    show(facts, lambda: render_export(facts), quiet, as_json)
