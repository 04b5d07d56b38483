"""What all fuzz targets share: mutating inputs, trying them, and saying what is a finding.

A target is a module in `targets/` with a `TARGET`.  (The folder keeps a target named `onnx` from hiding the package.)
A finding is whatever leaves a reader that is no `DecascadeError`, takes more than 10 seconds or more than 2 GiB.
"""

from __future__ import annotations

import faulthandler
import hashlib
import random
import resource
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from time import monotonic
from types import FrameType

from decascade.errors import DecascadeError

HERE = Path(__file__).resolve().parent
SECONDS = 10
BYTES = 2 << 30
_NUMBERS = (0, 1, -1, 2, 127, 128, 255, 2**15, 2**31 - 1, -(2**31), 2**32 - 1, 2**62, 2**63 - 1, -(2**63))

Mutate = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Target:
    """A reader under attack.

    `read`: reads a file and walks as far as a user would.  `mutate`: changes the structure, not only bytes; it may raise
    `ValueError` for bytes that have none.  The corpus lies in `corpus/NAME/`, or is what `corpus` makes.
    """

    name: str
    extension: str
    read: Callable[[Path], object]
    mutate: Mutate | None = None
    corpus: Callable[[], Sequence[bytes]] | None = None

    def seeds(self) -> list[bytes]:
        kept = [path.read_bytes() for path in sorted((HERE / "corpus" / self.name).glob("*"))]
        return kept + list(self.corpus() if self.corpus else ())


@dataclass(frozen=True)
class Finding:
    """An input and what it did; `place` tells findings apart."""

    data: bytes
    place: str
    words: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()[:12]


class TooSlow(BaseException):
    """Not an `Exception`, so that no reader takes it for one of a library."""


def target_names() -> list[str]:
    return sorted(path.stem for path in (HERE / "targets").glob("[a-z]*.py"))


def target(name: str) -> Target:
    found = import_module(f"fuzz.targets.{name}").TARGET
    assert isinstance(found, Target)
    return found


def inputs(subject: Target, seed: int) -> Iterator[bytes]:
    """The corpus itself, then mutations of it without end; the same ones for the same seed."""
    rng, seeds = random.Random(seed), subject.seeds()
    assert seeds, f"{subject.name} has no corpus"
    yield from seeds
    while True:
        data = rng.choice(seeds)
        for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
            data = mutated(subject, data, seeds, rng)
        yield data


def mutated(subject: Target, data: bytes, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    if subject.mutate is not None and rng.random() < 0.75:
        try:
            return subject.mutate(data, rng)
        except ValueError:
            pass
    return _mutated_bytes(data, seeds, rng)


def _mutated_bytes(data: bytes, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    a, b = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
    b = min(b, a + rng.choice((1, 4, 8, 64, 1 << 20)))
    kind = rng.randrange(6)
    if kind == 0:
        return data[:a] + bytes(byte ^ (1 << rng.randrange(8)) for byte in data[a : min(b, a + 4)]) + data[min(b, a + 4) :]
    if kind == 1:
        return data[:a] + data[b:]
    if kind == 2:
        return data[:b] + data[a:b] * rng.choice((1, 2, 100)) + data[b:]
    if kind == 3:
        width = rng.choice((1, 2, 4, 8))
        number = (rng.choice(_NUMBERS) % (1 << 8 * width)).to_bytes(width, rng.choice(("little", "big")))
        return data[:a] + number + data[a + width :]
    if kind == 4:
        other = rng.choice(seeds)
        c = rng.randrange(len(other) + 1)
        return data[:a] + other[c : c + b - a] + data[b:]
    return data[:a]


def attempt(subject: Target, data: bytes, folder: Path) -> Finding | None:
    """Read one input; None where it was read, or refused as it should be."""
    path = folder / f"input{subject.extension}"
    path.write_bytes(data)
    start, before = monotonic(), _peak()
    signal.signal(signal.SIGALRM, _alarmed)
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(3 * SECONDS, exit=True)  # where C code does not come back to the interpreter
    try:
        subject.read(path)
    except DecascadeError:
        pass
    except (Exception, TooSlow) as error:
        return Finding(data, _place(error), f"{type(error).__name__}: {error}"[:300])
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
    if monotonic() - start > SECONDS:
        return Finding(data, "time", f"{monotonic() - start:.0f} s")
    if _peak() - before > BYTES:
        return Finding(data, "memory", f"{(_peak() - before) >> 20} MiB")
    return None


def _alarmed(_signal: int, _frame: FrameType | None) -> None:
    raise TooSlow


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} " + " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames[-4:]))


def limit_memory() -> None:
    """So that an allocation that is far too large fails here, instead of taking the machine down."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2 * BYTES, resource.RLIM_INFINITY))


def campaign(
    subject: Target, seed: int, end: Callable[[int], bool], note: Callable[[int, Finding | None, bytes], None]
) -> int:
    """Try inputs until `end` of their number holds; `note` hears of each before (None) and of each finding.  The number."""
    with tempfile.TemporaryDirectory() as folder:
        for count, data in enumerate(inputs(subject, seed)):
            if end(count):
                return count
            note(count, None, data)
            found = attempt(subject, data, Path(folder))
            if found is not None:
                note(count, found, data)
            if count == 0:
                limit_memory()
    raise AssertionError("inputs never end")
