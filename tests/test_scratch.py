"""Folders for files on their way: those of dead processes go, those of living ones and of the user stay."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from decascade.output import check_place
from decascade.scratch import HIDDEN, Scratch, sweep

HOLD = """
import sys
from pathlib import Path
from decascade.scratch import Scratch
held = Scratch(Path(sys.argv[1]))
(held.path / "half.onnx").write_bytes(b"half")
print(held.path, flush=True)
sys.stdin.read()
"""


def holder(folder: Path) -> tuple[subprocess.Popen[str], Path]:
    command = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_process_left_is_swept_by_the_next_run(tmp_path: Path) -> None:
    process, path = holder(tmp_path)
    with process:
        assert (path / "half.onnx").exists()
        sweep(tmp_path)
        check_place(tmp_path / "out.onnx", [], False)
        assert (path / "half.onnx").exists(), "its process lives"
        process.send_signal(signal.SIGKILL)
    check_place(tmp_path / "out.onnx", [], False)
    assert not list(tmp_path.iterdir())


def test_nothing_of_the_user_is_swept(tmp_path: Path) -> None:
    kept = [".decascade-settings", f"{HIDDEN}x", f"{HIDDEN}12345678.txt", "decascade-notes", f"{HIDDEN}ABCDEFGH"]
    for name in kept:
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").write_text("dear")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "thesis.tex").write_text("dear")
    (tmp_path / f"{HIDDEN}aaaaaaaa").symlink_to(tmp_path / "elsewhere")
    (tmp_path / f"{HIDDEN}bbbbbbbb").write_text("a file")
    sweep(tmp_path)
    assert all((tmp_path / name / "thesis.tex").exists() for name in [*kept, "elsewhere"])
    assert (tmp_path / f"{HIDDEN}aaaaaaaa").is_symlink()
    assert (tmp_path / f"{HIDDEN}bbbbbbbb").exists()


def test_two_at_once_do_not_meet(tmp_path: Path) -> None:
    with Scratch(tmp_path) as first, Scratch(tmp_path) as second:
        assert first != second
        assert Path(first).is_dir()
        assert Path(second).is_dir()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_a_sweep_took_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from decascade import scratch

    real, taken = scratch._same, list[Path]()

    def swept_once(descriptor: int, path: Path) -> bool:
        if not taken:
            taken.append(path)
            path.rmdir()
        return real(descriptor, path)

    monkeypatch.setattr(scratch, "_same", swept_once)
    with Scratch(tmp_path) as path:
        assert Path(path).is_dir()
        assert Path(path) != taken[0]
