"""The notebooks run, and what they hold as outputs is what they print now."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from docs.pages import DOCS

FRAMEWORK = {"keras": "keras", "pytorch": "torch"}
spec = importlib.util.spec_from_file_location("run_notebooks", DOCS / "run_notebooks.py")
assert spec is not None
assert spec.loader is not None
runner: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runner)


def words(notebook: dict[str, Any]) -> list[str]:
    """What cells print, numbers left out: rounding is the machine's own."""
    found = list[str]()
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            text = "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
            found.append(" ".join(re.sub(r"[-+]?\d[\d,.]*(e[-+]?\d+)?", "0", text).split()))
    return found


@pytest.mark.parametrize("name", FRAMEWORK)
def test_a_notebook_prints_what_it_holds(name: str, tmp_path: Path) -> None:
    pytest.importorskip(FRAMEWORK[name])
    held = json.loads((DOCS / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    again = runner.run_notebook(copy.deepcopy(held), tmp_path)
    assert words(again) == words(held)
    assert any("text/html" in o.get("data", {}) for c in held["cells"] for o in c.get("outputs", [])), "the report is shown"
    codes = [c for c in held["cells"] if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in codes] == list(range(1, len(codes) + 1)), "run in order"


def test_outputs_are_what_is_printed_and_the_last_expression() -> None:
    known: dict[str, Any] = {}
    assert runner.outputs_of("x = 2\nprint('told')\nx + 1", known, 4) == [
        {"output_type": "stream", "name": "stdout", "text": ["told\n"]},
        {"output_type": "execute_result", "execution_count": 4, "metadata": {}, "data": {"text/plain": ["3"]}},
    ]
    assert runner.outputs_of("x", known, 5)[0]["data"] == {"text/plain": ["2"]}
    assert runner.outputs_of("y = x", known, 6) == []
    with pytest.raises(ZeroDivisionError):
        runner.outputs_of("x / 0", known, 7)
