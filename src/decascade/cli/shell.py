"""Around the commands: errors become one line and an exit code, frameworks are hushed."""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import partial
from typing import Any, Literal

import typer

from decascade.cli import clock
from decascade.cli.app import app
from decascade.cli.show import remark
from decascade.errors import DataWarning, DecascadeError

OUTSIDE = frozenset(getattr(errno, name) for name in (
    "EACCES", "EDQUOT", "EFBIG", "EIO", "ELOOP", "EMFILE", "ENAMETOOLONG", "ENFILE", "ENOENT", "ENOSPC", "ENOTDIR", "EPERM",
    "EROFS", "ESTALE",
) if hasattr(errno, name))
"""What a file system says of its own state and of names that it was given."""
INTERRUPT, INTERRUPTED = 130, "interrupted; nothing was written"
"""What shells use after Ctrl-C; typer turns the exception into it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    _open_standard_streams()
    _heed_endings()
    if "--debug" not in given:
        _keep_for_us("stderr")
        _keep_for_us("stdout")
    clock.whole_program()
    code = run(given)
    # the collector would go through all that TensorFlow and PyTorch have made once more: 1.5 s, for nothing
    gc.freeze()
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run the command line; errors are one line on standard error, their exit code is returned."""
    clock.begin()
    debug = "--debug" in arguments
    if not debug:
        _hush()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", DataWarning)
            warnings.showwarning = partial(_warn, warnings.showwarning)
            code = app(arguments, prog_name="decascade", standalone_mode=False)
        return _fail(INTERRUPTED, INTERRUPT) if code == INTERRUPT else code or 0
    except SystemExit as end:  # rich's, where a help text has lost its reader
        return 0 if isinstance(end.__context__, BrokenPipeError) else int(end.code or 0)
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, INTERRUPT)
    except MemoryError as error:
        return _fail(f"out of memory: {error}", 2)
    except Exception as error:
        if debug:
            for line in traceback.format_exc().splitlines():
                remark(line)
        return _fail(*_told(error))


def _told(error: Exception) -> tuple[str, int]:
    """What to say of an error, and the exit code."""
    if isinstance(error, DecascadeError):
        return str(error), error.exit_code
    if hasattr(error, "format_message"):  # typer's own: a wrong option, a missing argument
        return _usage(error), 2
    if isinstance(error, typer.Abort) and error.__cause__ is None:
        return INTERRUPTED, INTERRUPT
    if isinstance(error, OSError) and error.errno in OUTSIDE and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}", 2
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
    return remark(f"decascade: warning: {' '.join(str(message).split())}")


def _fail(message: str, code: int) -> int:
    remark(f"decascade: {' '.join(message.split())}")
    return code


def _open_standard_streams() -> None:
    """Streams that were closed lead nowhere: else the first file to be opened would take their place, and what native code
    prints would go into it."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def _heed_endings() -> None:
    """A request to end, and a terminal that is gone, are as Ctrl-C; not where whoever started this has them ignored."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


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
        setattr(sys, name, os.fdopen(ours, "w", buffering=1, encoding=stream.encoding, errors="backslashreplace"))
