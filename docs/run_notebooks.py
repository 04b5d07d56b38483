"""Runs the notebooks of the documentation and puts their outputs into them.

    python docs/run_notebooks.py            both
    python docs/run_notebooks.py keras      one

A cell's outputs are what it prints and what its last expression is worth, a report as the page that notebooks show.  Needs
no notebook server; the result is what any would read.
"""

from __future__ import annotations

import ast
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NOTEBOOKS = HERE / "notebooks"
EXAMPLES = HERE.parent / "examples"


def run_notebook(notebook: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The notebook with the outputs of its cells, run one after the other in a folder that has the shipped models.

    Raises:
        Exception: whatever a cell raises.
    """
    for model in EXAMPLES.glob("digits.*"):
        shutil.copy(model, folder)
    known: dict[str, Any] = {"__name__": "__main__"}
    before = Path.cwd()
    os.chdir(folder)
    try:
        count = 0
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                count += 1
                cell["execution_count"], cell["outputs"] = count, outputs_of("".join(cell["source"]), known, count)
    finally:
        os.chdir(before)
    return notebook


def outputs_of(source: str, known: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """What a cell prints, and the worth of its last expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), known)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), known)
    found = list[dict[str, Any]]()
    if printed.getvalue():
        found.append({"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(keepends=True)})
    if value is not None:
        data: dict[str, Any] = {"text/plain": shown(value).splitlines(keepends=True)}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = [value._repr_html_()]
        found.append({"output_type": "execute_result", "execution_count": count, "metadata": {}, "data": data})
    return found


def shown(value: Any) -> str:
    """A report as its tables, anything else as Python shows it."""
    return str(value) if hasattr(value, "_repr_html_") else repr(value)


def main(names: Sequence[str]) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in names or [p.stem for p in sorted(NOTEBOOKS.glob("*.ipynb"))]:
        path = NOTEBOOKS / f"{name}.ipynb"
        with tempfile.TemporaryDirectory() as folder:
            done = run_notebook(json.loads(path.read_text(encoding="utf-8")), Path(folder))
        path.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
