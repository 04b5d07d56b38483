"""The one check that every path passes before it is opened: a pipe would wait for ever, a device never end."""

from __future__ import annotations

import stat
from pathlib import Path

from decascade.errors import DecascadeError, UsageError, nearest


def regular_file(
    path: str | Path, what: str = "", wanted: str = "file", error: type[DecascadeError] = UsageError
) -> Path:
    """The path of a regular file that is there and may be read.

    `what` stands before the path in messages ("data"), `wanted` is what should be given instead ("model file").

    Raises:
        error: it is missing, a folder, a pipe, a device or a socket, may not be read, or is no path at all.
    """
    path = Path(path)
    told = f"{what} {path}" if what else str(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise error(f"{told} is a folder: give the {wanted} in it")
        if not stat.S_ISREG(mode):
            raise error(f"{told} is not a regular file: give a {wanted}")
        with path.open("rb"):
            pass
    except DecascadeError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise error(f"{told} does not exist: check the name{nearest(path.name, beside(path))}") from None
    except OSError as problem:
        raise error(f"{told} cannot be read: {problem.strerror or problem}") from None
    except ValueError as problem:  # a name with a zero byte
        raise error(f"{what} {str(path)!r} is no file name: {problem}".strip()) from None
    return path


def beside(path: Path) -> list[str]:
    """Names of the files in the folder of one that is not there."""
    try:
        return [found.name for found in path.parent.iterdir()]
    except OSError:
        return []
