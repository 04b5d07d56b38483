"""Where zero padding breaks the composition law, and how to put it right (DESIGN §3, Borders).

Padding makes an output near the edge see fewer taps of the maps between.  Along one axis, the outputs that see the
same taps of every map form a *border class*; in several axes the classes are the products of those.  The kernel of a
class is the program pulled back with every map cropped to what the class sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.axis import Axis, compose_axis, join_axis
from decascade.algebra.conv import Conv
from decascade.algebra.program import Flat, LinearOp, Program, Scale, Window, crop, pull_back
from decascade.errors import AlgebraError

Ints = NDArray[np.int64]
Kind = Literal["free", "bias", "ring"]


@dataclass(frozen=True)
class AxisClass:
    """Output positions start ≤ p < stop of one axis that see the same taps of every map.

    `windows`: per map the first and last tap on it, counted from stride·p.  `entry`: the same for the entry, hulls of
    what some p of the class sees on it (empty: last < first).  `outside`: the hull of entry taps that the unbounded
    composition reads through positions off some map, None where there are none.
    """

    start: int
    stop: int
    windows: Mapping[str, tuple[int, int]]
    entry: tuple[int, int]
    outside: tuple[int, int] | None

    @property
    def positions(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, eq=False)
class Border:
    """The border classes of a program, per axis of its entry, and what kind of border it has.

    kind "free": the composed kernel is exact as it stands.  "bias": the kernel is exact, the bias depends on the
    position.  "ring": the kernel depends on the position.  On an axis whose size is not known there is one class
    without windows; `unknown` says that the border is not free there.
    """

    program: Program
    axes: tuple[tuple[AxisClass, ...] | None, ...]
    kind: Kind
    unknown: bool = False

    @cached_property
    def interior(self) -> tuple[int, ...]:
        """Per axis the index of the class with the most positions (the first of equals)."""
        return tuple(0 if c is None else int(np.argmax([x.positions for x in c])) for c in self.axes)

    @property
    def single(self) -> bool:
        """Whether all outputs are in one class: its kernel is exact everywhere."""
        return all(c is not None and len(c) == 1 for c in self.axes)

    @property
    def indices(self) -> tuple[tuple[int, ...], ...]:
        """The classes, by index per axis."""
        return tuple(product(*(range(1 if c is None else len(c)) for c in self.axes)))

    @cached_property
    def whole(self) -> Conv:
        """The one kernel that is exact everywhere if the border is free, up to the bias if it is bias-only."""
        if self.single:
            return self.kernel((0,) * len(self.axes))
        whole = pull_back(self.program, {})
        if self.kind != "free" or None in self.axes or not self.program.has_constant[self.program.exit]:
            return whole
        # All outputs may miss the same tap of a map, and with it the same part of the bias.
        bias = self.kernel((0,) * len(self.axes)).bias
        return Conv(whole.weight, bias, whole.stride, whole.dilation, whole.padding, whole.groups)

    def kernel(self, index: tuple[int, ...]) -> Conv:
        """The exact layer of one class: every output of the class is this stride-S window of the entry."""
        picked = [None if c is None else c[i] for c, i in zip(self.axes, index, strict=True)]
        names = {name for c in picked if c is not None for name in c.windows}
        free = (-(1 << 40), 1 << 40)
        windows: dict[str, Window] = {
            name: tuple(free if c is None else c.windows.get(name, free) for c in picked)
            for name in names
            if self.program.size[name]
        }
        return pull_back(self.program, windows, tuple(0 if c is None else c.start for c in picked))

    def visible(self, kernel: Conv, index: tuple[int, ...]) -> Conv:
        """A class's layer without the taps that only ever meet the padding of the entry."""
        picked = [None if c is None else c[i] for c, i in zip(self.axes, index, strict=True)]
        window = tuple((-(1 << 40), 1 << 40) if c is None else c.entry for c in picked)
        empty = np.zeros((*kernel.weight.shape[:2], *(1,) * kernel.rank))
        return crop(kernel, window) or Conv(empty, kernel.bias, kernel.stride, groups=kernel.groups)


def find_border(program: Program) -> Border:
    """The border classes and the kind of a program.

    Raises:
        AlgebraError: paths to the output whose strides differ.
    """
    spans = Spans(program)
    alike = {_profile(program, a): a for a in reversed(range(program.rank))}
    found = {a: _axis_classes(program, spans, a) for a in alike.values()}
    axes = tuple(found[alike[_profile(program, a)]] for a in range(program.rank))
    unknown = any(n is None for n in program.size[program.entry])
    if unknown:
        kind = _kind_of_unknown(program)
        return Border(program, axes, kind, kind != "free")
    if all(c is not None and len(c) == 1 for c in axes):
        return Border(program, axes, "free")
    if any(c.outside is not None for classes in axes if classes for c in classes):
        return Border(program, axes, "ring")
    if any(isinstance(step.op, Scale) for step in program.steps) and any(len(c or ()) > 1 for c in axes):
        return Border(program, axes, "ring")
    return Border(program, axes, "bias" if _constant_cut(program, axes) else "free")


def _profile(program: Program, axis: int) -> tuple[object, ...]:
    """All that the classes along an axis depend on: the same for the axes of square maps and kernels."""
    def seen(op: LinearOp) -> object:
        if isinstance(op, Scale):
            return op.factors[axis].tobytes()
        return (op.axes[axis], op.padding[axis]) if isinstance(op, Conv) and op.rank else None

    return (*(seen(step.op) for step in program.steps), *(s[axis] if s else None for s in program.size.values()))


def _constant_cut(program: Program, axes: tuple[tuple[AxisClass, ...] | None, ...]) -> bool:
    """Whether some class sees fewer taps of a map that carries a constant than another class does."""
    for classes in axes:
        seen = [{n: w for n, w in c.windows.items() if program.has_constant[n]} for c in classes or ()]
        if any(s != seen[0] for s in seen[1:]):
            return True
    return False


class Spans:
    """Per map, the taps of the entry that it sees on an unbounded map, per axis (None behind a flatten)."""

    def __init__(self, program: Program) -> None:
        found: dict[str, tuple[Axis, ...] | None] = {program.entry: (Axis(),) * program.rank}
        for step in program.steps:
            parts = [_forward(step.op, found[n]) for n in step.inputs]
            first, *rest = parts
            for part in rest:
                if first is None or part is None:
                    continue
                first = tuple(_joined(a, b) for a, b in zip(first, part, strict=True))
            found[step.output] = first
        self.of = found


def _joined(a: Axis, b: Axis) -> Axis:
    if a.stride != b.stride:
        raise AlgebraError(f"two branches have strides {a.stride} and {b.stride}")
    return join_axis(a, b)


def _forward(op: LinearOp, axes: tuple[Axis, ...] | None) -> tuple[Axis, ...] | None:
    if axes is None or isinstance(op, Flat):
        return None
    if isinstance(op, Conv):
        return tuple(compose_axis(b, a) for a, b in zip(axes, op.axes, strict=True))
    return axes


@dataclass
class _Run:
    """Intervals [lo, hi] of one map along one axis, one per output position; empty where lo > hi."""

    lo: Ints
    hi: Ints

    def join(self, other: _Run) -> _Run:
        empty, also = self.lo > self.hi, other.lo > other.hi
        lo = np.where(empty, other.lo, np.where(also, self.lo, np.minimum(self.lo, other.lo)))
        hi = np.where(empty, other.hi, np.where(also, self.hi, np.maximum(self.hi, other.hi)))
        return _Run(lo, hi)


_FAR = 1 << 40


def _axis_classes(program: Program, spans: Spans, axis: int) -> tuple[AxisClass, ...] | None:
    size = {name: (s[axis] if s else 1) for name, s in program.size.items()}
    if any(n is None for n in size.values()):
        return None
    positions = size[program.exit] if program.size[program.exit] else 1
    if program.size[program.exit] and not _cuts(program, axis):
        taps = program.reach[program.entry][axis]
        entry = _on_entry(taps.start, taps.start + taps.reach, taps.stride, 0, (positions or 1) - 1, size[program.entry] or 0)
        return (AxisClass(0, positions or 0, {}, entry, None),)
    at = np.arange(positions or 0, dtype=np.int64)
    seen, outside = _propagate(program, spans, axis, at)
    stride = {n: axes[axis].stride if axes else 0 for n, axes in program.reach.items()}
    relative = {n: _relative(run, stride[n] * at) for n, run in seen.items()}
    columns = [c for n, run in relative.items() if n != program.entry for c in (run.lo, run.hi)]
    columns += _scale_columns(program, seen, axis)
    table = np.stack(columns) if columns else np.zeros((1, at.size), np.int64)
    starts = [0, *(1 + np.flatnonzero(np.any(table[:, 1:] != table[:, :-1], axis=0))).tolist()]
    entry = size[program.entry] or 0
    classes = list[AxisClass]()
    for start, stop in zip(starts, [*starts[1:], at.size], strict=True):
        windows = {n: (int(r.lo[start]), int(r.hi[start])) for n, r in relative.items() if n != program.entry}
        here = relative[program.entry]
        reach = _on_entry(int(here.lo[start]), int(here.hi[start]), stride[program.entry], start, stop - 1, entry)
        off = [
            _on_entry(lo - stride[program.entry] * p, hi - stride[program.entry] * p, stride[program.entry], p, p, entry)
            for p in range(start, stop) for lo, hi in outside[p]
        ]
        off = [o for o in off if o[0] <= o[1]]
        hull = (min(o[0] for o in off), max(o[1] for o in off)) if off else None
        classes.append(AxisClass(start, stop, windows, reach, hull))
    return tuple(classes)


def _cuts(program: Program, axis: int) -> bool:
    """Whether some step pads a map between, or scales by position, along an axis."""
    return any(
        isinstance(step.op, Scale)
        or (isinstance(step.op, Conv) and step.inputs[0] != program.entry and max(step.op.padding[axis]) > 0)
        for step in program.steps
    )


def _relative(run: _Run, origin: Ints) -> _Run:
    empty = run.lo > run.hi
    return _Run(np.where(empty, _FAR, run.lo - origin), np.where(empty, -_FAR, run.hi - origin))


def _on_entry(lo: int, hi: int, stride: int, first: int, last: int, size: int) -> tuple[int, int]:
    """The part of the relative window [lo, hi] that meets [0, size) for some output position first … last."""
    return max(lo, -stride * last), min(hi, size - 1 - stride * first)


def _scale_columns(program: Program, seen: Mapping[str, _Run], axis: int) -> list[Ints]:
    """Positions whose scale vectors differ over the window belong to different classes: number the windows."""
    columns = list[Ints]()
    for step in program.steps:
        if isinstance(step.op, Scale) and step.output in seen:
            factors, run = step.op.factors[axis], seen[step.output]
            known: dict[bytes, int] = {}
            keys = [factors[lo : hi + 1].tobytes() for lo, hi in zip(run.lo.tolist(), run.hi.tolist(), strict=True)]
            columns.append(np.array([known.setdefault(k, len(known)) for k in keys], dtype=np.int64))
    return columns


def _propagate(
    program: Program, spans: Spans, axis: int, at: Ints
) -> tuple[dict[str, _Run], list[list[tuple[int, int]]]]:
    """Backward from the output: the taps of every map that each output position sees, cut at the ends of the map,
    and the entry taps behind what was cut."""
    seen = {program.exit: _Run(at, at)}
    outside: list[list[tuple[int, int]]] = [[] for _ in at]
    for step in reversed(program.steps):
        if step.output not in seen:
            continue
        run = seen[step.output]
        for name in step.inputs:
            part = _behind(step.op, run, axis, program.size[name])
            seen[name] = seen[name].join(part) if name in seen else part
        for name in step.inputs:
            if name != program.entry and program.size[name] and program.first_reader[name] is step:
                seen[name] = _cut(seen[name], program.size[name][axis] or 0, spans.of[name], axis, outside)
    return seen, outside


def _behind(op: LinearOp, run: _Run, axis: int, size: tuple[int | None, ...]) -> _Run:
    if isinstance(op, Flat):
        return _Run(np.zeros_like(run.lo), np.full_like(run.hi, (size[axis] or 1) - 1))
    if not isinstance(op, Conv) or not op.rank:
        return run
    taps = op.axes[axis]
    empty = run.lo > run.hi
    lo, hi = taps.stride * run.lo + taps.start, taps.stride * run.hi + taps.start + taps.reach
    return _Run(np.where(empty, _FAR, lo), np.where(empty, -_FAR, hi))


def _cut(run: _Run, size: int, span: tuple[Axis, ...] | None, axis: int, outside: list[list[tuple[int, int]]]) -> _Run:
    if span is not None:
        for p in np.flatnonzero((run.lo < 0) & (run.lo <= run.hi)).tolist():
            outside[p].append((span[axis].first(int(run.lo[p])), span[axis].last(min(-1, int(run.hi[p])))))
        for p in np.flatnonzero((run.hi >= size) & (run.lo <= run.hi)).tolist():
            outside[p].append((span[axis].first(max(size, int(run.lo[p]))), span[axis].last(int(run.hi[p]))))
    lo, hi = np.maximum(run.lo, 0), np.minimum(run.hi, size - 1)
    empty = lo > hi
    return _Run(np.where(empty, _FAR, lo), np.where(empty, -_FAR, hi))


def _kind_of_unknown(program: Program) -> Kind:
    """Sizes not known: free where no map between is padded; bias-only where every map that is padded along an axis ends
    along it where the entry ends, whatever the size."""
    kind: Kind = "free"
    if any(isinstance(step.op, Scale) for step in program.steps):
        return "ring"
    for axis in range(program.rank):
        aligned = aligned_maps(program, axis)
        for name in padded_maps(program, axis):
            if name not in aligned:
                return "ring"
            if program.has_constant[name]:
                kind = "bias"
    return kind


def padded_maps(program: Program, axis: int) -> set[str]:
    """The maps between that some step pads with zeros along an axis."""
    return {
        step.inputs[0] for step in program.steps
        if isinstance(step.op, Conv) and step.op.rank and step.inputs[0] != program.entry and max(step.op.padding[axis]) > 0
    }


def aligned_maps(program: Program, axis: int) -> set[str]:
    """The maps whose sample q along an axis is made of the entry's sample stride·q alone, without padding: along it they
    end where the entry ends, whatever its size."""
    spans, found = Spans(program).of, {program.entry}
    for step in program.steps:
        taps = spans[step.output]
        padded = isinstance(step.op, Conv) and step.op.rank and any(step.op.padding[axis])
        if taps is not None and not padded and found.issuperset(step.inputs) and (taps[axis].taps, taps[axis].start) == (1, 0):
            found.add(step.output)
    return found
