"""Every code block of the documentation runs, page by page, in an empty folder with the shipped models in it."""

from __future__ import annotations

import io
import shlex
import shutil
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import typer

from decascade.cli import app, run
from decascade.ir.ops import DEFINITIONS
from decascade.ir.ops.table import Table
from docs.pages import DOCS, PAGES, ROOT, Block, blocks, name
from proven_models import saved

NEEDS = {
    "start/keras.md": "keras", "start/pytorch.md": "torch", "compressing.md": "torch",
    "extending.md": "torch", "relu-between.md": "keras", "README.md": "keras",
}
"""Frameworks that a page is about."""
NOT_RUN = ("pip install ", "make ", "python docs/pictures.py")
"""Lines of shell blocks that set things up, from the network or for long: shown, not run."""
RUN = [p for p in PAGES if any(b.language in ("python", "sh") for b in blocks(p)) and p.name != "README.md"]
"""The README's blocks have a test of their own."""


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """What a page adds to the project's own registries goes again."""
    from decascade.formats.onnx.read import READERS

    for module in ("decascade.compression.torch_graph.ops", "decascade.regions.lower"):
        import_module(module)
    kept: list[dict[Any, Any]] = [DEFINITIONS, cast("dict[Any, Any]", READERS)]
    kept += [rows for table in Table.known for rows in (table.rules, table.refused)]
    copies = [dict(rows) for rows in kept]
    yield
    for rows, copy in zip(kept, copies, strict=True):
        rows.clear()
        rows.update(copy)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for model in ("digits.onnx", "digits.keras"):
        shutil.copy(ROOT / "examples" / model, tmp_path)
    # a network that is compressed within seconds, and samples for it
    saved("half_stable", ".onnx", tmp_path).rename(tmp_path / "model.onnx")
    np.savez(tmp_path / "samples.npz", x=np.random.default_rng(0).random((160, 2, 8, 8), dtype=np.float32))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", RUN, ids=name)
def test_every_block_runs(page: Path, folder: Path) -> None:
    framework = next((f for end, f in NEEDS.items() if name(page).endswith(end)), None)
    if framework is not None:
        pytest.importorskip(framework)
    known: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        where = f"{name(page)}, line {block.line}"
        with redirect_stdout(io.StringIO()):
            if block.language == "python":
                exec(compile("\n" * block.line + block.text, str(page), "exec"), known)
            elif block.language == "sh":
                _shell(block, where)


def _shell(block: Block, where: str) -> None:
    for line in block.text.splitlines():
        words = shlex.split(line, comments=True)
        if not words or line.startswith(NOT_RUN):
            continue
        assert words[0] == "decascade", f"{where}: {line!r} is no command of ours, and not known as one that is not run"
        assert run([*words[1:], *([] if "--json" in words else ["--quiet"])]) == 0, f"{where}: {line}"


def test_the_readme_s_python_runs(folder: Path) -> None:
    """Its model stands for the reader's own."""
    pytest.importorskip("keras")
    (folder / "digits.keras").rename(folder / "model.keras")
    known: dict[str, Any] = {"__name__": "__main__"}
    found = list(blocks(ROOT / "README.md"))
    assert found
    with redirect_stdout(io.StringIO()):
        for block in found:
            assert block.language == "python"
            exec(compile("\n" * block.line + block.text, "README.md", "exec"), known)
    assert (folder / "small.keras").exists()
    assert known["result"].report.verification.same


INDENTED = [(p, i + 1, line) for p in PAGES for i, line in enumerate(p.read_text(encoding="utf-8").splitlines())
            if line.startswith("    decascade ")]


@pytest.mark.parametrize(("page", "number", "line"), INDENTED)
def test_commands_that_are_not_run_are_understood(page: Path, number: int, line: str) -> None:
    """Those for the reader's own models: the command, its options and their kinds are right."""
    assert understood(shlex.split(line, comments=True)), f"{name(page)}, line {number}"


def understood(words: list[str]) -> bool:
    if words[1:] in (["--install-completion"], ["COMMAND", "--help"]):
        return True
    command = typer.main.get_command(app).commands[words[1]]  # type: ignore[attr-defined]
    return command.make_context(words[1], words[2:]) is not None


def test_a_command_that_is_none_is_found() -> None:
    with pytest.raises(KeyError):
        understood(["decascade", "mrge", "x"])
    with pytest.raises(Exception, match="No such option"):
        understood(["decascade", "merge", "x", "-o", "y", "--targt", "macs"])
    assert len(INDENTED) > 8


def test_blocks_say_their_language() -> None:
    """A block without a language would not be run; what is not to be run is called text."""
    for page in PAGES:
        for block in blocks(page):
            assert block.language in ("python", "sh", "text", "json"), f"{name(page)}, line {block.line}"


def test_no_shell_line_hides_in_an_indented_block() -> None:
    """Indented blocks are not run: only those that need what the test machine may lack may stand in one."""
    allowed = ("deploying.md", "README.md", "CONTRIBUTING.md")
    for page in DOCS.rglob("*.md"):
        if not name(page).endswith(allowed):
            assert "\n    decascade " not in page.read_text(encoding="utf-8"), name(page)


def test_a_broken_block_is_found(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(AssertionError, match="no command of ours"):
        _shell(Block("sh", "rm -rf nothing\n", 1), "here")
    with pytest.raises(AssertionError, match=r"here: decascade inspect none\.onnx"):
        _shell(Block("sh", "decascade inspect none.onnx\n", 1), "here")
