"""Opening a .pt2 file without running what is in it.

torch.export.load unpickles weights, constants and sample inputs if the archive says so, loads compiled libraries, evaluates
size expressions as Python (sympy.sympify) and builds source code out of names.  So the archive is taken apart here: every
member, name, operation, size and expression is checked against what an exported program needs (`operators`, `stored`,
`sizes`), and torch is given a new archive, in memory, of the checked parts alone: weights as raw bytes, no pickles, no guards,
no notes on where the code came from.  What the operations make of the sizes is then followed on shapes alone (`growth`).
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any, cast

from decascade.errors import FormatError, LimitExceededError, UnsafeModelError
from decascade.formats.base import NOTE
from decascade.formats.files import checked_container
from decascade.formats.torch.common import NOTE_KEY, load, one_line
from decascade.formats.torch.growth import check_growth
from decascade.formats.torch.operators import OPERATORS
from decascade.formats.torch.sizes import is_expression
from decascade.formats.torch.stored import check_stored
from decascade.limits import LIMITS
from decascade.reading.text import parse_json

RESAVE = "load it where you trust it and store it again with torch.export.save, or pass the live nn.Module"

_MODEL = "models/model.json"
_WEIGHTS, _CONSTANTS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"
_SAMPLE = "data/sample_inputs/model.pt"
EXTRA = f"extra/{NOTE}.json"
_KNOWN = re.compile(
    r"models/model\.json|data/(weights|constants)/(model_(weights|constants)_config\.json|(weight|tensor)_\d+)"
    r"|data/sample_inputs/model\.pt|archive_format|archive_version|byteorder|version|\.data/.*"
    r"|\.format_version|\.storage_alignment|extra/decascade\.json"
)
_WORD = re.compile(r"[A-Za-z_]\w*")
_PATH = re.compile(r"[^\"'\\\x00-\x1f\x7f]*")
_IMMUTABLE = "torch.fx.immutable_collections.immutable_"
_TREES = frozenset(
    ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", f"{_IMMUTABLE}dict", f"{_IMMUTABLE}list")
)
_NAME_KEYS = frozenset(("name", "as_name"))
_REFUSED = frozenset(("as_operator", "as_custom_obj", "as_graph", "custom_obj", "class_fqn"))
"""Arguments that are looked up, or that are programs themselves."""
_PRODUCTS = frozenset(("as_ints", "as_sym_ints", "sizes"))
"""Keys of lists whose numbers may be the sizes of a tensor."""
_NO_END = (2**63 - 1, 2**63)
"""What stands for "to the end" in slices."""


def load_program(path: Path) -> Any:
    """The ExportedProgram in a .pt2 file.

    Raises:
        FormatError: missing, empty, truncated, no exported program, or one of another version of torch.
        UnsafeModelError: a member, operation, name or expression that is none of those that a plain program has.
        LimitExceededError: more, or larger, than `decascade.limits` allows.
    """
    path = checked_container(path, "zip")
    torch = load()
    from decascade.formats.torch.export import quiet

    try:
        clean, note = _checked_copy(path)
        with quiet():
            program = torch.export.load(clean)
            check_growth(program, str(path), RESAVE)
        if note:
            setattr(program, NOTE_KEY, note)
        return program
    except (FormatError, OSError):
        raise
    except Exception as error:
        reason = f"torch {torch.__version__} says {type(error).__name__}: {one_line(error)}"
        raise FormatError(f"{path} is not an exported program that can be opened ({reason}): {RESAVE}") from None


def _checked_copy(path: Path) -> tuple[io.BytesIO, str]:
    """A new archive of the checked members of the file, and decascade's own text in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(path, archive)
            _check_sizes(path, archive)
            model = _json(path, archive.read(members[_MODEL]))
            _check_version(path, model)
            _check_model(path, model)
            weights = _checked_config(path, archive, members, _WEIGHTS)
            constants = _checked_config(path, archive, members, _CONSTANTS)
            note = archive.read(members[EXTRA]).decode("utf-8", "replace") if EXTRA in members else ""
            clean = io.BytesIO()
            with zipfile.ZipFile(clean, "w", zipfile.ZIP_STORED) as out:
                _copy(archive, members, out, {_MODEL: model, _WEIGHTS: weights, _CONSTANTS: constants})
    except zipfile.BadZipFile as error:
        raise FormatError(f"{path} is truncated or damaged ({one_line(error)}): copy or export it again") from None
    except KeyError as error:
        lacks = error.args[0]
        raise FormatError(f"{path} is no exported program: it lacks {lacks}; store one with torch.export.save") from None
    clean.seek(0)
    return clean, note


def _check_sizes(path: Path, archive: zipfile.ZipFile) -> None:
    """All members together, as the archive states them; a member that is longer than stated is cut off by zipfile."""
    total = sum(info.file_size for info in archive.infolist())
    if total > LIMITS.unpacked_bytes:
        most = f"{LIMITS.unpacked_bytes:,} are the limit (unpacked_bytes)"
        raise LimitExceededError(f"{path} unpacks to {total:,} bytes, {most}: pass the live nn.Module")
    texts = [info for info in archive.infolist() if info.filename.endswith(".json")]
    for info in texts:
        if info.file_size > LIMITS.config_bytes:
            told = f"{info.filename} of {info.file_size:,} bytes, {LIMITS.config_bytes:,} are the limit (config_bytes)"
            raise LimitExceededError(f"{path} holds {told}: pass the live nn.Module")


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, str]:
    """The archive's members by their name below its one top folder."""
    names = archive.namelist()
    if len(set(names)) != len(names):
        raise UnsafeModelError(f"{path} has two members of one name: {RESAVE}")
    below = {name.partition("/")[2] for name in names}
    if "constants.pkl" in below or any(name.startswith("code/") for name in below):
        raise UnsafeModelError(
            f"{path} is TorchScript (torch.jit.save), which is a program and is never loaded: export the nn.Module that it was "
            "made from with torch.export.export and store that with torch.export.save"
        )
    if any(name.endswith("data.pkl") for name in names):
        raise UnsafeModelError(
            f"{path} is a pickle by torch.save, not an exported program, and is never loaded: a state_dict or a whole module; "
            "load it where you trust it, put the weights into your nn.Module, and store torch.export.export of it with "
            "torch.export.save, or pass the live nn.Module"
        )
    if "serialized_exported_program.json" in names:
        raise FormatError(f"{path} was exported before torch 2.8, with its weights as pickles: {RESAVE}")
    tops = {name.partition("/")[0] for name in names}
    if len(tops) != 1:
        raise FormatError(f"{path} is no exported program: {RESAVE}")
    members = {name.partition("/")[2]: name for name in names}
    for inner in members:
        if not _KNOWN.fullmatch(inner):
            what = "compiled code" if inner.startswith("data/aotinductor") else "a member that no plain exported program has"
            raise UnsafeModelError(f"{path} holds {inner}, {what}, and is not loaded: {RESAVE}")
    return members


def _copy(archive: zipfile.ZipFile, members: Mapping[str, str], out: zipfile.ZipFile, parsed: Mapping[str, Any]) -> None:
    for inner, name in members.items():
        if inner in parsed:
            out.writestr(f"model/{inner}", json.dumps(parsed[inner]))
        elif inner == _SAMPLE:
            out.writestr(f"model/{inner}", b"")
        elif inner == EXTRA:
            continue
        elif not inner.startswith(".") or inner == ".data/version":
            with archive.open(name) as source, out.open(f"model/{inner}", "w", force_zip64=True) as target:
                while chunk := source.read(1 << 22):
                    target.write(chunk)


def _json(path: Path, data: bytes) -> dict[str, Any]:
    try:
        value = parse_json(data)
    except ValueError:
        raise FormatError(f"{path} is damaged: a part that should be JSON is not; export it again") from None
    if not isinstance(value, dict):
        raise FormatError(f"{path} is damaged: a part that should be a table is not; export it again")
    return cast(dict[str, Any], value)


def _checked_config(path: Path, archive: zipfile.ZipFile, members: Mapping[str, str], inner: str) -> dict[str, Any]:
    """The table of stored tensors, none of which may be a pickle."""
    table = _json(path, archive.read(members[inner]))
    folder = inner.rpartition("/")[0] + "/"
    lengths = {name.removeprefix(folder): archive.getinfo(full).file_size for name, full in members.items()
               if name.startswith(folder)}  # fmt: skip
    check_stored(table, lengths, str(path), RESAVE)
    for name in table["config"]:
        if not _PATH.fullmatch(name):
            raise UnsafeModelError(f"{path} has a tensor called {name!r}, which is no name: {RESAVE}")
    return table


def _check_version(path: Path, model: dict[str, Any]) -> None:
    """torch itself only logs that a file is of another version."""
    try:
        own = import_module("torch._export.serde.schema").SCHEMA_VERSION[0]
    except (ImportError, AttributeError):
        return
    found = model["schema_version"]["major"]
    if found != own:
        raise FormatError(f"{path} is of schema version {found}, torch {load().__version__} reads {own}: {RESAVE}")


def _check_model(path: Path, model: dict[str, Any]) -> None:
    """Check and clean the program's description in place."""
    model["guards_code"] = []
    for key, value in _walk(model):
        problem = _problem(key, value) if isinstance(value, str) else _excess(value)
        if problem:
            error = UnsafeModelError if isinstance(value, str) else LimitExceededError
            raise error(f"{path} has {problem} {str(value)[:80]!r} and is not loaded: {RESAVE}")


def _walk(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every string and whole number with the key that it stands under, every list of numbers too, and every key of a table
    as a "key"; notes are emptied on the way."""
    if isinstance(value, dict):
        table = cast(dict[str, Any], value)
        if "target" in table and isinstance(table.get("metadata"), dict):
            table["metadata"] = {}
        for inner, item in table.items():
            yield "key", inner
            yield from _walk(item, inner)
    elif isinstance(value, list):
        items = cast(list[Any], value)
        if key in _PRODUCTS:
            yield key, items
        for item in items:
            yield from _walk(item, key)
    elif isinstance(value, (str, int)) and not isinstance(value, bool):
        yield key, value


def _excess(value: Any) -> str:
    """What is too large about a number, or about a list of numbers, which may be sizes; "" where nothing is."""
    if isinstance(value, int):
        return "" if abs(value) < LIMITS.elements or abs(value) in _NO_END else "a number that is no size (limit elements),"
    items = [cast(dict[str, Any], item).get("as_int") if isinstance(item, dict) else item for item in value]
    total = prod(max(1, abs(item)) for item in items if isinstance(item, int))
    return "" if total < LIMITS.elements else "sizes of too many elements (limit elements),"


def _problem(key: str, value: str) -> str:
    """What is wrong with a string of the program's description; "" where nothing is."""
    if key == "target":
        return "" if value in OPERATORS else "an operator that is not one of PyTorch's own for plain networks,"
    if key in _REFUSED or (key == "key" and value in _REFUSED):
        return "an argument that is no plain value,"
    if key == "expr_str":
        return "" if is_expression(value) else "a size that is no expression,"
    if key in ("in_spec", "out_spec"):
        return "" if _plain_tree(value) else "inputs or outputs of a type of their own,"
    if key in _NAME_KEYS or key == "forward_arg_names":
        return "" if _WORD.fullmatch(value) or not value else "a name that is no name,"
    return "" if key in ("as_string", "torch_version") or _PATH.fullmatch(value) else "a string that is no name,"


def _plain_tree(text: str) -> bool:
    """Whether a serialised pytree has only tuples, lists and dicts with plain keys."""
    try:
        stack = [json.loads(text)[1]]
        while stack:
            item = stack.pop()
            context = None if item["context"] is None else json.loads(item["context"])
            if item["type"] not in (None, *_TREES) or not (context is None or _plain_keys(context)):
                return False
            stack += item["children_spec"]
    except (ValueError, KeyError, TypeError, IndexError):
        return False
    return True


def _plain_keys(context: Any) -> bool:
    return isinstance(context, list) and all(isinstance(key, (str, int)) for key in cast(list[Any], context))
