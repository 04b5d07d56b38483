"""The folder of a compress run: what was asked, the plans, and where training stands, so that it can go on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decascade.compression.plan.choice import Plan
from decascade.errors import OutputError, UsageError

ASKED, PLAN = "asked.json", "plan.json"


@dataclass(frozen=True)
class RunFolder:
    """One run's folder; `path` None keeps nothing."""

    path: Path | None = None

    @staticmethod
    def open(path: str | Path | None, asked: Mapping[str, Any], remember: Mapping[str, str] | None = None) -> RunFolder:
        """The folder, made where it is not there yet; `remember`: further files for it, by name.

        Raises:
            UsageError: it is of a run that was asked something else.
            OutputError: it cannot be made or written to.
        """
        if path is None:
            return RunFolder()
        folder = Path(path)
        text = json.dumps(asked, indent=1, default=str)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / ASKED
            if not file.exists():
                if any(folder.iterdir()):
                    raise UsageError(f"run folder {folder} has other things in it: give an empty one, or a name that is free")
                for name, content in {**(remember or {}), ASKED: text}.items():
                    (folder / name).write_text(content, encoding="utf-8")
            known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise OutputError(f"run folder {folder} cannot be used: {error.strerror or error}") from error
        except UsageError:
            raise
        except ValueError as error:
            raise UsageError(f"run folder {folder} holds no run of decascade ({ASKED} is broken): remove it") from error
        now: dict[str, Any] = json.loads(text)
        other = [f"{k} = {known.get(k)!r} there, {now.get(k)!r} here" for k in (*now, *known) if known.get(k) != now.get(k)]
        if other:
            raise UsageError(f"run folder {folder} is of another run ({other[0]}): give the same options, or another folder")
        return RunFolder(folder)

    def inside(self, name: str) -> RunFolder:
        """A folder in it, for one of several attempts."""
        if self.path is None:
            return self
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        return RunFolder(folder)

    @property
    def cache(self) -> Path | None:
        """Where decoded data is kept."""
        return self._folder("data")

    @property
    def training(self) -> Path | None:
        """Where training keeps its checkpoint."""
        return self._folder("training")

    def plan(self) -> Plan | None:
        """The plan that was made here."""
        if self.path is None or not (self.path / PLAN).exists():
            return None
        return Plan.load(self.path / PLAN)

    def keep(self, plan: Plan) -> None:
        if self.path is not None:
            draft = self.path / f"{PLAN}.part"
            draft.write_text(plan.to_json(), encoding="utf-8")
            draft.replace(self.path / PLAN)

    def remove(self) -> None:
        """Everything in it, once its result is written."""
        if self.path is not None:
            _remove(self.path)

    def _folder(self, name: str) -> Path | None:
        if self.path is None:
            return None
        (self.path / name).mkdir(exist_ok=True)
        return self.path / name


def _remove(path: Path) -> None:
    with suppress(OSError):
        for item in sorted(path.rglob("*"), reverse=True):
            item.unlink() if not item.is_dir() else item.rmdir()
        path.rmdir()
