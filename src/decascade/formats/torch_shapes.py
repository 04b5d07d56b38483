"""Shapes that torch itself knows: of an exported program's tensors, and of any call by running it on shapes alone."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, cast

from decascade.errors import FormatError
from decascade.formats.torch_common import InputSpec, dtype_name, load
from decascade.formats.torch_modules import known_base
from decascade.formats.torch_pure import call_name, is_end
from decascade.ir.graph import Shape


def exported_tensor(node: Any, symbols: Mapping[str, str]) -> tuple[Shape | None, str | None]:
    """Shape and element type that torch.export noted on a node; symbols keep their names but for those in `symbols`."""
    value = node.meta.get("val")
    if not isinstance(value, load().Tensor):
        return None, None
    return symbolic_shape(value, symbols), dtype_name(value.dtype)


def symbolic_shape(value: Any, symbols: Mapping[str, str]) -> Shape:
    """The shape of a fake tensor; a symbolic size by its name, a composed one is not known ("?")."""
    sizes = list[int | str]()
    for size in value.shape:
        if isinstance(size, int):
            sizes.append(int(size))
        else:
            text = str(size)
            sizes.append(symbols.get(text, text) if text.isidentifier() else "?")
    return tuple(sizes)


def fake_shapes(module: Any, given: Mapping[str, Shape | None], inputs: Sequence[InputSpec]) -> dict[Any, Shape]:
    """The shape of every tensor of an fx graph for inputs whose sizes are known but for the batch.

    Found by running the graph on fake tensors with two batch sizes: what changes with the batch is the batch.
    Empty where a size of an input is not known, or torch cannot run the model that way.
    """
    shapes = [given[spec.name] for spec in inputs]
    if any(shape is None or not all(isinstance(size, int) for size in shape[1:]) for shape in shapes):
        return {}
    try:
        three, five = (_propagate(module, [shape for shape in shapes if shape is not None], inputs, n) for n in (3, 5))
    except Exception:  # a model that cannot run on shapes alone: nothing is known then
        return {}
    found = dict[Any, Shape]()
    for node, shape in three.items():
        other = five.get(node, ())
        if len(other) == len(shape):
            pairs = zip(shape, other, strict=True)
            found[node] = tuple(m if m == n else "N" if (m, n) == (3, 5) else "?" for m, n in pairs)
    return found


def _propagate(module: Any, shapes: Sequence[Shape], inputs: Sequence[InputSpec], batch: int) -> dict[Any, tuple[int, ...]]:
    torch = load()
    results = _results(module, shapes, inputs, batch)
    return {n: tuple(int(size) for size in r.shape) for n, r in results.items() if isinstance(r, torch.Tensor)}


def _results(module: Any, shapes: Sequence[Shape], inputs: Sequence[InputSpec], batch: int) -> dict[Any, Any]:
    """What every node gives on fake inputs of these shapes, the batch replaced."""
    torch = load()
    mode: Any = import_module("torch._subclasses.fake_tensor").FakeTensorMode(allow_non_fake_inputs=True)
    runner: Any = torch.fx.Interpreter(module, garbage_collect_values=False)
    with mode, torch.no_grad():
        given = zip(shapes, inputs, strict=True)
        examples = [torch.empty([batch, *shape[1:]], dtype=getattr(torch, spec.dtype)) for shape, spec in given]
        runner.run(*examples)
    return cast(dict[Any, Any], runner.env)


_SEVERAL = frozenset(
    ("chunk", "split", "split_with_sizes", "tensor_split", "unbind", "topk", "sort", "kthvalue", "mode", "median", "cummax")
)
"""Functions whose result is several tensors."""


def _may_be_several(module: Any, node: Any) -> bool:
    if node.op == "call_module":
        called = module.get_submodule(node.target)
        return not known_base(called) or "return_indices" in vars(called)
    home = str(getattr(node.target, "__module__", None) or "torch")
    own = node.op == "call_function" and not home.startswith(("torch", "_operator"))
    return own or (node.op in ("call_function", "call_method") and call_name(node) in _SEVERAL)


def unpack_outputs(module: Any, shapes: Sequence[Shape | None], inputs: Sequence[InputSpec]) -> None:
    """A call whose result is several tensors and is returned as it is becomes the items that are returned.

    Found by running the graph on shapes alone; where that cannot be done, the result of a call that is not torch's own is
    taken for one tensor.

    Raises:
        FormatError: the result of, say, torch.split is returned as it is, and the shapes are not known.
    """
    torch = load()
    graph = module.graph
    output = next(node for node in graph.nodes if node.op == "output")
    leaves = torch.utils._pytree.tree_leaves(output.args[0])
    asked = [n for n in leaves if hasattr(n, "op") and _may_be_several(module, n)]
    if not asked:
        return
    try:
        known = [shape for shape in shapes if shape is not None and all(isinstance(size, int) for size in shape[1:])]
        results = _results(module, known, inputs, 3)
    except Exception:  # a model that cannot run on shapes alone: nothing is known then
        several = [n for n in asked if n.op != "call_module" and call_name(n) in _SEVERAL]
        if several:
            told = f"forward returns what {call_name(several[0])} gives as it is"
            raise FormatError(f"{told}: unpack it (a, b = …), or give an input shape") from None
        return

    get: Any = operator.getitem

    def items(node: Any, value: Any) -> Any:
        if isinstance(value, dict):
            table = cast(dict[Any, Any], value)
            return {key: items(graph.call_function(get, (node, key)), item) for key, item in table.items()}
        if isinstance(value, (tuple, list)):
            row = cast(Sequence[Any], value)
            return tuple(items(graph.call_function(get, (node, i)), item) for i, item in enumerate(row))
        return node

    def unpacked(node: Any) -> Any:
        return items(node, results.get(node))

    with graph.inserting_before(output):
        output.args = (torch.fx.node.map_arg(output.args[0], unpacked),)
    graph.eliminate_dead_code(is_impure_node=is_end)
    module.recompile()
