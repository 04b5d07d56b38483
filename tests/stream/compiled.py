"""Generated C compiled on this machine with every warning an error and sanitizers on, and run."""

from __future__ import annotations

import subprocess
from pathlib import Path
from shutil import which

import numpy as np
import pytest
from numpy.typing import NDArray

from decascade.stream.generate import Generated

needs_compiler = pytest.mark.skipif(which("gcc") is None, reason="gcc is not installed")
WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
MAIN = """#include <stdio.h>
#include <string.h>
#include "net.h"

static net_context context;
static int8_t input[NET_INPUT_SIZE], output[NET_OUTPUT_SIZE];

/* The same rows one by one, pulled as soon as they are there. */
static int by_rows(void) {
    int8_t row[NET_OUTPUT_ROW_SIZE];
    int8_t *to = output;
    int given = 0;
    net_init(&context);
    for (int y = 0; y < NET_INPUT_ROWS; ++y) {
        if (!net_push_row(&context, input + y * NET_INPUT_ROW_SIZE)) return 1;
        while (net_pull_row(&context, row)) {
            memcpy(to, row, NET_OUTPUT_ROW_SIZE);
            to += NET_OUTPUT_ROW_SIZE;
            ++given;
        }
    }
    return given != NET_OUTPUT_ROWS || net_push_row(&context, input);
}

int main(void) {
    while (fread(input, 1, sizeof input, stdin) == sizeof input) {
        memset(&context, 0x5A, sizeof context);
        net_run(&context, input, output);
        fwrite(output, 1, sizeof output, stdout);
        memset(&context, 0xA5, sizeof context);
        memset(output, 0, sizeof output);
        if (by_rows()) return 1;
        fwrite(output, 1, sizeof output, stdout);
    }
    return 0;
}
"""


def compiled(found: Generated, folder: Path, compiler: str = "gcc", optimise: str = "-O1") -> Path:
    """The program that runs the network on inputs from its standard input, as a whole and by rows."""
    (folder / "net.c").write_text(found.sources.source)
    (folder / "net.h").write_text(found.sources.header)
    (folder / "main.c").write_text(MAIN)
    command = [compiler, *WARNINGS, *SANITIZERS, optimise, "net.c", "main.c", "-o", "net"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "net"


def outputs(program: Path, inputs: NDArray[np.int8]) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Output bytes for each input: run as a whole, and by rows."""
    done = subprocess.run([str(program)], input=inputs.tobytes(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[:2000]
    both = np.frombuffer(done.stdout, np.int8).reshape(len(inputs), 2, -1)
    return both[:, 0], both[:, 1]
