"""The first look at Keras and HDF5 files, in a process of its own."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import h5py
import pytest

from decascade.errors import FormatError, LimitExceededError
from decascade.formats.keras.format import FORMAT
from decascade.formats.keras.gate import first
from decascade.limits import LIMITS
from formats.keras_cases import L, keras


@pytest.fixture(params=[".keras", ".h5"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"m{request.param}"
    keras.Sequential([keras.Input((4,)), L.Dense(3)]).save(path)
    return path


def test_a_good_file(file: Path) -> None:
    first.first_look(file)
    start = perf_counter()
    assert first.first_look(file) == 4 * 3 + 3
    assert perf_counter() - start < 5  # half a second on a machine that does nothing else


@pytest.mark.parametrize(("limit", "most"), [("config_bytes", 10), ("unpacked_bytes", 20), ("child_bytes", 1 << 27)])
def test_limits(limit: str, most: int, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first, "LIMITS", replace(LIMITS, **{limit: most}))
    if limit == "child_bytes":  # of 128 MiB nothing is left for an archive's or a file's own 200 MB
        with h5py.File(file.with_suffix(".h5"), "a") as held:
            held.create_dataset("bomb", (25_000_000,), "f8", chunks=(1_000_000,), compression="gzip", fillvalue=0)
        file = file.with_suffix(".h5")
    with pytest.raises((LimitExceededError, FormatError), match=f"limit of {most:,} .{limit}.|HDF5 crashes on it"):
        FORMAT.read(file)


def test_a_bomb_of_zeros(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as held:
        held.create_dataset("bomb", (1 << 40,), "f4", chunks=(1 << 20,), compression="gzip")
    with pytest.raises(LimitExceededError, match=r"arrays unpack to more than .* \(unpacked_bytes\): save a smaller model"):
        FORMAT.read(path)


def test_an_entry_that_is_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    keras.Sequential([keras.Input((4,)), L.Dense(3)]).save(path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("config.json", "{}")
    with pytest.raises(FormatError, match=r"its entry 'config\.json' is there twice"):
        FORMAT.read(path)


@pytest.mark.parametrize(("code", "words"), [(-11, "HDF5 crashes on it"), (-24, "takes more than 60 seconds .limit seconds")])
def test_a_child_that_ends(code: int, words: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, **__: Any) -> Any:
        return first.subprocess.CompletedProcess([], code, "", "")

    monkeypatch.setattr(first.subprocess, "run", run)
    with pytest.raises(FormatError, match=words):
        FORMAT.read(file)


def test_sizes_that_the_file_does_not_hold(tmp_path: Path) -> None:
    path, changed = tmp_path / "m.keras", tmp_path / "c.keras"
    keras.Sequential([keras.Input((4,)), L.Dense(3)]).save(path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b'"units": 3', b'"units": 1000000000'))
    with pytest.raises(FormatError, match=r"has units 1,000,000,000, and the file stores 15 numbers in all"):
        FORMAT.read(changed)
