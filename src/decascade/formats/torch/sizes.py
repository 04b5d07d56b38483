"""Expressions of sizes in .pt2 files ("s0 // 2", "FloorDiv(Symbol('s31', positive=True, integer=True), Integer(2))").

torch evaluates them as Python (sympy.sympify), so each is first parsed here, by a grammar that has nothing but bounded whole
numbers, symbols of sizes, + - * // %, and the functions in which torch itself writes these.
"""

from __future__ import annotations

import re

from decascade.formats.torch.common import words
from decascade.limits import LIMITS

LONGEST = 2000
"""Characters of an expression; the longest of a usual network has 200."""

_TOKEN = re.compile(r"\s*(?:(?P<word>[A-Za-z_]\w*)|(?P<quoted>'[A-Za-z]\w*')|(?P<number>\d+)|//|[-+*%(),=])", re.ASCII)
_SYMBOL = re.compile(r"[suz]f?\d+", re.ASCII)
_FLAGS = words("positive integer nonnegative zero real finite")
_FUNCTIONS = words(
    "Add Mul Mod Max Min FloorDiv CeilDiv CleanDiv PythonMod ModularIndexing CeilToInt FloorToInt TruncToInt ToFloat "
    "IntTrueDiv FloatTrueDiv Identity Eq Ne Lt Le Gt Ge Unequality Equality StrictLessThan LessThan "
    "StrictGreaterThan GreaterThan"
)
_POWERS = ("Pow", "PowByNatural")
_MOST_POWER = 4


class _BadExpressionError(Exception):
    """Not in the grammar."""


def is_expression(text: str) -> bool:
    """Whether a text is an expression of sizes, so that it may be evaluated."""
    if len(text) > LONGEST:
        return False
    try:
        parser = _Parser(_tokens(text))
        parser.sum()
    except _BadExpressionError:
        return False
    return parser.done()


def _tokens(text: str) -> list[str]:
    found, position, text = list[str](), 0, text.rstrip()
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            raise _BadExpressionError
        found.append(token[0].strip())
        position = token.end()
    return found


class _Parser:
    """Recursive descent: a sum of products of signed atoms."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens, self._at, self._depth = tokens, 0, 0

    def done(self) -> bool:
        return self._at == len(self._tokens)

    def _peek(self) -> str:
        return "" if self.done() else self._tokens[self._at]

    def _take(self, wanted: str = "") -> str:
        token = self._peek()
        if not token or (wanted and token != wanted):
            raise _BadExpressionError
        self._at += 1
        return token

    def sum(self) -> None:
        self._depth += 1
        if self._depth > LIMITS.nesting:
            raise _BadExpressionError
        self._product()
        while self._peek() in ("+", "-"):
            self._take()
            self._product()
        self._depth -= 1

    def _product(self) -> None:
        self._signed()
        while self._peek() in ("*", "//", "%"):
            self._take()
            self._signed()

    def _signed(self) -> None:
        if self._peek() == "-":
            self._take()
        token = self._take()
        if token == "(":
            self.sum()
            self._take(")")
        elif token.isdigit():
            _bounded(token)
        elif not _SYMBOL.fullmatch(token):
            self._call(token)

    def _call(self, name: str) -> None:
        if name in ("True", "False"):
            return
        self._take("(")
        if name == "Symbol":
            self._symbol()
        elif name == "Integer":
            self._integer()
        elif name == "Rational":
            self._integer()
            self._take(",")
            self._integer()
        elif name in _POWERS:
            self._power()
        elif name in _FUNCTIONS:
            self.sum()
            while self._peek() == ",":
                self._take()
                self.sum()
        else:
            raise _BadExpressionError
        self._take(")")

    def _integer(self) -> None:
        if self._peek() == "-":
            self._take()
        _bounded(self._take())

    def _symbol(self) -> None:
        name = self._take()
        if not (name.startswith("'") and _SYMBOL.fullmatch(name.strip("'"))):
            raise _BadExpressionError
        while self._peek() == ",":
            self._take()
            if self._take() not in _FLAGS:
                raise _BadExpressionError
            self._take("=")
            if self._take() not in ("True", "False"):
                raise _BadExpressionError

    def _power(self) -> None:
        """A symbol to a small power: what torch makes of s0*s0."""
        name = self._take()
        if name == "Symbol":
            self._take("(")
            self._symbol()
            self._take(")")
        elif not _SYMBOL.fullmatch(name):
            raise _BadExpressionError
        self._take(",")
        exponent = self._take()
        if exponent == "Integer":
            self._take("(")
            exponent = self._take()
            self._take(")")
        if not exponent.isdigit() or not 1 <= _bounded(exponent) <= _MOST_POWER:
            raise _BadExpressionError


def _bounded(digits: str) -> int:
    """The number, as long as a size may be that long."""
    if not digits.isdigit() or len(digits) > len(str(LIMITS.elements)) or int(digits) >= LIMITS.elements:
        raise _BadExpressionError
    return int(digits)
