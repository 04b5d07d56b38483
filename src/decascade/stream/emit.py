"""The C of a program: one source and one header, C99, no memory but the context and the stack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from decascade.stream.kernels.base import Emitted, array_text
from decascade.stream.memory import Layout
from decascade.stream.program import Node, Program
from decascade.stream.schedule import Trace

KERNELS = (
    "conv_packed", "conv_plain", "depthwise_packed", "depthwise_plain", "sum", "sum_short", "product", "table", "constant",
    "pool", "totals", "divided", "softmax", "pad", "regroup", "concat",
)
"""In the order in which they stand in the source."""
SCALING = frozenset({"conv_plain", "depthwise_plain", "sum", "product", "divided"})
"""Those that use `scaled`."""


@dataclass(frozen=True)
class Sources:
    """The text of NAME.c and NAME.h, and bytes: of the context, of input and output, of constants."""

    name: str
    source: str
    header: str
    context: int
    input: int
    output: int
    constants: int


def sources(
    name: str, version: str, program: Program, trace: Trace, found: Layout, layers: Mapping[int, Emitted]
) -> Sources:
    """Write the program as C; `layers`: of every node but the input."""
    facts = _facts(name, version, program, trace, found)
    parts = {
        "kernels": _kernels({layer.kernel for layer in layers.values()}),
        "constants": [text for node, layer in layers.items() for text in _constants(node, layer)],
        "calls": [{"node": node, "text": _call(node, layer)} for node, layer in layers.items()],
        **_tables(program, found),
    }
    environment = _environment()
    source = environment.get_template("net.c.j2").render(**facts, **parts)
    header = environment.get_template("net.h.j2").render(**facts)
    stored = sum(_bytes(kind) * len(values) for layer in layers.values() for _, kind, values in layer.arrays)
    return Sources(name, source, header, facts["context_size"], facts["input_size"], facts["output_size"], stored)


def _bytes(kind: str) -> int:
    return {"int8_t": 1, "uint16_t": 2}.get(kind, 4)


def _kernels(used: set[str]) -> list[str]:
    names = ["base", *(["scaled"] if used & SCALING else []), *(k for k in KERNELS if k in used)]
    return [_text(f"kernels/{name}.c") for name in names]


@cache
def _environment() -> Any:
    """jinja2 is imported when the first file is written: the API is loaded without it."""
    import jinja2

    loader = jinja2.FunctionLoader(_text)
    return jinja2.Environment(loader=loader, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)


@cache
def _text(name: str) -> str:
    return (resources.files("decascade.stream") / "templates" / name).read_text(encoding="utf-8")


def _facts(name: str, version: str, program: Program, trace: Trace, found: Layout) -> dict[str, Any]:
    maps = program.graph.maps
    source, outputs = maps[program.graph.input], [maps[o] for o in program.graph.outputs]
    nodes, wide = len(program.nodes), len(program.nodes) > 255
    ram = max(4, found.size)
    stack = _deepest(program)
    rows = {m.row_size for m in outputs}
    return {
        "name": name, "NAME": name.upper(), "version": version, "index": "uint16_t" if wide else "uint8_t",
        "in_shape": _shape(source.shape), "in_scale": repr(source.scale), "in_zero": source.zero, "in_rows": source.rows,
        "outputs": [{"shape": _shape(m.shape), "scale": repr(m.scale), "zero": m.zero} for m in outputs],
        "input_size": source.rows * source.row_size, "output_size": sum(m.rows * m.row_size for m in outputs),
        "out_rows": sum(m.rows for m in outputs), "out_row": max(rows), "ragged": len(rows) > 1,
        "ram": ram, "counters": nodes, "stack": stack, "context_size": _context(ram, nodes, stack, 2 if wide else 1),
        "schedule": _schedule(program, found),
    }


def _context(ram: int, nodes: int, stack: int, index: int) -> int:
    """sizeof the context: the RAM, the counters and two more, the stack and its depth, a flag; aligned to 4."""
    counters = ram + 2 * (nodes + 2)
    if index == 1:
        return -(-(counters + stack + 2) // 4) * 4
    return -(-(counters + 2 * (stack + 1) + 1) // 4) * 4


def _deepest(program: Program) -> int:
    """Nodes on the longest way from the input."""
    levels = list[int]()
    for node in program.nodes:
        levels.append(1 + max((levels[e.source] for e in node.edges), default=0))
    return max(levels)


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _schedule(program: Program, found: Layout) -> list[str]:
    lines = list[str]()
    for index, node in enumerate(program.nodes):
        what = "input" if node.work is None else type(node.work).__name__.lower()
        sources = ", ".join(str(e.source) for e in node.edges)
        buffer = program.buffer(index)
        place = f"in place of {node.within}" if node.within is not None else (
            f"{found.depths.get(buffer, 0)} of {node.rows} rows of {node.row_bytes} bytes at {found.rings.get(buffer, 0)}")
        lines.append(f"{index}: {what}{f' of {sources}' if sources else ''}: {place}")
    return lines


def _tables(program: Program, found: Layout) -> dict[str, Any]:
    edges, places = list[tuple[int, ...]](), list[tuple[int, ...]]()
    for index, node in enumerate(program.nodes):
        buffer = program.buffer(index)
        places.append((found.rings.get(buffer, 0), node.row_bytes, found.depths.get(buffer, 1), node.rows, len(edges),
                       len(node.edges)))
        edges += [(e.window.mul, e.window.low, e.window.high, e.window.div, e.source, e.taps, e.dilation) for e in node.edges]
    taps = max(sum(e.taps for e in node.edges) for node in program.nodes)
    return {
        "edges": edges, "places": places, "goals": [g.node for g in program.goals], "scratches": list(found.scratch),
        "first_output": len(program.goals) - len(program.outputs), "most_taps": max(1, taps),
    }


def _constants(node: int, layer: Emitted) -> list[str]:
    name = f"layer_{node}"
    texts = [array_text(kind, f"{name}_{suffix}", values) for suffix, kind, values in layer.arrays]
    fields = ", ".join(layer.fields).format(name=name)
    return [*texts, f"static const {layer.kernel} {name} = {{{fields}}};"]


def _call(node: int, layer: Emitted) -> str:
    rows = "rows, " if layer.reads else ""
    last = "y, out" if layer.by_row else "out, scratch"
    return f"{layer.kernel}_row(&layer_{node}, {rows}{last});"


def needs_of(nodes: Sequence[Node], layers: Mapping[int, Emitted]) -> dict[int, int]:
    """Bytes of scratch of each node."""
    return {index: layers[index].scratch for index in range(len(nodes)) if index in layers}
