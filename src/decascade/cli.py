"""The command line: typer over `api`, no logic.  Exit codes: 0 done, 1 a bug, 2 bad usage or input, 3 a promise not kept."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from decascade import __version__
from decascade.errors import DecascadeError, VerificationError

app = typer.Typer(
    name="decascade", no_args_is_help=True, add_completion=False, rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]}, pretty_exceptions_enable=False,
)

INTERRUPT, INTERRUPTED = 130, "interrupted; nothing was written"
"""What shells use after Ctrl-C; typer turns the exception into it."""

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


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Merges cascades of convolutions in trained CNNs, exactly, borders included, and only where it pays.

    Start with **decascade inspect model.onnx**: it changes nothing.
    """
    if version:
        print(f"decascade {__version__}")
        raise typer.Exit


@app.command()
def inspect(
    model: ModelPath, target: Target = "macs", policy: Policy = "profitable", max_growth: Growth = 16.0,
    border: Border = "exact", report: ReportPath = None, force: Force = False, quiet: Quiet = False, debug: Debug = False,
) -> None:
    """List every cascade: its layers, what merge would do with it, at what cost, and why not.

    Examples:

        decascade inspect model.onnx

        decascade inspect model.keras --policy always --report found.json
    """
    from decascade import api
    from decascade.output import Item, write_all

    if report is not None:
        api.check_report(report, [Path(model)], force)
    with _progress(quiet) as progress:
        found = api.inspect(
            model, target=target, policy=policy, border=border, max_growth=max_growth, progress=progress,  # type: ignore[arg-type]
        )
    if report is not None:
        write_all([Item(report, found.to_json)])
    _show(found, quiet)


@app.command()
def merge(
    model: ModelPath,
    output: Output,
    target: Target = "macs", policy: Policy = "profitable", max_growth: Growth = 16.0, border: Border = "exact",
    input_range: Range = None, report: ReportPath = None, seed: Seed = 0, force: Force = False, quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Replace cascades by the cheapest layers that compute the same; verify the result; write it.

    OUT is of the same format as MODEL and is written even where nothing was worth merging. If the result were not the
    same function up to rounding, nothing would be written (exit code 3).

    Examples:

        decascade merge model.onnx -o small.onnx

        decascade merge model.keras -o small.keras --target memory --report what.json

        decascade merge model.h5 -o small.h5 --policy always --max-growth 4 --input-range 0 1
    """
    from decascade import api
    from decascade.formats.registry import format_of

    api.check_output(format_of(model), output, Path(model), force, report)
    with _progress(quiet) as progress:
        result = api.merge(
            model, target=target, policy=policy, border=border, max_growth=max_growth,  # type: ignore[arg-type]
            input_range=input_range, seed=seed, progress=progress,
        )
        result.save(output, force=force, report=report)
    _show(result.report, quiet)


@app.command()
def verify(
    a: Annotated[str, typer.Argument(metavar="A", help=MODEL, show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="Another, of any of these formats.", show_default=False)],
    data: Data = None, input_range: Range = None, report: ReportPath = None, seed: Seed = 0, force: Force = False,
    quiet: Quiet = False, debug: Debug = False,
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
    with _progress(quiet) as progress:
        found = api.verify(a, b, data=data, input_range=input_range, seed=seed, progress=progress)
    if report is not None:
        write_all([Item(report, lambda path: path.write_text(to_json(found), encoding="utf-8"))])
    if not quiet:
        _console().print(render_verification(found, (Path(a).name, Path(b).name)))
    if not found.same:
        raise VerificationError(f"{a} and {b} are not the same function: {found.complaint}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if "--debug" not in given:
        _keep_stderr_for_us()
    sys.exit(run(given))


def run(arguments: list[str]) -> int:
    """Run the command line; errors are one line on standard error, their exit code is returned."""
    debug = "--debug" in arguments
    if not debug:
        _hush()
    try:
        code = app(arguments, prog_name="decascade", standalone_mode=False)
        return _fail(INTERRUPTED, INTERRUPT) if code == INTERRUPT else code or 0
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, INTERRUPT)
    except MemoryError as error:
        return _fail(f"out of memory: {error}", 2)
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _fail(*_told(error))


def _told(error: Exception) -> tuple[str, int]:
    """What to say of an error, and the exit code."""
    if isinstance(error, DecascadeError):
        return str(error), error.exit_code
    if hasattr(error, "format_message"):  # typer's own: a wrong option, a missing argument
        usage: Any = error
        return f"{usage.format_message()} Try decascade --help.", 2
    if isinstance(error, typer.Abort) and error.__cause__ is None:
        return INTERRUPTED, INTERRUPT
    error = error.__cause__ if isinstance(error.__cause__, EOFError) else error
    words = " ".join(str(error).split())[:300]
    return f"internal error, a bug in decascade: {type(error).__name__}: {words} (--debug shows the traceback)", 1


def _fail(message: str, code: int) -> int:
    print(f"decascade: {' '.join(message.split())}", file=sys.stderr)
    return code


def _hush() -> None:
    """Frameworks' start-up chatter and warnings are not the user's answer."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def _keep_stderr_for_us() -> None:
    """What frameworks' native code writes to standard error while it starts goes nowhere; Python's own still arrives."""
    with suppress(OSError, ValueError):
        ours = os.dup(sys.stderr.fileno())
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        sys.stderr = os.fdopen(ours, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")


def _show(found: object, quiet: bool) -> None:
    from decascade.report.facts import Report
    from decascade.report.terminal import render

    if not quiet and isinstance(found, Report):
        _console().print(render(found))


def _console() -> Any:
    from decascade.report.terminal import console

    return console()


@contextmanager
def _progress(quiet: bool) -> Generator[Callable[[str, float], None] | None]:
    """A bar on standard error while something takes long; nothing where that is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, TaskID

    with Progress(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, share: float) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=1.0)
            bar.update(tasks[stage], completed=share)

        yield report
