"""Arguments and options that commands share, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MODEL = "A model: .onnx, .keras, .h5/.hdf5 or .pt2."
ModelPath = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL, show_default=False)]
Target = Annotated[str, typer.Option(metavar="NAME", help="What a replacement must not raise: macs or memory.")]
Policy = Annotated[
    str, typer.Option(help="profitable: merge where the target says it pays; always: the fewest layers, whatever they cost.")
]
Growth = Annotated[float, typer.Option(help="With always: how many times a cascade's parameters a merge may store.")]
Border = Annotated[str, typer.Option(help="exact: correct zero-padded borders; refuse: leave alone what would need it.")]
ReportPath = Annotated[
    Path | None, typer.Option("--report", metavar="FILE.json", help="Write the report as JSON.", show_default=False)
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Seed = Annotated[int, typer.Option(help="Seed of the random inputs that verify.")]
Range = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--input-range", metavar="LO HI", show_default=False,
        help="Values that the model's inputs take. merge goes through activations that are proved linear on it, and the result"
        " is then equal within this range only; the verification draws its inputs from it (default −1 1).",
    ),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="OUT", help="Where the merged model goes.", show_default=False)
]
Data = Annotated[
    Path | None, typer.Option(metavar="D.npz", help="Inputs in A's layout: .npz with x, or .npy.", show_default=False)
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
