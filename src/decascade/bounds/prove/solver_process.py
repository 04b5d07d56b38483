"""A process of its own for what would hold the interpreter's lock: searches then do not slow down what runs beside them.

It reads functions of this package and their arguments, pickled, on its standard input, and answers on its standard output;
nothing but its parent writes to it.  `multiprocessing` would run the caller's main module a second time, which a
script without a guard does not stand; here nothing but this package is imported.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from threading import Event, Lock, Thread
from time import perf_counter
from typing import IO, Any, TypeVar

T = TypeVar("T")
Run = Callable[..., Any]
"""Runs a function of its arguments: `here` or `SolverProcess.ask`."""
UP = b"+"
"""What it writes once it has loaded what it needs."""
LOADED = "decascade.bounds.prove.branch", "decascade.bounds.prove.exact", "scipy.optimize", "scipy.sparse"
WORTH = 1.0
"""Seconds that searches have taken here before it is started: about what it takes to start."""


def here(function: Callable[..., T], *given: Any) -> T:
    """The function, run in this process."""
    return function(*given)


class SolverProcess:
    """`ask` from one thread at a time; `close` from any.  Until the process is up, and where it cannot be started, what is
    asked is run here."""

    def __init__(self) -> None:
        self.lock, self.up, self.closed = Lock(), Event(), False
        self.process: subprocess.Popen[bytes] | None = None
        self.spent = 0.0

    def ask(self, function: Callable[..., T], *given: Any) -> T:
        """What a function, found by its name in its module, returns.  Where the process cannot answer, also because the
        function raised something, it is run here.

        Raises:
            EOFError: closed.
        """
        if self.process is not None and self.up.is_set():
            with suppress(OSError, ValueError, EOFError, pickle.UnpicklingError):
                return _asked(self.process, function, given)
            self.up.clear()
        start = perf_counter()
        if self.closed:
            raise EOFError("the solver process was closed")
        found = function(*given)
        self.spent += perf_counter() - start
        self._start()
        return found

    def _start(self) -> None:
        """Start the process, once, if it is worth it."""
        with self.lock:
            if self.spent < WORTH or self.closed or self.process is not None:
                return
            self.process = _started()
        if self.process is not None:
            Thread(target=self._listen, args=(_pipes(self.process)[1],), daemon=True).start()

    def _listen(self, answers: IO[bytes]) -> None:
        if answers.read(len(UP)) == UP:
            self.up.set()

    def close(self) -> None:
        """End the process, whatever it is at."""
        with self.lock:
            self.closed = True
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in _pipes(self.process):
                with suppress(OSError):  # of what was not yet written
                    pipe.close()


def _asked(process: subprocess.Popen[bytes], function: Callable[..., T], given: tuple[Any, ...]) -> T:
    questions, answers = _pipes(process)
    pickle.dump((function, given), questions, pickle.HIGHEST_PROTOCOL)
    questions.flush()
    return pickle.load(answers)


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def _started() -> subprocess.Popen[bytes] | None:
    """The process; -P and the path as it is here, so that no file of the working folder is taken for a module."""
    if getattr(sys, "frozen", False) or not sys.executable:  # there is no interpreter of its own to start
        return None
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", f"from {__name__} import serve; serve()"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
    except OSError:
        return None


def serve() -> None:
    """Answer until nothing more is asked.  What libraries print goes to standard error, so that the answers stay whole."""
    for name in LOADED:
        import_module(name)
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    answers.write(UP)
    answers.flush()
    while True:
        try:
            function, given = pickle.load(asked)
        except EOFError:
            return
        pickle.dump(function(*given), answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()
