"""The parts of a report that only some commands have: the drawn graphs, what compressing found out, figures before and after.

Plain values again: the report's JSON has them field by field (see schema.json).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Size = int | str


@dataclass(frozen=True)
class NodeFacts:
    """One operation of a graph as it is drawn.

    kind: the operation in words ("3x3 convolution, stride 2").  layers: the native layers that it stands for, as the user
    knows them; empty for one that decascade made.  inputs: the nodes that it reads, by their place in the list, where they
    stand before it.  shape: of its first output, channels first.  cost: by itself, in the unit of the graphs.  cascades: the
    rows of the report that it belongs to, by their place.  same: its place in the graph before, for one that was kept.
    """

    name: str
    kind: str
    layers: tuple[str, ...]
    inputs: tuple[int, ...]
    shape: tuple[Size, ...] | None
    cost: float
    parameters: int
    cascades: tuple[int, ...] = ()
    same: int | None = None


@dataclass(frozen=True)
class GraphFacts:
    """The network before and after; the inputs and outputs of the model are nodes of kind "input" and "output".

    unit: of the nodes' costs: the target's where a single operation has a cost in it, else MACs.
    """

    before: tuple[NodeFacts, ...]
    after: tuple[NodeFacts, ...]
    unit: str = "MACs"


@dataclass(frozen=True)
class ErrorMap:
    """Where in the picture a replacement is how far off: the largest absolute error over samples and channels.

    rows: the picture in cells, each the largest of the positions in it; one row for a signal; the largest over the first
    axis for a volume.  size: the picture's own.  edge: the largest at distance 0, 1, 2, 3 from the nearest edge of the
    picture and, last, anywhere further in; shorter where the picture is too small to have them all.
    """

    rows: tuple[tuple[float, ...], ...]
    size: tuple[int, ...]
    edge: tuple[float, ...]


@dataclass(frozen=True)
class WidthPoint:
    """A hidden layer of `width` channels: its relative error on the data it was fitted to, and on data held out."""

    width: int
    error: float
    held_out: float | None = None
    cost: float | None = None


@dataclass(frozen=True)
class StudentFacts:
    """What was considered in the place of a segment.

    student: in words ("one 5x5 convolution").  fit_error: relative, of what it was fitted to.  sensitivity: divergence of
    the model's output with only this student swapped in.  widths: the curve that a hidden layer's width was chosen on.
    """

    layers: tuple[str, ...]
    student: str
    chosen: bool
    cost_before: float
    cost_after: float
    fit_error: float | None = None
    sensitivity: float | None = None
    widths: tuple[WidthPoint, ...] = ()


@dataclass(frozen=True)
class FrontPoint:
    """One plan: its cost in the target's unit and what it loses; the one that was carried out is `chosen`."""

    cost: float
    loss: float
    chosen: bool = False
    words: str = ""


@dataclass(frozen=True)
class Curve:
    """Something watched while training: y against the step or epoch x."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    x_unit: str = "epoch"
    unit: str = ""


@dataclass(frozen=True)
class CompressionFacts:
    """Students, the front of plans (`loss_unit`: what they lose, in words), and how training went."""

    students: tuple[StudentFacts, ...]
    front: tuple[FrontPoint, ...] = ()
    loss_unit: str = "divergence of the output"
    training: tuple[Curve, ...] = ()
    samples: int | None = None


@dataclass(frozen=True)
class Measure:
    """A figure before and after, of whatever kind: accuracy, agreement, int8 accuracy, latency, arena, flash, instructions.

    group: what belongs together ("accuracy", "Cortex-M4, int8").  note: how it was measured.  A figure that only one of the
    two has leaves the other None.
    """

    group: str
    name: str
    unit: str
    before: float | None
    after: float | None
    better: Literal["lower", "higher"] = "lower"
    note: str = ""
