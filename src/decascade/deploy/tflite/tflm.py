"""TensorFlow Lite for Microcontrollers on this machine: the arena that its allocator takes, and its outputs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.deploy.tools import module
from decascade.errors import UsageError

USE = "the arena of TensorFlow Lite for Microcontrollers"
_ARENA = re.compile(r"Arena allocation (total|head|tail) (\d+) bytes")


@dataclass(frozen=True, eq=False)
class Micro:
    """Bytes of the arena: `head` are activations, which share their place over time, `tail` what persists.

    `outputs`: one array per output, samples on the first axis.  `tensors`: by index in the file, flat, on the first sample.
    """

    arena: int
    head: int
    tail: int
    outputs: tuple[NDArray[Any], ...] = ()
    tensors: Mapping[int, NDArray[Any]] = field(default_factory=dict[int, NDArray[Any]])


def run_micro(
    data: bytes, inputs: Sequence[NDArray[Any]] = (), outputs: int = 0, tensors: Sequence[int] = ()
) -> Micro:
    """A TFLite file in the microcontroller interpreter: its arena, and its `outputs` outputs on stored inputs, if any.

    `inputs`: one array per input, samples on the first axis.  `tensors`: intermediate results that are wanted as well.

    Raises:
        UsageError: it is not installed, or the file has an operation or a shape that it does not support.
    """
    module("tflite_micro", USE)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "model.tflite").write_bytes(data)
        np.savez(place / "in.npz", **_columns(inputs, tensors))
        files = [str(place / name) for name in ("model.tflite", "in.npz", "out.npz")]
        command = [sys.executable, "-P", "-m", "decascade.deploy.tflite.tflm_worker", *files, str(outputs)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, env=dict(os.environ))
        told = done.stderr + done.stdout
        if done.returncode:
            raise UsageError(f"TensorFlow Lite for Microcontrollers does not run the file: {_complaint(told, done.returncode)}")
        found = {what: int(size) for what, size in _ARENA.findall(told)}
        if found.keys() < {"total", "head", "tail"}:
            raise UsageError("TensorFlow Lite for Microcontrollers did not tell its arena: another version of tflite-micro?")
        with np.load(place / "out.npz", allow_pickle=False) as held:
            arrays = tuple(np.asarray(held[f"out_{i}"]) for i in range(outputs if inputs else 0))
            kept = {i: np.asarray(held[f"tensor_{i}"]).reshape(-1) for i in tensors if inputs}
    return Micro(found["total"], found["head"], found["tail"], arrays, kept)


def _columns(inputs: Sequence[NDArray[Any]], tensors: Sequence[int]) -> dict[str, Any]:
    columns: dict[str, Any] = {f"in_{i}": array for i, array in enumerate(inputs)}
    return columns | ({"tensors": np.array(tensors)} if tensors else {})


def _complaint(told: str, code: int) -> str:
    """What it said before it ended, without Python's own trace."""
    lines = [line.strip() for line in told.splitlines() if line.strip() and not line.startswith((" ", "Traceback"))]
    lines = [line for line in lines if not line.startswith("[RecordingMicroAllocator]")]
    return "; ".join(lines[:2])[:300] if lines else f"it ended with code {code}"
