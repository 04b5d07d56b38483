"""Builds wheel and source distribution in dist/, installs each into an empty environment, and runs it there.

The environments get the core dependencies and nothing else: what is tried is what a user without extras has.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"


def build() -> list[Path]:
    """Both distributions, in dist/."""
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    code = f"from setuptools import build_meta as b; b.build_wheel({str(DIST)!r}); b.build_sdist({str(DIST)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    return sorted(DIST.iterdir())


def try_out(distribution: Path) -> None:
    """Install into an empty environment; inspect, merge, verify, report; complain at the first that fails."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        venv.create(home / "env", with_pip=True)
        python = home / "env" / "bin" / "python"
        shutil.copy(ROOT / "examples" / "digits.onnx", home)
        subprocess.run([python, "-m", "pip", "install", "-q", distribution], check=True)
        for words in (
            ["--version"], ["inspect", "digits.onnx", "-q"],
            ["merge", "digits.onnx", "-o", "small.onnx", "--report", "r.json", "-q"],
            ["verify", "digits.onnx", "small.onnx", "-q"], ["report", "r.json", "-o", "r.html"],
        ):
            subprocess.run([home / "env" / "bin" / "decascade", *words], cwd=home, check=True)
        assert (home / "r.html").stat().st_size > 40_000


def main() -> None:
    for distribution in build():
        try_out(distribution)
        print(f"{distribution.relative_to(ROOT)}: installed into an empty environment and run")


if __name__ == "__main__":
    main()
