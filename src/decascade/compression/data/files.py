"""Data files as rows: `.npy`, `.npz` (stored members in place, compressed ones decoded once into a cache), folders.

Nothing in a file is unpickled.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import numpy as np

from decascade.compression.data.rows import CHUNK, AnyArray, Filed, Held, Rows, stacked
from decascade.errors import UsageError

ARRAYS = (".npz", ".npy")
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
    if not path.exists():
        raise UsageError(f"data {path} does not exist: check the name")
    if not path.is_dir():
        return [path]
    inside = sorted(p for p in path.iterdir() if p.suffix.lower() in ARRAYS)
    return inside or [path]


def _read(path: Path, cache: Path, size: Sequence[int] | None) -> Columns:
    if path.is_dir():
        return read_images(path, cache, size)
    if path.suffix.lower() not in ARRAYS:
        raise UsageError(f"data {path}: give a .npz file with an array x, a .npy file, or a folder of images")
    try:
        return {"x": _npy(path)} if path.suffix.lower() == ".npy" else _npz(path, cache)
    except UsageError:
        raise
    except Exception as error:  # whatever the decoders of a broken file raise
        words = str(error).splitlines()[0] if str(error) else "truncated"
        raise UsageError(f"data {path} cannot be read: {words}") from None


def _npy(path: Path) -> Rows:
    mapped: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    if mapped.ndim and mapped.flags.c_contiguous:
        return Filed(path, int(mapped.offset), mapped.shape, mapped.dtype)
    return Held(np.atleast_1d(mapped))


def _npz(path: Path, cache: Path) -> Columns:
    with ZipFile(path) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        return {info.filename.removesuffix(".npy"): _member(path, archive, info, cache) for info in members}


def _member(path: Path, archive: ZipFile, info: ZipInfo, cache: Path) -> Rows:
    with archive.open(info) as stream:
        shape, fortran, dtype = _header(stream)
        start = stream.tell()
        plain = bool(shape) and not fortran
        if plain and info.compress_type == ZIP_STORED and not info.flag_bits & 1:
            return Filed(path, _content(path, info) + start, shape, dtype)
        decoded = cache / f"{_key(path, info)}.rows"
        bytes_wanted = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if not (decoded.exists() and decoded.stat().st_size == bytes_wanted):
            store(decoded, _pieces(stream, bytes_wanted, info.filename), bytes_wanted)
    if plain:
        return Filed(decoded, 0, shape, dtype)
    return Held(np.atleast_1d(np.memmap(decoded, dtype, "r", shape=shape or (1,), order="F" if fortran else "C")))


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, column-major order and type of the array that a stream holds."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded: save plain numbers")
    return tuple(shape), bool(fortran), dtype


def _content(path: Path, info: ZipInfo) -> int:
    """Where a stored member's bytes begin: behind its local header, whose last two fields are lengths."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        name, extra = np.frombuffer(file.read(4), "<u2").tolist()
    return info.header_offset + 30 + int(name) + int(extra)


def _key(path: Path, info: ZipInfo) -> str:
    """A name for the decoded member that another file, or a changed one, does not have."""
    stat = path.stat()
    told = f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{info.filename}\0{info.CRC}"
    return sha256(told.encode()).hexdigest()[:24]


def _pieces(stream: IO[bytes], size: int, name: str) -> Iterator[bytes]:
    done = 0
    while done < size:
        piece = stream.read(min(CHUNK, size - done))
        if not piece:
            raise EOFError(f"{name} ends after {done} of {size} bytes")
        done += len(piece)
        yield piece


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
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGES)


def _pillow() -> Any:
    try:
        return import_module("PIL.Image")
    except ImportError:
        raise UsageError("a folder of images needs Pillow to be read: pip install pillow") from None


def _size_of(image: Any, first: Path, size: Sequence[int] | None) -> tuple[int, int, str]:
    """Width, height and mode ("RGB" or grey "L") of all images."""
    if size is not None and len(size) == 3 and size[0] in (1, 3):
        return int(size[2]), int(size[1]), "RGB" if size[0] == 3 else "L"
    if size is not None:
        raise UsageError(f"a folder of images for an input of shape {tuple(size)}: images have 1 or 3 channels and two axes")
    opened = _opened(image, first)
    return (*opened.size, "L" if opened.mode in ("1", "L", "I;16") else "RGB")


def _opened(image: Any, path: Path) -> Any:
    try:
        opened = image.open(path)
        opened.load()
        return opened
    except Exception as error:  # whatever a decoder raises on a broken file
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"image {path} cannot be read: {words}") from None


def _pixels(image: Any, path: Path, size: tuple[int, int], mode: str, fixed: bool) -> bytes:
    opened = _opened(image, path).convert(mode)
    if opened.size != size:
        if not fixed:
            raise UsageError(f"image {path} is {opened.size[0]}×{opened.size[1]}, others {size[0]}×{size[1]}: scale them alike")
        factor = max(size[0] / opened.size[0], size[1] / opened.size[1])
        grown = tuple(max(round(n * factor), m) for n, m in zip(opened.size, size, strict=True))
        opened = opened.resize(grown, image.Resampling.BILINEAR)
        left, top = ((n - m) // 2 for n, m in zip(grown, size, strict=True))
        opened = opened.crop((left, top, left + size[0], top + size[1]))
    pixels: AnyArray = np.asarray(opened, np.uint8)
    return pixels.tobytes()
