"""Files are written beside their place and renamed into it: all of them, or none."""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from decascade.errors import OutputError
from decascade.scratch import Scratch

DIGITS = 16
"""Of a digest in a name."""
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FULL_WORDS = ("no space left", "file too large", "disk quota", "errno = 28", "errno = 27")


@dataclass(frozen=True)
class Item:
    """A file to be: its place, and what writes it to the path it is given."""

    path: Path
    write: Callable[[Path], object]


def check_place(path: Path, inputs: Sequence[Path], force: bool) -> None:
    """That a file can be put there, found out before any work is done.

    Raises:
        OutputError: it is an input, exists (without `force`), is no regular file, or its folder is missing or read-only.
    """
    folder = path.parent
    _check_name(path)
    for source in inputs:
        if path.exists() and source.exists() and path.samefile(source):
            raise OutputError(f"{path} is the input itself, which is never changed: choose another output name")
    if path.is_dir():
        raise OutputError(f"{path} is a folder: give a file name in it")
    if os.path.lexists(path) and not path.is_file():
        raise OutputError(f"{path} is not a regular file: choose another output name")
    if path.exists() and not force:
        raise OutputError(f"{path} exists: choose another name, or allow overwriting it with --force (force=True)")
    if not folder.is_dir():
        raise OutputError(f"{path}: there is no folder {folder}: make it first")
    _scratch(folder).close()


def _check_name(path: Path) -> None:
    """That the system takes such a name at all."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        shown = f"{str(path)[:40]}…" if len(str(path)) > 120 else str(path)
        told, size = getattr(error, "strerror", None) or error, len(os.fsencode(path.name))
        raise OutputError(f"{shown} cannot be written to: {told} (a name of {size} bytes): choose another name") from None


def side_name(name: str, digest: str) -> str:
    """What a file beside the one called `name` is called that holds a part of it: by a digest of its content, in hex."""
    return f"{name}.{digest[:DIGITS]}.data"


def write_all(items: Sequence[Item]) -> None:
    """Write every file beside its place, then rename all; on any failure nothing is left behind.

    A writer may make further files beside the one it is given (ONNX external data, named by `side_name`).  They are put in
    their places first, under names that only the same content can have, so that the one rename of the file itself makes the
    whole visible.  They are never removed: neither those of an earlier file, which any model anywhere may read, nor, where
    the rename fails, the new ones, since whether it failed cannot be told for sure after an interrupt.

    Raises:
        OutputError: a folder that cannot be written to, a full disk, another file of the name of one beside.
    """
    with ExitStack() as stack:
        staged = [(item, Path(stack.enter_context(_scratch(item.path.parent.resolve())))) for item in items]
        for item, folder in staged:
            _write(item, folder)
        for item, folder in staged:
            target = item.path.resolve()
            for side in sorted(p for p in folder.iterdir() if p.name != item.path.name):
                _placed(side, target.parent / side.name)
        for item, folder in staged:
            _replace(folder / item.path.name, item.path.resolve())


def _replace(source: Path, target: Path) -> None:
    try:
        os.replace(source, target)
    except OSError as error:
        raise _refused(target, error) from error


def _placed(source: Path, target: Path) -> None:
    """A file beside another one, put in its place; nothing where it is there already."""
    if os.path.lexists(target):
        if target.is_file() and not target.is_symlink() and filecmp.cmp(source, target, shallow=False):
            return
        raise OutputError(f"{target} is in the way, and is not what would be written there: move it, or choose another name")
    _replace(source, target)


def _scratch(folder: Path) -> Scratch:
    try:
        return Scratch(folder)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written to: {error.strerror or error}") from error


def _write(item: Item, folder: Path) -> None:
    place = folder / item.path.name
    try:
        item.write(place)
        for made in folder.iterdir():
            _settle(made)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise _refused(item.path, error) from error
    except Exception as error:
        # libraries wrap a full disk in errors of their own
        if any(words in str(error).lower() for words in FULL_WORDS) or shutil.disk_usage(folder).free == 0:
            raise _refused(item.path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) from error
        raise


def _settle(path: Path) -> None:
    """Down to the disk, which may only now find out that it is full; readable as a new file would be."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _refused(path: Path, error: OSError) -> OutputError:
    if error.errno in FULL or any(words in str(error).lower() for words in FULL_WORDS):
        return OutputError(f"{path}: the disk is full ({os.strerror(error.errno or errno.ENOSPC)}); nothing was written")
    return OutputError(f"{path} cannot be written: {error.strerror or error}; nothing was written")
