"""The weights that are trained: not the layers' own but conditioned ones, from which the layers' own are computed.

A trained model's batch normalisations are folded, its kernels are of all sizes and its inputs are off centre; an optimiser
that steps every number alike does badly on it.  So each kernel is W = s·V/σ and each bias b = s·β − Σ W·μ, with μ and σ the
mean and the deviation of the layer's input channels and s the deviation of its output channels, measured once on data at the
start.  What V sees and makes is then centred and of size one in every layer, raw pixels at the input included.  (W, b) and
(V, β) are the same layer for any μ, σ and s, at borders too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from decascade.algebra.conv import Conv, ConvTranspose
from decascade.compression.torch_graph.graph import Lowered
from decascade.compression.torch_graph.ops import load_torch
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import Affine, BiasMap, Dense
from decascade.ir.ops.traits import is_linear, layer_of, weights

SMALLEST = 1e-2
"""No deviation counts as smaller than this share of its tensor's."""

Frame = tuple[Any, Any, Any]
"""μ and σ per input channel and s per output channel of a layer, in float64."""


class Trainable:
    """A student whose conditioned weights can be trained; `module` is its `torch.nn.Module`, called on the graph's inputs.

    `frames`: the constants by node name (see `measured`); layers without are trained on their own weights.
    """

    def __init__(self, lowered: Lowered, frames: Mapping[str, Frame]) -> None:
        self.lowered = lowered
        self.module: Any = _module_class()(lowered, frames)

    def run(self, values: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
        """As `Lowered.run`, with the weights as they are now."""
        return self.module.run(values, wanted)

    def to_graph(self) -> Graph:
        """The graph with the layers' own weights as they are now; ops whose weights have not moved are the same objects."""
        module, torch = self.module, load_torch()
        own = dict(self.lowered.module.named_parameters())
        with torch.no_grad():
            for name, value in module.weights().items():
                # the way there and back would round weights that have not moved
                if module.has_moved(name):
                    own[name].copy_(value)
        return self.lowered.to_graph()


@dataclass(eq=False)
class _Moments:
    """Sums over samples and positions, per channel, in float64."""

    count: int = 0
    total: Any = 0.0
    square: Any = 0.0

    def add(self, value: Any, axis: int) -> None:
        flat = value.detach().movedim(axis, -1).reshape(-1, value.shape[axis]).double()
        self.count += len(flat)
        self.total = self.total + flat.sum(0)
        self.square = self.square + flat.square().sum(0)

    def mean_and_deviation(self) -> tuple[Any, Any]:
        mean = self.total / self.count
        variance = (self.square / self.count - mean * mean).clamp_min(0)
        return mean, variance.sqrt().clamp_min(max(SMALLEST * float(variance.mean().sqrt()), 1e-12))


def measured(lowered: Lowered, batches: Iterable[Mapping[str, Any]]) -> dict[str, Frame]:
    """Mean and deviation of what every layer reads and writes over the batches, for `Trainable`.

    Layers that cannot be run (behind an operation without a meaning in NumPy) have none.
    """
    nodes = [n for n in lowered.graph.nodes if _framed(n) and lowered.computable(n.output)]
    ends = {(name, _axis(n)) for n in nodes for name in (n.inputs[0], n.output)}
    sums = {end: _Moments() for end in ends}
    with load_torch().no_grad():
        for batch in batches:
            found = lowered.run(batch, list(dict.fromkeys(name for name, _ in ends)))
            for (name, axis), moments in sums.items():
                moments.add(found[name], axis)
    known = {end: moments.mean_and_deviation() for end, moments in sums.items() if moments.count}
    return {
        n.name: (*known[n.inputs[0], _axis(n)], known[n.output, _axis(n)][1])
        for n in nodes
        if (n.inputs[0], _axis(n)) in known
    }


def _framed(node: Node) -> bool:
    return is_linear(node.op) and bool(weights(node.op)) and not node.pinned


def _axis(node: Node) -> int:
    """Where the channels of a node's tensors are."""
    return -1 if isinstance(node.op, Dense) else 1


@dataclass(frozen=True, eq=False)
class _Rule:
    """How one layer's weights come from the trained ones: W = V·factor, b = β·size − Σ W·mean."""

    weight: str
    bias: str | None
    factor: Any
    size: Any
    mean: Any = field(default=None)

    def own(self, trained: Mapping[str, Any]) -> dict[str, Any]:
        weight = trained[self.weight] * self.factor
        if self.bias is None:
            return {self.weight: weight}
        return {self.weight: weight, self.bias: trained[self.bias] * self.size - self._centre(weight)}

    def conditioned(self, own: Mapping[str, Any]) -> dict[str, Any]:
        weight = own[self.weight]
        if self.bias is None:
            return {self.weight: weight / self.factor}
        return {self.weight: weight / self.factor, self.bias: (own[self.bias] + self._centre(weight)) / self.size}

    def _centre(self, weight: Any) -> Any:
        if self.mean is None:
            return 0.0
        rows = weight.reshape(*self.mean.shape, -1).sum(-1)
        return (rows * self.mean).sum(1)


def _rule(node: Node, names: Mapping[str, str], frame: Frame, dtype: Any) -> _Rule:
    mean, spread, size = (value.to(dtype) for value in frame)
    match node.op:
        case Affine():
            return _Rule(names["scale"], names["shift"], size / spread, size, mean[:, None])
        case BiasMap():
            return _Rule(names["values"], None, size.view(-1, *(1,) * (node.op.values.ndim - 1)), size)
        case ConvTranspose():
            groups, taps = node.op.groups, (1,) * node.op.rank
            outer = size.view(groups, 1, -1).expand(-1, len(spread) // groups, -1).reshape(len(spread), -1)
            return _Rule(names["weight"], names.get("bias"), (outer / spread[:, None]).view(*outer.shape, *taps), size)
        case _:
            layer = layer_of(node.op)
            assert isinstance(layer, Conv)
            inner, centre = (_per_row(layer, values) for values in (spread, mean))
            factor = (size[:, None] / inner).view(*inner.shape, *(1,) * layer.rank)
            return _Rule(names["weight"], names.get("bias"), factor, size, centre)


def _per_row(layer: Conv, values: Any) -> Any:
    """Numbers per input channel as (O, I/groups): each output channel's own inputs."""
    groups = layer.groups
    return values.view(groups, 1, -1).expand(-1, layer.out_channels // groups, -1).reshape(layer.out_channels, -1)


@cache
def _module_class() -> type[Any]:
    """The module's class, made when torch is first needed."""
    torch = load_torch()
    base: Any = torch.nn.Module

    class TrainableModule(base):
        """The trained weights as parameters, under the names that the layers' own have in the lowered module."""

        def __init__(self, lowered: Lowered, frames: Mapping[str, Frame]) -> None:
            base.__init__(self)
            # in a tuple, so that the layers' own weights are not this module's parameters
            self.held = (lowered,)
            own = {name: p.detach() for name, p in lowered.module.named_parameters()}
            self.rules = _rules(lowered, frames)
            start = dict(own)
            for rule in self.rules:
                start.update(rule.conditioned(own))
            wanted = {name: p.requires_grad for name, p in lowered.module.named_parameters()}
            for name, value in start.items():
                self.register_parameter(name, torch.nn.Parameter(value.clone(), requires_grad=wanted[name]))
            self.start = {name: p.detach().clone() for name, p in self.named_parameters()}

        def weights(self) -> dict[str, Any]:
            """The layers' own weights by name."""
            trained: dict[str, Any] = dict(self._parameters)
            for rule in self.rules:
                trained.update(rule.own(self._parameters))
            return trained

        def has_moved(self, name: str) -> bool:
            """Whether an own weight depends on a trained one that is not as it was at the start."""
            sources = next(((r.weight, r.bias) for r in self.rules if name in (r.weight, r.bias)), (name,))
            return any(not torch.equal(self._parameters[s], self.start[s]) for s in sources if s is not None)

        def run(self, values: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
            return self.held[0].module.run(values, wanted, self.weights())

        def forward(self, *inputs: Any) -> Any:
            graph = self.held[0].graph
            found = self.run(dict(zip(graph.inputs, inputs, strict=True)), graph.outputs)
            results = tuple(found[name] for name in graph.outputs)
            return results[0] if len(results) == 1 else results

    return TrainableModule


def _rules(lowered: Lowered, frames: Mapping[str, Frame]) -> list[_Rule]:
    """One per set of weights: a layer that is called twice has the frame of its first call."""
    rules = dict[str, _Rule]()
    names = lowered.names
    for node in lowered.graph.nodes:
        if node.name in frames:
            rule = _rule(node, names[node.name], frames[node.name], lowered.dtype)
            rules.setdefault(rule.weight, rule)
    return list(rules.values())
