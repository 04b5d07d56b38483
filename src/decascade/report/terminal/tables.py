"""Tables and plain text of 80 columns, for every page of a report."""

from __future__ import annotations

import io

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

WIDTH = 80


def plain_table() -> Table:
    """A table without a frame."""
    return Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))


def indented(note: str) -> RenderableType:
    """A paragraph two columns in, all of its lines."""
    return Padding(Text(note), (0, 0, 0, 2))


def plain_text(what: RenderableType) -> str:
    """What rich would print, in plain text of 80 columns."""
    buffer = io.StringIO()
    plain = {"color_system": None, "highlight": False, "legacy_windows": False, "markup": False, "emoji": False}
    Console(file=buffer, width=WIDTH, **plain).print(what)  # type: ignore[arg-type]
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())
