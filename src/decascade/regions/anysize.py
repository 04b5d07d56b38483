"""Whether what replaces a segment is right at other sizes of the map than those that the graph states.

A format whose models take maps of any size (a PyTorch module) has to refuse other sizes where it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import lcm

from decascade.algebra.axis import Axis
from decascade.algebra.border import find_border
from decascade.algebra.conv import Conv
from decascade.algebra.frame import Frame, ones_frame
from decascade.algebra.program import Flat, Program, Scale
from decascade.ir.graph import Node
from decascade.ir.ops import Affine, Pad


def right_at_any_size(form: str, program: Program, nodes: Sequence[Node]) -> bool:
    """Whether the nodes that a form gave are the segment at every size of its entry.

    Maps, tiles and strips have positions in them.  One convolution is right where it has the taps of the unbounded
    composition, gives as many positions as the segment at every size, and the border of a larger map is no worse.
    """
    entry = program.size[program.entry]
    if None in entry or not entry:
        return True
    if form in ("map", "tiles", "strips") or any(isinstance(step.op, (Flat, Scale)) for step in program.steps):
        return False
    reach, frame = program.reach[program.entry], tuple((0, 0) for _ in entry)
    for node in nodes:
        if isinstance(node.op, Pad) and not any(node.op.channels):
            frame = node.op.pads
    last, carried = nodes[-1].op, len(nodes) > 1
    if not all(_no_worse(program, carried, frame, more) for more in _sizes(reach)):
        return False
    if isinstance(last, Affine):
        return all((a.taps, a.start) == (1, 0) for a in reach)
    if not isinstance(last, Conv):
        return False
    taps = (Axis(a.taps, a.stride, a.step, a.start - before) for a, (before, _) in zip(reach, frame, strict=True))
    return tuple(taps) == last.axes and all(_as_many_positions(program, last, frame, more) for more in _sizes(reach))


def _sizes(reach: Sequence[Axis]) -> range:
    """Additions to the size of every axis among which each remainder of each stride is found."""
    return range(lcm(*(a.stride for a in reach)))


def _no_worse(program: Program, carried: bool, frame: Frame, more: int) -> bool:
    """Whether the border of a map on which no class has two borders is free, or a bias that the same frame carries."""
    reach = program.reach[program.entry]
    border = find_border(_grown(program, [2 * (a.reach + 1) * a.stride + more for a in reach]))
    return border.kind == "free" or (carried and border.kind == "bias" and ones_frame(border) == frame)


def _as_many_positions(program: Program, layer: Conv, frame: Sequence[tuple[int, int]], more: int) -> bool:
    grown = _grown(program, [more] * program.rank)
    entry = [int(n or 0) + sum(around) for n, around in zip(grown.size[program.entry], frame, strict=True)]
    return layer.output_size(entry) == grown.size[program.exit]


def _grown(program: Program, more: Sequence[int]) -> Program:
    """The program on an entry that is larger by `more` samples per axis."""
    size = {program.entry: tuple(int(n or 0) + k for n, k in zip(program.size[program.entry], more, strict=True))}
    for step in program.steps:
        before = size[step.inputs[0]]
        size[step.output] = step.op.output_size(before) if isinstance(step.op, Conv) else before
    return replace(program, size=size)
