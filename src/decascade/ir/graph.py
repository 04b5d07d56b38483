"""The graph: operations in an order in which they can run, and what is known of the tensors between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from decascade.errors import GraphError
from decascade.ir.dims import Dim, Shape
from decascade.ir.ops import Op

__all__ = ["Dim", "Graph", "Node", "Shape", "Tensor", "topological"]


@dataclass(frozen=True)
class Tensor:
    """Name, shape (None: not even the rank is known) and element type (a NumPy name: "float32") of a value."""

    name: str
    shape: Shape | None
    dtype: str = "float32"


@dataclass(frozen=True, eq=False)
class Node:
    """One operation: the tensors it reads and writes, by name.

    `origin` holds the names of the native layers or nodes that it stands for, as the user knows them; it is empty
    for an operation that decascade made.  `pinned`: it must stay as it is (say a layer that is called twice and may
    not be split); rewrites leave it alone.  The reason is in `pinned`, in words.  `sized`: it is right only for inputs of
    the sizes that the graph states, say because it corrects a border there.
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    origin: tuple[str, ...] = ()
    pinned: str = ""
    native: Any = field(default=None, repr=False)
    sized: bool = False

    @property
    def output(self) -> str:
        return self.outputs[0]


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in topological order.  `tensors` has an entry for every name that a node reads or writes.

    `reserved`: what else the native model gives a name to (weights, nested layers, entries of its outputs); nothing new is
    called so.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    name: str = "model"
    reserved: frozenset[str] = frozenset()

    @cached_property
    def producer(self) -> Mapping[str, Node]:
        """The node that writes a tensor; graph inputs have none."""
        return {name: node for node in self.nodes for name in node.outputs}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Node, ...]]:
        """The nodes that read a tensor, in order; a node that reads it twice stands once."""
        found: dict[str, list[Node]] = {name: [] for name in self.tensors}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found[name].append(node)
        return {name: tuple(nodes) for name, nodes in found.items()}

    def shape(self, name: str) -> Shape | None:
        return self.tensors[name].shape

    def spatial(self, name: str) -> tuple[int, ...] | None:
        """The spatial size of a tensor where every spatial axis is known, else None."""
        shape = self.tensors[name].shape
        if shape is None:
            return None
        size = shape[2:]
        return tuple(n for n in size if isinstance(n, int)) if all(isinstance(n, int) for n in size) else None

    def with_nodes(self, nodes: Iterable[Node], tensors: Mapping[str, Tensor] | None = None) -> Graph:
        """The same inputs and outputs over other nodes, sorted; new tensors are added, unused ones dropped."""
        known = {**self.tensors, **(tensors or {})}
        ordered = topological(tuple(nodes), self.inputs)
        used = {*self.inputs, *self.outputs, *(n for node in ordered for n in (*node.inputs, *node.outputs))}
        missing = sorted(used - known.keys())
        if missing:
            raise GraphError(f"no tensor entry for {', '.join(missing)}")
        return replace(self, nodes=ordered, tensors={n: t for n, t in known.items() if n in used})


def topological(nodes: Sequence[Node], inputs: Iterable[str]) -> tuple[Node, ...]:
    """The nodes in an order in which each reads only what is there, as near to the given order as that allows.

    Raises:
        GraphError: a tensor that nothing writes, one that is written twice, or a cycle.
    """
    writer: dict[str, Node] = {}
    for node in nodes:
        for name in node.outputs:
            if name in writer:
                raise GraphError(f"tensor {name} is written by both {writer[name].name} and {node.name}")
            writer[name] = node
    ready, order, placed = set(inputs), list[Node](), set[str]()
    for start in nodes:
        stack = [start]
        while stack:
            node = stack[-1]
            if node.name in placed:
                stack.pop()
                continue
            waiting = [n for n in node.inputs if n not in ready]
            if not waiting:
                stack.pop()
                order.append(node)
                placed.add(node.name)
                ready.update(node.outputs)
                continue
            source = writer.get(waiting[0])
            if source is None:
                raise GraphError(f"{node.name} reads {waiting[0]}, which nothing writes")
            if source in stack:
                raise GraphError(f"{node.name} and {source.name} depend on each other")
            stack.append(source)
    return tuple(order)
