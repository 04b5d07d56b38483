"""Instructions of one inference, counted on an emulated Cortex-M: the same number in every run, whatever the load.

QEMU's `-icount shift=6,sleep=off` lets every instruction take 64 ns of emulated time, which the board's 25 MHz timer tells:
1.6 ticks per instruction.  Instructions, not cycles: loads, divisions and flash wait states cost more on silicon.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.deploy.c.code import Code, array_text
from decascade.deploy.tools import program
from decascade.errors import UsageError

USE = "counting instructions"
FIRMWARE = Path(__file__).parent / "firmware"
TICKS_PER_INSTRUCTION = 1.6
SECONDS = 600
"""After which a run is given up."""


@dataclass(frozen=True)
class Machine:
    """A board of QEMU's, how to compile for its processor, and where its PSRAM lies."""

    board: str
    flags: tuple[str, ...]
    ram: int


MACHINES = {
    "cortex-m4": Machine("mps2-an386", ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16"), 0x21000000),
    "cortex-m7": Machine("mps2-an500", ("-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16"), 0x60000000),
}


@dataclass(frozen=True, eq=False)
class Chip:
    """One inference on the emulated machine: instructions, bytes of flash (code and constants), static RAM and stack used."""

    instructions: int
    flash: int
    ram: int
    stack: int
    outputs: tuple[NDArray[np.float32], ...]


def run_on_chip(code: Code, inputs: Sequence[NDArray[Any]], machine: str = "cortex-m4") -> Chip:
    """Compile the code with -O3, run it once on the inputs (channels first, batch 1).

    Raises:
        UsageError: a tool is missing; the model does not fit 4 MiB of flash or 16 MiB of RAM; the program fails.
    """
    told, flash, ram = emulated({"model.c": f"{code.source}\n{code.wrapper}", "harness.h": _harness(code, inputs)}, machine)
    return _chip(code, told, flash, ram)


def emulated(files: Mapping[str, str], machine: str, optimise: str = "-O3") -> tuple[str, int, int]:
    """model.c, harness.h and what they include, built with the firmware and run: what it said, bytes of flash and static RAM.

    Raises:
        UsageError: as `run_on_chip`.
    """
    compiler, emulator = program("arm-none-eabi-gcc", USE), program("qemu-system-arm", USE)
    chosen = MACHINES[machine]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name, text in files.items():
            (place / name).write_text(text, encoding="utf-8")
        _compile(compiler, chosen, place, optimise)
        flash, ram = _sizes(compiler, place / "model.elf")
        command = [emulator, "-machine", chosen.board, "-nographic", "-monitor", "none", "-serial", "null"]
        command += ["-icount", "shift=6,sleep=off", "-semihosting-config", "enable=on,target=native"]
        return _emulated([*command, "-kernel", str(place / "model.elf")]), flash, ram


def _harness(code: Code, inputs: Sequence[NDArray[Any]]) -> str:
    apart = '__attribute__((section(".harness.data")))'
    given = [array_text(f"given_{i}", x, f"static {apart}") for i, x in enumerate(inputs)]
    total = sum(a.size for a in code.outputs)
    starts = np.cumsum([0, *(a.size for a in code.outputs)])
    arguments = [*(f"given_{i}" for i in range(len(inputs))), *(f"&results[{start}]" for start in starts[:-1])]
    return "\n".join([
        f"#define PAINTED {_painted(code)}u", f"void {code.name}_run({code.flat});", *given,
        f"static float results[{total}] {apart} = {{0}};",
        f"#define OUTPUTS {total}u", f"#define RUN_MODEL {code.name}_run({', '.join(arguments)})", "",
    ])


def _painted(code: Code) -> int:
    """Bytes of stack to look for traces in: all temporaries of the code, and room for everything else."""
    temporaries = re.findall(r"^\s+float \w+((?:\[\d+\])+);", code.source, re.M)
    return 4 * sum(prod(int(n) for n in re.findall(r"\d+", sizes)) for sizes in temporaries) + (1 << 16)


def _compile(compiler: str, machine: Machine, place: Path, optimise: str) -> None:
    flags = [optimise, "-std=gnu11", "-mthumb", "-mfloat-abi=hard", *machine.flags, "-ffunction-sections", "-fdata-sections"]
    link = ["-nostartfiles", "-Wl,--gc-sections", "-Wl,--build-id=none", f"-Wl,--defsym=ram_base={machine.ram:#x}"]
    link += ["-T", str(FIRMWARE / "link.ld")]
    files = ["model.c", str(FIRMWARE / "main.c")]
    done = subprocess.run(
        [compiler, *flags, *link, "-I", ".", *files, "-o", "model.elf", "-lm", "-lc", "-lgcc"],
        cwd=place, capture_output=True, text=True, check=False,
    )
    if not done.returncode:
        return
    over = re.search(r"region `(\w+)' overflowed by (\d+) bytes", done.stderr)
    if over is not None:
        part = {"FLASH": "4 MiB of flash", "RAM": "16 MiB of RAM"}.get(over.group(1), "4 MiB for the test vector")
        raise UsageError(f"the model does not fit the emulated board: {over.group(2)} bytes over its {part}")
    lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["no word"]
    raise UsageError(f"arm-none-eabi-gcc does not compile the generated C: {lines[0][:300]}")


def _sizes(compiler: str, elf: Path) -> tuple[int, int]:
    done = subprocess.run(
        [compiler.removesuffix("gcc") + "size", "-A", str(elf)], capture_output=True, text=True, check=True
    )
    found = {name: int(size) for name, size in re.findall(r"^(\.[\w.]+)\s+(\d+)", done.stdout, re.M)}
    flash = sum(found.get(name, 0) for name in (".text", ".rodata", ".ARM.exidx", ".data"))
    return flash, found.get(".data", 0) + found.get(".bss", 0)


def _emulated(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise UsageError(f"the emulated inference takes longer than {SECONDS} s: too large a model for this target") from None
    return done.stdout + done.stderr


def _chip(code: Code, told: str, flash: int, ram: int) -> Chip:
    values = readings(told)
    sizes = [a.size for a in code.outputs]
    if values["X"] or values["F"] or len(values["T"]) != 1 or len(values["O"]) != sum(sizes):
        raise UsageError(_failed(code, told, values["F"], bool(values["X"])))
    bits = np.array(values["O"], np.uint32).view(np.float32)
    parts = np.split(bits, np.cumsum(sizes)[:-1])
    outputs = tuple(part.reshape(a.shape) for part, a in zip(parts, code.outputs, strict=True))
    return Chip(round(values["T"][0] / TICKS_PER_INSTRUCTION), flash, ram, values["S"][0], outputs)


def readings(told: str) -> dict[str, list[int]]:
    """The firmware's numbers by kind: timer ticks T, bytes of stack S, words of output O, faults F, RAM exhausted X."""
    words = [(kind, int(number, 16)) for kind, number in re.findall(r"^([TSOFX]) ([0-9a-f]{16})\s*$", told, re.M)]
    return {kind: [n for k, n in words if k == kind] for kind in "TSOFX"}


def _failed(code: Code, told: str, faults: Sequence[int], exhausted: bool) -> str:
    """What went wrong.  A core without room on its stack for the fault itself locks up."""
    if exhausted or (not faults and "Lockup" in told):
        needs = f"its temporaries, up to {_painted(code)} bytes, exhaust 16 MiB of RAM"
        return f"the model does not fit the emulated board: {needs}"
    fault = f"fault status {faults[0]:#x}" if faults else " ".join(told.split())[:200] or "no word"
    return f"the program fails on the emulated machine: {fault}"
