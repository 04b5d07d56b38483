"""Folders for files on their way, and what becomes of those whose process was killed.

A folder is locked (flock, on the folder itself) for as long as its process lives; the system lets go of the lock however the
process ends. Whoever gets the lock of a folder with such a name has found one that nobody uses.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType

try:
    import fcntl
except ImportError:  # no such locks on this system: nothing is swept
    fcntl = None

HIDDEN, SHARED = ".decascade-scratch-", "decascade-scratch-"
"""What names begin with: beside a user's files, and in the folder for temporary ones."""
NAME = re.compile(r"\.?decascade-scratch-[a-z0-9_]{8}")


class Scratch:
    """A new folder in `parent` (None: where the system has temporary ones) that goes at the end of a `with`, or with `close`.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, parent: Path | None = None) -> None:
        self.parent = Path(tempfile.gettempdir()) if parent is None else parent
        sweep(self.parent)
        self.path, self._lock = _locked(self.parent, SHARED if parent is None else HIDDEN)

    def close(self) -> None:
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> str:
        return str(self.path)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def sweep(parent: Path) -> None:
    """Remove the folders in `parent` that processes which are gone have left."""
    if fcntl is None:
        return
    with suppress(OSError):
        for name in os.listdir(parent):
            if NAME.fullmatch(name):
                _sweep(parent / name)


def _sweep(path: Path) -> None:
    with suppress(OSError):
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if _lock(lock):
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)


def _locked(parent: Path, prefix: str) -> tuple[Path, int]:
    """A new folder and its lock; another one where a sweep was quicker."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
            taken = _lock(lock)
            if taken is None or (taken and _same(lock, path)):
                return path, lock
            os.close(lock)


def _lock(descriptor: int) -> bool | None:
    """Whether the lock was free; None where there are no locks, so that nobody can tell whose a folder is."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


def _same(descriptor: int, path: Path) -> bool:
    """Whether the folder that is held open is still there under its name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False
