"""The first look at a file, in a process of its own (`gate.child`)."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from decascade.errors import FormatError, LimitExceededError
from decascade.formats.keras.gate.config import objects
from decascade.limits import LIMITS

_SIZES = ("units", "filters", "output_dim", "input_dim", "projection_dim")


def first_look(path: Path) -> int:
    """How many numbers the file stores; 0 where it is damaged in a way that reading it will name.

    Raises:
        FormatError: HDF5 crashes on it, an entry is there twice, an unknown filter.
        LimitExceededError: it unpacks to too much, or takes too long to read.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(Path(__file__).with_name("child.py")), str(path), json.dumps(asdict(LIMITS))],
            capture_output=True, text=True, check=False, timeout=2 * LIMITS.seconds + 10, stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise _slow(path) from None
    if done.returncode in (-9, -24):  # SIGKILL and SIGXCPU: the limit on processor time
        raise _slow(path)
    if done.returncode:
        raise FormatError(f"{path} is damaged: HDF5 crashes on it ({-done.returncode}): save or fetch it again")
    found: dict[str, Any] = json.loads(done.stdout)
    if limit := found.get("limit"):
        most = getattr(LIMITS, limit)
        raise LimitExceededError(f"{path}: {found['words']}, beyond the limit of {most:,} ({limit}): save a smaller model")
    if "words" in found:
        raise FormatError(f"{path}: {found['words']}: save it again with model.save")
    return int(found["numbers"])


def check_sizes(config: Any, numbers: int, file: str) -> None:
    """Raises:
    FormatError: a layer has more channels than the file has numbers, which would be made before the weights are missed.
    """
    for part in objects(config):
        for key in _SIZES:
            if type(size := part.get(key)) is int and size > max(numbers, 1 << 20):
                raise FormatError(
                    f"{file}: layer {part.get('name', '?')!s:.80} has {key} {size:,}, and the file stores {numbers:,} numbers "
                    "in all: its configuration and its weights do not belong together; save it again with model.save")


def _slow(path: Path) -> LimitExceededError:
    return LimitExceededError(
        f"{path}: reading it takes more than {LIMITS.seconds:g} seconds (limit seconds): it is damaged; fetch it "
        "again")
