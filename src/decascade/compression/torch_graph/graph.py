"""The graph as a torch module: channels-first, its weights parameters, any part of it run alone, and back to a graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv
from decascade.compression.torch_graph.ops import Function, Step, load_torch, passes_gradient, step_of, tensor_of
from decascade.compression.torch_graph.pairs import composed, pairs
from decascade.errors import CannotInterpret, GraphError, UsageError
from decascade.ir.graph import Graph, Node
from decascade.ir.interpret import needed_nodes
from decascade.ir.ops import Foreign, Op
from decascade.ir.ops.traits import with_weights

NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class _Call:
    """One node of a plan: what to call on which tensors and attributes of the module, and what is not needed after it."""

    node: str
    function: Function
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    outputs: tuple[str, ...]
    several: bool
    done: tuple[str, ...]


class Lowered:
    """A graph as a torch module whose weights can be trained.

    `module` is a `torch.nn.Module` from the graph's inputs, in order, to its output (a tuple of several).  Tensors are in
    the graph's channels-first shapes; `channels_last` stores 2-D and 3-D maps and kernels with the channels innermost, which
    is faster on most processors.  A layer of the user's that is called twice, which is the same op object or the same memory
    twice, has one set of parameters; those of a pinned node do not ask for a gradient.

    Raises:
        UsageError: torch is not installed, or a layer has more spatial axes than torch knows.
    """

    def __init__(self, graph: Graph, dtype: str = "float32", channels_last: bool = False) -> None:
        torch = load_torch()
        self.graph = graph
        self.dtype: Any = getattr(torch, dtype)
        self.channels_last = channels_last
        self.module: Any = _module_class()(self.dtype, channels_last)
        self._steps = dict[str, Step]()
        self.names = dict[str, dict[str, str]]()
        """The module's attributes that hold a node's weights and constants: node name, field, attribute."""
        made = dict[object, str]()
        for node in graph.nodes:
            step = self._steps[node.name] = _checked_step(node, self.dtype)
            first = made.setdefault(_identity(node, step), node.name)
            self.names[node.name] = self.names[first] if first != node.name else self.module.adopt(node, step)
        self.module.bind(graph, self._steps, self.names)

    @property
    def weights(self) -> dict[str, dict[str, Any]]:
        """The parameters by node name and field ("weight", "bias", "scale", "shift", "slope", "values")."""
        return {
            name: {field: getattr(self.module, attribute) for field, attribute in fields.items() if field in step.weights}
            for (name, fields), step in zip(self.names.items(), self._steps.values(), strict=True)
            if step.weights
        }

    def run(self, values: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
        """The tensors `wanted`, from those given: graph inputs or any tensors in the middle, by name.

        Only what they need is run, and a tensor is let go after its last use.  Samples are on the first axis.

        Raises:
            UsageError: an unknown name, or a graph input that is needed and not given.
            CannotInterpret: a `Foreign` that has no meaning in NumPy is needed.
        """
        return self.module.run(values, wanted)

    def computable(self, name: str) -> bool:
        """Whether a tensor can be run from the graph's inputs: no operation without a meaning in NumPy on the way."""
        nodes = needed_nodes(self.graph, set(self.graph.inputs), (name,))
        return not any(isinstance(node.op, Foreign) and node.op.evaluate is None for node in nodes)

    def differentiable(self, entry: str, exit: str) -> bool:  # noqa: A002 - the graph's own word
        """Whether `exit` depends on `entry` and a gradient passes along every path between them."""
        behind = {entry}
        for node in self.graph.nodes:
            if behind.intersection(node.inputs):
                behind.update(node.outputs)
        leads = {exit}
        for node in reversed(self.graph.nodes):
            used = behind.intersection(node.inputs)
            if used and leads.intersection(node.outputs):
                if not passes_gradient(node.op):
                    return False
                leads |= used
        return exit in behind

    def to_graph(self) -> Graph:
        """The graph with the weights as they are now: changed arrays in float64, unchanged ops the identical objects."""
        made, arrays = dict[int, Op](), dict[str, NDArray[np.float64]]()
        nodes = [self._current(node, made, arrays) for node in self.graph.nodes]
        same = all(new is old for new, old in zip(nodes, self.graph.nodes, strict=True))
        return self.graph if same else replace(self.graph, nodes=tuple(nodes))

    def load_graph(self, graph: Graph) -> None:
        """Take the weights of a graph of the same structure, in place.

        Raises:
            UsageError: a node that this graph has not, or weights of another shape.
        """
        ops = {node.name: node.op for node in graph.nodes}
        for name, fields in self.weights.items():
            arrays: Mapping[str, NDArray[Any]] = step_of(ops[name], self.dtype).weights if name in ops else {}
            for field, parameter in fields.items():
                array = arrays.get(field)
                if array is None or array.shape != tuple(parameter.shape):
                    raise UsageError(f"{name}: no {field} of shape {tuple(parameter.shape)} in the graph that was given")
                parameter.data.copy_(tensor_of(array))

    def _current(self, node: Node, made: dict[int, Op], arrays: dict[str, NDArray[np.float64]]) -> Node:
        before, names = self._steps[node.name].weights, self.names[node.name]
        changed = [field for field, array in before.items() if self._differs(names[field], array)]
        if not changed:
            return node
        for name in (names[field] for field in changed):
            if name not in arrays:
                arrays[name] = _float64(getattr(self.module, name))
        if id(node.op) not in made:
            made[id(node.op)] = with_weights(node.op, {field: arrays[names[field]] for field in changed})
        return replace(node, op=made[id(node.op)])

    def _differs(self, attribute: str, array: NDArray[Any]) -> bool:
        now = getattr(self.module, attribute).detach().cpu()
        return not load_torch().equal(now, tensor_of(array).to(self.dtype))


def _checked_step(node: Node, dtype: Any) -> Step:
    try:
        return step_of(node.op, dtype)
    except UsageError as error:
        raise UsageError(f"{node.name}: {error}") from None


def _identity(node: Node, step: Step) -> object:
    """What two nodes have in common that are calls of one layer."""
    if not (node.origin and step.weights):
        return id(node.op)
    memory = (array.__array_interface__["data"][0] for array in step.weights.values())
    return tuple(zip(step.weights, memory, (array.shape for array in step.weights.values()), strict=True))


def _float64(parameter: Any) -> NDArray[np.float64]:
    return np.ascontiguousarray(parameter.detach().double().cpu().numpy())


@cache
def _module_class() -> type[Any]:
    """The module's class, made when torch is first needed."""
    torch = load_torch()
    base: Any = torch.nn.Module

    class LoweredModule(base):
        """Parameters and buffers by node, and the plans of what has been asked for so far."""

        def __init__(self, dtype: Any, channels_last: bool) -> None:
            base.__init__(self)
            self.dtype = dtype
            self.formats = {4: torch.channels_last, 5: torch.channels_last_3d} if channels_last else {}
            self.plans = dict[tuple[frozenset[str], tuple[str, ...]], list[_Call]]()

        def adopt(self, node: Node, step: Step) -> dict[str, str]:
            """A parameter or buffer for each array; their attribute names by field."""
            names = dict[str, str]()
            for field, array in (*step.weights.items(), *step.constants.items()):
                # torch allows no dots in the names of its parameters
                name = f"{node.name.replace('.', '/')}:{field}"
                while hasattr(self, name):
                    name += "'"
                names[field] = name
                tensor = tensor_of(array)
                if field in step.constants:
                    self.register_buffer(name, tensor, persistent=False)
                    continue
                tensor = self.arranged(tensor.to(self.dtype))
                self.register_parameter(name, torch.nn.Parameter(tensor, requires_grad=not node.pinned))
            return names

        def arranged(self, tensor: Any) -> Any:
            layout = self.formats.get(tensor.ndim)
            return tensor if layout is None else tensor.contiguous(memory_format=layout)

        def bind(self, graph: Graph, steps: Mapping[str, Step], names: Mapping[str, Mapping[str, str]]) -> None:
            self.graph, self.steps, self.names = graph, steps, names

        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            copy = type(self)(self.dtype, bool(self.formats))
            memo[id(self)] = copy
            for name, parameter in self._parameters.items():
                copy.register_parameter(name, torch.nn.Parameter(parameter.detach().clone(), parameter.requires_grad))
            for name, buffer in self._buffers.items():
                copy.register_buffer(name, buffer.clone(), persistent=False)
            copy.bind(self.graph, self.steps, self.names)
            return copy.train(self.training)

        def forward(self, *inputs: Any) -> Any:
            values = dict(zip(self.graph.inputs, inputs, strict=True))
            found = self.run(values, self.graph.outputs)
            results = tuple(found[name] for name in self.graph.outputs)
            return results[0] if len(results) == 1 else results

        def run(self, given: Mapping[str, Any], wanted: Sequence[str], weights: Mapping[str, Any] = NONE) -> dict[str, Any]:
            key = (frozenset(given), tuple(wanted))
            plan = self.plans.get(key)
            if plan is None:
                plan = self.plans[key] = _plan(self.graph, self.steps, self.names, *key, self.dtype)
            values = {name: self.taken(name, tensor) for name, tensor in given.items()}
            held = {**self._parameters, **self._buffers, **weights}
            for call in plan:
                results = call.function(*[values[n] for n in call.inputs], *[held[n] for n in call.weights])
                if call.several:
                    if len(results) != len(call.outputs):
                        raise GraphError(f"{call.node}: {len(results)} results for {len(call.outputs)} outputs")
                    values.update(zip(call.outputs, results, strict=True))
                else:
                    values[call.outputs[0]] = results
                for name in call.done:
                    del values[name]
            return {name: values[name] for name in wanted}

        def taken(self, name: str, tensor: Any) -> Any:
            """A given tensor in the module's type and layout; what the graph has as integers stays integers."""
            if tensor.is_floating_point() or self.graph.tensors[name].dtype.startswith("float"):
                # under autocast a tensor that was computed there stays as it is
                mixed = tensor.is_floating_point() and torch.is_autocast_enabled(tensor.device.type)
                tensor = tensor if mixed else tensor.to(self.dtype)
            return self.arranged(tensor)

    return LoweredModule


def _plan(
    graph: Graph, steps: Mapping[str, Step], names: Mapping[str, Mapping[str, str]],
    given: frozenset[str], wanted: tuple[str, ...], dtype: Any,
) -> list[_Call]:
    for name in (*wanted, *given):
        if name not in graph.tensors:
            raise UsageError(f"no tensor {name} in the graph: its inputs are {', '.join(graph.inputs)}")
    nodes = needed_nodes(graph, given, wanted)
    _check_meaning(nodes)
    uses = Counter(name for node in nodes for name in node.inputs)
    firsts, plan = pairs(nodes, wanted), list[_Call]()
    joined = {first.name for first in firsts.values()}
    for node in nodes:
        if node.name in joined:
            continue
        step, inputs, attributes = steps[node.name], node.inputs, tuple(names[node.name].values())
        function, first = step.function, firsts.get(node.name)
        if first is not None:
            function, inputs = composed(cast("Conv", first.op), cast("Conv", node.op), dtype), first.inputs
            attributes = (*names[first.name].values(), *attributes)
        uses.subtract(inputs)
        touched = dict.fromkeys((*inputs, *node.outputs))
        done = tuple(name for name in touched if not uses[name] and name not in wanted)
        plan.append(_Call(node.name, function, inputs, attributes, node.outputs, step.several, done))
    return plan


def _check_meaning(nodes: Iterable[Node]) -> None:
    for node in nodes:
        if isinstance(node.op, Foreign) and node.op.evaluate is None:
            raise CannotInterpret(
                f"{node.name}: {node.op.kind} has no meaning in NumPy: what depends on it can neither be run nor trained here"
            )
