"""How large the tensors of an exported program become: found on shapes alone, before anything is computed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from decascade.errors import LimitExceededError
from decascade.formats.torch.common import load
from decascade.limits import LIMITS

_UNKNOWN = object()
"""Stands for what torch cannot run on shapes alone, such as code that looks at values."""


def check_growth(program: Any, told: str, repair: str) -> None:
    """No tensor of the program takes more than the limit, at the sizes of its weights and those that it states of its inputs.

    Raises:
        LimitExceededError: one does; names the operation.
    """
    torch = load()
    signature = program.graph_signature
    stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
    held = {**program.constants, **program.state_dict}
    fake: Any = import_module("torch._subclasses.fake_tensor").FakeTensorMode(allow_non_fake_inputs=True)
    values = dict[Any, Any]()
    with fake, torch.no_grad():
        for node in program.graph_module.graph.nodes:
            if node.op == "placeholder":
                own = stored.get(node.name)
                values[node] = _like(held[own] if own in held else node.meta.get("val"))
            elif node.op == "call_function":
                values[node] = _result(node, values)
                for leaf in torch.utils._pytree.tree_leaves(values[node]):
                    if isinstance(leaf, torch.Tensor) and leaf.numel() * leaf.element_size() > LIMITS.unpacked_bytes:
                        size = f"{leaf.numel() * leaf.element_size():,} bytes"
                        most = f"{LIMITS.unpacked_bytes:,} are the limit (unpacked_bytes)"
                        what = f"{node.name} ({node.target}) makes a tensor of {size}"
                        raise LimitExceededError(f"{told}: {what}, {most}: {repair}")


def _like(value: Any) -> Any:
    """A tensor of the same sizes; for one that is open, that of the example which the program was exported with."""
    torch = load()
    if not isinstance(value, torch.Tensor):
        return value
    sizes = [size if isinstance(size, int) else size.node.hint for size in value.shape]
    return _UNKNOWN if None in sizes else torch.empty(sizes, dtype=value.dtype)


def _result(node: Any, values: dict[Any, Any]) -> Any:
    fx: Any = load().fx
    if any(values.get(source, _UNKNOWN) is _UNKNOWN for source in node.all_input_nodes):
        return _UNKNOWN
    args, kwargs = (fx.node.map_arg(part, values.__getitem__) for part in (node.args, node.kwargs))
    try:
        return node.target(*args, **kwargs)
    except Exception:  # code that looks at values: nothing is known of its result
        return _UNKNOWN
