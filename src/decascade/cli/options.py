"""Arguments and options that commands share, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from decascade.errors import UsageError

MODEL = "A model: .onnx, .keras, .h5/.hdf5 or .pt2."
ModelPath = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL, show_default=False)]
Target = Annotated[str, typer.Option(metavar="NAME", help=(
    "What a replacement must not raise: macs, memory, flash; measured: onnxruntime, litert, tflm, cortex-m; table:FILE.csv;"
    " or a sum, 1*litert + 0.001*flash."
))]
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
InputShapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape", metavar="1,3,64,64", show_default=False,
        help="Sizes of the input, batch first, where the model leaves them open (.onnx, .pt2); N or ? stays open. The result is"
        " for these sizes. With several inputs NAME:1,3,64,64, once for each.",
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
Witnesses = Annotated[
    Path | None,
    typer.Option(
        metavar="W.npz", show_default=False,
        help="With an input range: store the inputs that show which activations are not linear; the report names them.",
    ),
]
ProveSeconds = Annotated[float, typer.Option(metavar="S", help="Time for the proofs over the input range.")]
Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="OUT", help="Where the merged model goes.", show_default=False)
]
Data = Annotated[
    Path | None, typer.Option(metavar="D.npz", help="Inputs in A's layout: .npz with x, or .npy.", show_default=False)
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def chosen_shape(texts: list[str] | None) -> dict[str, tuple[int | None, ...]] | tuple[int | None, ...] | None:
    """The input shapes: one for the only input, or one per named input.

    Raises:
        UsageError: text that is no shape, a name twice, or several shapes of which one has no name.
    """
    if not texts:
        return None
    pairs = [(name, _sizes(text, sizes)) for text in texts for name, _, sizes in [text.rpartition(":")]]
    names = [name for name, _ in pairs]
    if len(pairs) == 1 and not names[0]:
        return pairs[0][1]
    if "" in names or len(set(names)) < len(names):
        raise UsageError(f"--input-shape {' --input-shape '.join(texts)}: give one per input, each as NAME:1,3,64,64")
    return dict(pairs)


def _sizes(text: str, sizes: str) -> tuple[int | None, ...]:
    items = [item.strip() for item in sizes.split(",")]
    if not all(item.isdecimal() or item in ("N", "?") for item in items):
        raise UsageError(f"--input-shape {text}: give numbers, the batch first, as in 1,3,64,64; N or ? stays open")
    return tuple(int(item) if item.isdecimal() else None for item in items)


def chosen_range(numbers: tuple[float, float] | None, file: Path | None) -> tuple[float, float] | Path | None:
    """The input range, which may be given in one of two ways.

    Raises:
        UsageError: in both.
    """
    if numbers is not None and file is not None:
        raise UsageError("--input-range and --input-range-file are two ways to give one thing: leave one out")
    return numbers if file is None else file
Limits = Annotated[
    list[str] | None,
    typer.Option("--limit", metavar="NAME=SIZE", show_default=False,
                 help="A cost that the result may not exceed; may be given again. flash=128KiB: bytes of the int8 TFLite file,"
                      " which is made and measured; memory=64KiB: activations in float32, no device's RAM (tflm=64KiB: the"
                      " arena of the int8 file, measured)."),
]
