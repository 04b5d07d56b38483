"""Names: of tensors (those of fx, outputs by position), of nodes (module paths as the user knows them), of inputs' sizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, cast

from decascade.formats.torch.common import InputSpec, Traced, load, words
from decascade.formats.torch.modules import module_call
from decascade.formats.torch.pure import call_name
from decascade.formats.torch.values import NotConstantError, Values
from decascade.ir import names as free
from decascade.ir.graph import Shape

SPATIAL = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}
"""Names of spatial sizes that are not known, by rank."""


def output_names(count: int) -> list[str]:
    """The outputs' names: they have none in PyTorch, so it is their position in the flattened result."""
    return ["output"] if count == 1 else [f"output_{index}" for index in range(count)]


@dataclass(eq=False)
class Names:
    """Gives every tensor and node of one model its name, each once."""

    module: Any
    original: Any
    _tensors: dict[Any, str] = field(default_factory=dict[Any, str])
    _nodes: free.Names = field(init=False)
    _taken: free.Names = field(init=False)

    def __post_init__(self) -> None:
        nodes = list(self.module.graph.nodes)
        leaves = load().utils._pytree.tree_leaves(nodes[-1].args[0])
        for leaf, name in zip(leaves, output_names(len(leaves)), strict=True):
            if hasattr(leaf, "op"):
                self._tensors[leaf] = name
        for node in nodes:
            if node.op == "placeholder":
                self._tensors[node] = node.target
        self._taken = free.Names(self._tensors.values())
        for node in nodes:
            if node not in self._tensors:
                self._tensors[node] = self._taken.tensor(node.name)
        self._nodes = free.Names((path for path, _ in self.module.named_modules()), joint="#")

    def extra(self, wanted: str) -> str:
        """A name for a tensor that fx does not know."""
        name = self._tensors[wanted] = self._taken.tensor(wanted)
        return name

    def tensor(self, node: Any) -> str:
        """The name of the tensor that an fx node writes."""
        return self._tensors[node]

    def node(self, node: Any, values: Values) -> tuple[str, str]:
        """A name of its own for a call, and the layer that it belongs to as the user knows it."""
        origin = self._layer(node, values)
        return self._nodes.own(origin), origin

    def all(self) -> frozenset[str]:
        """Everything in the model that has a name: modules, weights, calls, and the entries of its outputs."""
        parts = (*self.original.named_modules(), *self.original.named_parameters(), *self.original.named_buffers())
        nodes = list(self.module.graph.nodes)
        entries: Any = nodes[-1].args[0]
        keys = map(str, cast("dict[Any, Any]", entries)) if isinstance(entries, dict) else ()
        return frozenset({*(path for path, _ in parts), *(node.name for node in nodes), *self._tensors.values(), *keys})

    def _layer(self, node: Any, values: Values) -> str:
        """A module's path; for a function, the path of the module that calls it and the function's name."""
        if node.op == "call_module":
            return str(node.target)
        owner = _weight_owner(node, values)
        if owner:
            return owner
        noted: dict[str, tuple[Any, Any]] = node.meta.get("nn_module_stack") or {}
        owner_path, kind = list(noted.values())[-1] if noted else ("", "")
        path = str(owner_path).removeprefix("L['self'].").removeprefix("L['self']")
        if path and str(getattr(kind, "__module__", kind)).startswith("torch.nn.modules"):
            return path
        return f"{path}.{node.name}" if path else str(node.name)


def _weight_owner(node: Any, values: Values) -> str:
    """The module whose `weight` or `running_mean` a function is called with: "layer1.conv" for layer1.conv.weight."""
    for source in node.all_input_nodes:
        path, _, leaf = str(source.target).rpartition(".")
        if values.kinds[source] == "constant" and source.op == "get_attr" and path and leaf in ("weight", "running_mean"):
            return path
    if call_name(node) == "getitem" and hasattr(node.args[0], "op") and node.args[0].op == "call_function":
        return _weight_owner(node.args[0], values)
    return ""


def input_guess(placeholder: Any, spec: InputSpec, traced: Traced, values: Values) -> Shape | None:
    """The shape of an input: what is known of it, or what the first layers that read it say."""
    first = next(_first_layers(placeholder, values), None)
    suffix = "" if spec is traced.inputs[0] else f"_{spec.name}"
    if spec.shape is None and spec.noted is not None:
        return _opened(spec.noted, first)
    if spec.shape is not None:
        shape = spec.shape
        if first is not None and len(shape) == len(first) - 1:  # given without the batch
            shape = ("N", *shape)
        return shape if traced.exported else ("N", *shape[1:])
    if first is None:
        return None
    if len(first) == 2:
        traced.notes.append(f"input {spec.name} is read as (batch, {first[1]}): give its shape if it has more axes")
    return tuple(f"{size}{suffix}" if isinstance(size, str) and size != "N" else size for size in first)


def _opened(noted: Shape, guess: Shape | None) -> Shape:
    """The shape that a model carries; where its first layers take any size, a symbol stands for the size."""
    if guess is None or len(guess) != len(noted):
        return ("N", *noted[1:])
    taken = (m if isinstance(n, int) else n for m, n in zip(noted[2:], guess[2:], strict=True))
    return ("N", *noted[1:2], *taken)


_SAME_RANK = words("relu relu6 hardtanh identity batch_norm pad sigmoid tanh leaky_relu prelu clone contiguous")


def asked_of(node: Any, values: Values) -> Shape | None:
    """What the convolutions that read a tensor say of its shape: rank and channels."""
    for shape in _first_layers(node, values):
        if len(shape) > 2:
            return ("?", shape[1], *("?",) * (len(shape) - 2))
    return None


def _first_layers(node: Any, values: Values) -> Iterator[Shape]:
    """Shapes that the first layers downstream ask for."""
    stack, seen = list[tuple[Any, tuple[int, ...]]]([(node, ())]), {node}
    while stack:
        current, grown = stack.pop(0)
        for user in current.users:
            if user in seen:
                continue
            seen.add(user)
            wanted, through = _asks(user, values)
            if wanted is not None and (before := _ungrown(wanted, grown)) is not None:
                yield before
            if through and (more := _grows(user, values)) is not None:
                stack.append((user, tuple(a + b for a, b in zip_longest(grown, more, fillvalue=0))))


def _grows(user: Any, values: Values) -> tuple[int, ...] | None:
    """By how much a pad makes each axis longer, the last axis first; nothing for what is no pad; None where it is not known."""
    call = module_call(values.module.get_submodule(user.target)) if user.op == "call_module" else None
    if (call[0] if call is not None else call_name(user)) != "pad":
        return ()
    with suppress(NotConstantError, TypeError, ValueError):
        given = call[1][0] if call is not None else user.args[1] if len(user.args) > 1 else user.kwargs.get("pad")
        amounts = list(values.constant(given))
        return tuple(int(lo) + int(hi) for lo, hi in zip(amounts[::2], amounts[1::2], strict=True))
    return None


def _ungrown(wanted: Shape, grown: tuple[int, ...]) -> Shape | None:
    """What a layer asks for, before pads made it longer; None where these leave nothing."""
    pairs = zip_longest(reversed(wanted), grown[: len(wanted)], fillvalue=0)
    sizes = [n - more if isinstance(n, int) else n for n, more in pairs]
    return None if any(isinstance(n, int) and n < 1 for n in sizes) else tuple(reversed(sizes))


def _asks(user: Any, values: Values) -> tuple[Shape | None, bool]:
    """What a reader of the input asks of it, and whether its result has the same axes."""
    call = module_call(values.module.get_submodule(user.target)) if user.op == "call_module" else None
    name = call[0] if call is not None else call_name(user) if user.op in ("call_function", "call_method") else ""
    args: list[Any] = []
    with suppress(NotConstantError):
        args = list(call[1]) if call is not None else values.constant(list(user.args[1:]))
    weight = args[0] if args and isinstance(args[0], load().Tensor) else None
    if weight is not None and name in ("conv", "conv1d", "conv2d", "conv3d"):
        groups = int(args[5] if len(args) > 5 else user.kwargs.get("groups", 1))
        return ("N", int(weight.shape[1]) * groups, *SPATIAL[weight.ndim - 2]), False
    if weight is not None and name.startswith("conv_transpose"):
        return ("N", int(weight.shape[0]), *SPATIAL[weight.ndim - 2]), False
    if weight is not None and name == "linear":
        return ("N", int(weight.shape[1])), False
    if call is not None and name == "batch_norm":
        rank = type(values.module.get_submodule(user.target)).__name__[-2:]
        if rank in ("2d", "3d"):
            return ("N", int(args[2].numel()), *SPATIAL[int(rank[0])]), False
    return None, name in _SAME_RANK
