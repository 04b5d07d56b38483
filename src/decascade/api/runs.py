"""The folder of a compress run: what was asked, the plans, and where training stands, so that it can go on.

Whoever can write to the folder can change what is in it; nothing in it is believed without being checked, and no name in it
decides what is written outside of it.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from decascade.compression.plan.choice import Plan
from decascade.errors import DecascadeError, OutputError, UsageError

ASKED, PLAN, VERSION = "asked.json", "plan.json", 2
OWN_FILE = re.compile(
    r"(asked|command)\.json(\.part)?"
    r"|data/([0-9a-f]{24}|stream\d+)(\.rows|\.\d+\.part)"
    r"|(attempt-\d+\.\d{4}/)?(plan\.json(\.part)?|training/distill\.checkpoint(\.part)?)"
)
OWN_FOLDER = re.compile(r"data|(attempt-\d+\.\d{4}/)?training|attempt-\d+\.\d{4}")


@dataclass(frozen=True)
class RunFolder:
    """One run's folder; `path` None keeps nothing.  `made`: the folder was not there before the run.  `new`: the run begins
    with this command."""

    path: Path | None = None
    made: bool = False
    new: bool = False

    @staticmethod
    def open(path: str | Path | None, asked: Mapping[str, Any], remember: Mapping[str, str] | None = None) -> RunFolder:
        """The folder, made where it is not there yet; `remember`: further files for it, by name.

        Raises:
            UsageError: it is of a run that was asked something else, or was changed by others.
            OutputError: it cannot be made or written to.
        """
        if path is None:
            return RunFolder()
        folder = Path(path)
        now: dict[str, Any] = json.loads(json.dumps(asked, default=str))
        try:
            return _begun(folder, now, remember or {})
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(f"run folder {folder} cannot be used: {error.strerror or error}") from error

    @staticmethod
    @contextmanager
    def opened(
        path: str | Path | None, asked: Mapping[str, Any], remember: Mapping[str, str] | None = None
    ) -> Generator[RunFolder]:
        """The same for the time of a run.  One that begins here and fails for what it was given leaves nothing behind, so that
        the mended command can be run; one that was interrupted, or that could not write, can go on."""
        folder = RunFolder.open(path, asked, remember)
        try:
            yield folder
        except Exception as error:
            given = isinstance(error, DecascadeError) and not isinstance(error, OutputError)
            if folder.new and (given or not _there(folder.path, PLAN)):
                folder.remove()
            raise

    def inside(self, name: str) -> RunFolder:
        """A folder in it, for one of several attempts."""
        if self.path is None:
            return self
        return RunFolder(self._folder(name))

    @property
    def cache(self) -> Path | None:
        """Where decoded data is kept."""
        return self._folder("data")

    @property
    def training(self) -> Path | None:
        """Where training keeps its checkpoint."""
        return self._folder("training")

    def plan(self) -> Plan | None:
        """The plan that was made here.

        Raises:
            UsageError: it was damaged.
        """
        return Plan.load(self.path / PLAN) if self.path is not None and _there(self.path, PLAN) else None

    def keep(self, plan: Plan) -> None:
        if self.path is not None:
            try:
                _write(self.path / PLAN, plan.to_json())
            except OSError as error:
                raise OutputError(f"run folder {self.path} cannot be used: {error.strerror or error}") from error

    def remove(self) -> None:
        """What the run made in it; the folder itself where the run made it and nothing else is in it."""
        if self.path is not None:
            _clear(self.path)
            if self.made:
                with suppress(OSError):
                    self.path.rmdir()

    def _folder(self, name: str) -> Path | None:
        if self.path is None:
            return None
        try:
            (self.path / name).mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"run folder {self.path} cannot be used: {error.strerror or error}") from error
        return self.path / name


def is_own(folder: Path, path: Path) -> bool:
    """Whether a run in the folder would keep something of its own at that path."""
    try:
        name = path.absolute().resolve().relative_to(folder.absolute().resolve()).as_posix()
    except ValueError:
        return False
    return OWN_FILE.fullmatch(name) is not None or OWN_FOLDER.fullmatch(name) is not None


def read_json(path: Path, what: str) -> Any:
    """The content of a small file that a run has kept.

    Raises:
        UsageError: it is missing, no regular file, or no JSON.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise UsageError(f"{what} ({path.name} is no regular file): remove it")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{what} ({path.name} is missing)") from None
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{what} ({path.name} is broken): remove it") from None


def _begun(folder: Path, now: dict[str, Any], remember: Mapping[str, str]) -> RunFolder:
    if not folder.parent.is_dir():
        raise OutputError(f"run folder {folder}: there is no folder {folder.parent}: make it first")
    made = not os.path.lexists(folder)
    if made:
        folder.mkdir()
    _check_kinds(folder)
    if _there(folder, ASKED):
        return RunFolder(folder, _same(folder, now))
    if any(OWN_FILE.fullmatch(name) is None for name in _files(folder)):
        raise UsageError(f"run folder {folder} has other things in it: give an empty one, or a name that is free")
    _clear(folder)  # of a run that was killed as it began
    for name, content in remember.items():
        _write(folder / name, content)
    _write(folder / ASKED, json.dumps({"version": VERSION, "made": made, "asked": now}, indent=1))
    return RunFolder(folder, made, new=True)


def _same(folder: Path, now: dict[str, Any]) -> bool:
    """That the run there was asked the same; whether it made its folder."""
    broken = f"run folder {folder} holds no run of decascade"
    content: Any = read_json(folder / ASKED, broken)
    held = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    known: Any = held.get("asked")
    if not isinstance(known, dict) or held.get("version") != VERSION:
        raise UsageError(f"{broken} ({ASKED} is broken, or of another version): remove it")
    there = cast("dict[str, Any]", known)
    for name in (*now, *there):
        if there.get(name) != now.get(name):
            raise UsageError(f"run folder {folder} is of another run ({_differ(name, there, now)}): give the same, or another"
                             " folder")
    return held.get("made") is True


def _differ(name: str, there: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if name.endswith("_digest"):
        return f"the {name.removesuffix('_digest').replace('_', ' ')} has other content than there"
    return f"{name} = {str(there.get(name))[:80]} there, {str(now.get(name))[:80]} here"


def _check_kinds(folder: Path) -> None:
    """That what a run keeps are files and folders, no links that lead elsewhere, no pipes."""
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise UsageError(f"run folder {folder} is no folder, or a link to one: give another name")
    for name, mode in _entries(folder):
        file, inner = OWN_FILE.fullmatch(name), OWN_FOLDER.fullmatch(name)
        if (file and not stat.S_ISREG(mode)) or (inner and not stat.S_ISDIR(mode)):
            kind = "a link" if stat.S_ISLNK(mode) else "no regular file" if file else "no folder"
            raise UsageError(f"run folder {folder} was changed ({name} is {kind}): remove it")


def _entries(folder: Path, under: str = "") -> Generator[tuple[str, int]]:
    """Everything in a folder by its path in it, inner folders before what is in them; links are not followed."""
    for path in sorted((folder / under).iterdir()):
        name, mode = f"{under}{path.name}", path.lstat().st_mode
        yield name, mode
        if stat.S_ISDIR(mode):
            yield from _entries(folder, f"{name}/")


def _files(folder: Path) -> list[str]:
    """All but the folders that a run has itself."""
    return [name for name, mode in _entries(folder) if not (stat.S_ISDIR(mode) and OWN_FOLDER.fullmatch(name))]


def _clear(folder: Path) -> None:
    """Remove what a run made in it, and nothing else."""
    with suppress(OSError):
        for name, mode in reversed(list(_entries(folder))):
            with suppress(OSError):
                if stat.S_ISREG(mode) and OWN_FILE.fullmatch(name):
                    (folder / name).unlink()
                elif stat.S_ISDIR(mode) and OWN_FOLDER.fullmatch(name):
                    (folder / name).rmdir()


def _there(folder: Path | None, name: str) -> bool:
    return folder is not None and os.path.lexists(folder / name)


def _write(path: Path, text: str) -> None:
    """The whole file or none."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
