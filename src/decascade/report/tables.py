"""Tables and plain text of 80 columns, for every page of a report."""

from __future__ import annotations

import io

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table

WIDTH = 80


def plain_table() -> Table:
    """A table without a frame."""
    return Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))


def plain_text(what: RenderableType) -> str:
    """What rich would print, in plain text of 80 columns."""
    buffer = io.StringIO()
    Console(file=buffer, width=WIDTH, color_system=None, highlight=False, legacy_windows=False).print(what)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())
