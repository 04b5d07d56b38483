"""Around the commands: errors become one line and an exit code, frameworks are hushed."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import partial
from typing import Any, Literal

import typer

from decascade.cli.app import app
from decascade.errors import DataWarning, DecascadeError

INTERRUPT, INTERRUPTED = 130, "interrupted; nothing was written"
"""What shells use after Ctrl-C; typer turns the exception into it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if "--debug" not in given:
        _keep_for_us("stderr")
        _keep_for_us("stdout")
    sys.exit(run(given))


def run(arguments: list[str]) -> int:
    """Run the command line; errors are one line on standard error, their exit code is returned."""
    debug = "--debug" in arguments
    if not debug:
        _hush()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", DataWarning)
            warnings.showwarning = partial(_warn, warnings.showwarning)
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
        return _usage(error), 2
    if isinstance(error, typer.Abort) and error.__cause__ is None:
        return INTERRUPTED, INTERRUPT
    error = error.__cause__ if isinstance(error.__cause__, EOFError) else error
    words = " ".join(str(error).split())[:300]
    return f"internal error, a bug in decascade: {type(error).__name__}: {words} (--debug shows the traceback)", 1


def _usage(error: Any) -> str:
    """typer's words, the nearest option where one is near, and where to read on."""
    message, context = error.format_message(), error.ctx
    command = "decascade" if context is None else context.command_path
    if hasattr(error, "option_name") and hasattr(error, "possibilities"):  # click's class for it has moved between versions
        given, parameters = error.option_name, getattr(getattr(context, "command", None), "params", ())
        known = [name for parameter in parameters for name in parameter.opts if name.startswith("--")]
        near = get_close_matches(given, known, 1, 0.5)
        message = f"there is no option {given}{f'; did you mean {near[0]}?' if near else ''}"
    return f"{message.rstrip('.')}{'' if message.endswith('?') else '.'} Try {command} --help."


def _warn(otherwise: Callable[..., None], message: Warning | str, category: type[Warning], *place: Any) -> None:
    """What is to be said of the data, in one line and at once: the work that follows may be long."""
    if not issubclass(category, DataWarning):
        return otherwise(message, category, *place)
    return print(f"decascade: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _fail(message: str, code: int) -> int:
    print(f"decascade: {' '.join(message.split())}", file=sys.stderr)
    return code


def _hush() -> None:
    """Frameworks' start-up chatter and warnings are not the user's answer."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def _keep_for_us(name: Literal["stdout", "stderr"]) -> None:
    """What native code writes to a standard stream goes nowhere: frameworks as they start, a solver that thinks aloud.
    Python's own still arrives."""
    with suppress(OSError, ValueError):
        stream = getattr(sys, name)
        stream.flush()
        ours = os.dup(stream.fileno())
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        errors = "backslashreplace" if name == "stderr" else stream.errors
        setattr(sys, name, os.fdopen(ours, "w", buffering=1, encoding=stream.encoding, errors=errors))
