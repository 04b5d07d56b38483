"""From the bytes of an int8 .tflite file to streamed C."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from decascade.stream.cuts import best_cuts
from decascade.stream.drop import without_constants
from decascade.stream.emit import Sources, needs_of, sources
from decascade.stream.graph import Graph
from decascade.stream.kernels.base import Emitted
from decascade.stream.kernels.emit import emitted
from decascade.stream.memory import Layout, check, layout
from decascade.stream.program import Program, program_of
from decascade.stream.read.build import build
from decascade.stream.read.flat import read_file
from decascade.stream.schedule import Trace, depths, simulate
from decascade.stream.simplify import simplified

BUDGET = 2048
"""Bytes of scratch for tiles of pixels."""


@dataclass(frozen=True, eq=False)
class Generated:
    """The C, and what it was made from."""

    sources: Sources
    graph: Graph
    program: Program
    trace: Trace
    layout: Layout


def generate(
    data: bytes, name: str, label: str = "", version: str = "", stream: bool = True, budget: int = BUDGET
) -> Generated:
    """C for an int8 TFLite file; `name`: a C identifier, `label`: how messages call the file.

    `stream`: row by row; else every map is made as a whole, one after the other, in the same code.

    Raises:
        FormatError: not a TFLite file, or a damaged one.
        UsageError: something in it has no streamed form.
    """
    graph = without_constants(simplified(build(read_file(data, label or name))))
    plan = _plan(graph, () if stream else _wholes(graph), budget)
    if stream:
        scratch = {node.map: plan.layers[i].scratch for i, node in enumerate(plan.program.nodes) if i in plan.layers}
        cuts = best_cuts(graph, lambda k: scratch.get(graph.ops[k].output, 0), plan.layout.size)
        tried = _plan(graph, cuts, budget) if cuts else plan
        plan = min(plan, tried, key=lambda p: p.layout.size)
    wrong = check(plan.program, plan.trace, plan.layout, needs_of(plan.program.nodes, plan.layers))
    if wrong:
        raise AssertionError(f"the memory plan is wrong: {wrong}")
    text = sources(name, version, plan.program, plan.trace, plan.layout, plan.layers)
    return Generated(text, graph, plan.program, plan.trace, plan.layout)


@dataclass(frozen=True, eq=False)
class Plan:
    """A program with its layers, its schedule and its places in RAM."""

    program: Program
    layers: Mapping[int, Emitted]
    trace: Trace
    layout: Layout


def _plan(graph: Graph, kept: tuple[int, ...], budget: int) -> Plan:
    program = program_of(graph, kept)
    layers = {i: emitted(graph, node, budget) for i, node in enumerate(program.nodes) if node.work is not None}
    trace = simulate(program)
    return Plan(program, layers, trace, layout(program, trace, depths(program, trace), needs_of(program.nodes, layers)))


def _wholes(graph: Graph) -> tuple[int, ...]:
    """Every map that is computed on the way to the outputs."""
    return tuple(op.output for op in graph.ops if op.inputs and op.output not in graph.outputs)
