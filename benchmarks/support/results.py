"""Results on disk: JSON and one markdown table per script, and the state of runs that were interrupted."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from support.setup import PARTIAL, RESULTS, ROOT

PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "onnxsim", "onnxslim", "onnxscript", "openvino")


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": platform.machine(), "decascade": SOURCE}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def source_hash() -> str:
    """Names the state of the project's own code that was measured."""
    digest = sha256()
    for path in sorted((ROOT / "src").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def write_results(name: str, found: dict[str, Any], tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]],
                  notes: Sequence[str] = ()) -> None:
    """`results/NAME.json` and `results/NAME.md`; tables are (title, header, rows), printed as well."""
    RESULTS.mkdir(exist_ok=True)
    _write(RESULTS / f"{name}.json", json.dumps({**found, "versions": versions()}, indent=1) + "\n")
    _write(RESULTS / f"{name}.md", _markdown(name, tables, notes))
    console = Console(width=max(160, Console().width))
    for title, header, rows in tables:
        table = Table(*header, title=title, title_justify="left")
        for row in rows:
            table.add_row(*(cell.replace("**", "") for cell in row))
        console.print(table)
    for note in notes:
        console.print(note)


def _markdown(name: str, tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]], notes: Sequence[str]) -> str:
    lines = [f"# {name.replace('_', ' ')}", "", f"Written by `benchmarks/{name}.py`; figures in `{name}.json`.", ""]
    for title, header, rows in tables:
        lines += [f"## {title}", "", f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
        lines += [f"| {' | '.join(row)} |" for row in rows] + [""]
    return "\n".join([*lines, *notes]).rstrip() + "\n"


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


SOURCE = source_hash()
"""As the script started; what is edited meanwhile is not what is measured."""


class Partial:
    """What an interrupted run had done, by key; forgotten once the project's code or the options have changed."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self.path = PARTIAL / f"{name}.json"
        self.stamp = {"source": SOURCE, **options}
        self.done: dict[str, Any] = {}
        if self.path.exists():
            state = json.loads(self.path.read_text())
            if state["stamp"] == self.stamp:
                self.done = state["done"]

    def put(self, key: str, value: Any) -> None:
        self.done[key] = value
        PARTIAL.mkdir(exist_ok=True)
        _write(self.path, json.dumps({"stamp": self.stamp, "done": self.done}))

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)
