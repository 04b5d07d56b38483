"""Measurements on disk: one JSON file that can be deleted at any time."""

from __future__ import annotations

import json
import os
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from decascade.errors import OutputError

VARIABLE = "DECASCADE_CACHE"


def cache_path() -> Path:
    """Where measurements are kept: $DECASCADE_CACHE, else decascade/measurements.json in the user's cache folder."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "decascade" / "measurements.json"


class Cache:
    """Numbers by what was measured (a meter with its tool's version) and on what (the signature of a run of layers).

    The file is read when it is first needed and written after every new measurement, beside its place and renamed into it;
    what another process wrote meanwhile stays.  A file that cannot be read is as good as none.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = cache_path() if path is None else path
        self._held: dict[str, dict[str, list[float]]] | None = None

    def get(self, meter: str, signature: str) -> tuple[float, float] | None:
        """Value and half width of its confidence interval, where they are known."""
        if self._held is None:
            self._held = self._read()
        found = self._held.get(meter, {}).get(_key(signature))
        return None if found is None else (found[0], found[1])

    def put(self, meter: str, signature: str, value: float, width: float) -> None:
        """Remember a measurement.

        Raises:
            OutputError: the file cannot be written.
        """
        held = self._read()
        held.setdefault(meter, {})[_key(signature)] = [value, width]
        self._held = held
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
                json.dump(held, file)
            os.replace(file.name, self.path)
        except OSError as error:
            raise OutputError(
                f"measurements cannot be kept in {self.path}: {error.strerror or error}; set {VARIABLE} to another file"
            ) from error

    def _read(self) -> dict[str, dict[str, list[float]]]:
        try:
            found: Any = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        kept = dict[str, dict[str, list[float]]]()
        for meter, rows in cast("dict[str, Any]", found).items() if isinstance(found, dict) else ():
            if isinstance(rows, dict):
                pairs = cast("dict[str, Any]", rows).items()
                kept[meter] = {key: [float(v) for v in row] for key, row in pairs if _is_pair(row)}
        return kept


def _is_pair(row: Any) -> bool:
    return isinstance(row, list) and [type(v) in (int, float) for v in cast("list[Any]", row)] == [True, True]


def _key(signature: str) -> str:
    return sha256(signature.encode()).hexdigest()[:24]
