"""A further output that tells whether an input lies outside of a box: 0 for inputs within it, above 0 for all others.

Per channel the largest of x − hi and lo − x over all positions, where that is positive; summed over channels.  A difference of
two floating-point numbers of one type is 0 only where they are equal, and has the right sign, so the ends count as inside;
only a runtime that flushes subnormal numbers to zero misses differences below the least normal number (float32: 1.2e-38).
Plain layers (a shift, ReLU, max pool, a dense layer of ones), so that every tool chain takes it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from decascade.algebra.conv import Conv
from decascade.bounds.box import Box, Interval
from decascade.errors import UsageError
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.names import Names
from decascade.ir.ops import Activation, Affine, BiasMap, Concat, Dense, GlobalPool, Op
from decascade.ir.shapes import infer_graph

GUARD = "outside_input_range"
"""What the output is called, where that is free."""


def guarded(graph: Graph, box: Box) -> Graph:
    """The graph with the further output, `GUARD` where that is free, as its last.

    Raises:
        UsageError: an input that holds no floating-point numbers, or whose shape is not known.
    """
    made = _Made(graph)
    ends = [made.excess(name, box.intervals[name]) for name in graph.inputs]
    joined = made.add("all", Concat(), *ends) if len(ends) > 1 else ends[0]
    channels = sum(int(graph.shape(name)[1]) for name in graph.inputs) * 2  # type: ignore[index,arg-type]
    made.add("", Dense(Conv(np.ones((1, channels), np.float32))), joined)
    return made.graph()


class _Made:
    def __init__(self, graph: Graph) -> None:
        self.old = graph
        self.names = Names.of(graph)
        self.nodes, self.tensors = list[Node](), dict[str, Tensor]()

    def excess(self, name: str, interval: Interval) -> str:
        """What the input exceeds either end by, per channel; (N, 2·C)."""
        tensor, shape = self.old.tensors[name], self.old.shape(name)
        if not tensor.dtype.startswith(("float", "bfloat")):
            raise UsageError(f"a guard needs inputs of floating-point numbers, and input {name} is of type {tensor.dtype}")
        if shape is None or len(shape) < 2 or not isinstance(shape[1], int):
            raise UsageError(f"a guard needs the number of channels of input {name}, which is not known")
        above = self._minus(f"{name}_above", name, interval.hi, interval)
        below = self._minus(f"{name}_below", name, interval.lo, interval)
        below = self.add(f"{name}_negated", Affine(-np.ones(shape[1]), np.zeros(shape[1])), below)
        both = self.add(f"{name}_ends", Concat(), above, below)
        positive = self.add(f"{name}_excess", Activation("relu"), both)
        return positive if len(shape) == 2 else self.add(f"{name}_largest", GlobalPool("max", keepdims=False), positive)

    def _minus(self, label: str, name: str, end: np.ndarray, interval: Interval) -> str:
        shape = self.old.shape(name)
        assert shape is not None
        channels = int(shape[1])
        if interval.uniform:
            op: Op = Affine(np.ones(channels), -np.broadcast_to(end.reshape(-1), (channels,)))
        else:
            size = tuple(d if isinstance(d, int) else n for d, n in zip(shape[1:], end.shape, strict=True))
            op = BiasMap(-np.broadcast_to(end, size))
        return self.add(label, op, name)

    def add(self, label: str, op: Op, *inputs: str) -> str:
        """Append an operation under a free name; the last one, without a label, has that of the output."""
        name = self.names.fresh(f"{GUARD}/{label}" if label else GUARD)
        dtype = self.tensors[inputs[0]].dtype if inputs[0] in self.tensors else self.old.tensors[inputs[0]].dtype
        self.nodes.append(Node(name, op, inputs, (name,)))
        self.tensors[name] = Tensor(name, None, dtype)
        return name

    def graph(self) -> Graph:
        tensors = {**self.old.tensors, **self.tensors}
        outputs = (*self.old.outputs, self.nodes[-1].output)
        return infer_graph(replace(self.old, nodes=(*self.old.nodes, *self.nodes), outputs=outputs, tensors=tensors))


def guard_of(graph: Graph, name: str) -> str:
    """The guard among the outputs of a graph that was read again: PyTorch's have no names, there it is the last."""
    return name if name in graph.outputs else graph.outputs[-1]


def unguarded(graph: Graph, name: str) -> Graph:
    """The graph without the output, and without what leads to that alone."""
    outputs = tuple(n for n in graph.outputs if n != name)
    wanted, kept = set(outputs), list[Node]()
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs):
            kept.append(node)
            wanted.update(node.inputs)
    return replace(graph, outputs=outputs).with_nodes(kept[::-1])
