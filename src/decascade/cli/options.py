"""Arguments and options that commands share, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from decascade.errors import UsageError

MODEL = "A model: .onnx, .keras, .h5/.hdf5 or .pt2."
ModelPath = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL, show_default=False)]
Target = Annotated[str, typer.Option(metavar="NAME", help="What a replacement must not raise: macs or memory.")]
Policy = Annotated[
    str, typer.Option(help="profitable: merge where the target says it pays; always: the fewest layers, whatever they cost.")
]
Growth = Annotated[float, typer.Option(help="With always: how many times a cascade's parameters a merge may store.")]
Border = Annotated[str, typer.Option(help="exact: correct zero-padded borders; refuse: leave alone what would need it.")]
ReportPath = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE", help="Write the report: .json, or .html to look at.", show_default=False),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of tables.")]
Seed = Annotated[int, typer.Option(help="Seed of the random inputs that verify.")]
Range = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--input-range", metavar="LO HI", show_default=False,
        help="Lowest and highest value of the model's inputs. Activations that are proved linear on it are merged through;"
        " the result is then equal to the model within this range only. Verification draws its inputs from it (default −1 1).",
    ),
]
RangeFile = Annotated[
    Path | None,
    typer.Option(
        "--input-range-file", metavar="BOX.npz", show_default=False,
        help="The same from arrays lo and hi: one number per channel, or one per entry of an input in the model's own layout"
        " (for several inputs NAME.lo and NAME.hi).",
    ),
]
Tier = Annotated[
    str | None,
    typer.Option(
        metavar="TIER", show_default=False,
        help="exact; proven (the default with an input range): through activations that are proved linear on it; observed: also"
        " through those that were linear on all samples of --data, which proves nothing.",
    ),
]
Samples = Annotated[
    Path | None,
    typer.Option("--data", metavar="D.npz", help="Samples of the model's inputs: .npz with x, or .npy.", show_default=False),
]
Guard = Annotated[
    bool,
    typer.Option("--guard", help="Add an output, the last: 0 for inputs within the range, above 0 for all others."),
]
ProveSeconds = Annotated[float, typer.Option(metavar="S", help="Time for the proofs over the input range.")]
Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="OUT", help="Where the merged model goes.", show_default=False)
]
Data = Annotated[
    Path | None, typer.Option(metavar="D.npz", help="Inputs in A's layout: .npz with x, or .npy.", show_default=False)
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def chosen_range(numbers: tuple[float, float] | None, file: Path | None) -> tuple[float, float] | Path | None:
    """The input range, which may be given in one of two ways.

    Raises:
        UsageError: in both.
    """
    if numbers is not None and file is not None:
        raise UsageError("--input-range and --input-range-file are two ways to give one thing: leave one out")
    return numbers if file is None else file
