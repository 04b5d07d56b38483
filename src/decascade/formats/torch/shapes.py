"""Shapes that torch itself knows: of an exported program's tensors, and of any call by running it on shapes alone."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, cast

from decascade.errors import FormatError
from decascade.formats.torch.common import dtype_name, load
from decascade.formats.torch.modules import known_base
from decascade.formats.torch.pure import call_name, is_end
from decascade.formats.torch.values import Sizes, Values, evaluate, trials
from decascade.ir.graph import Shape, Tensor


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


_SEVERAL = frozenset(
    ("chunk", "split", "split_with_sizes", "tensor_split", "unbind", "topk", "sort", "kthvalue", "mode", "median", "cummax")
)
"""Functions whose result is several tensors."""


def fake_results(node: Any, shapes: Mapping[Any, Tensor], values: Values, sizes: Sizes) -> Any:
    """What one call gives on fake inputs of known shapes; None where torch cannot run it on shapes alone."""
    torch = load()
    mode: Any = import_module("torch._subclasses.fake_tensor").FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with mode, torch.no_grad():
            known = dict[Any, Any]()
            for source in values.tensors(node):
                tensor = shapes[source]
                known[source] = torch.empty(sizes.concrete(tensor.shape), dtype=getattr(torch, tensor.dtype))
            return evaluate(node, known, values.module)
    except Exception:  # code that looks at values: nothing is known of its result
        return None


def fake_shape(node: Any, shapes: Mapping[Any, Tensor], values: Values) -> tuple[Shape | None, str | None]:
    """Shape and element type of a call's result, found by running the call alone on shapes of two sets of numbers.

    A size that stays is that number, one that follows a symbol is that symbol, any other is not known.
    """
    torch = load()
    tried = trials()
    results = [fake_results(node, shapes, values, sizes) for sizes in tried]
    if not all(isinstance(result, torch.Tensor) for result in results) or results[0].ndim != results[1].ndim:
        return None, None
    symbols = [{number: symbol for symbol, number in sizes.numbers.items()} for sizes in tried]
    dims = list[int | str]()
    for m, n in zip(results[0].shape, results[1].shape, strict=True):
        symbol = symbols[0].get(int(m))
        dims.append(int(m) if m == n else symbol if symbol is not None and symbol == symbols[1].get(int(n)) else "?")
    return tuple(dims), dtype_name(results[0].dtype)


def _may_be_several(module: Any, node: Any) -> bool:
    if node.op == "call_module":
        called = module.get_submodule(node.target)
        return not known_base(called) or "return_indices" in vars(called)
    home = str(getattr(node.target, "__module__", None) or "torch")
    own = node.op == "call_function" and not home.startswith(("torch", "_operator"))
    return own or (node.op in ("call_function", "call_method") and call_name(node) in _SEVERAL)


def unpack_outputs(values: Values, shapes: Mapping[Any, Tensor], pinned: Iterable[str]) -> bool:
    """A call whose result is several tensors and is returned as it is becomes the items that are returned.

    Found by running the call on shapes alone; where that cannot be done, the result of a call that is not torch's own is
    taken for one tensor.  Returns whether the graph was changed.

    Raises:
        FormatError: the result of, say, torch.split is returned as it is, and the shapes are not known.
    """
    torch = load()
    graph = values.module.graph
    output = next(node for node in graph.nodes if node.op == "output")
    leaves = [n for n in torch.utils._pytree.tree_leaves(output.args[0]) if n in shapes and n.op != "placeholder"]
    asked = [n for n in leaves if n.target not in pinned and _may_be_several(values.module, n)]
    results = {node: fake_results(node, shapes, values, trials()[0]) for node in asked}
    for node, result in results.items():
        if result is None and node.op != "call_module" and call_name(node) in _SEVERAL:
            told = f"forward returns what {call_name(node)} gives as it is"
            raise FormatError(f"{told}: unpack it (a, b = …), or give an input shape")
    if not any(isinstance(result, (tuple, list, dict)) for result in results.values()):
        return False
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
    values.module.recompile()
    return True
