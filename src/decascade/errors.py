"""One error tree.  Every message says what is wrong, the values, and the repair, in one line."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class DecascadeError(Exception):
    """Base of all errors raised on purpose; the command line prints it in one line and exits with `exit_code`."""

    exit_code = 2


class AlgebraError(DecascadeError, ValueError):
    """Operators whose shapes or parameters do not fit together."""


class GraphError(DecascadeError, ValueError):
    """A graph that is not well formed: a dangling input, a name written twice, a shape that does not fit."""


class FormatError(DecascadeError, ValueError):
    """A model file or object that cannot be read: missing, empty, truncated, of another format, not finite."""


class UnsafeModelError(FormatError):
    """A model file that would run code or read outside its folder.  Never loaded."""


class LimitExceededError(FormatError):
    """A file that asks for more than `decascade.limits` allows: it names the limit, what was asked and how to go on."""


class OutputError(DecascadeError, OSError):
    """The result cannot be written where it was asked for; nothing half-written is left behind."""


class UsageError(DecascadeError, ValueError):
    """An option or argument out of its domain."""


class MissingPackageError(FormatError, UsageError):
    """A package of an extra that is not installed, or cannot be imported."""


class DataWarning(UserWarning):
    """The data do not look like what the model was trained on: another scale, labels of other classes."""


class CannotInterpret(DecascadeError):  # noqa: N818 - caught as a fact, never shown as a failure
    """The NumPy interpreter met an operation that it has no float64 meaning for."""


class VerificationError(DecascadeError):
    """The merged model is not the same function within the promised tolerance; nothing was written."""

    exit_code = 3


class LimitError(DecascadeError):
    """No result keeps the limits that were asked for; nothing was written."""

    exit_code = 3


class Interrupted(DecascadeError):  # noqa: N818 - the user asked for it, it is no failure
    """The user stopped a long command; says how it can go on."""

    exit_code = 130


def nearest(given: str, valid: Iterable[str]) -> str:
    """"; did you mean macs?" where one of the valid words is near to what was given, else nothing."""
    near = get_close_matches(given, list(valid), n=1)
    return f"; did you mean {near[0]}?" if near else ""
