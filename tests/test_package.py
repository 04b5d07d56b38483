"""Wheel and source distribution: built, what is in them, and the wheel run from where it was unpacked."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

import decascade

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
KINDS = ("report/html/templates/*", "report/*.json", "deploy/c/firmware/*", "py.typed")
DATA = {p.relative_to(ROOT / "src").as_posix() for kind in KINDS for p in (ROOT / "src" / "decascade").glob(kind)}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both, built from a copy of what git would hand over, without a network."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("src", "pyproject.toml", "README.md", "LICENSE", "CITATION.cff"):
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(path, source)
    code = f"from setuptools import build_meta as b; b.build_wheel({str(out)!r}); b.build_sdist({str(out)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return out


def test_the_wheel_has_everything_that_runs(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (archive.read(n).decode() for n in names if n.endswith("METADATA"))
    modules = {p.relative_to(ROOT / "src").as_posix() for p in (ROOT / "src").rglob("*.py")}
    assert modules | DATA <= names
    assert {n.split("/")[0] for n in names} == {"decascade", f"decascade-{decascade.__version__}.dist-info"}
    assert set(re.findall(r"^Provides-Extra: (\S+)$", metadata, re.M)) == set(PROJECT["optional-dependencies"])


def test_the_source_has_everything_to_build_it(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {f"src/{name}" for name in DATA} | {"pyproject.toml", "README.md", "LICENSE"} <= names


def test_the_wheel_runs_where_the_source_is_not(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    shutil.copy(ROOT / "examples" / "digits.onnx", tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}

    def python(*words: str) -> str:
        start = [sys.executable, *words]
        done = subprocess.run(start, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert str(tmp_path / "site") in python("-c", "import decascade; print(decascade.__file__)")
    assert python("-m", "decascade", "--version").strip() == f"decascade {decascade.__version__}"
    told = json.loads(python("-m", "decascade", "merge", "digits.onnx", "-o", "small.onnx", "--report", "r.html", "--json"))
    assert told["verification"]["same"]
    assert (tmp_path / "r.html").stat().st_size > 40_000


def test_versions_agree() -> None:
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)
    assert cited is not None
    assert cited[1] == decascade.__version__


def test_extras_are_those_of_the_documentation() -> None:
    extras = PROJECT["optional-dependencies"]
    assert {"run", "keras", "torch", "device", "all"} <= set(extras)
    told = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r'pip install "\.\[([\w,]+)\]"', told):
        assert set(name.split(",")) <= set(extras)
