"""What comes from a file, as a terminal may show it: one function, which everything passes that is printed.

Names in a model, metadata, paths and the messages of libraries may hold control sequences, which a terminal obeys, and marks
that reverse the direction of writing, which make a line read otherwise than it is.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

HIDDEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
"""Categories of characters that are no text: control, format (of direction, too), halves of pairs, private, not assigned,
separators of lines and of paragraphs."""
NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

Value = TypeVar("Value")


def printable(text: str) -> str:
    """The text with everything escaped that is no text: ESC becomes \\x1b."""
    return text if text.isascii() and text.isprintable() else _replaced(text, _escape)


def printable_facts(value: Value) -> Value:
    """The same for every text in nested dataclasses, mappings, lists and tuples; where nothing changes, the value itself."""
    if isinstance(value, str):
        return cast("Value", printable(value))
    if is_dataclass(value) and not isinstance(value, type):
        found = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
        changed = {name: new for name, old in found.items() if (new := printable_facts(old)) is not old and new != old}
        return cast("Value", replace(cast("Any", value), **changed)) if changed else value
    if isinstance(value, Mapping):
        pairs = cast("Mapping[Any, Any]", value).items()
        return cast("Value", {printable_facts(key): printable_facts(item) for key, item in pairs})
    if isinstance(value, list | tuple):
        items = [printable_facts(item) for item in cast("list[Any]", value)]
        return cast("Value", items if isinstance(value, list) else tuple(items))
    return value


def printable_json(text: str) -> str:
    """JSON text of the same content that a terminal shows as it is: what `printable` escapes is escaped as JSON does."""
    return text if text.isascii() else _replaced(text, _as_json, kept="\n")


def encodable(text: str, encoding: str | None, json: bool = False) -> str:
    """The text with everything escaped that an encoding lacks."""
    try:
        text.encode(encoding or "utf-8")
        return text
    except UnicodeEncodeError:
        held = encoding or "utf-8"
        return "".join(c if _has(held, c) else (_as_json(c) if json else _escape(c)) for c in text)
    except LookupError:
        return encodable(text, "ascii", json)


def _has(encoding: str, char: str) -> bool:
    try:
        char.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _replaced(text: str, escape: Callable[[str], str], kept: str = "") -> str:
    return "".join(escape(c) if c not in kept and unicodedata.category(c) in HIDDEN else c for c in text)


def _escape(char: str) -> str:
    code = ord(char)
    return NAMED.get(char) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def _as_json(char: str) -> str:
    """One or two \\uXXXX, as JSON counts in UTF-16."""
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{int.from_bytes(units[i : i + 2], 'big'):04x}" for i in range(0, len(units), 2))
