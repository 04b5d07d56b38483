"""What one analysis is asked: a graph at the size analysed, the box of its inputs, and the kinds of positions that it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from decascade.bounds.box import Box
from decascade.bounds.geometry import Axes, Classes, part, smallest
from decascade.bounds.regimes import regimes
from decascade.errors import UsageError
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import Activation, Foreign
from decascade.ir.shapes import infer_graph
from decascade.typing import Reals

Inputs = dict[str, Reals]
"""A batch of inputs by name, each (C, *S, N)."""


class UnknownSizeError(UsageError):
    """A size that is only known when the model runs."""


@dataclass(frozen=True, eq=False)
class Limits:
    """The box at the size analysed: per input lo and hi (C, *S, 1) as float32 numbers within the box."""

    lo: Mapping[str, Reals]
    hi: Mapping[str, Reals]

    @staticmethod
    def of(graph: Graph, box: Box) -> Limits:
        lo, hi = dict[str, Reals](), dict[str, Reals]()
        for name in graph.inputs:
            shape = tuple(int(n) for n in (graph.shape(name) or ())[1:])
            interval = box.intervals[name]
            a, b = (np.broadcast_to(v, shape)[..., None] for v in (interval.lo, interval.hi))
            x, y = a.astype(np.float32), b.astype(np.float32)
            lo[name] = np.where(x < a, np.nextafter(x, np.float32(np.inf)), x)
            hi[name] = np.maximum(np.where(y > b, np.nextafter(y, np.float32(-np.inf)), y), lo[name])
        return Limits(lo, hi)

    def at(self, shares: Callable[[tuple[int, ...]], Reals]) -> Inputs:
        """lo + share·(hi − lo), kept within; `shares` gives numbers in [0, 1] for a sample shape (C, *S)."""
        found: Inputs = {}
        for name, lo in self.lo.items():
            hi = self.hi[name]
            x = (lo + shares(lo.shape[:-1]) * (hi - lo)).astype(np.float32)
            found[name] = np.minimum(np.maximum(x, lo), hi)
        return found

    def middle(self, samples: int = 1) -> Inputs:
        """The middle of the box, as often as there are samples."""
        return self.at(lambda shape: np.full((*shape, samples), 0.5))

    def keep(self, inputs: Mapping[str, Reals]) -> Inputs:
        """The nearest inputs within the box."""
        return {k: np.clip(v.astype(np.float32), self.lo[k], self.hi[k]) for k, v in inputs.items()}


@dataclass(frozen=True, eq=False)
class Problem:
    """`graph` leads to the inputs of the activations `nodes`, at the smallest picture that has all classes of positions of the
    user's own; `limits` is `box` at that size.  `axes`: per tensor and spatial axis the class of every position, `own` at the
    user's size.  `thorough`: neurons of channels that one witness already shows not to be linear are to be decided as well."""

    graph: Graph
    nodes: tuple[Node, ...]
    box: Box
    limits: Limits
    axes: Mapping[str, Axes]
    own: Mapping[str, Axes]
    thorough: bool = True

    @staticmethod
    def of(graph: Graph, box: Box, thorough: bool = True) -> Problem:
        """All activations of a graph over a box.

        Raises:
            UnknownSizeError: a size that is only known when the model runs.
        """
        nodes = activations(graph)
        ahead = numbered(part(graph, [n.inputs[0] for n in nodes]), box)
        classes = Classes()
        own = classes.of(ahead, box)
        small, axes = smallest(ahead, box, classes)
        return Problem(small, tuple(nodes), box, Limits.of(small, box), axes, own, thorough)

    @property
    def analysed(self) -> dict[str, tuple[int, ...]]:
        """Per input its shape (C, *S) at the size analysed."""
        return {n: self.limits.lo[n].shape[:-1] for n in self.graph.inputs}


def activations(graph: Graph) -> list[Node]:
    """The activations that have regimes."""
    return [n for n in graph.nodes if isinstance(n.op, Activation) and regimes(n.op, 1)]


def numbered(graph: Graph, box: Box) -> Graph:
    """The graph with every size inferred; a box that gives every entry also gives the size of its input.

    Raises:
        UnknownSizeError: a size that is only known when the model runs.
    """
    tensors = dict(graph.tensors)
    for name in graph.inputs:
        shape, given = tensors[name].shape, box.intervals[name].lo.shape
        if shape is not None:
            sizes = (d if isinstance(d, int) or n == 1 else n for d, n in zip(shape[1:], given, strict=True))
            tensors[name] = replace(tensors[name], shape=(shape[0], *sizes))
    found = infer_graph(replace(graph, tensors=tensors))
    for name, tensor in found.tensors.items():
        if tensor.shape is None or any(not isinstance(n, int) for n in tensor.shape[1:]):
            writer = found.producer.get(name)
            kind = f", which {writer.op.kind} writes" if writer is not None and isinstance(writer.op, Foreign) else ""
            raise UnknownSizeError(
                f"the size of {name}{kind} is not known before the model runs: proofs over an input range need a model"
                " of fixed input size (an input shape makes it one), or lowest and highest values as arrays of the input's size"
            )
    return found
