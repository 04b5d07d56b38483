"""The program itself, which the commands register with."""

from __future__ import annotations

from typing import Annotated

import typer

from decascade.cli.show import emit
from decascade.version import __version__

app = typer.Typer(
    name="decascade", no_args_is_help=True, rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]}, pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Merges cascades of convolutions in trained CNNs, exactly, borders included, and only where it pays.

    Start with **decascade inspect model.onnx**: it changes nothing.
    """
    if version:
        emit(f"decascade {__version__}\n")
        raise typer.Exit
