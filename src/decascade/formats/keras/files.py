"""Keras files on disk: opened with care, read through the gate, built by Keras; and written."""

from __future__ import annotations

import json
import logging
import warnings
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from decascade.errors import FormatError, UnsafeModelError
from decascade.formats.base import NOTE
from decascade.formats.files import checked_container, checked_file
from decascade.formats.keras.base import keras, quiet, to_array
from decascade.formats.keras.by_name import check_ranks, translated
from decascade.formats.keras.gate.config import Gate, as_dict, check_depth
from decascade.formats.keras.gate.first import check_sizes, first_look
from decascade.formats.keras.mend import check_meaning, mended
from decascade.frameworks import needed

_HDF5, _ZIP = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"
_WEIGHTS = "model.weights.h5"
_BOMB = 1 << 26
ATTRIBUTE = "_decascade"
"""Where a live model carries decascade's text."""
_MEMBER = f"{NOTE}.json"


def load(path: Path) -> Any:
    """The model in a .keras file (Keras 3) or an HDF5 file (Keras 2 or 3), uncompiled.

    Raises:
        FormatError: missing, empty, truncated, of another format, weights without a model, NaN or infinite weights.
        UnsafeModelError: stored code, classes that are not Keras' own, links to other files.
    """
    path = checked_file(path)
    with path.open("rb") as file:
        head = file.read(8)
    hdf5 = path.suffix.lower() in (".h5", ".hdf5")
    _check_head(path, head, hdf5)
    needed("h5py", "a Keras model")
    numbers = first_look(path)
    model = _load_hdf5(path, numbers) if hdf5 else _load_zip(path, numbers)
    text = _hdf5_note(path) if hdf5 else _zip_note(path)
    if text:
        setattr(model, ATTRIBUTE, text)
    check_finite(model, str(path))
    return model


def _zip_note(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        known = _MEMBER in archive.namelist() and archive.getinfo(_MEMBER).file_size <= _BOMB
        return archive.read(_MEMBER).decode("utf-8", "replace") if known else ""


def _hdf5_note(path: Path) -> str:
    h5py = needed("h5py", "a Keras model")
    with h5py.File(path, "r") as file:
        stored = file.get(NOTE)
        plain = isinstance(stored, h5py.Dataset) and stored.shape == () and h5py.check_string_dtype(stored.dtype)
        return bytes(stored[()]).decode("utf-8", "replace") if plain else ""


def _check_head(path: Path, head: bytes, hdf5: bool) -> None:
    if head.startswith(_ZIP) and hdf5:
        raise FormatError(f"{path} is a zip archive, not HDF5: if Keras 3 wrote it, rename it to {path.stem}.keras")
    if head.startswith(_HDF5) and not hdf5:
        raise FormatError(f"{path} is HDF5, not a Keras 3 archive: rename it to {path.stem}.h5")
    checked_container(path, "hdf5" if hdf5 else "zip")


@contextmanager
def _one_line(path: Path, doing: str) -> Generator[None]:
    """Whatever Keras and h5py raise becomes one line that names the file."""
    try:
        with warnings.catch_warnings(), quiet():
            # of the file's own age, which the user cannot mend here
            warnings.filterwarnings("ignore", message="Do not pass an `input_shape`", category=UserWarning)
            warnings.filterwarnings("ignore", message="The structure of `inputs`", category=UserWarning)
            yield
    except FormatError:
        raise
    except Exception as error:
        words = " ".join(str(error).split()) or type(error).__name__
        words = words if len(words) <= 200 else words[:120] + " … " + words[-80:]
        raise FormatError(f"{path}: {doing} failed: {words}") from None


def _load_hdf5(path: Path, numbers: int) -> Any:
    h5py = needed("h5py", "a Keras model")
    with _one_line(path, "reading the HDF5 file (is it complete?)"), h5py.File(path, "r") as file:
        _check_links(file, str(path))
        text = file.attrs.get("model_config")
        if text is None:
            raise FormatError(_no_config(path, file))
        version = _text(file.attrs.get("keras_version", ""))
    return _built(text, version, path, numbers)


def _built(text: Any, version: str, path: Path, numbers: int) -> Any:
    """The model of a configuration, with the weights in the file."""
    config = _parsed(text, path)
    check_depth(config, str(path))
    with _one_line(path, "reading the configuration"):
        known, calls = translated(config)
        check_meaning(known, version, str(path))
        allowed = Gate(str(path)).model(mended(known))
        check_sizes(allowed, numbers, str(path))
    serialization: Any = import_module("keras.src.saving.serialization_lib")
    with _one_line(path, "building the model with Keras"), serialization.ObjectSharingScope():
        model = keras().saving.deserialize_keras_object(allowed, safe_mode=True)
    check_ranks(model, calls, str(path))
    with _one_line(path, "loading the weights with Keras"):
        model.load_weights(path)
    return model


def _no_config(path: Path, file: Any) -> str:
    if "layer_names" in file.attrs or "layers" in file or "model_weights" in file or "_layer_checkpoint_dependencies" in file:
        return (
            f"{path} holds weights only, no model: build the model in Python, call its load_weights({path.name!r}) and pass "
            "the live model, or save it whole with model.save('model.keras')"
        )
    return f"{path} is an HDF5 file without a Keras model (no model_config): save one with model.save('model.keras')"


def _text(stored: Any) -> str:
    return stored.decode("utf-8", "replace") if isinstance(stored, bytes) else str(stored)


def _parsed(text: Any, path: Path) -> Any:
    try:
        return json.loads(_text(text))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: the model's configuration is not readable JSON ({error}): the file is damaged") from None


def _load_zip(path: Path, numbers: int) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            config, version = _check_archive(archive, names, path), _version(archive, names)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise FormatError(f"{path} is damaged or cut short ({error}): save or fetch it again") from None
    return _built(config, version, path, numbers)


def _version(archive: zipfile.ZipFile, names: list[str]) -> str:
    """Of the Keras that wrote the archive; empty where it does not say."""
    known = "metadata.json" in names and archive.getinfo("metadata.json").file_size <= _BOMB
    try:
        return str((as_dict(json.loads(archive.read("metadata.json"))) or {}).get("keras_version", "")) if known else ""
    except (ValueError, RecursionError):
        return ""


def _check_archive(archive: zipfile.ZipFile, names: list[str], path: Path) -> Any:
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts:
            raise UnsafeModelError(f"{path}: its entry {name!r} points outside the archive: it was not unpacked")
    if "config.json" not in names:
        raise FormatError(f"{path} is a zip archive without config.json: no Keras 3 model; save one with model.save")
    if _WEIGHTS not in names:
        raise FormatError(f"{path} holds a model without {_WEIGHTS}: save it again with model.save")
    for name in ("config.json", _WEIGHTS):
        entry = archive.getinfo(name)
        # Keras stores its entries as they are, and no honest one shrinks to a hundredth
        if entry.file_size > max(_BOMB, 100 * entry.compress_size):
            raise UnsafeModelError(
                f"{path}: its entry {name} would unpack from {entry.compress_size} to {entry.file_size} bytes: not unpacked"
            )
    h5py = needed("h5py", "a Keras model")
    # all at once: HDF5 reads here and there, which an archive answers by starting over
    content = BytesIO(archive.read(_WEIGHTS))
    with _one_line(path, f"reading {_WEIGHTS}"), h5py.File(content, "r") as file:
        _check_links(file, str(path))
    return archive.read("config.json")


def _check_links(file: Any, path: str) -> None:
    """No link may lead to another file, and no soft link: Keras refuses those too."""
    h5py = needed("h5py", "a Keras model")
    stack, seen = [file["/"]], set[int]()
    while stack:
        group = stack.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise UnsafeModelError(f"{path}: {group.name}/{name} links to another file, {link.filename!r}: not followed")
            if isinstance(link, h5py.SoftLink):
                raise UnsafeModelError(f"{path}: {group.name}/{name} is a symbolic link to {link.path!r}: not followed")
            child = group[name]
            address = h5py.h5o.get_info(child.id).addr
            if isinstance(child, h5py.Dataset):
                if child.external or child.is_virtual:
                    raise UnsafeModelError(f"{path}: the data of {child.name} lie in other files: not read")
            elif isinstance(child, h5py.Group) and address not in seen:
                seen.add(address)
                stack.append(child)


def check_finite(model: Any, what: str) -> None:
    """Raises:
    FormatError: a weight is NaN or infinite; names the layer."""
    for layer in model._flatten_layers(include_self=False, recursive=True):
        if list(layer._flatten_layers(include_self=False, recursive=False)):
            continue
        for weight in layer.weights:
            array = to_array(weight)
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                count = int(array.size - np.isfinite(array).sum())
                raise FormatError(
                    f"{what}: {count} of {array.size} values of {weight.name} in layer {layer.name} are NaN or infinite: "
                    "the training went wrong, or the file is damaged"
                )


def save(model: Any, path: Path) -> None:
    """Writes a model as .keras or .h5, by the extension.

    Raises:
        FormatError: another extension, or an HDF5 file asked for a model with operations that it cannot hold.
    """
    if path.suffix.lower() not in (".keras", ".h5", ".hdf5"):
        raise FormatError(f"{path}: a Keras model is written as .keras, .h5 or .hdf5")
    if path.suffix.lower() != ".keras":
        _check_fits_hdf5(model, path)
    absl = logging.getLogger("absl")
    level = absl.level
    try:
        # Keras calls HDF5 legacy; the user asked for it
        absl.setLevel(logging.ERROR)
        with quiet():
            if path.suffix.lower() == ".keras":
                model.save(path)
                if text := getattr(model, ATTRIBUTE, ""):
                    with zipfile.ZipFile(path, "a") as archive:
                        archive.writestr(_MEMBER, text)
            else:
                _save_hdf5(model, path)
    finally:
        absl.setLevel(level)


def _save_hdf5(model: Any, path: Path) -> None:
    """HDF5 crashes the process when a disk fills up under it: the file is made in memory, then written like any other."""
    h5py = needed("h5py", "a Keras model")
    legacy: Any = import_module("keras.src.legacy.saving.legacy_h5_format")  # what model.save calls for .h5
    buffer = BytesIO()
    with h5py.File(buffer, "w") as file:
        legacy.save_model_to_hdf5(model, file)
        if text := getattr(model, ATTRIBUTE, ""):
            file.create_dataset(NOTE, data=text)  # an attribute may not pass 64 KiB
    path.write_bytes(buffer.getbuffer())


def _check_fits_hdf5(model: Any, path: Path) -> None:
    k = keras()
    for layer in model._flatten_layers(include_self=True, recursive=True):
        for operation in getattr(layer, "operations", ()):
            if not isinstance(operation, k.layers.Layer):
                raise FormatError(
                    f"{path}: operation {operation.name} (keras.ops) cannot be stored in HDF5, Keras could not read it "
                    f"again: write {path.stem}.keras instead"
                )
