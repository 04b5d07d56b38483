"""The taps of a kernel along one axis, and how they compose.  Integers only; no weights."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd


@dataclass(frozen=True, slots=True)
class Axis:
    """Output position p reads the inputs stride·p + start + step·j for 0 ≤ j < taps.

    In layer terms: taps = kernel size, step = dilation, start = −(padding before the first sample).
    """

    taps: int = 1
    stride: int = 1
    step: int = 1
    start: int = 0

    @property
    def reach(self) -> int:
        """Distance from the first tap to the last."""
        return (self.taps - 1) * self.step

    def first(self, position: int) -> int:
        return self.stride * position + self.start

    def last(self, position: int) -> int:
        return self.first(position) + self.reach


def _lattice(*distances: int) -> int:
    """The coarsest step that every distance is a multiple of; 1 where there is a single point."""
    return gcd(*distances) or 1


def compose_axis(second: Axis, first: Axis) -> Axis:
    """DESIGN §3: stride s1·s2, taps on the lattice a·d2·s1 + e·d1, start s1·start2 + start1."""
    reach = second.reach * first.stride + first.reach
    step = _lattice(second.step * first.stride if second.taps > 1 else 0, first.step if first.taps > 1 else 0)
    return Axis(reach // step + 1, first.stride * second.stride, step, first.stride * second.start + first.start)


def join_axis(a: Axis, b: Axis) -> Axis:
    """The smallest kernel that has the taps of both; the strides must be equal (the caller checks)."""
    start, end = min(a.start, b.start), max(a.start + a.reach, b.start + b.reach)
    step = _lattice(a.step if a.taps > 1 else 0, b.step if b.taps > 1 else 0, abs(a.start - b.start))
    return Axis((end - start) // step + 1, a.stride, step, start)
