"""What commands print: the report on standard output, progress on standard error.

Everything that is printed goes through `emit` or `remark`.  Whoever reads along may go, or the disk behind may be full: files
that were asked for are written by then, and stay.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

from decascade.errors import OutputError
from decascade.printable import encodable, printable, printable_json

LINES = 30.0
"""Seconds between two lines of progress in a log."""


def show(found: Any, render: Callable[[], Any], quiet: bool, as_json: bool) -> None:
    """Print what was found: as JSON, as `render` draws it, or not at all.

    Raises:
        OutputError: standard output takes nothing more.
    """
    if as_json:
        emit(printable_json(found.to_json()), json=True)
    elif not quiet:
        draw(render())


def say(text: str) -> None:
    """Print one line that may name files."""
    from rich.text import Text

    draw(Text(printable(text)))


def draw(what: Any) -> None:
    """Print what rich draws, in colour where there is a terminal."""
    from decascade.report.terminal.report import console

    drawing = console()
    with drawing.capture() as held:
        drawing.print(what)
    emit(held.get())


def emit(text: str, json: bool = False) -> None:
    """Write text to standard output; what its encoding lacks is escaped.  A reader who has gone has read enough.

    Raises:
        OutputError: it cannot be written.
    """
    stream = sys.stdout
    try:
        stream.write(encodable(text, stream.encoding, json))
        stream.flush()
    except BrokenPipeError:
        _abandon(stream)
    except (OSError, ValueError) as error:
        _abandon(stream)
        told = getattr(error, "strerror", None) or error
        raise OutputError(f"standard output cannot be written ({told}); files that were asked for are written") from None


def remark(text: str) -> None:
    """Write a line to standard error, where there is one."""
    try:
        print(encodable(printable(text), sys.stderr.encoding), file=sys.stderr, flush=True)
    except (OSError, ValueError, AttributeError):
        _abandon(sys.stderr)


def _abandon(stream: Any) -> None:
    """What the stream still holds goes nowhere, so that Python does not try again as it ends."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _lines(last: float) -> Callable[[str, float], None]:
    """Tells a stage and how much of it is done, for logs; nothing where all is over before the first line is due."""

    def report(stage: str, share: float) -> None:
        nonlocal last
        if monotonic() - last >= LINES:
            last = monotonic()
            remark(f"{stage}: {share:.0%}")

    return report


@contextmanager
def progress_bar(quiet: bool) -> Generator[Callable[[str, float], None] | None]:
    """A bar on standard error while something takes long; where that is no terminal, a line every `LINES` seconds."""
    if quiet:
        yield None
        return
    if not sys.stderr.isatty():
        yield _lines(monotonic())
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress, TaskID

    bar, tasks = Progress(console=Console(stderr=True), transient=True), dict[str, TaskID]()

    def report(stage: str, share: float) -> None:
        if stage not in tasks:
            tasks[stage] = bar.add_task(escape(printable(stage)), total=1.0)
        bar.update(tasks[stage], completed=share)

    with suppress(OSError):  # the terminal may be gone
        bar.start()
    try:
        yield report
    finally:
        with suppress(OSError):
            bar.stop()
