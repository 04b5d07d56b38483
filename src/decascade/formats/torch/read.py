"""A traced model as a graph: every call becomes an operation, or `Foreign` where it is not understood."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from decascade.algebra.conv import Conv, ConvTranspose
from decascade.errors import FormatError, GraphError
from decascade.formats.torch.border import read_border
from decascade.formats.torch.common import WAY_ROUND, Traced, load
from decascade.formats.torch.layout import read_layout
from decascade.formats.torch.names import Names, asked_of, input_guess
from decascade.formats.torch.ops import Context
from decascade.formats.torch.pure import call_name
from decascade.formats.torch.shapes import exported_tensor, fake_shape, unpack_outputs
from decascade.formats.torch.table import read_call
from decascade.formats.torch.values import Values, evaluator
from decascade.ir.graph import Graph, Node, Shape, Tensor
from decascade.ir.ops import Activation, Add, Affine, BiasMap, Concat, Dense, Foreign, Op, Product, Select
from decascade.ir.shapes import infer


@dataclass(frozen=True, eq=False)
class Source:
    """Where a node of the graph comes from: its fx nodes, one per output, and the fx nodes that its inputs are.

    `inner` are the tensors between them, which are no tensors of the graph.  `parts` names the nodes before this one that
    together with it stand for the calls.
    """

    outputs: tuple[Any, ...]
    inputs: tuple[Any, ...]
    inner: frozenset[Any]
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Reading:
    """A model that was read: its graph, and how the graph's nodes and tensors lie in the traced model."""

    traced: Traced
    values: Values
    graph: Graph
    sources: Mapping[str, Source]
    nodes: Mapping[str, Node]
    tensors: Mapping[Any, str]


Steps = tuple[tuple[Op, ...], tuple[Any, ...]]
"""Operations one after the other, and the fx nodes that the first of them reads."""


@dataclass(eq=False)
class Reader:
    """The state of one reading: what is known of every fx node so far."""

    traced: Traced
    values: Values
    names: Names
    tensors: dict[Any, Tensor] = field(default_factory=dict[Any, Tensor])
    found: dict[Any, Steps] = field(default_factory=dict[Any, Steps])

    steps: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    absorbed: dict[Any, Any] = field(default_factory=dict[Any, Any])
    sized: set[Any] = field(default_factory=set[Any])

    def shape(self, node: Any) -> Shape | None:
        """The shape of a tensor, as far as it is known."""
        known = self.tensors.get(node)
        return known.shape if known is not None else None

    def open_shape(self, node: Any) -> Shape | None:
        """The same with the sizes of the map left open: equal ones are the same symbol."""
        shape = self.shape(node)
        return None if shape is None else (*shape[:2], *(f"size{n}" if isinstance(n, int) else n for n in shape[2:]))

    def operation(self, node: Any) -> Op | None:
        """The operation that writes a tensor, where it is understood."""
        return self.found[node][0][0] if node in self.found and len(self.found[node][0]) == 1 else None

    def step_shape(self, name: str) -> Shape | None:
        """The shape of a tensor by its name, those between the operations of one call included."""
        named = (tensor for tensor in (*self.steps.values(), *self.tensors.values()) if tensor.name == name)
        return next((tensor.shape for tensor in named), None)

    def foreign_shape(self, node: Any) -> tuple[Shape | None, str | None]:
        """What torch itself says of the result of a call that is not understood."""
        if self.traced.exported:
            return exported_tensor(node, self.traced.symbols)
        if node.op == "call_module" and self.traced.pinned.get(node.target, "").startswith("it has"):
            return None, None  # a hook is the user's code: not run to learn a shape
        return fake_shape(node, self.tensors, self.values)


def read_graph(traced: Traced) -> Reading:
    """The graph of a traced model.

    Raises:
        FormatError: an output that is no tensor.
    """
    module = traced.module
    reader = Reader(traced, Values(module), Names(module, traced.original))
    for node, spec in zip((n for n in module.graph.nodes if n.op == "placeholder"), traced.inputs, strict=True):
        shape = input_guess(node, spec, traced, reader.values)
        reader.tensors[node] = Tensor(reader.names.tensor(node), shape, spec.dtype)
    for node in module.graph.nodes:
        if node.op in ("call_module", "call_function", "call_method") and reader.values.kinds[node] == "tensor":
            _read_node(node, reader)
    if unpack_outputs(reader.values, reader.tensors, traced.pinned):
        return read_graph(traced)
    return _assemble(reader)


def _read_node(node: Any, reader: Reader) -> None:
    pinned = node.op == "call_module" and node.target in reader.traced.pinned
    steps = None if pinned else _understood(node, reader, reader.shape)
    dtype = next((reader.tensors[s].dtype for s in reader.values.tensors(node) if s in reader.tensors), "float32")
    if steps is not None:
        try:
            shape = infer(steps[0][0], [reader.shape(source) for source in steps[1]])[0]
            for op in steps[0][1:]:
                shape = infer(op, [shape])[0]
        except GraphError:
            steps = None
        else:
            reader.found[node] = steps
            reader.tensors[node] = Tensor(reader.names.tensor(node), shape, dtype)
            if _only_at_this_size(node, steps, reader):
                reader.sized.add(node)
    if steps is None:
        shape, own = reader.foreign_shape(node)
        shape = shape or asked_of(node, reader.values)
        reader.tensors[node] = Tensor(reader.names.tensor(node), shape, own or dtype)


_SIZELESS = (Conv, ConvTranspose, Dense, Affine, Activation, Add, Product, Concat)
"""Operations that no reader makes by looking at the size of a map."""


def _only_at_this_size(node: Any, steps: Steps, reader: Reader) -> bool:
    """Whether a call means something else, or nothing that is understood, where the sizes of the map are left open."""
    ops, inputs = steps
    if all(isinstance(op, _SIZELESS) for op in ops) or all(reader.shape(s) == reader.open_shape(s) for s in inputs):
        return False
    again = _understood(node, reader, reader.open_shape)
    return again is None or len(again[0]) != len(ops) or not all(map(_alike, ops, again[0]))


def _alike(op: Op, other: Op) -> bool:
    if isinstance(op, _SIZELESS):
        return type(op) is type(other)
    if isinstance(op, Select) and isinstance(other, Select):
        return np.array_equal(op.indices, other.indices)
    return not isinstance(op, BiasMap) and op == other


def _understood(node: Any, reader: Reader, shape: Callable[[Any], Shape | None]) -> Steps | None:
    """What a call means, alone or together with those before it."""
    reading = read_call(node, Context(reader.values, shape, str(node.target) if node.op == "call_module" else node.name))
    if reading is not None:
        return (reading[0],), reading[1]
    moved = read_layout(node, reader.values, shape, reader.found.__contains__)
    if moved is not None:
        return (moved[0],), (moved[1],)
    border = read_border(node, reader.values, shape, reader.operation)
    if border is None:
        return None
    ops, start, absorbs = border
    if not absorbs:
        return ops, (start,)
    reader.absorbed[node] = start
    return ops, reader.found[start][1]


def _assemble(reader: Reader) -> Reading:
    """The nodes that the outputs need, in order."""
    module = reader.traced.module
    outputs = _outputs(reader)
    needed, sources = set(outputs), dict[str, Source]()
    nodes = list[Node]()
    parts, items = _parts(reader, set(outputs))
    for node in reversed(list(module.graph.nodes)):
        mine = tuple(part for part in parts.get(node, (node,)) if part in needed)
        if node not in reader.tensors or node.op == "placeholder" or node in items or not mine:
            continue
        built, source = _nodes(node, mine, reader)
        needed.update(source.inputs)
        nodes += reversed(built)
        sources[built[-1].name] = source
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    used = {*inputs, *needed}
    tensors = {reader.tensors[node].name: reader.tensors[node] for node in reader.tensors if node in used} | reader.steps
    graph = Graph(
        tuple(reversed(nodes)),
        tuple(reader.tensors[node].name for node in inputs),
        tuple(reader.tensors[node].name for node in outputs),
        tensors,
        type(reader.traced.original).__name__,
        reader.names.all(),
    )
    names = {node: tensor.name for node, tensor in reader.tensors.items() if node in used}
    return Reading(reader.traced, reader.values, graph, sources, {node.name: node for node in nodes}, names)


def _parts(reader: Reader, outputs: set[Any]) -> tuple[dict[Any, tuple[Any, ...]], set[Any]]:
    """For a call that is not understood and whose results are taken apart, the items that others read.

    Those items are no nodes of their own; they are the second result.
    """
    parts, items = dict[Any, tuple[Any, ...]](), set[Any]()
    for node in reader.values.module.graph.nodes:
        if node not in reader.tensors or node.op == "placeholder" or node in reader.found or node in items:
            continue
        leaves, stack = list[Any](), [node]
        while stack:
            current = stack.pop(0)
            picks = [user for user in current.users if _is_pick(user, current, reader)]
            items.update(picks)
            if current in outputs or len(picks) < len(current.users):
                leaves.append(current)
            stack += picks
        if leaves != [node]:
            parts[node] = tuple(leaves)
    return parts, items


def _is_pick(user: Any, source: Any, reader: Reader) -> bool:
    picked = user.op == "call_function" and call_name(user) == "getitem" and user.args[0] is source
    return picked and isinstance(user.args[1], (int, str)) and user not in reader.found


def _nodes(node: Any, mine: tuple[Any, ...], reader: Reader) -> tuple[list[Node], Source]:
    """The graph's nodes for a call; several where it takes several operations to say what the call does."""
    ops, inputs = reader.found.get(node, ((), ()))
    if not ops:
        inputs = tuple(reader.values.tensors(node))
        ops = (Foreign(_kind(node, reader), evaluator(mine, inputs, reader.values.module)),)
    reason = reader.traced.pinned.get(node.target, "") if node.op == "call_module" else ""
    names = tuple(reader.tensors[source].name for source in inputs)
    built = list[Node]()
    for index, op in enumerate(ops):
        name, origin = reader.names.node(reader.absorbed.get(node, node) if index == 0 else node, reader.values)
        outputs = tuple(reader.tensors[part].name for part in mine)
        if index < len(ops) - 1:
            shape = infer(op, [reader.step_shape(n) for n in names])[0]
            outputs = (reader.names.extra(f"{outputs[0]}_step{index + 1}"),)
            reader.steps[outputs[0]] = Tensor(outputs[0], shape, reader.tensors[mine[0]].dtype)
        built.append(Node(name, op, names, outputs, (origin,), reason, sized=node in reader.sized))
        names = outputs
    parts = tuple(step.name for step in built[:-1])
    return built, Source(mine, inputs, frozenset(_inner(mine, inputs, reader.values)), parts)


def _inner(outputs: tuple[Any, ...], inputs: tuple[Any, ...], values: Values) -> Iterator[Any]:
    """The tensors between a node's outputs and its inputs; what is only asked for its size is not among them."""
    stack = list(outputs)
    while stack:
        node = stack.pop()
        yield node
        stack += [source for source in node.all_input_nodes if values.is_tensor(source) and source not in inputs]


def _kind(node: Any, reader: Reader) -> str:
    if node.op == "call_module":
        return type(reader.values.module.get_submodule(node.target)).__name__
    return call_name(node)


def _outputs(reader: Reader) -> list[Any]:
    torch = load()
    output = next(node for node in reader.values.module.graph.nodes if node.op == "output")
    found = list[Any]()
    for leaf in torch.utils._pytree.tree_leaves(output.args[0]):
        if not hasattr(leaf, "op"):
            continue
        if isinstance(leaf.target, type):
            raise FormatError(f"forward returns a {leaf.target.__name__}: return tensors, or a tuple, list or dict of them")
        if leaf not in reader.tensors:
            raise FormatError(f"output {leaf.name} is no tensor that depends on the input: return only tensors, {WAY_ROUND}")
        found.append(leaf)
    if not found:
        raise FormatError("the model returns no tensor that depends on its input: nothing to merge")
    return found
