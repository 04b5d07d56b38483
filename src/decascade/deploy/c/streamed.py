"""Streamed int8 C of a TFLite file: generated, compiled here, compared byte for byte, and run on an emulated Cortex-M4."""

from __future__ import annotations

import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from shutil import which

import numpy as np
from numpy.typing import NDArray

from decascade.deploy.c.code import c_name
from decascade.deploy.c.cortex_m import TICKS_PER_INSTRUCTION, emulated, readings
from decascade.deploy.made import Made, Source
from decascade.deploy.tflite.export import int8_tflite
from decascade.deploy.tflite.tflm import Micro, run_micro
from decascade.deploy.tools import PROGRAMS
from decascade.errors import UsageError, VerificationError
from decascade.report.facts.device import MicroFacts, StreamFacts
from decascade.stream.generate import Generated, generate
from decascade.stream.graph import run
from decascade.version import __version__

SAMPLES = 16
"""Random inputs that the C is compared on."""
MACHINE = "cortex-m4"
PAINTED = 1 << 14
"""Bytes of stack to look for traces in."""
Stored = NDArray[np.int8]


def streamed_int8(source: Source, name: str, stream: bool = True) -> Made:
    """A model as streamed C: quantised as for a .tflite file, then as `streamed_files`.

    Raises:
        UsageError: as `int8_tflite` and `streamed_files`.
    """
    made = int8_tflite(source, f"{Path(name).stem}.tflite")
    data = next(iter(made.files.values()))
    found = streamed_files(data, name, stream)
    return Made(
        found.kind, found.files, found.flash, found.operations, None, made.fidelity, made.micro, equalised=made.equalised,
        tools=made.tools, notes=(*made.notes, *found.notes), streamed=found.streamed,
    )


def streamed_files(data: bytes, name: str, stream: bool = True, label: str = "") -> Made:
    """NAME.c and NAME.h for an int8 .tflite file; `stream`: by rows, else map by map in the same code.

    Raises:
        FormatError: it is no TFLite file.  UsageError: an operation without a streamed form.
        VerificationError: the C does not compile, or computes something else.
    """
    found = generate(data, c_name(Path(name).stem), label or name, __version__, stream)
    inputs = _inputs(found)
    expected = np.stack([_expected(found, x) for x in inputs])
    micro, notes = _micro(data, found, inputs, expected)
    notes += [_host(found, inputs, expected)]
    facts, note = _facts(found, inputs[0], expected[0])
    files = {name: found.sources.source.encode(), f"{found.sources.name}.h": found.sources.header.encode()}
    kinds = Counter(type(node.work).__name__ for node in found.program.nodes if node.work is not None)
    return Made(f"c int8, {'streamed' if stream else 'map by map'}", files, facts.flash or found.sources.constants, dict(kinds),
                micro=micro, tools=("tflite_micro",), notes=tuple(n for n in (*notes, note) if n), streamed=facts)


def _inputs(found: Generated) -> Stored:
    shape = found.graph.maps[found.graph.input].shape
    return np.random.default_rng(0).integers(-128, 128, (SAMPLES, *shape)).astype(np.int8)


def _expected(found: Generated, x: Stored) -> Stored:
    values = run(found.graph, x)
    return np.concatenate([values[o].reshape(-1) for o in found.graph.outputs])


def _micro(data: bytes, found: Generated, inputs: Stored, expected: Stored) -> tuple[MicroFacts | None, list[str]]:
    """TFLM's arena, and its bytes against ours.

    Raises:
        VerificationError: they differ.
    """
    from decascade.stream.read.flat import read_file

    file = read_file(data, "the file")
    shape = file.tensors[file.inputs[0]].shape
    try:
        micro: Micro = run_micro(data, [inputs.reshape(len(inputs), *shape[1:])], len(file.outputs))
    except UsageError as error:
        return None, [f"not compared with TensorFlow Lite for Microcontrollers: {error}"]
    theirs = np.concatenate([o.reshape(len(inputs), -1) for o in micro.outputs], axis=1)
    if not np.array_equal(theirs, expected):
        count = int(np.sum(theirs != expected))
        raise VerificationError(f"{count} of {expected.size} output bytes differ from TensorFlow Lite for Microcontrollers; "
                                "nothing was written (please report this)")
    facts = MicroFacts(micro.arena, micro.head, micro.tail, 0, 1.0, 0.0)
    return facts, [f"byte for byte what TensorFlow Lite for Microcontrollers gives, on {len(inputs)} random inputs"]


def _host(found: Generated, inputs: Stored, expected: Stored) -> str:
    """The C compiled and run here; a remark where there is no compiler.

    Raises:
        VerificationError: it does not compile, or the bytes differ.
    """
    compiler = which("cc") or which("gcc")
    if compiler is None:
        return "no C compiler on this machine: the C was not run here"
    name = found.sources.name
    with tempfile.TemporaryDirectory() as folder:
        for file, text in {f"{name}.c": found.sources.source, f"{name}.h": found.sources.header, "main.c": _main(name)}.items():
            (Path(folder) / file).write_text(text, encoding="utf-8")
        build = subprocess.run([compiler, "-std=c99", "-O2", f"{name}.c", "main.c", "-o", "main"],
                               cwd=folder, capture_output=True, text=True, check=False)
        if build.returncode:
            raise VerificationError(f"the C code does not compile: {build.stderr.strip()[:200]}; nothing was written")
        ran = subprocess.run([str(Path(folder) / "main")], input=inputs.tobytes(), capture_output=True, check=False)
    got = np.frombuffer(ran.stdout, np.int8)
    if ran.returncode or not np.array_equal(got, expected.reshape(-1)):
        raise VerificationError("the C code gives other bytes than the file on this machine; nothing was written "
                                "(please report this)")
    return ""


def _main(name: str) -> str:
    upper = name.upper()
    return f"""#include <stdio.h>
#include "{name}.h"
static {name}_context context;
static int8_t input[{upper}_INPUT_SIZE], output[{upper}_OUTPUT_SIZE];
int main(void) {{
    while (fread(input, 1, sizeof input, stdin) == sizeof input) {{
        {name}_run(&context, input, output);
        fwrite(output, 1, sizeof output, stdout);
    }}
    return 0;
}}
"""


def _facts(found: Generated, x: Stored, expected: Stored) -> tuple[StreamFacts, str]:
    rows = StreamFacts(found.sources.context, found.sources.context + found.sources.input)
    absent = [program for program in PROGRAMS if which(program) is None]
    if absent:
        return rows, f"{' and '.join(absent)} not installed (scripts/install-device-tools.sh): nothing was run on a Cortex-M"
    try:
        return on_chip(found, x, expected), ""
    except UsageError as error:
        return rows, str(error)


def on_chip(found: Generated, x: Stored, expected: Stored, machine: str = MACHINE, optimise: str = "-O2") -> StreamFacts:
    """One inference on the emulated board.

    Raises:
        UsageError: a tool is missing, or it does not fit.  VerificationError: it gives other bytes there.
    """
    source = found.sources
    files = {"model.c": source.source, f"{source.name}.h": source.header, "harness.h": _harness(found, x)}
    told, flash, _ = emulated(files, machine, optimise)
    values = readings(told)
    if values["X"] or values["F"] or len(values["T"]) != 1:
        raise UsageError(f"the program fails on the emulated machine: {' '.join(told.split())[:200] or 'no word'}")
    got = np.array(values["O"], np.uint32).view(np.int8)[: source.output]
    if not np.array_equal(got, expected):
        raise VerificationError(f"the C code gives other bytes on the {machine}; nothing was written (please report this)")
    instructions = round(values["T"][0] / TICKS_PER_INSTRUCTION)
    return StreamFacts(source.context, source.context + source.input, machine, instructions, flash, values["S"][0])


def _harness(found: Generated, x: Stored) -> str:
    name, apart = found.sources.name, '__attribute__((section(".harness.data")))'
    words = -(-found.sources.output // 4)
    values = ", ".join(str(int(v)) for v in x.reshape(-1))
    return "\n".join([
        f'#include "{name}.h"', f"#define PAINTED {PAINTED}u",
        f"static int8_t given[] {apart} = {{{values}}};", f"static {name}_context context;",
        f"static uint32_t results[{words}] {apart} = {{0}};", f"#define OUTPUTS {words}u",
        f"#define RUN_MODEL {name}_run(&context, given, (int8_t *)results)", "",
    ])
