"""Export to C: source, header, test program; checked here and, where the tools are there, on an emulated Cortex-M4."""

from __future__ import annotations

import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.cost.folding import folded
from decascade.deploy.c.code import Code, c_name, generate, header, source_with_wrapper, test_program
from decascade.deploy.c.cortex_m import Chip, run_on_chip
from decascade.deploy.made import Made, Source, first_sample, single_batch, verified
from decascade.deploy.onnx.export import onnx_subject
from decascade.deploy.onnx.model import onnx_of
from decascade.deploy.tools import PROGRAMS
from decascade.errors import UsageError, VerificationError
from decascade.formats.onnx.run import run_model
from decascade.report.facts.device import ChipFacts

ALLOWED = 1e-5
"""Largest difference from onnxruntime on the test vector, over the larger of 1 and the largest output."""
MACHINE = "cortex-m4"


def c_files(source: Source, name: str) -> Made:
    """NAME.c, NAME.h and NAME_test.c; normalisations are folded into the layers before them first.

    Raises:
        UsageError: an operation without C.  VerificationError: the C computes something else.
    """
    single_batch(source.graph)
    stem = c_name(Path(name).stem)
    source.told("generating", 0.0)
    graph = folded(source.graph)
    model = onnx_of(graph)
    verification = verified(source, onnx_subject(onnx_of(graph, None)))
    code = generate(model, stem)
    inputs = first_sample(source)
    ran = run_model(model, dict(zip(graph.inputs, inputs, strict=True)))
    outputs = [np.asarray(ran[output], np.float32) for output in graph.outputs]
    source.told("running", 0.5)
    chip, missing = _on_chip(code, inputs)
    flash = sum(t.nbytes for t in model.weights.values()) + sum(len(t.raw_data) for t in model.shell.graph.initializer)
    facts = None
    if chip is not None:
        facts = ChipFacts(MACHINE, chip.instructions, chip.flash, chip.ram, chip.stack, _gap(chip.outputs, outputs))
        flash = chip.flash
        if facts.max_abs > ALLOWED * _scale(outputs):
            raise VerificationError(f"the C code is off by {facts.max_abs:.3g} from onnxruntime; nothing was written")
    files = _files(code, Path(name), inputs, outputs, facts)
    notes = tuple(n for n in (missing, _host(files, stem)) if n)
    kinds = Counter(node.op_type for node in model.shell.graph.node)
    return Made("c", {k: v.encode() for k, v in files.items()}, flash, dict(kinds), verification, chip=facts,
                tools=("emx_onnx_cgen", "onnxruntime"), notes=notes)


def _on_chip(code: Code, inputs: Sequence[NDArray[Any]]) -> tuple[Chip | None, str]:
    absent = [name for name in PROGRAMS if which(name) is None]
    if absent:
        return None, f"{' and '.join(absent)} not installed (scripts/install-device-tools.sh): nothing was run on a Cortex-M"
    try:
        return run_on_chip(code, inputs, MACHINE), ""
    except UsageError as error:
        return None, str(error)


def _gap(got: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> float:
    return max(float(np.abs(a - b.reshape(a.shape)).max()) for a, b in zip(got, expected, strict=True))


def _scale(outputs: Sequence[NDArray[Any]]) -> float:
    return max(1.0, *(float(np.abs(o).max()) for o in outputs))


def _files(
    code: Code, place: Path, inputs: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]], chip: ChipFacts | None
) -> dict[str, str]:
    sizes = list[str]()
    if chip is not None:
        sizes = [f"On {chip.machine} at -O3: {chip.instructions} instructions, {chip.flash} bytes of code and constants,",
                 f"{chip.ram} bytes of static RAM, {chip.stack} bytes of stack."]
    return {
        place.name: source_with_wrapper(code),
        f"{code.name}.h": header(code, sizes),
        f"{code.name}_test.c": test_program(code, inputs, outputs),
    }


def _host(files: dict[str, str], stem: str) -> str:
    """The test program compiled and run here; a remark where there is no compiler.

    Raises:
        VerificationError: it does not compile, or the outputs differ.
    """
    compiler = which("cc") or which("gcc")
    if compiler is None:
        return "no C compiler on this machine: the test program was not run here"
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        sources = [name for name in files if name.endswith(".c")]
        build = subprocess.run([compiler, "-std=c99", "-O2", *sources, "-lm", "-o", f"{stem}_test"],
                               cwd=folder, capture_output=True, text=True, check=False)
        if build.returncode:
            raise VerificationError(f"the C code does not compile: {build.stderr.strip()[:200]}; nothing was written")
        run = subprocess.run(["sh", "-c", f"ulimit -s unlimited 2>/dev/null; exec ./{stem}_test"],
                             cwd=folder, capture_output=True, text=True, check=False)
    if run.returncode:
        raise VerificationError(f"the C code fails on its test vector: {run.stdout.strip()[:200]}; nothing was written")
    return f"{stem}_test.c on this machine: {run.stdout.strip()}"
