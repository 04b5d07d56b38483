"""What commands print: the report on standard output, progress on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from time import monotonic
from typing import Any

LINES = 30.0
"""Seconds between two lines of progress in a log."""


def show(found: Any, render: Callable[[], Any], quiet: bool, as_json: bool) -> None:
    """Print what was found: as JSON, as `render` draws it, or not at all."""
    if as_json:
        print(found.to_json(), end="")
    elif not quiet:
        console().print(render())


def console() -> Any:
    from decascade.report.terminal.report import console

    return console()


def _lines(last: float) -> Callable[[str, float], None]:
    """Tells a stage and how much of it is done, for logs; nothing where all is over before the first line is due."""

    def report(stage: str, share: float) -> None:
        nonlocal last
        if monotonic() - last >= LINES:
            last = monotonic()
            print(f"{stage}: {share:.0%}", file=sys.stderr, flush=True)

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
    from rich.progress import Progress, TaskID

    with Progress(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, share: float) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=1.0)
            bar.update(tasks[stage], completed=share)

        yield report
