"""A fixed number of inputs for every reader: the same ones each time.  Long runs: `python tests/fuzz/run.py TARGET`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.harness import Finding, Target, attempt, target, target_names

INPUTS = 400
SECONDS = 30


@pytest.mark.parametrize("name", target_names())
def test_nothing_but_our_errors_leaves_a_reader(name: str, tmp_path: Path) -> None:
    run = Path(__file__).with_name("run.py")
    command = [sys.executable, run, name, "--inputs", str(INPUTS), "--seconds", str(SECONDS), "--out", tmp_path / "found"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split(": ")[-1].split()[0]) > 20, done.stdout


def _bad(path: Path) -> None:
    data = path.read_bytes()
    if data == b"slow":
        while True:
            pass
    raise ZeroDivisionError("found")


@pytest.mark.parametrize(("data", "words"), [(b"slow", "TooSlow"), (b"", "ZeroDivisionError")])
def test_the_harness_finds(data: bytes, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz.harness.SECONDS", 1)
    found = attempt(Target("bad", ".bin", _bad), data, tmp_path)
    assert isinstance(found, Finding)
    assert words in found.place


@pytest.mark.parametrize("name", target_names())
def test_the_corpus_is_good(name: str, tmp_path: Path) -> None:
    """Mutations of what is refused at once reach nothing."""
    subject = target(name)
    for data in subject.seeds():
        path = tmp_path / f"seed{subject.extension}"
        path.write_bytes(data)
        subject.read(path)
