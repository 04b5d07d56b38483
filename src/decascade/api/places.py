"""Where results may go: asked before any work is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from decascade.errors import OutputError, UsageError
from decascade.formats.base import Format
from decascade.output import check_place
from decascade.report.files import KINDS, PAGES


def check_output(form: Format, path: Path, source: Path | None, force: bool, report: Path | None = None) -> None:
    """That the result, and the report, can be put where they are asked for; before any work is done.

    Raises:
        OutputError: the extension is not one of the format's own, or the place is taken or cannot be written to.
    """
    if path.suffix.lower() not in form.extensions:
        known = " or ".join(form.extensions)
        raise OutputError(f"{path}: a {form.name} model stays one: give an output name that ends in {known}")
    sources = [] if source is None else [source]
    check_place(path, sources, force)
    if report is not None:
        check_report(report, [path, *sources], force)


def check_report(path: Path, others: Sequence[Path], force: bool) -> None:
    """The same for a report.

    Raises:
        UsageError: a report of another kind than JSON or HTML.
        OutputError: the place is taken or cannot be written to.
    """
    if path.suffix.lower() not in KINDS:
        raise UsageError(f"--report {path}: a report is JSON or a page: give a name that ends in .json or .html")
    if any(path.absolute() == other.absolute() for other in others):
        raise OutputError(f"--report {path} is the model itself: choose another name for the report")
    check_place(path, others, force)


def check_page(path: Path, inputs: Sequence[Path], force: bool) -> None:
    """That a page can be put there.

    Raises:
        UsageError: a name that is not a page's.
        OutputError: the place is taken or cannot be written to.
    """
    if path.suffix.lower() not in PAGES:
        raise UsageError(f"{path}: a report is drawn as a page: give an output name that ends in .html")
    check_place(path, inputs, force)
