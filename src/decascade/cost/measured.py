"""Targets whose numbers are measured: a run of layers is built as a model of its own and given to a meter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from decascade.cost.base import Cost
from decascade.cost.cache import Cache
from decascade.cost.count import parameters
from decascade.cost.folding import folded
from decascade.cost.layers import is_free, signature, standalone
from decascade.errors import UsageError
from decascade.ir.graph import Graph, Node, Tensor


class Meter(Protocol):
    """An instrument: what it measures, in which unit, and by which tool in which version on which machine."""

    name: str
    unit: str

    @property
    def identity(self) -> str:
        """What a stored number depends on besides the layers: tool, version, settings, machine."""
        ...

    def measure(self, graph: Graph) -> tuple[float, float]:
        """The cost of a model of known sizes, and the half width of its 95 % confidence interval (0: exact).

        Raises:
            UsageError: a tool is missing, or cannot run such a model.
        """
        ...


def add_up(values: Iterable[float]) -> float:
    """Times and instructions of layers that run one after the other."""
    return sum(values)


def highest(values: Iterable[float]) -> float:
    """Memory that layers use one after the other."""
    return max(values, default=0.0)


class Measured:
    """A target by measurement.

    Where a number has a confidence interval, layers of the model are charged its lower end and layers that decascade made
    its upper end: what is chosen pays beyond the noise.  One that is as a layer of the model is charged what that one is.
    Whole models are charged the value itself.
    `told` hears of every measurement before it is made.
    """

    def __init__(
        self, meter: Meter, joined: Callable[[Iterable[float]], float] = add_up, cache: Cache | None = None,
        told: Callable[[str], None] | None = None,
    ) -> None:
        self.name, self.unit = meter.name, meter.unit
        self.meter, self.joined, self.told = meter, joined, told
        self.cache = cache or Cache()
        self._refused = dict[str, str]()
        self._own = set[str]()

    def unknown(self, nodes: Sequence[Node], tensors: Mapping[str, Tensor]) -> frozenset[str]:
        """The run, unless it is free, was measured before, or the tool cannot run it."""
        nodes = _deployed(nodes, tensors)
        text = signature(nodes, tensors)
        known = is_free(nodes) or text in self._refused or self.cache.get(self.meter.identity, text) is not None
        return frozenset() if known else frozenset({f"{self.name}\n{text}"})

    def segment_cost(self, nodes: Sequence[Node], tensors: Mapping[str, Tensor]) -> Cost:
        """Cost of a run of layers, measured together as a model of their own; infinite where the tool cannot run new ones.

        Raises:
            UsageError: the tool cannot run layers of the model itself.
        """
        deployed = _deployed(nodes, tensors)
        text, new = signature(deployed, tensors), any(not node.origin for node in nodes)
        if not new:
            self._own.add(text)
        try:
            value, width = self._value(text, deployed, tensors)
        except UsageError:
            if not new:
                raise
            value, width = float("inf"), 0.0
        return Cost(max(value + (-width if text in self._own else width), 0.0), sum(map(parameters, nodes)))

    def combine(self, costs: Iterable[Cost]) -> Cost:
        listed = list(costs)
        return Cost(self.joined(c.value for c in listed), sum(c.parameters for c in listed))

    def graph_cost(self, graph: Graph) -> Cost:
        """Cost of a whole model, measured as a whole; what is not understood is left out."""
        value, width = self._measured(graph.nodes, graph.tensors)
        return Cost(value, sum(map(parameters, graph.nodes)), width=width)

    def _measured(self, nodes: Sequence[Node], tensors: Mapping[str, Tensor]) -> tuple[float, float]:
        nodes = _deployed(nodes, tensors)
        return self._value(signature(nodes, tensors), nodes, tensors)

    def _value(self, text: str, nodes: Sequence[Node], tensors: Mapping[str, Tensor]) -> tuple[float, float]:
        if is_free(nodes):
            return 0.0, 0.0
        return self.cache.get(self.meter.identity, text) or self._new(text, nodes, tensors)

    def _new(self, text: str, nodes: Sequence[Node], tensors: Mapping[str, Tensor]) -> tuple[float, float]:
        """A measurement that was not made before, kept from now on; what the tool refused once it is not asked again."""
        if text in self._refused:
            raise UsageError(self._refused[text])
        if self.told is not None:
            self.told(f"measuring layers for {self.name}")
        graph = standalone(nodes, tensors)
        try:
            found = self.meter.measure(graph) if graph.nodes else (0.0, 0.0)
        except UsageError as error:
            self._refused[text] = str(error)
            raise
        self.cache.put(self.meter.identity, text, *found)
        return found


def _deployed(nodes: Sequence[Node], tensors: Mapping[str, Tensor]) -> Sequence[Node]:
    """The run as every deployment has it, normalisations folded: what only folds one is not a choice to be measured."""
    written = {name for node in nodes for name in node.outputs}
    read = dict.fromkeys(name for node in nodes for name in node.inputs)
    outputs = tuple(name for name in written if name not in read)
    graph = Graph(tuple(nodes), tuple(name for name in read if name not in written), outputs, tensors)
    return folded(graph, shapes_only=True).nodes
