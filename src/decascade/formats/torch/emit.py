"""New operations as PyTorch modules and functions in an fx graph.

What has weights becomes a module of torch.nn, so that the result can be trained, converted and looked at like any other;
what has none becomes a function call.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from math import inf, isinf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv, ConvTranspose
from decascade.errors import GraphError
from decascade.formats.torch.build import Builder, pad
from decascade.formats.torch.common import load
from decascade.formats.torch.emit_pool import emit_pool
from decascade.ir.graph import Node
from decascade.ir.ops import (
    Activation,
    Add,
    Affine,
    BiasMap,
    Concat,
    Dense,
    Flatten,
    Foreign,
    GlobalPool,
    Identity,
    Pad,
    Pool,
    Product,
    Select,
    Slice,
    Upsample,
)
from decascade.ir.ops.table import Table


def emit(builder: Builder, node: Node, inputs: Sequence[Any], rank: int, dtype: Any) -> Any:
    """The fx node that computes a new node from the fx nodes of its inputs, the first of which has `rank` spatial axes.

    Weights are stored as `dtype`.

    Raises:
        GraphError: an operation that PyTorch has no form for.
    """
    rule = RULES.get(node.op)
    if rule is None:
        raise GraphError(f"{node.name}: PyTorch has no form for a new {type(node.op).__name__}")
    return rule(Call(builder, node.name, inputs, rank, dtype), node.op)


@dataclass(frozen=True, eq=False)
class Call:
    """Where a new node goes: its name, the fx nodes that it reads, the spatial axes of the first, the type of its weights."""

    builder: Builder
    name: str
    inputs: Sequence[Any]
    rank: int
    dtype: Any

    @property
    def x(self) -> Any:
        return self.inputs[0]


def _convolution(c: Call, op: Conv) -> Any:
    return _conv(c.builder, c.name, op, c.x, c.dtype)


def _transposed(c: Call, op: ConvTranspose) -> Any:
    return _conv_transpose(c.builder, c.name, op, c.x, c.dtype)


def _dense(c: Call, op: Dense) -> Any:
    return c.builder.module(c.name, _linear(c.builder, op.layer, c.dtype), c.x)


def _scaled(c: Call, op: Affine) -> Any:
    return _affine(c.builder, c.name, op, c.x, c.rank, c.dtype)


def _bias_map(c: Call, op: BiasMap) -> Any:
    return c.builder.call(operator.add, c.x, c.builder.parameter(c.name, op.values[None], c.dtype))


def _pooled(c: Call, op: Pool) -> Any:
    return emit_pool(c.builder, c.name, op, c.x)


def _global_pool(c: Call, op: GlobalPool) -> Any:
    pool = load().mean if op.kind == "avg" else load().amax
    return c.builder.call(pool, c.x, list(range(2, c.rank + 2)), keepdim=op.keepdims)


def _summed(c: Call, op: Add) -> Any:
    return _add(c.builder, op, c.inputs)


def _product(c: Call, _: Product) -> Any:
    return reduce(lambda total, factor: c.builder.call(operator.mul, total, factor), c.inputs)


def _concat(c: Call, op: Concat) -> Any:
    return c.builder.call(load().cat, list(c.inputs), dim=op.axis)


def _activated(c: Call, op: Activation) -> Any:
    return _activation(c.builder, c.name, op, c.x, c.dtype)


def _identity(c: Call, _: Identity) -> Any:
    return c.x


def _flatten(c: Call, op: Flatten) -> Any:
    torch = load()
    ordered = c.x if op.order == "channels_first" else c.builder.call(torch.movedim, c.x, 1, -1)
    return c.builder.call(torch.flatten, ordered, 1)


def _pad(c: Call, op: Pad) -> Any:
    return pad(c.builder, c.x, op.pads, op.value, op.channels)


def _slice(c: Call, op: Slice) -> Any:
    return c.builder.call(operator.getitem, c.x, (*(slice(None),) * op.axis, slice(op.start, op.stop)))


def _selected(c: Call, op: Select) -> Any:
    return _select(c.builder, c.name, op, c.x)


def _upsample(c: Call, op: Upsample) -> Any:
    factor = [float(f) for f in op.factor]
    return c.builder.call(load().nn.functional.interpolate, c.x, scale_factor=factor, mode="nearest")


RULES: Table[Callable[[Call, Any], Any]] = Table(
    "new PyTorch modules",
    {
        Conv: _convolution, ConvTranspose: _transposed, Dense: _dense, Affine: _scaled, BiasMap: _bias_map, Pool: _pooled,
        GlobalPool: _global_pool, Add: _summed, Product: _product, Concat: _concat, Activation: _activated,
        Identity: _identity, Flatten: _flatten, Pad: _pad, Slice: _slice, Select: _selected, Upsample: _upsample,
    },
    {Foreign: "never made anew: the module's own calls are kept"},
)


def _filled(builder: Builder, layer: Any, weight: NDArray[Any], bias: NDArray[Any] | None, dtype: Any) -> Any:
    torch = load()
    layer.weight = torch.nn.Parameter(builder.tensor(weight, dtype))
    if bias is not None:
        layer.bias = torch.nn.Parameter(builder.tensor(bias, dtype))
    return layer


def _linear(builder: Builder, layer: Conv, dtype: Any) -> Any:
    made = load().nn.Linear(layer.in_channels, layer.out_channels, bias=layer.bias is not None, device="meta")
    return _filled(builder, made, layer.weight, layer.bias, dtype)


def _conv(builder: Builder, name: str, op: Conv, x: Any, dtype: Any) -> Any:
    """Padding that torch's layer has no word for (one side only, or a crop) goes before it."""
    plain = all(lo == hi >= 0 for lo, hi in op.padding)
    if not plain:
        x = pad(builder, x, op.padding)
    kind = getattr(load().nn, f"Conv{op.rank}d")
    made = kind(
        op.in_channels,
        op.out_channels,
        op.kernel,
        stride=op.stride,
        padding=tuple(lo for lo, _ in op.padding) if plain else 0,
        dilation=op.dilation,
        groups=op.groups,
        bias=op.bias is not None,
        device="meta",
    )
    return builder.module(name, _filled(builder, made, op.weight, op.bias, dtype), x)


def _conv_transpose(builder: Builder, name: str, op: ConvTranspose, x: Any, dtype: Any) -> Any:
    """output_padding is a crop that is smaller at the end; any other crop is cut off, or filled up, after the layer."""
    more = [lo - hi for lo, hi in op.padding]
    limits = [max(s, d) for s, d in zip(op.stride, op.dilation, strict=True)]
    plain = all(lo >= 0 and 0 <= m < limit for (lo, _), m, limit in zip(op.padding, more, limits, strict=True))
    kind = getattr(load().nn, f"ConvTranspose{op.rank}d")
    inside = op.bias is not None and plain
    made = kind(
        op.in_channels,
        op.out_channels,
        op.kernel,
        stride=op.stride,
        padding=tuple(lo for lo, _ in op.padding) if plain else 0,
        output_padding=tuple(more) if plain else 0,
        dilation=op.dilation,
        groups=op.groups,
        bias=inside,
        device="meta",
    )
    y = builder.module(name, _filled(builder, made, op.weight, op.bias if inside else None, dtype), x)
    if plain:
        return y
    y = pad(builder, y, tuple((-lo, -hi) for lo, hi in op.padding))
    if op.bias is None:
        return y
    return builder.call(operator.add, y, builder.parameter(f"{name}_bias", op.bias.reshape(-1, *(1,) * op.rank), dtype))


def _affine(builder: Builder, name: str, op: Affine, x: Any, rank: int, dtype: Any) -> Any:
    shape = (-1, *(1,) * rank)
    if not np.all(op.scale == 1):
        x = builder.call(operator.mul, x, builder.parameter(f"{name}_scale", op.scale.reshape(shape), dtype))
    if np.any(op.shift):
        x = builder.call(operator.add, x, builder.parameter(f"{name}_shift", op.shift.reshape(shape), dtype))
    return x


def _add(builder: Builder, op: Add, inputs: Sequence[Any]) -> Any:
    signs = op.signs or (1,) * len(inputs)
    total = inputs[0] if signs[0] > 0 else builder.call(operator.neg, inputs[0])
    for sign, term in zip(signs[1:], inputs[1:], strict=True):
        total = builder.call(operator.add if sign > 0 else operator.sub, total, term)
    return total


def _select(builder: Builder, name: str, op: Select, x: Any) -> Any:
    indices = op.indices
    steps = set(np.diff(indices).tolist())
    if len(steps) <= 1 and all(step > 0 for step in steps):
        cut = slice(int(indices[0]), int(indices[-1]) + 1, steps.pop() if steps else 1)
        return builder.call(operator.getitem, x, (slice(None), cut))
    torch = load()
    return builder.call(torch.index_select, x, 1, builder.buffer(f"{name}_channels", indices, torch.int64))


_FUNCTIONS = {
    "relu": "relu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "selu": "selu",
    "hard_swish": "hardswish",
    "silu": "silu",
    "gelu": "gelu",
    "softplus": "softplus",
    "softsign": "softsign",
}
_UNARY = {"exp": "exp", "abs": "abs", "neg": "neg", "sqrt": "sqrt"}


def _activation(builder: Builder, name: str, op: Activation, x: Any, dtype: Any) -> Any:
    torch = load()
    functional = torch.nn.functional
    if op.kind in _FUNCTIONS:
        return builder.call(getattr(functional, _FUNCTIONS[op.kind]), x)
    if op.kind in _UNARY:
        return builder.call(getattr(torch, _UNARY[op.kind]), x)
    match op.kind:
        case "clip":
            lo, hi = op.params
            return builder.call(torch.clamp, x, None if lo == -inf else lo, None if isinf(hi) else hi)
        case "leaky_relu" | "elu":
            return builder.call(getattr(functional, op.kind), x, op.params[0])
        case "gelu_tanh":
            return builder.call(functional.gelu, x, approximate="tanh")
        case "softmax":
            return builder.call(functional.softmax, x, dim=int(op.params[0]))
        case "prelu" if op.slope is not None:
            return builder.call(functional.prelu, x, builder.parameter(f"{name}_slope", op.slope, dtype))
        case "hard_sigmoid":
            alpha, beta = op.params
            return builder.call(torch.clamp, builder.call(operator.add, builder.call(operator.mul, x, alpha), beta), 0, 1)
        case _:
            raise GraphError(f"PyTorch has no form for a new activation {op.kind}")
