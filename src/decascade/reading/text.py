"""Text files and JSON, within bounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn, cast

from decascade.errors import DecascadeError, LimitExceededError, UsageError
from decascade.limits import LIMITS
from decascade.reading.paths import regular_file


def read_text(
    path: str | Path, what: str, wanted: str, error: type[DecascadeError] = UsageError, most: int = LIMITS.config_bytes
) -> str:
    """The text of a UTF-8 file of at most `most` bytes, without the mark that some editors put before it.

    Raises:
        error: no regular file (see `regular_file`), one that cannot be read, or other text than UTF-8.
        LimitExceededError: it is larger.
    """
    path = regular_file(path, what, wanted, error)
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as problem:
        raise error(f"{what} {path} cannot be read: {problem.strerror or problem}") from None
    if len(data) > most:
        raise LimitExceededError(f"{what} {path} is larger than {most:,} bytes, which no {wanted} is: give another file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        at = f"byte {data[problem.start]:#04x} at {problem.start}"
        raise error(f"{what} {path} cannot be read: it is not UTF-8 text ({at}): store it as UTF-8") from None


def parse_json(text: str | bytes, nesting: int = LIMITS.nesting) -> Any:
    """The value of a JSON text, taken strictly: no NaN or Infinity, no key twice, numbers that a float can hold.

    Raises:
        ValueError: no such text, or values nested deeper than `nesting`.
    """
    try:
        found = json.loads(text, parse_constant=_no_number, object_pairs_hook=_table, parse_int=_integer)
    except RecursionError:
        raise ValueError(f"values are nested deeper than {nesting}") from None
    _check_depth(found, nesting)
    return found


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number in JSON")


def _integer(digits: str) -> int:
    if len(digits) > 310:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:40]!r} stands twice in one object")
    return table


def _check_depth(found: Any, nesting: int) -> None:
    """Level by level; half of a surrogate pair, which no file can be written with, is refused on the way."""
    level: list[Any] = [found]
    for _ in range(nesting + 1):
        texts = [item for item in level if isinstance(item, str)]
        tables = [cast("dict[str, Any]", item) for item in level if isinstance(item, dict)]
        for word in (*texts, *(key for table in tables for key in table)):
            if not word.isascii() and any("\ud800" <= letter <= "\udfff" for letter in word):
                raise ValueError("a text that holds half of a surrogate pair")
        lists = [cast("list[Any]", item) for item in level if isinstance(item, list)]
        level = [item for inner in (*lists, *(table.values() for table in tables)) for item in inner]
        if not level:
            return
    raise ValueError(f"values are nested deeper than {nesting}")
