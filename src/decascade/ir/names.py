"""Free names: whatever makes a node, a tensor, a layer or a weight asks here what to call it.

A model may use any name, the ones that we should like to use too, so no name is put together without being asked for.
"""

from __future__ import annotations

from collections.abc import Iterable

from decascade.ir.graph import Graph


class Names:
    """Gives out names that nothing has yet, each once: the base where that is free, else base_2, base_3, ….

    Nodes and tensors that are made may share a name with each other, but none with what was there before.
    `joint`, `first`: what stands before the number, and the first number.
    """

    def __init__(self, taken: Iterable[str] = (), joint: str = "_", first: int = 2) -> None:
        self._given = set(taken)
        self._nodes, self._tensors = set[str](), set[str]()
        self._joint, self._first = joint, first

    @classmethod
    def of(cls, *graphs: Graph) -> Names:
        """With all names of some graphs taken: of nodes, tensors, native layers, and what else the native model names."""
        taken = set[str]()
        for graph in graphs:
            taken.update(graph.inputs, graph.outputs, graph.tensors, graph.reserved)
            for node in graph.nodes:
                taken.update((node.name,), node.origin, node.inputs, node.outputs)
        return cls(taken)

    def fresh(self, base: str) -> str:
        """A name that neither a node nor a tensor has."""
        name = self._free(base, self._nodes, self._tensors)
        self._given.add(name)
        return name

    def node(self, base: str) -> str:
        """A name for a node."""
        name = self._free(base, self._nodes)
        self._nodes.add(name)
        return name

    def tensor(self, base: str) -> str:
        """A name for a tensor."""
        name = self._free(base, self._tensors)
        self._tensors.add(name)
        return name

    def own(self, name: str) -> str:
        """A node's own name, the first time that it is asked for, though it is among those taken; else a fresh one."""
        if name in self._nodes:
            return self.node(name)
        self._nodes.add(name)
        return name

    def trial(self) -> Names:
        """A copy, for a change that may not be made."""
        copy = Names(self._given, self._joint, self._first)
        copy._nodes, copy._tensors = set(self._nodes), set(self._tensors)
        return copy

    def accept(self, trial: Names) -> None:
        """The change was made: what its trial gave out is taken."""
        self._given, self._nodes, self._tensors = trial._given, trial._nodes, trial._tensors

    def _free(self, base: str, *others: set[str]) -> str:
        name, number = base, self._first
        while name in self._given or any(name in other for other in others):
            name, number = f"{base}{self._joint}{number}", number + 1
        return name
