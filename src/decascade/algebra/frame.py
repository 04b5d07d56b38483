"""Where a channel of ones has to end so that zeros beyond it cut biases as the borders of the maps between do.

Integers only.  A bias on a map that some outputs see cut is the map's own ones, seen through the unbounded kernel; the
entry's ones can stand for them if they end where the map ends, which a frame around the entry can bring about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from decascade.algebra.border import Border, Spans, find_border, padded_maps
from decascade.algebra.conv import Conv
from decascade.algebra.program import Program, Step

Frame = tuple[tuple[int, int], ...]
"""Per axis, how far something reaches beyond the entry, before and after it."""


def ones_frame(border: Border) -> Frame | None:
    """The narrowest frame with which the entry ends where every biased map ends that a border cuts.

    None where there is none: maps that end in different places, inside the entry, or whose ones some outputs lose on
    another map behind.
    """
    program = border.program
    biased = [s.output for s in program.steps if isinstance(s.op, Conv) and s.op.has_bias and s.output != program.exit]
    cut = [name for name in biased if not all_seen(border, name)]
    if not cut or any(not _only_its_own_cut(border, name) for name in cut):
        return None
    spans, frame = Spans(program), list[tuple[int, int]]()
    for axis in range(program.rank):
        choices = [_choices(border, spans, name, axis) for name in cut if not all_seen(border, name, axis)]
        found = _common(choices) if choices else _around_a_tap(border, axis)
        if found is None:
            return None
        frame.append(found)
    return tuple(frame)


def _common(choices: Sequence[Mapping[int, tuple[int, int]]]) -> tuple[int, int] | None:
    """The narrowest that all allow."""
    for before in sorted(set[int].intersection(*map(set, choices))):
        least = max(0, *(c[before][0] for c in choices))
        if all(least <= c[before][1] for c in choices):
            return before, least
    return None


def _around_a_tap(border: Border, axis: int) -> tuple[int, int]:
    """No map is cut along the axis: the narrowest frame in which every output sees some one tap."""
    program = border.program
    size, taps = program.size[program.entry][axis], program.reach[program.entry][axis]
    positions = (program.size[program.exit] or (1,) * program.rank)[axis]
    if size is None or positions is None:
        return 0, 0
    last = taps.stride * (positions - 1) - size + 1
    frames = [(max(-t, 0), max(t + last, 0)) for t in range(taps.start, taps.start + taps.reach + 1, taps.step)]
    return min(frames, key=sum)


def all_seen(border: Border, name: str, axis: int | None = None) -> bool:
    """Whether every output sees all taps of a map that the unbounded kernel has, and of every map behind it, along one
    axis or along all.

    It is not enough that all outputs see the same taps: on a small map there can be one that every output misses.
    """
    behind, program = {name}, border.program
    for step in program.steps:
        if behind.intersection(step.inputs):
            behind.add(step.output)
    axes = range(program.rank) if axis is None else (axis,)
    if border.unknown:
        return not any(behind & padded_maps(program, a) for a in axes)
    return all(_whole(border, n, a) for n in behind for a in axes)


def _whole(border: Border, name: str, axis: int) -> bool:
    """Whether no class along an axis misses a tap of a map."""
    taps = border.program.reach[name]
    if not taps:
        return True
    every = (taps[axis].start, taps[axis].start + taps[axis].reach)
    return all(c.windows.get(name, every) == every for c in border.axes[axis] or ())


def _choices(border: Border, spans: Spans, name: str, axis: int) -> dict[int, tuple[int, int]]:
    """How far before the entry its ones have to begin, and the least and most that they may reach behind it, to end where
    a map does: one choice per tap of the entry that the map's samples may be put on."""
    program = border.program
    size, own, taps = program.size[program.entry][axis], program.size[name][axis], spans.of[name]
    if size is None or own is None:
        return {0: (0, 0)}  # every cut map ends where the entry ends, or the border were a ring
    assert taps is not None
    span = taps[axis]
    ends = {-t: t + span.stride * own - size for t in range(span.start, span.start + span.reach + 1, span.step)}
    return {before: (end - span.stride + 1, end) for before, end in ends.items() if before >= 0 <= end}


def _only_its_own_cut(border: Border, name: str) -> bool:
    """Whether outputs lose samples of a map at its own ends alone, not with samples of a map behind it that were made of
    them: whether, seen from this map, the border is no ring."""
    if border.unknown:
        return True
    program, behind, steps = border.program, {name}, list[Step]()
    for step in program.steps:
        if inputs := tuple(n for n in step.inputs if n in behind):
            behind.add(step.output)
            steps.append(replace(step, inputs=inputs))
    return find_border(Program(tuple(steps), name, program.exit, program.channels, program.size)).kind != "ring"
