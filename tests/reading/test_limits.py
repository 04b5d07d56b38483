"""Each limit on data is reached: what is larger is refused in words before it is unpacked."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bad_files import described, npy
from decascade.compression.data.files import read_files
from decascade.errors import LimitExceededError, UsageError
from decascade.limits import Limits
from decascade.reading.arrays import load_arrays, stored_arrays
from decascade.reading.text import parse_json, read_text


def test_packed_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "d.npz"
    np.savez_compressed(path, x=np.zeros(600, np.uint8), y=np.zeros(600, np.uint8))
    assert [a.start for a in stored_arrays(path, "data").values()] == [None, None]
    monkeypatch.setattr("decascade.reading.arrays.LIMITS", Limits(unpacked_bytes=1000))
    told = r"^data .*d.npz unpacks to 1,200 bytes, 1,000 are the limit: store it with numpy.savez, not compressed"
    for act in (lambda: stored_arrays(path, "data"), lambda: read_files([path], tmp_path / "cache")):
        with pytest.raises(LimitExceededError, match=told):
            act()
    assert not (tmp_path / "cache").exists()
    np.savez(path, x=np.zeros(600, np.uint8), y=np.zeros(600, np.uint8))  # where nothing is unpacked, nothing grows
    assert [len(a.take(np.arange(2))) for a in read_files([path], tmp_path).values()] == [2, 2]
    with pytest.raises(LimitExceededError, match=r"1,000 are the limit: give fewer samples"):
        load_arrays(path, "data")


def test_a_sparse_file_of_six_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "d.npy"
    path.write_bytes(npy(described("'|u1'", f"({6 << 30},)")))
    os.truncate(path, (6 << 30) + 200)
    with pytest.raises(LimitExceededError, match=r"unpacks to 6,442,450,944 bytes, 4,294,967,296 are the limit"):
        load_arrays(path, "data")


def test_a_member_that_says_more_than_it_holds(tmp_path: Path) -> None:
    from zipfile import ZIP_DEFLATED, ZipFile

    with ZipFile(tmp_path / "d.npz", "w", ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy(described("'|u1'", f"({6 << 30},)"), bytes(10)))
    with pytest.raises(UsageError, match=r"x has the shape \(6442450944,\)"):
        stored_arrays(tmp_path / "d.npz", "data")


ARRAYS = [np.arange(24).reshape(2, 3, 4), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.float32(3)]


@pytest.mark.parametrize("array", ARRAYS)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed, np.save])
def test_what_numpy_wrote_is_read_as_numpy_does(array: Any, save: Any, tmp_path: Path) -> None:
    path = tmp_path / ("d.npy" if save is np.save else "d.npz")
    save(path, array) if save is np.save else save(path, x=array)
    found = load_arrays(path, "data")["x"]
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    assert found.flags.writeable


def image(path: Path, size: tuple[int, int]) -> None:
    pillow: Any = pytest.importorskip("PIL.Image")
    pillow.new("L", size).save(path)


def test_pixels_of_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path / "a.png", (100, 50))
    monkeypatch.setattr("decascade.compression.data.files.LIMITS", Limits(pixels=4999))
    with pytest.raises(LimitExceededError, match=r"a.png has 100×50 pixels, 4,999 are the limit: scale it down, or leave"):
        read_files([tmp_path], tmp_path / "cache", (1, 8, 8))
    image(tmp_path / "a.png", (1, 1000))
    with pytest.raises(LimitExceededError, match=r"a.png would be scaled to 8×8000 pixels"):
        read_files([tmp_path], tmp_path / "cache", (1, 8, 8))


def test_an_image_of_a_gigapixel_is_not_decoded(tmp_path: Path) -> None:
    """A PNG's header alone: 60,000 × 60,000 pixels in 60 bytes; no warning of Pillow's either."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 11_000, 12_500, 8, 0, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(LimitExceededError, match=r"has 11000×12500 pixels"):
            read_files([tmp_path], tmp_path / "cache", (1, 8, 8))


@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_an_image_is_of_the_formats_that_are_read(extension: str, tmp_path: Path) -> None:
    pillow: Any = pytest.importorskip("PIL.Image")
    for other in ("ICO", "EPS", "PCX", "ICNS"):
        pillow.new("RGB", (32, 32)).save(tmp_path / f"a.{extension}", format=other)
        with pytest.raises(UsageError, match=r"image .*a\.\w+ cannot be read: cannot identify image file"):
            read_files([tmp_path], tmp_path / "cache", (3, 8, 8))
    for same in ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF", "GIF"):
        pillow.new("RGB", (32, 32)).save(tmp_path / f"a.{extension}", format=same)
        assert read_files([tmp_path], tmp_path / "cache", (3, 8, 8))["x"].shape == (1, 8, 8, 3)


@pytest.mark.parametrize("name", ["a.png", "a.npy"])
def test_folders_with_pipes_and_links_to_themselves(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UsageError, match=r"is not a regular file: give a (image|data) file"):
        read_files([tmp_path], tmp_path / "cache", (3, 8, 8))
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(tmp_path / name)
    with pytest.raises(UsageError, match=r"cannot be read: Too many levels of symbolic links"):
        read_files([tmp_path], tmp_path / "cache", (3, 8, 8))


def test_texts(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("abcde")
    assert read_text(tmp_path / "t", "plan", "plan", most=5) == "abcde"
    with pytest.raises(LimitExceededError, match=r"^plan .* is larger than 4 bytes, which no plan is: give another file"):
        read_text(tmp_path / "t", "plan", "plan", most=4)


def test_nesting_of_json() -> None:
    assert parse_json("[" * 64 + "]" * 64)
    for text in ("[" * 66 + "]" * 66, '{"a":' * 66 + "1" + "}" * 66, "[" * 200_000):
        with pytest.raises(ValueError, match="nested deeper than 64"):
            parse_json(text)
