"""Values in a traced graph: which nodes are constants, sizes or tensors, and evaluating a part of the graph alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from decascade.errors import CannotInterpret
from decascade.formats.torch.common import eval_copy, load, one_line, words
from decascade.formats.torch.pure import call_name
from decascade.ir.graph import Shape
from decascade.ir.ops import Evaluate

SIZES = frozenset(("size", "dim", "ndimension", "numel", "sym_size", "sym_numel", "sym_stride", "stride"))
_ATTRIBUTES = frozenset(("shape", "ndim", "dtype", "device"))
_ARITHMETIC = words(
    "add sub mul floordiv truediv mod neg pow getitem eq ne lt le gt ge floor ceil trunc int float sym_int sym_float sym_max "
    "sym_min max min prod round"
)
_RANDOM = ("rand", "dropout", "bernoulli", "normal_", "uniform_", "multinomial", "poisson")


class Values:
    """What every node of a pure fx graph stands for: "constant", "size" (not a tensor) or "tensor"."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.kinds: dict[Any, str] = {}
        self._constants: dict[Any, Any] = {}
        for node in module.graph.nodes:
            self.kinds[node] = self._kind(node)

    def _kind(self, node: Any) -> str:
        if node.op == "placeholder":
            return "tensor"
        if node.op == "get_attr":
            return "constant"
        name = call_name(node)
        if node.op == "call_module":
            return "tensor"
        sources = {self.kinds[source] for source in node.all_input_nodes}
        if "tensor" in sources:
            attribute = name == "getattr" and node.args[1] in _ATTRIBUTES
            return "size" if attribute or name in SIZES else "tensor"
        if "size" in sources:
            return "size" if name in _ARITHMETIC else "tensor"
        return "tensor" if any(word in name for word in _RANDOM) else "constant"

    def is_tensor(self, value: Any) -> bool:
        """Whether an argument is a tensor that depends on the model's inputs."""
        return self.kinds.get(value) == "tensor" if hasattr(value, "op") else False

    def tensors(self, node: Any) -> list[Any]:
        """The tensors that a node needs, directly or through sizes, in order, each once."""
        found: dict[Any, None] = {}
        for source in node.all_input_nodes:
            if self.kinds[source] == "tensor":
                found[source] = None
            elif self.kinds[source] == "size":
                found.update(dict.fromkeys(self.tensors(source)))
        return list(found)

    def constant(self, value: Any) -> Any:
        """The value of a constant argument: a torch tensor, a number, None, or a list of these.

        Raises:
            NotConstantError: it depends on the model's inputs.
        """
        if isinstance(value, (tuple, list)):
            items = [self.constant(item) for item in cast(Sequence[Any], value)]
            return tuple(items) if isinstance(value, tuple) else items
        if not hasattr(value, "op"):
            return value
        if self.kinds[value] != "constant":
            raise NotConstantError(value.name)
        if value not in self._constants:
            with load().no_grad():
                self._constants[value] = self._computed(value)
        return self._constants[value]

    def _computed(self, node: Any) -> Any:
        """A parameter as it is stored; what the code makes of parameters in float64."""
        if node.op == "get_attr":
            return evaluate(node, {}, self.module)
        try:
            return evaluate(node, {}, self.module, widener())
        except (RuntimeError, TypeError):  # code that insists on its types
            return evaluate(node, {}, self.module)


class NotConstantError(Exception):
    """An argument that a reader needs as a number depends on the model's inputs."""


def evaluate(node: Any, known: dict[Any, Any], module: Any, adapt: Callable[[Any], Any] | None = None) -> Any:
    """The value of an fx node, given those in `known`, which is filled on the way.

    `adapt` maps every constant and submodule before it is used (to float64, say).
    """
    todo = [node]
    while todo:
        current = todo[-1]
        if current in known:
            todo.pop()
            continue
        missing = [source for source in current.all_input_nodes if source not in known]
        if missing:
            todo.extend(missing)
            continue
        known[current] = _call(current, known, module, adapt or (lambda value: value))
        todo.pop()
    return known[node]


def _call(node: Any, known: Mapping[Any, Any], module: Any, adapt: Callable[[Any], Any]) -> Any:
    fx: Any = load().fx
    if node.op == "placeholder":
        raise NotConstantError(node.name)
    if node.op == "get_attr":
        return adapt(attribute(module, node.target))
    args = fx.node.map_aggregate(fx.node.map_arg(node.args, known.__getitem__), adapt)
    kwargs = fx.node.map_aggregate(fx.node.map_arg(node.kwargs, known.__getitem__), adapt)
    if node.op == "call_module":
        return adapt(module.get_submodule(node.target))(*args, **kwargs)
    if node.op == "call_method":
        widened = adapt(node.target)
        return getattr(args[0], widened)(*args[1:], **kwargs)
    return node.target(*args, **kwargs)


def attribute(module: Any, path: str) -> Any:
    """The attribute at a dotted path."""
    for part in path.split("."):
        module = getattr(module, part)
    return module


def widener() -> Callable[[Any], Any]:
    """A function that makes float64 of floating tensors, submodules (copied), and types and casts in arguments."""
    widened: dict[int, Any] = {}

    def adapt(value: Any) -> Any:
        torch = load()
        if isinstance(value, torch.nn.Module):
            if id(value) not in widened:
                widened[id(value)] = deepcopy(eval_copy(value)).double()
                if getattr(value, "inplace", False):
                    widened[id(value)].inplace = False
            return widened[id(value)]
        if isinstance(value, torch.Tensor):
            return value.double() if value.is_floating_point() else value
        if isinstance(value, torch.dtype) and value.is_floating_point:
            return torch.float64
        return "double" if isinstance(value, str) and value in ("float", "half", "bfloat16") else value

    return adapt


def evaluator(outputs: Sequence[Any], inputs: Sequence[Any], module: Any) -> Evaluate:
    """The meaning in float64 of the part of a graph between `inputs` and `outputs`, as a function of NumPy arrays.

    It raises CannotInterpret where torch has no float64 kernel or a result is no tensor.
    """
    adapt = widener()

    def run(arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        torch = load()
        known = {node: adapt(torch.tensor(np.asarray(array, order="C"))) for node, array in zip(inputs, arrays, strict=True)}
        try:
            with torch.no_grad():
                results = [evaluate(node, known, module, adapt) for node in outputs]
        except Exception as error:
            raise CannotInterpret(f"{outputs[0].name} cannot be run in float64: {one_line(error)}") from None
        plain = (torch.Tensor, int, float)
        bad = [node.name for node, value in zip(outputs, results, strict=True) if not isinstance(value, plain)]
        if bad:
            raise CannotInterpret(f"{bad[0]} is not a tensor")
        return [np.asarray(value.detach() if isinstance(value, torch.Tensor) else value) for value in results]

    return run


def trials() -> tuple[Sizes, Sizes]:
    """Two sets of numbers for symbols: what holds for both is taken to hold for all."""
    return Sizes(3, 13), Sizes(4, 22)


class Sizes:
    """Concrete numbers for the symbols in shapes, so that code over sizes can be run on them: one for the batch, and
    from `others` on for the rest."""

    def __init__(self, first: int, others: int) -> None:
        self._first = first
        self._next = others
        self.numbers: dict[str, int] = {}

    def concrete(self, shape: Shape | None) -> tuple[int, ...]:
        """The shape with a number for every symbol, the same for the same symbol.

        Raises:
            NotConstantError: a size or the rank is not known.
        """
        if shape is None or "?" in shape:
            raise NotConstantError("shape")
        return tuple(size if isinstance(size, int) else self._number(size, axis == 0) for axis, size in enumerate(shape))

    def _number(self, symbol: str, batch: bool) -> int:
        if symbol not in self.numbers:
            self.numbers[symbol] = self._first if batch else self._next
            self._next += 0 if batch else 1
        return self.numbers[symbol]
