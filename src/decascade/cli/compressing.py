"""decascade compress."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decascade.cli.app import app
from decascade.cli.clock import left
from decascade.cli.options import (
    MODEL,
    Debug,
    Force,
    InputShapes,
    Json,
    Limits,
    Quiet,
    Range,
    RangeFile,
    ReportPath,
    chosen_range,
    chosen_shape,
)
from decascade.cli.quantities import numbers, seconds, value
from decascade.cli.remembering import COMMAND, SUFFIX, again, as_text, remembered
from decascade.cli.show import progress_bar, show
from decascade.errors import Interrupted, OutputError, UsageError

if TYPE_CHECKING:
    from decascade.api.compressing import CompressResult


@app.command()
def compress(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help=MODEL, show_default=False)] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="OUT", help="Where the result goes.", show_default=False)
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(metavar="D.npz", show_default=False,
                     help="Samples: .npz with x (and y), .npy, a folder of images; may be repeated."),
    ] = None,
    speedup: Annotated[float | None, typer.Option(help="Times cheaper in the target's unit.", show_default=False)] = None,
    budget: Annotated[float | None, typer.Option(help="Cost in the target's unit.", show_default=False)] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Points of accuracy that may be lost; needs labels.", show_default=False)
    ] = None,
    plan: Annotated[Path | None, typer.Option(metavar="PLAN.json", help="A plan made earlier.", show_default=False)] = None,
    target: Annotated[str, typer.Option(metavar="NAME", help="What cost is: macs.")] = "macs",
    time_limit: Annotated[
        str | None, typer.Option(metavar="20m", help="Time for everything: 90s, 20m, 1.5h.", show_default=False)
    ] = None,
    scale: Annotated[str, typer.Option(help="What data is multiplied with before the model sees it: 1/255.")] = "1",
    mean: Annotated[str, typer.Option(help="What is then subtracted: a number, or one per channel: 0.485,0.456,0.406.")] = "0",
    std: Annotated[str, typer.Option(help="What it is then divided by.")] = "1",
    loss: Annotated[str, typer.Option(help="How outputs are compared: kl (classes), mse (numbers), auto.")] = "auto",
    span: Annotated[int, typer.Option(help="Most layers that one student may replace.")] = 4,
    distil: Annotated[bool, typer.Option("--distil/--no-distil", help="Train the result against the original.")] = True,
    sweep: Annotated[bool, typer.Option("--sweep", help="Report what plans of other budgets lose before training.")] = False,
    run: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the run is kept until done (default OUT.run).", show_default=False)
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", show_default=False,
                                  help="Go on with an interrupted run; OUT.run needs nothing else, another one -o OUT.")
    ] = None,
    input_range: Range = None, input_range_file: RangeFile = None, input_shape: InputShapes = None, limit: Limits = None,
    report: ReportPath = None,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    force: Force = False, quiet: Quiet = False, as_json: Json = False, debug: Debug = False,
) -> None:
    """Replace segments, activations included, by cheaper students, and train the result against the original.

    Needs samples of the model's inputs, no labels. Segments are fitted in closed form, chosen under the budget by how far
    they move the model's output, and recovered by distillation. OUT is of the same format as MODEL.

    Examples:

        decascade compress model.h5 -o small.h5 --data images.npz --speedup 1.5 --time-limit 20m

        decascade compress model.onnx -o small.onnx --data photos/ --scale 1/255 --speedup 2

        decascade compress model.keras -o small.keras --data labelled.npz --max-drop 0.5

        decascade compress model.h5 -o small.h5 --data images.npz --speedup 1 --limit flash=64KiB

        decascade compress --resume small.keras.run
    """
    asked: dict[str, Any] = {
        "model": model, "output": output, "data": data, "speedup": speedup, "budget": budget, "max_drop": max_drop,
        "plan": plan, "target": target, "time_limit": time_limit, "scale": scale, "mean": mean, "std": std, "loss": loss,
        "span": span, "distil": distil, "sweep": sweep, "report": report, "seed": seed, "force": force,
        "input_range": chosen_range(input_range, input_range_file and input_range_file.absolute()), "input_shape": input_shape,
        "limit": limit,
    }
    if resume is not None:
        if model is not None:
            raise UsageError(f"--resume {resume} knows its model and its options: leave {model} out")
        asked, run = remembered(resume, output, report, force), resume
    _carry_out(asked, run, quiet, as_json)


def _carry_out(asked: dict[str, Any], run: Path | None, quiet: bool, as_json: bool) -> None:
    from decascade import api
    from decascade.api.runs import is_own
    from decascade.compression.data.batches import Scaling
    from decascade.formats.registry import format_of

    for name, option in (("model", "MODEL"), ("output", "--output"), ("data", "--data")):
        if not asked[name]:
            raise UsageError(f"{option} is missing: decascade compress MODEL -o OUT --data D.npz --speedup 1.5")
    output, report = Path(asked["output"]), None if asked["report"] is None else Path(asked["report"])
    api.check_output(format_of(asked["model"]), output, Path(asked["model"]), asked["force"], report)
    folder = Path(f"{output}{SUFFIX}") if run is None else run
    for place in (output, report):
        if place is not None and is_own(folder, place):
            raise UsageError(f"{place} is a file that the run keeps in {folder} itself: choose another name")
    goes_on = again(folder, output, report, asked["force"])
    scaling = Scaling(value(asked["scale"], "--scale"), numbers(asked["mean"], "--mean"), numbers(asked["std"], "--std"))
    try:
        with progress_bar(quiet) as progress:
            result = api.compress(
                asked["model"], [Path(p) for p in asked["data"]], speedup=asked["speedup"], budget=asked["budget"],
                max_drop=asked["max_drop"], plan=asked["plan"], target=asked["target"], loss=asked["loss"], span=asked["span"],
                scaling=None if scaling.idle else scaling, time_limit=left(seconds(asked["time_limit"], "--time-limit")),
                distilled=asked["distil"], sweep=asked["sweep"], input_range=asked.get("input_range"),
                input_shape=chosen_shape(asked.get("input_shape")), limit=asked.get("limit"), run=folder,
                remember={COMMAND: as_text(asked)}, seed=asked["seed"], progress=progress,
            )
            _save(result, output, asked["force"], report, goes_on)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; nothing was written; go on with: {goes_on}") from None
    result.done()
    show(result.report, result.report.render, quiet, as_json)


def _save(result: CompressResult, output: Path, force: bool, report: Path | None, goes_on: str) -> None:
    try:
        result.save(output, force=force, report=report)
    except OutputError as error:  # the work is not lost with the place
        kept = result.run.path is not None and result.run.path.is_dir()
        raise OutputError(f"{error}{f'; once that is mended go on with: {goes_on}' if kept else ''}") from error
