"""Every reason why something is left alone, as the code says it, is on the page, and the page has no others."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import decascade
from docs.pages import DOCS

SOURCE = Path(decascade.__file__).parent
FILES = [*sorted((SOURCE / "regions").glob("*.py")), SOURCE / "formats" / "torch" / "trace.py"]
WORDS = {
    "explain.py": ("left_reason", "dearer", "_why_apart"), "transposed.py": ("_why_not",), "linearise.py": ("_why_not",),
    "trace.py": ("hook_reason",),
    "storage.py": ("_misfit",),
}
"""Functions that return the words of a reason."""
ASSIGNED = {"merge.py": ("_dropped_row", "reason"), "trace.py": ("call_module", "self.whole[path]")}
"""Reasons that are assigned: the function, and to what."""
ELSEWHERE = {"_why_not(record)": "linearise.py", "why": "transposed.py", "str(error)": "algebra",
             "reason[0]": "storage.py"}
"""What `Refusal` is given beside words, and where those words are."""
ALGEBRA = ("two branches have strides ⋯ and ⋯", "two paths from ⋯ to the output have different strides")
"""The errors of the algebra that a region of a model can reach: the others are about arrays that do not fit each other."""
HOLE = "⋯"


def written(node: ast.expr, known: dict[str, list[str]]) -> list[str]:
    """What a string expression can become, with a mark for what is filled in."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.IfExp):
        return [*written(node.body, known), *written(node.orelse, known)]
    if isinstance(node, ast.BoolOp) or not isinstance(node, ast.JoinedStr | ast.Name | ast.FormattedValue):
        return [HOLE]
    if isinstance(node, ast.Name):
        return known.get(node.id, [HOLE])
    if isinstance(node, ast.FormattedValue):
        return written(node.value, known) if isinstance(node.value, ast.Name | ast.IfExp) else [HOLE]
    return ["".join(parts) for parts in itertools.product(*(written(part, known) for part in node.values))]


def strings(body: ast.AST, known: dict[str, list[str]]) -> dict[str, list[str]]:
    """Names that are assigned words, each with all that it may be."""
    found = dict(known)
    for node in ast.walk(body):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            words = [w for w in written(node.value, found) if w != HOLE]
            name = node.targets[0].id
            if words:
                found[name] = [*found.get(name, []), *words] if name not in known else words
    return found


def reasons_in(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    module = strings(ast.Module([n for n in tree.body if isinstance(n, ast.Assign)], []), {"OPEN_MAP": open_map()})
    for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
        known = strings(function, module)
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Refusal":
                told = ast.unparse(node.args[0])
                if isinstance(node.args[0], ast.Constant | ast.JoinedStr):
                    yield from written(node.args[0], known)
                else:
                    assert told in ELSEWHERE, f"{path.name}: Refusal({told}): this test does not know where its words are"
            elif isinstance(node, ast.Return) and function.name in WORDS.get(path.name, ()) and says_something(node):
                value = node.value.elts[0] if isinstance(node.value, ast.Tuple) else node.value
                assert value is not None
                yield from written(value, known)
            elif isinstance(node, ast.Assign) and (function.name, ast.unparse(node.targets[0])) == ASSIGNED.get(path.name):
                yield from written(node.value, module)


def says_something(node: ast.Return) -> bool:
    return not (node.value is None or (isinstance(node.value, ast.Constant) and node.value.value is None))


def open_map() -> str:
    found = re.search(r'^OPEN_MAP = "(.*)"$', (SOURCE / "regions" / "lower.py").read_text(encoding="utf-8"), re.M)
    assert found is not None
    return found[1]


def all_reasons() -> set[str]:
    found = {reason for path in FILES for reason in reasons_in(path)} | set(ALGEBRA)
    return {r for r in found if re.sub(f"[{HOLE}: ]", "", r)}


def rows(text: str) -> list[str]:
    """The first cells of the tables of reasons."""
    found = list[str]()
    for table in re.findall(r"^\| reason in the report .*\n\|[- |]+\n((?:\|.*\n)+)", text, re.M):
        found += [line.split("|")[1].strip().replace("`", "") for line in table.splitlines()]
    return found


def fits(row: str, reason: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, row.split("…"))), reason) is not None


PAGE = (DOCS / "not-merged.md").read_text(encoding="utf-8")


def test_the_code_has_reasons() -> None:
    """That this file finds them: some of each kind."""
    found = all_reasons()
    assert len(found) > 35
    assert {"no single layer does the same", f"{HOLE} flattens {open_map()}", f"{HOLE} is no activation",
            "a strided convolution before a transposed one", f"constant channels of {HOLE} stay: {HOLE} is an output"} <= found


@pytest.mark.parametrize("reason", sorted(all_reasons()))
def test_every_reason_is_on_the_page(reason: str) -> None:
    assert any(fits(row, reason) for row in rows(PAGE)), f"docs/not-merged.md has no row for: {reason}"


@pytest.mark.parametrize("row", rows(PAGE))
def test_every_row_is_a_reason_of_the_code(row: str) -> None:
    assert any(fits(row, reason) for reason in all_reasons()), f"no code says: {row}"


def test_a_row_stands_for_its_own_reason_alone() -> None:
    """A row like "…" would fit everything: each has words of its own."""
    assert all(len(re.sub("[… ]", "", row)) > 5 for row in rows(PAGE))
    assert not fits("… is no activation", f"{HOLE} is not linear on the box ({HOLE}): {HOLE}")
