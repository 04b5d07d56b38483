"""Data files as rows: `.npy`, `.npz` (stored members in place, compressed ones decoded once into a cache), folders.

Nothing in a file is unpickled.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal
from zipfile import ZipFile, ZipInfo

import numpy as np

from decascade.compression.data.rows import CHUNK, AnyArray, Filed, Held, Rows, stacked
from decascade.errors import DecascadeError, LimitExceededError, UsageError
from decascade.frameworks import needed
from decascade.limits import LIMITS
from decascade.reading.arrays import SUFFIXES, Stored, pieces, stored_arrays
from decascade.reading.paths import regular_file

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF", "GIF")
"""The decoders that an image may ask for: those of the extensions below, no other of Pillow's."""
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")
Columns = dict[str, Rows]
"""Arrays by their name in a file; a `.npy` file's only one is "x"."""


def read_files(paths: Sequence[Path], cache: Path, size: Sequence[int] | None = None) -> Columns:
    """The arrays of all files, one file after the other.

    Folders stand for the data files in them, by name, or for the images in them, which are scaled to `size` (channels,
    height, width) where they have another.  What must be decoded is kept in the folder `cache`, and found there again.

    Raises:
        UsageError: missing, empty, unreadable, of no known kind, files whose arrays do not belong together, no room.
    """
    found = [(path, _read(path, cache, size)) for given in paths for path in _expanded(given)]
    names = list(found[0][1])
    for path, columns in found[1:]:
        if set(columns) != set(names):
            told = f"{', '.join(columns)}, {found[0][0]} holds {', '.join(names)}"
            raise UsageError(f"data {path} holds {told}: give files alike")
    return {name: stacked([c[name] for _, c in found], [f"{name} of {p}" for p, _ in found]) for name in names}


def _expanded(path: Path) -> list[Path]:
    try:
        folder = path.is_dir()
    except ValueError:  # a name with a zero byte
        folder = False
    if not folder:
        return [regular_file(path, "data", "data file")]
    inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
    return inside or [path]


def _read(path: Path, cache: Path, size: Sequence[int] | None) -> Columns:
    if path.is_dir():
        return read_images(path, cache, size)
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"data {path}: give a .npz file with an array x, a .npy file, or a folder of images")
    return {name: _rows(path, array, cache) for name, array in stored_arrays(path, "data").items()}


def _rows(path: Path, array: Stored, cache: Path) -> Rows:
    """The array in place where its rows lie one after the other, else decoded or mapped."""
    start, place, shape = array.start, path, array.shape
    if start is None:
        start, place = 0, _decoded(path, array, cache)
    if shape and not array.fortran:
        return Filed(place, start, shape, array.dtype)
    order: Literal["F", "C"] = "F" if array.fortran else "C"
    if not array.nbytes:
        return Held(np.zeros(shape or (1,), array.dtype))
    return Held(np.atleast_1d(np.memmap(place, array.dtype, "r", start, shape or (1,), order)))


def _decoded(path: Path, array: Stored, cache: Path) -> Path:
    assert array.member is not None
    decoded = cache / f"{_key(path, array.member)}.rows"
    if not (decoded.exists() and decoded.stat().st_size == array.nbytes):
        try:
            with ZipFile(path) as archive, archive.open(array.member) as stream:
                store(decoded, pieces(stream, array, CHUNK), array.nbytes)
        except DecascadeError:
            raise
        except Exception as error:  # whatever the decoder of a damaged member raises
            words = str(error).splitlines()[0] if str(error) else "truncated"
            raise UsageError(f"data {path} cannot be read: {words}") from None
    return decoded


def _key(path: Path, info: ZipInfo) -> str:
    """A name for the decoded member that another file, or a changed one, does not have."""
    stat = path.stat()
    told = f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{info.filename}\0{info.CRC}"
    return sha256(told.encode()).hexdigest()[:24]


def store(path: Path, pieces: Iterator[bytes | memoryview], size: int = 0) -> None:
    """Write pieces to a file that is there whole or not at all.

    Raises:
        UsageError: the disk is full or cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    file: Any = None
    try:
        file = _guarded(path, size, lambda: part.open("wb"))
        for piece in pieces:
            _guarded(path, size, lambda piece=piece: file.write(piece))
        _guarded(path, size, lambda: file.close())
        os.replace(part, path)
    finally:
        if file is not None and not file.closed:
            file.close()
        part.unlink(missing_ok=True)


def _guarded(path: Path, size: int, act: Callable[[], Any]) -> Any:
    """Errors of writing, told apart from those of reading."""
    try:
        return act()
    except OSError as error:
        wanted = f" ({size / 2**20:.0f} MiB are wanted)" if size else ""
        raise UsageError(
            f"decoded data cannot be kept in {path.parent}: {error.strerror or error}{wanted}; "
            "free some space or choose another folder"
        ) from None


def read_images(folder: Path, cache: Path, size: Sequence[int] | None) -> Columns:
    """The images of a folder as x (N, H, W, C), uint8; of its subfolders with their places in the order of names as y.

    Images of another size than `size` are scaled to cover it and cut to its middle.

    Raises:
        UsageError: no images, an image that cannot be read, images of several sizes where the model does not say one,
            or Pillow is not installed.
    """
    classes = sorted(p for p in folder.iterdir() if p.is_dir())
    files = [(p, k) for k, sub in enumerate(classes) for p in _images(sub)] or [(p, 0) for p in _images(folder)]
    if not files:
        raise UsageError(f"data {folder} holds no .npz, .npy or image files")
    image: Any = _pillow()
    width, height, mode = _size_of(image, files[0][0], size)
    shape = (len(files), height, width, len(mode) if mode == "RGB" else 1)
    told = "\0".join(f"{p}\0{p.stat().st_mtime_ns}\0{p.stat().st_size}" for p, _ in files)
    path = cache / f"{sha256(f'{shape}{told}'.encode()).hexdigest()[:24]}.rows"
    if not path.exists():
        fixed = size is not None
        store(path, (_pixels(image, p, (width, height), mode, fixed) for p, _ in files), int(np.prod(shape)))
    x: Rows = Filed(path, 0, shape, np.dtype(np.uint8))
    labelled = bool(classes) and files[0][0].parent != folder
    y: Rows = Held(np.array([k for _, k in files], np.int64))
    return {"x": x, "y": y} if labelled else {"x": x}


def _images(folder: Path) -> list[Path]:
    """The images of a folder, by name.

    Raises:
        UsageError: one that is no regular file.
    """
    named = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGES)
    return [regular_file(path, "image", "image file") for path in named]


def _pillow() -> Any:
    return needed("PIL.Image", "reading a folder of images")


def _size_of(image: Any, first: Path, size: Sequence[int] | None) -> tuple[int, int, str]:
    """Width, height and mode ("RGB" or grey "L") of all images."""
    if size is not None and len(size) == 3 and size[0] in (1, 3):
        return int(size[2]), int(size[1]), "RGB" if size[0] == 3 else "L"
    if size is not None:
        raise UsageError(f"a folder of images for an input of shape {tuple(size)}: images have 1 or 3 channels and two axes")
    opened = _opened(image, first)
    return (*opened.size, "L" if opened.mode in ("1", "L", "I;16") else "RGB")


def _opened(image: Any, path: Path) -> Any:
    """An image, decoded; its stated size is looked at before.

    Raises:
        UsageError: an image that Pillow cannot read.
        LimitExceededError: more pixels than `LIMITS.pixels`.
    """
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata, and of sizes below our own limit
            opened = image.open(file, formats=FORMATS)
            _check_pixels(path, opened.size)
            opened.load()
            return opened
    except LimitExceededError:
        raise
    except Exception as error:  # whatever a decoder raises on a broken file
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"image {path} cannot be read: {words}") from None


def _check_pixels(path: Path, size: Sequence[int], how: str = "has") -> None:
    if size[0] * size[1] > LIMITS.pixels:
        told = f"image {path} {how} {size[0]}×{size[1]} pixels"
        raise LimitExceededError(f"{told}, {LIMITS.pixels:,} are the limit: scale it down, or leave it out")


def _pixels(image: Any, path: Path, size: tuple[int, int], mode: str, fixed: bool) -> bytes:
    opened = _opened(image, path).convert(mode)
    if opened.size != size:
        if not fixed:
            raise UsageError(f"image {path} is {opened.size[0]}×{opened.size[1]}, others {size[0]}×{size[1]}: scale them alike")
        factor = max(size[0] / opened.size[0], size[1] / opened.size[1])
        grown = tuple(max(round(n * factor), m) for n, m in zip(opened.size, size, strict=True))
        _check_pixels(path, grown, "would be scaled to")
        opened = opened.resize(grown, image.Resampling.BILINEAR)
        left, top = ((n - m) // 2 for n, m in zip(grown, size, strict=True))
        opened = opened.crop((left, top, left + size[0], top + size[1]))
    pixels: AnyArray = np.asarray(opened, np.uint8)
    return pixels.tobytes()
