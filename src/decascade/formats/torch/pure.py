"""A traced graph without side effects: every in-place operation becomes the operation that returns its result.

`y = relu_(x)` also changes x, so whoever reads x later reads y instead.  A view of x that is read later would change
too; that has no pure form here and is `AliasedError`.  Assertions, guards and dead code go.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator, Sequence
from typing import Any, cast

from decascade.errors import FormatError
from decascade.formats.torch.common import WAY_ROUND, load, words

VIEWS = words(
    "view reshape flatten unflatten permute transpose t swapaxes swapdims movedim squeeze unsqueeze expand chunk split "
    "split_with_sizes tensor_split unbind narrow getitem select slice contiguous detach alias dropout dropout1d dropout2d "
    "dropout3d alpha_dropout feature_alpha_dropout to float double type_as identity _unsafe_view numpy_T"
)
"""Functions and methods whose result may share memory with their first argument."""

_VIEW_MODULES = ("Identity", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "Flatten", "Unflatten")


class AliasedError(Exception):
    """An in-place operation changes memory that is later read under another name."""


def call_name(node: Any) -> str:
    """The bare name of what a node calls: "relu" for torch.relu, F.relu, x.relu() and torch.ops.aten.relu.default."""
    target = node.target
    if node.op == "call_method":
        return str(target)
    packet = getattr(target, "overloadpacket", None)
    if packet is not None:
        return str(packet.__name__)
    return str(getattr(target, "__name__", target))


def make_pure(module: Any, original: Any) -> None:
    """Rewrite the graph of `module` in place.

    Raises:
        AliasedError: see the class.
        FormatError: a buffer that the model changes as it runs, or an in-place operation without a pure form.
    """
    graph = module.graph
    for node in list(graph.nodes):
        changed = _changed_argument(node, module)
        if changed is not None:
            _purify(node, changed, module)
    _drop_checks(graph)
    _separate_outputs(module)
    graph.eliminate_dead_code(is_impure_node=is_end)
    graph.lint()
    module.recompile()


def is_end(node: Any) -> bool:
    """An input or the output: what stays although nothing reads it."""
    return node.op in ("placeholder", "output")


def _changed_argument(node: Any, module: Any) -> Any:
    """The fx node whose tensor this node changes in place; None for a pure one."""
    name = call_name(node)
    first = node.args[0] if node.args else node.kwargs.get("input", node.kwargs.get("self"))
    if node.op == "call_module":
        return first if getattr(module.get_submodule(node.target), "inplace", False) else None
    if node.op not in ("call_method", "call_function") or not hasattr(first, "op"):
        return None
    if "out" in node.kwargs and node.kwargs["out"] is not None:
        raise FormatError(f"{node.name} writes into out=: use the returned tensor instead, {WAY_ROUND}")
    schema = getattr(node.target, "_schema", None)
    if schema is not None:
        return first if schema.is_mutable else None
    if node.target is operator.setitem or node.target in _INPLACE_OPERATORS or _trailing(name):
        return first
    return first if _inplace_flag(node) else None


_NAMES = ("add", "sub", "mul", "truediv", "floordiv", "pow")
_INPLACE_OPERATORS: dict[Any, Any] = {getattr(operator, f"i{name}"): getattr(operator, name) for name in _NAMES}


def _trailing(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def _inplace_flag(node: Any) -> bool:
    """Whether a call of torch.nn.functional has inplace=True, by keyword or by position."""
    if "inplace" in node.kwargs:
        return bool(node.kwargs["inplace"])
    if node.op != "call_function" or getattr(node.target, "__module__", None) != "torch.nn.functional":
        return False
    try:
        parameters = list(inspect.signature(node.target).parameters)
    except (TypeError, ValueError):
        return False
    return "inplace" in parameters and bool(node.args[parameters.index("inplace") :][:1] == (True,))


def _purify(node: Any, changed: Any, module: Any) -> None:
    if changed.op == "get_attr":
        _drop_counter(node, changed)
        return
    order = {other: index for index, other in enumerate(node.graph.nodes)}
    for alias in _aliases(changed):
        if any(order[user] > order[node] for user in alias.users):
            raise AliasedError(
                f"{node.name} changes {changed.name} in place, and {alias.name}, which shares its memory, is read later: "
                "use the form that is not in-place"
            )

    def later(user: Any) -> bool:
        return order[user] > order[node]

    changed.replace_all_uses_with(node, delete_user_cb=later)
    if node.op != "call_module":
        _retarget(node)


def _drop_counter(node: Any, changed: Any) -> None:
    """A batch counter is no part of what eval mode computes; any other buffer that changes is refused."""
    if node.users or not str(changed.target).endswith("num_batches_tracked"):
        raise FormatError(f"{node.name} changes the buffer {changed.target} as the model runs: keep it constant, {WAY_ROUND}")
    node.graph.erase_node(node)


def _retarget(node: Any) -> None:
    torch = load()
    name = call_name(node)
    if node.target is operator.setitem:
        _scatter(node)
    elif node.target in _INPLACE_OPERATORS:
        node.target = _INPLACE_OPERATORS[node.target]
    elif hasattr(node.target, "overloadpacket") and _trailing(name):
        packet = getattr(getattr(torch.ops, node.target.namespace), name[:-1], None)
        node.target = _pure_form(node, getattr(packet, node.target._overloadname, None))
    elif node.op == "call_method":
        node.target = name[:-1] if hasattr(torch.Tensor, name[:-1]) else _pure_form(node, None)
    elif _trailing(name):
        functional = torch.nn.functional
        node.target = _pure_form(node, getattr(functional, name[:-1], None) or getattr(torch, name[:-1], None))
    elif "inplace" in node.kwargs:
        node.kwargs = {**node.kwargs, "inplace": False}
    else:
        position = list(inspect.signature(node.target).parameters).index("inplace")
        node.args = (*node.args[:position], False, *node.args[position + 1 :])


def _scatter(node: Any) -> None:
    """x[…, index, …] = v with one index that is not `:` becomes the function that returns x with v in that place."""
    torch = load()
    x, index, value = node.args
    entries = list(cast(Sequence[Any], index)) if isinstance(index, tuple) else [index]
    where = [axis for axis, entry in enumerate(entries) if entry != slice(None)]
    cut: Any = entries[where[0]] if len(where) == 1 else None
    if not isinstance(cut, (int, slice)):
        raise AliasedError(f"{node.name} assigns into a tensor at {index}: build it with torch.cat or torch.where")
    graph, get = node.graph, cast(Any, operator.getitem)
    with graph.inserting_before(node):
        piece = graph.call_function(get, (x, index))
        if hasattr(value, "op"):
            part = graph.call_method("expand_as", (value, piece))
        else:
            part = graph.call_function(torch.full_like, (piece, value))
    if isinstance(cut, int):
        node.target, node.args = torch.select_scatter, (x, part, where[0], cut)
    else:
        bounds = cast(Any, cut)
        node.target, node.args = torch.slice_scatter, (x, part, where[0], bounds.start, bounds.stop, bounds.step or 1)


def _pure_form(node: Any, target: Any) -> Any:
    if target is None or getattr(getattr(target, "_schema", None), "is_mutable", False):
        raise FormatError(f"{node.name} ({call_name(node)}) changes its input and has no pure form: rewrite it, {WAY_ROUND}")
    return target


def _is_view(node: Any) -> bool:
    if node.op == "call_module":
        module = node.graph.owning_module.get_submodule(node.target)
        return type(module).__name__ in _VIEW_MODULES
    return node.op in ("call_method", "call_function") and call_name(node) in VIEWS


def _aliases(node: Any) -> Iterator[Any]:
    """All other nodes that may share the memory of `node`, as far as views reach."""
    base = node
    while _is_view(base) and base.args and hasattr(base.args[0], "op"):
        base = base.args[0]
    stack, seen = [base], {base}
    while stack:
        current = stack.pop()
        if current is not node:
            yield current
        for user in current.users:
            if user not in seen and _is_view(user) and user.args and user.args[0] is current:
                seen.add(user)
                stack.append(user)


def _drop_checks(graph: Any) -> None:
    """Assertions and input guards say nothing about the values."""
    for node in reversed(list(graph.nodes)):
        name = call_name(node)
        check = node.op == "call_function" and ("assert" in name or name.startswith("sym_constrain_range"))
        guard = node.op == "call_module" and node.target == "_guards_fn"
        if (check or guard) and not node.users:
            graph.erase_node(node)


def _separate_outputs(module: Any) -> None:
    """Every output is a tensor of its own: an input that is returned, or a tensor returned twice, goes through a clone."""
    torch = load()
    graph = module.graph
    output = next(node for node in graph.nodes if node.op == "output")
    seen = set[Any]()

    def own(node: Any) -> Any:
        if node.op in ("placeholder", "get_attr") or node in seen:
            with graph.inserting_before(output):
                return graph.call_function(torch.clone, (node,))
        seen.add(node)
        return node

    output.args = (torch.fx.node.map_arg(output.args[0], own),)
