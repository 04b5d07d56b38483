"""One error tree.  Every message says what is wrong, the values, and the repair, in one line."""

from __future__ import annotations


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


class OutputError(DecascadeError, OSError):
    """The result cannot be written where it was asked for; nothing half-written is left behind."""


class UsageError(DecascadeError, ValueError):
    """An option or argument out of its domain."""


class CannotInterpret(DecascadeError):  # noqa: N818 - caught as a fact, never shown as a failure
    """The NumPy interpreter met an operation that it has no float64 meaning for."""


class VerificationError(DecascadeError):
    """The merged model is not the same function within the promised tolerance; nothing was written."""

    exit_code = 3


class Interrupted(DecascadeError):
    """The user stopped a long command; says how it can go on."""

    exit_code = 130
