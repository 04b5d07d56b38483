"""TensorFlow Lite for Microcontrollers in a process of its own: it ends the process on what it cannot run.

python -m decascade.deploy.tflite.tflm_worker MODEL.tflite INPUTS.npz OUTPUTS.npz COUNT; the allocator's report goes to
standard error.
Inputs are in_0, in_1, … with samples on the first axis, as the file stores them; its COUNT outputs are out_0, ….
Where INPUTS names `tensors`, by index in the file, their values on the first sample are given too, as tensor_INDEX.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

ARENA = 256 << 20
"""Bytes that the interpreter may use; it tells how many it did."""


def main(model: str, inputs: str, outputs: str, count: str) -> None:
    runtime: Any = import_module("tflite_micro.python.tflite_micro.runtime")
    data = Path(model).read_bytes()
    interpreter = runtime.Interpreter.from_bytes(data, arena_size=ARENA)
    interpreter.print_allocations()
    with np.load(inputs, allow_pickle=False) as held:
        given = [held[f"in_{i}"] for i in range(sum(name.startswith("in_") for name in held.files))]
        tensors = [int(i) for i in held["tensors"]] if "tensors" in held.files else []
    found = list[list[Any]]()
    for row in range(len(given[0]) if given else 0):
        _set(interpreter, given, row)
        interpreter.invoke()
        found.append([np.array(interpreter.get_output(i)) for i in range(int(count))])
    columns: dict[str, Any] = {f"out_{i}": np.concatenate(column) for i, column in enumerate(zip(*found, strict=True))}
    if tensors and given:
        columns |= _tensors(runtime, data, given, tensors)
    np.savez(outputs, **columns)


def _set(interpreter: Any, given: list[Any], row: int) -> None:
    for i, array in enumerate(given):
        interpreter.set_input(np.ascontiguousarray(array[row : row + 1]), i)


def _tensors(runtime: Any, data: bytes, given: list[Any], tensors: list[int]) -> dict[str, Any]:
    keeps = runtime.InterpreterConfig.kPreserveAllTensors
    interpreter = runtime.Interpreter.from_bytes(data, arena_size=ARENA, intrepreter_config=keeps)
    _set(interpreter, given, 0)
    interpreter.invoke()
    return {f"tensor_{i}": np.asarray(interpreter.GetTensor(i, 0)["tensor_data"]) for i in tensors}


if __name__ == "__main__":
    main(*sys.argv[1:])
