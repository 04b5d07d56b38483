"""Layers counted in instructions of an emulated Cortex-M, as float32 C; exact and the same in every run."""

from __future__ import annotations

from decascade.cost.folding import folded
from decascade.deploy.c.code import generate
from decascade.deploy.c.cortex_m import run_on_chip
from decascade.deploy.meters.ort import samples
from decascade.deploy.onnx.model import onnx_of
from decascade.deploy.tools import PROGRAMS, module, program, version_of
from decascade.ir.graph import Graph


class ChipMeter:
    """Instructions of one inference; normalisations are folded first, as every deployment does."""

    unit = "instructions"

    def __init__(self, machine: str = "cortex-m4") -> None:
        self.name = "cortex-m" if machine == "cortex-m4" else machine
        self._machine = machine
        module("emx_onnx_cgen", f"--target {self.name}")
        for name in PROGRAMS:
            program(name, f"--target {self.name}")

    @property
    def identity(self) -> str:
        return f"emx-onnx-cgen {version_of('emx_onnx_cgen')}, arm-none-eabi-gcc -O3, {self._machine}"

    def measure(self, graph: Graph) -> tuple[float, float]:
        """See `cost.measured.Meter`."""
        graph = folded(graph)
        inputs = samples(graph)
        chip = run_on_chip(generate(onnx_of(graph)), [inputs[name] for name in graph.inputs], self._machine)
        return float(chip.instructions), 0.0
