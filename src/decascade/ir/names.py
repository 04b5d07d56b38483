"""Names that a graph does not have yet."""

from __future__ import annotations

from decascade.ir.graph import Graph


class Names:
    """Hands out names of nodes and tensors, each once."""

    def __init__(self, graph: Graph) -> None:
        self.used = {*graph.tensors, *(n.name for n in graph.nodes), *(o for n in graph.nodes for o in n.origin)}

    def fresh(self, base: str) -> str:
        """`base`, or with the first number behind it that makes it new."""
        name, count = base, 1
        while name in self.used:
            count += 1
            name = f"{base}_{count}"
        self.used.add(name)
        return name
