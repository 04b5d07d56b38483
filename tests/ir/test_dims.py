"""Sizes that are symbols: the arithmetic must agree with that on numbers, for every value of the symbol."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decascade.ir import dims
from decascade.ir.dims import UNKNOWN

steps = st.lists(
    st.one_of(
        st.tuples(st.just("strided"), st.integers(-7, 7), st.integers(1, 4)),
        st.tuples(st.just("scaled"), st.integers(1, 4), st.just(0)),
    ),
    max_size=6,
)


def follow(dim: int | str, path: list[tuple[str, int, int]]) -> int | str:
    for kind, a, b in path:
        dim = dims.strided(dim, a, b) if kind == "strided" else dims.scaled(dim, a)
    return dim


def value(dim: int | str, n: int) -> int:
    """What a derived name means when its symbol is n: its own text read as an expression."""
    return int(eval(re.sub(r"[{]", "(", str(dim)).replace("}", ")"), {"H": n}))


@given(steps, st.integers(1, 60))
def test_a_derived_name_means_what_the_numbers_say(path, n):
    assert value(follow("H", path), n) == follow(n, path)


@given(steps, st.integers(1, 60))
def test_a_symbol_with_odd_signs_in_its_name_is_not_taken_apart(path, n):
    name = follow("H+1", path)
    assert int(eval(re.sub(r"[{]", "(", str(name)).replace("}", ")"), {"H": n})) == follow(n + 1, path)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ([("strided", 0, 1)], "H"),
        ([("strided", 2, 1), ("strided", -2, 1)], "H"),
        ([("strided", 1, 2)], "(H+1)//2"),
        ([("strided", 0, 2), ("strided", 0, 2)], "(H)//4"),
        ([("scaled", 2, 0), ("strided", 0, 2)], "H"),
        ([("scaled", 3, 0)], "(3*H)"),
        ([("strided", 1, 2), ("scaled", 2, 0)], "(2*{(H+1)//2})"),
    ],
)
def test_canonical_names(path, name):
    assert follow("H", path) == name


def test_unknown_stays_unknown():
    assert dims.strided(UNKNOWN, 1, 2) == dims.scaled(UNKNOWN, 3) == dims.shifted(UNKNOWN, 4) == UNKNOWN


@pytest.mark.parametrize(
    ("parts", "total", "product"),
    [
        ((2, 3), 5, 6),
        (("C", 2), "(C+2)", "(2*C)"),
        (("C",), "C", "C"),
        (("C", "D"), UNKNOWN, UNKNOWN),
        ((UNKNOWN, 1), UNKNOWN, UNKNOWN),
    ],
)
def test_totals_and_products(parts, total, product):
    assert dims.total(parts) == total
    assert dims.product(parts) == product


@pytest.mark.parametrize(
    ("a", "b", "both"),
    [
        (3, 3, 3),
        (3, 4, None),
        ("H", 4, 4),
        (4, "H", 4),
        ("H", "W", "H"),
        (UNKNOWN, "W", "W"),
        ("H", UNKNOWN, "H"),
        (UNKNOWN, 2, 2),
    ],
)
def test_unified(a, b, both):
    assert dims.unified(a, b) == both
