"""A model as standalone C: one function without malloc, a header with its sizes, a test program with one test vector.

The code itself is written by emx-onnx-cgen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.deploy.tools import module, version_of
from decascade.errors import UsageError

USE = "export to C"
@dataclass(frozen=True)
class Argument:
    """A parameter of the generated function: its name and the shape of the array."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Code:
    """The source, the name of its function, and the arguments of that: inputs, then outputs."""

    name: str
    source: str
    inputs: tuple[Argument, ...]
    outputs: tuple[Argument, ...]

    @property
    def wrapper(self) -> str:
        """`NAME_run` on flat arrays, which C and C++ can both declare."""
        casts = [
            f"({'const ' if a in self.inputs else ''}float (*){''.join(f'[{n}]' for n in a.shape[1:])}){a.name}"
            for a in (*self.inputs, *self.outputs)
        ]
        return f"void {self.name}_run({self.flat}) {{\n    {self.name}({', '.join(casts)});\n}}\n"

    @property
    def flat(self) -> str:
        """The parameters of `NAME_run`."""
        return ", ".join([*(f"const float *{a.name}" for a in self.inputs), *(f"float *{a.name}" for a in self.outputs)])


def generate(model: Any, name: str = "model") -> Code:
    """C for an ONNX model (an `OnnxModel`) of fixed sizes.

    Raises:
        UsageError: emx-onnx-cgen is not installed, or has no code for something in the model.
    """
    generator, proto = module("emx_onnx_cgen", USE), model.proto()
    try:
        source = _compiler(name).compile(proto)
    except (generator.CodegenError, generator.ShapeInferenceError, generator.UnsupportedOpError) as error:
        raise UsageError(f"emx-onnx-cgen has no C for this model: {' '.join(str(error).split())[:300]}") from None
    arguments = _arguments(source, name)
    count = len(proto.graph.input)
    return Code(name, source, arguments[:count], arguments[count:])


@cache
def _compiler(name: str) -> Any:
    """One for each name: it reads all its templates before the first model.

    Temporaries on the stack and weights in the code: nothing is allocated and nothing is read from files.
    """
    compiler: Any = import_module("emx_onnx_cgen.compiler")
    options = compiler.CompilerOptions(model_name=name, large_temp_threshold_bytes=0, large_weight_threshold=0)
    return compiler.Compiler(options)


def _arguments(source: str, name: str) -> tuple[Argument, ...]:
    found = re.search(rf"^void {re.escape(name)}\(([^)]*)\)", source, re.M)
    if found is None:
        raise UsageError(f"emx-onnx-cgen {version_of('emx_onnx_cgen')} wrote no function {name}: another version of it?")
    parts = list[Argument]()
    for text in found.group(1).split(","):
        word = re.search(r"(\w+)((?:\[[^\]]*\])+)\s*$", text.strip())
        if word is None or "float" not in text:
            raise UsageError(f"the C function takes {text.strip()!r}: only float arrays of fixed sizes are supported")
        sizes = re.findall(r"\[(?:restrict\s+)?(\d+)\]", word.group(2))
        parts.append(Argument(word.group(1), tuple(int(n) for n in sizes)))
    return tuple(parts)


def c_name(stem: str) -> str:
    """A file's stem as a C identifier."""
    found = re.sub(r"\W", "_", stem)
    return f"net_{found}" if not found or found[0].isdigit() else found


def header(code: Code, sizes: Sequence[str]) -> str:
    """The declaration of `NAME_run`, the sizes of its arrays, and remarks such as measured sizes."""
    guard = f"{code.name.upper()}_H"
    lines = [f"/* {code.name}: written by decascade and emx-onnx-cgen {version_of('emx_onnx_cgen')}."]
    lines += [f"   {line}" for line in (*sizes, "Arrays are float32, channels first, row by row.")]
    lines[-1] += " */"
    lines += [f"#ifndef {guard}", f"#define {guard}", ""]
    for argument in (*code.inputs, *code.outputs):
        shape = " x ".join(map(str, argument.shape))
        lines.append(f"#define {code.name.upper()}_{argument.name.upper()}_SIZE {argument.size} /* {shape} */")
    lines += ["", "#ifdef __cplusplus", 'extern "C" {', "#endif", "", f"void {code.name}_run({code.flat});", ""]
    return "\n".join([*lines, "#ifdef __cplusplus", "}", "#endif", "", "#endif", ""])


def source_with_wrapper(code: Code) -> str:
    """What goes into NAME.c."""
    return f'{code.source.rstrip()}\n\n#include "{code.name}.h"\n\n{code.wrapper}'


def array_text(name: str, values: NDArray[Any], qualifier: str = "static const") -> str:
    """A C array with every bit of its float32 values."""
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    body = ",\n    ".join(", ".join(_literal(v) for v in flat[i : i + 8]) for i in range(0, flat.size, 8))
    return f"{qualifier} float {name}[{flat.size}] = {{\n    {body}\n}};\n"


def _literal(value: np.float32) -> str:
    if not np.isfinite(value):
        raise UsageError("the test vector holds values that are not finite: give other data")
    return f"{float(value).hex()}f"


def test_program(code: Code, inputs: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]]) -> str:
    """A main() that runs the model on the test vector and compares with what onnxruntime gave: 0 where all is well.

    The difference may be 1e-5 of the largest value, and of 1 where all are smaller.
    """
    made = [array_text(f"{a.name}_given", x) for a, x in zip(code.inputs, inputs, strict=True)]
    made += [array_text(f"{a.name}_expected", y) for a, y in zip(code.outputs, outputs, strict=True)]
    made += [f"static float {a.name}_got[{a.size}];\n" for a in code.outputs]
    call = ", ".join([*(f"{a.name}_given" for a in code.inputs), *(f"{a.name}_got" for a in code.outputs)])
    checks = "".join(f"    worst = check({a.name}_got, {a.name}_expected, {a.size}, worst);\n" for a in code.outputs)
    return "\n".join([
        f"/* cc {code.name}.c {code.name}_test.c -lm && ./a.out */",
        "#include <math.h>", "#include <stdio.h>", f'#include "{code.name}.h"', "", *made,
        "static float check(const float *got, const float *expected, int size, float worst) {",
        "    float scale = 1.0f;",
        "    for (int i = 0; i < size; ++i) scale = fmaxf(scale, fabsf(expected[i]));",
        "    for (int i = 0; i < size; ++i) {",
        "        float gap = fabsf(got[i] - expected[i]) / scale;",
        "        if (!(gap <= worst)) worst = gap;",
        "    }", "    return worst;", "}", "",
        "int main(void) {", "    float worst = 0.0f;", f"    {code.name}_run({call});", checks.rstrip(),
        '    printf("largest difference from onnxruntime: %g\\n", worst);',
        "    return worst <= 1e-5f ? 0 : 1;", "}", "",
    ])
