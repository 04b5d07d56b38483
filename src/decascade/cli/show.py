"""What commands print: the report on standard output, progress on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any


def show(found: Any, render: Callable[[], Any], quiet: bool, as_json: bool) -> None:
    """Print what was found: as JSON, as `render` draws it, or not at all."""
    if as_json:
        print(found.to_json(), end="")
    elif not quiet:
        console().print(render())


def console() -> Any:
    from decascade.report.terminal import console

    return console()


@contextmanager
def progress_bar(quiet: bool) -> Generator[Callable[[str, float], None] | None]:
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
