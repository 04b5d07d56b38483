"""Where rings and scratch lie in the one block of RAM, and the checker that plays the trace on it byte by byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from decascade.stream.program import Program, Totals
from decascade.stream.schedule import Trace

ALIGNMENT = 4
"""Bytes; what the word loads of the kernels need."""
TRIALS = 200
"""Orders that first fit is tried with."""


@dataclass(frozen=True)
class Block:
    """`size` bytes that are held from step `first` to step `last`."""

    size: int
    first: int
    last: int


@dataclass(frozen=True, eq=False)
class Layout:
    """Offsets in bytes: of each ring by its owner, and of the scratch of each goal; `depths` in rows."""

    rings: Mapping[int, int]
    depths: Mapping[int, int]
    scratch: tuple[int, ...]
    size: int
    bound: int


def layout(program: Program, trace: Trace, depths: Mapping[int, int], scratch: Mapping[int, int]) -> Layout:
    """Place every ring and the scratch; `scratch`: bytes that each node needs while it makes a row."""
    blocks: dict[tuple[str, int], Block] = {}
    spans = _spans(program, trace)
    for buffer, depth in depths.items():
        size = program.nodes[buffer].row_bytes * depth
        if size:
            blocks["ring", buffer] = Block(_aligned(size), *spans[buffer])
    for goal in range(len(program.goals)):
        steps = [i for i, s in enumerate(trace.steps) if s.goal == goal]
        most = max((scratch.get(trace.steps[i].node, 0) for i in steps), default=0)
        if most:
            blocks["scratch", goal] = Block(_aligned(most), steps[0], steps[-1])
    offsets, size, bound = place(blocks)
    rings = {buffer: offsets[kind, buffer] for kind, buffer in offsets if kind == "ring"}
    places = tuple(offsets.get(("scratch", goal), 0) for goal in range(len(program.goals)))
    return Layout(rings, dict(depths), places, size, bound)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _spans(program: Program, trace: Trace) -> dict[int, tuple[int, int]]:
    found: dict[int, tuple[int, int]] = {}
    for i, step in enumerate(trace.steps):
        for node in (step.node, *(source for source, _ in step.reads)):
            buffer = program.buffer(node)
            first, _ = found.get(buffer, (i, i))
            found[buffer] = (first, i)
    found[0] = (0, found.get(0, (0, 0))[1])  # the first row may be pushed before anything is made
    if len(program.outputs) > 1:
        for output in program.outputs:
            buffer = program.buffer(output)
            found[buffer] = (found[buffer][0], len(trace.steps) - 1)
    return found


def place(blocks: Mapping[tuple[str, int], Block]) -> tuple[dict[tuple[str, int], int], int, int]:
    """Offsets by first fit in the best of some orders; the total; and the most that is held at once, which none goes below."""
    bound = _bound(list(blocks.values()))
    order = sorted(blocks, key=lambda name: (-blocks[name].size, name))
    best, size = _first_fit(blocks, order)
    rng = np.random.default_rng(0)
    for trial in range(TRIALS if len(order) > 1 else 0):
        if size <= bound:
            break
        tried = list(order)
        for _ in range(1 + trial % 5):
            i, j = rng.integers(len(tried), size=2)
            tried[i], tried[j] = tried[j], tried[i]
        found, total = _first_fit(blocks, tried)
        if total < size:
            best, size, order = found, total, tried
    return best, size, bound


def _bound(blocks: Sequence[Block]) -> int:
    changes = sorted([(b.first, b.size) for b in blocks] + [(b.last + 1, -b.size) for b in blocks])
    held, most = 0, 0
    for _, change in changes:
        held += change
        most = max(most, held)
    return most


def _first_fit(
    blocks: Mapping[tuple[str, int], Block], order: Sequence[tuple[str, int]]
) -> tuple[dict[tuple[str, int], int], int]:
    placed: dict[tuple[str, int], int] = {}
    for name in order:
        block = blocks[name]
        alive = [(placed[o], placed[o] + blocks[o].size) for o in placed
                 if blocks[o].first <= block.last and block.first <= blocks[o].last]
        offset = 0
        for start, end in sorted(alive):
            if start - offset >= block.size:
                break
            offset = max(offset, end)
        placed[name] = offset
    return placed, max((placed[n] + blocks[n].size for n in placed), default=0)


def check(program: Program, trace: Trace, found: Layout, scratch: Mapping[int, int]) -> str:
    """Play the trace on the RAM: what is wrong at the first row that is read after it was overwritten; "" where all is well."""
    owner = np.full((found.size, 2), -1, np.int64)

    def held(node: int, row: int) -> slice:
        buffer = program.buffer(node)
        size = program.nodes[buffer].row_bytes
        start = found.rings[buffer] + row % found.depths[buffer] * size
        return slice(start, start + program.nodes[node].row_bytes)

    for number, step in enumerate(trace.steps):
        most = scratch.get(step.node, 0)
        owner[found.scratch[step.goal] : found.scratch[step.goal] + most] = -1
        for node, row in step.reads:
            if not program.nodes[node].row_bytes or program.buffer(node) not in found.rings:
                continue
            if not np.all(owner[held(node, row)] == (node, row)):
                return f"step {number}: row {row} of node {node} was overwritten before node {step.node} read it"
        before = (step.node, step.row - 1)
        running = isinstance(program.nodes[step.node].work, Totals) and step.row
        if running and not np.all(owner[held(*before)] == before):
            return f"step {number}: the running totals of node {step.node} were overwritten"
        if program.buffer(step.node) in found.rings:
            owner[held(step.node, step.row)] = (step.node, step.row)
    return ""
