"""Finding linear regions: chains of units between cut tensors, parallel units holding chains of their own.

A *unit* is a single-entry single-exit set of linear nodes that has no smaller one to split into in sequence: one
operation, or parallel branches up to where they join.  A *chain* is a maximal sequence of units in which every tensor
between is read by the next unit alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from decascade.ir.graph import Graph, Node
from decascade.regions.lower import is_linear


@dataclass(frozen=True, eq=False)
class Unit:
    """Nodes in topological order between two tensors; `inner`: the chains on the branches of a parallel unit."""

    entry: str
    exit: str
    nodes: tuple[Node, ...]
    inner: tuple[Chain, ...] = ()


@dataclass(frozen=True, eq=False)
class Chain:
    units: tuple[Unit, ...]

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(node for unit in self.units for node in unit.nodes)


@dataclass
class _Search:
    graph: Graph
    order: dict[str, int] = field(default_factory=dict[str, int])
    covered: set[str] = field(default_factory=set[str])

    def __post_init__(self) -> None:
        self.order = {node.name: i for i, node in enumerate(self.graph.nodes)}

    def chains(self, nodes: tuple[Node, ...]) -> Iterator[Chain]:
        """The chains among `nodes`, last first."""
        allowed = {n.name for n in nodes}
        for node in reversed(nodes):
            if node.name not in self.covered and is_linear(node):
                units = self.units_up_from(node.output, allowed)
                if units:
                    yield Chain(units)

    def units_up_from(self, exit_: str, allowed: set[str]) -> tuple[Unit, ...]:
        units = list[Unit]()
        while (unit := self.unit(exit_, allowed)) is not None:
            units.append(unit)
            self.covered.update(n.name for n in unit.nodes)
            inside = {n.name for n in unit.nodes}
            exit_ = unit.entry
            readers = {n.name for n in self.graph.consumers[exit_]}
            if exit_ in self.graph.outputs or not readers <= inside:
                break
        return tuple(self.with_inner(u) for u in reversed(units))

    def unit(self, exit_: str, allowed: set[str]) -> Unit | None:
        """The smallest unit that ends at a tensor: widen the set backward, latest node first, to a single entry."""
        inside = dict[str, Node]()
        open_ = {exit_}
        while open_ == {exit_} or len(open_) > 1:
            name = max(open_, key=self.position)
            node = self.graph.producer.get(name)
            if node is None or not is_linear(node) or node.name not in allowed or node.name in self.covered:
                return None
            readers = {n.name for n in self.graph.consumers[name]}
            if name != exit_ and (not readers <= inside.keys() or name in self.graph.outputs):
                return None
            inside[node.name] = node
            open_ = (open_ - {name}) | set(node.inputs)
        (entry,) = open_
        return Unit(entry, exit_, tuple(sorted(inside.values(), key=lambda n: self.order[n.name])))

    def position(self, name: str) -> int:
        node = self.graph.producer.get(name)
        return -1 if node is None else self.order[node.name]

    def with_inner(self, unit: Unit) -> Unit:
        if len(unit.nodes) < 2:
            return unit
        join = unit.nodes[-1]
        branches = tuple(n for n in unit.nodes if n is not join)
        self.covered.difference_update(n.name for n in branches)
        inner = tuple(self.chains(branches))
        self.covered.update(n.name for n in branches)
        return Unit(unit.entry, unit.exit, unit.nodes, inner)


def find_chains(graph: Graph) -> tuple[Chain, ...]:
    """All chains of the graph in topological order.  Every linear node with one entry is in exactly one."""
    search = _Search(graph)
    return tuple(reversed(list(search.chains(graph.nodes))))
