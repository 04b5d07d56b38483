"""What an output position of a segment sees of its entry: the window of a convolution that could stand for it."""

from __future__ import annotations

from dataclasses import dataclass

from decascade.compression.segments import Segment, nodes_of
from decascade.ir.graph import Graph, Node
from decascade.ir.ops.traits import axes


@dataclass(frozen=True)
class Reach:
    """Per spatial axis: output position o sees the entry's positions stride·o + start … stride·o + stop.

    No axes at all: vectors, as dense layers have.
    """

    stride: tuple[int, ...]
    start: tuple[int, ...]
    stop: tuple[int, ...]

    @property
    def kernel(self) -> tuple[int, ...]:
        """The taps per axis of one convolution that sees the same."""
        return tuple(b - a + 1 for a, b in zip(self.start, self.stop, strict=True))

    def then(self, stride: tuple[int, ...], first: tuple[int, ...], last: tuple[int, ...]) -> Reach:
        """This, followed by an operation whose output o reads stride·o + first … stride·o + last."""
        ahead = tuple(s * f + a for s, f, a in zip(self.stride, first, self.start, strict=True))
        beyond = tuple(s * f + b for s, f, b in zip(self.stride, last, self.stop, strict=True))
        return Reach(tuple(a * b for a, b in zip(self.stride, stride, strict=True)), ahead, beyond)


def reach_of(graph: Graph, segment: Segment) -> Reach | None:
    """The reach of a segment; None where no one convolution has such a form (upsampling, flattening, mixed strides, a softmax
    over positions)."""
    shape = graph.shape(segment.entry)
    if shape is None or len(shape) < 2:
        return None
    rank = len(shape) - 2
    known = {segment.entry: Reach((1,) * rank, (0,) * rank, (0,) * rank)}
    for node in nodes_of(graph, segment):
        found = _step(node, [known[name] for name in node.inputs])
        if found is None:
            return None
        known[node.output] = found
    return known[segment.exit]


def _step(node: Node, inputs: list[Reach]) -> Reach | None:
    x = inputs[0]
    window = axes(node.op, len(x.stride))
    if window is None or any(r.stride != x.stride for r in inputs):
        return None
    start = tuple(min(a) for a in zip(*(r.start for r in inputs), strict=True))
    stop = tuple(max(b) for b in zip(*(r.stop for r in inputs), strict=True))
    along = (tuple(a.stride for a in window), tuple(a.first(0) for a in window), tuple(a.last(0) for a in window))
    return Reach(x.stride, start, stop).then(*along)
