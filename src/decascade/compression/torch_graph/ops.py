"""Each operation as a function of torch tensors: (N, C, *S) in, (N, C, *S) out, every gradient that there is kept.

A `Step` holds the function and the arrays that it takes after its inputs, by field name.  Functions are made once per node
from the op's options alone, so that a copied module shares them and reads its own weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, reduce
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv, ConvTranspose, Pads
from decascade.compression.torch_graph.activations import activation
from decascade.compression.torch_graph.pools import pool
from decascade.errors import CannotInterpret, UsageError
from decascade.frameworks import keep_triton_out, needed
from decascade.ir.interpret import evaluate
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
    Op,
    Pad,
    Pool,
    Product,
    Select,
    Slice,
    Upsample,
)
from decascade.ir.ops.table import Table
from decascade.ir.ops.traits import weights

Function = Callable[..., Any]
Unary = Callable[[Any], Any]


@cache
def load_torch() -> Any:
    """The torch module.

    Raises:
        MissingPackageError: torch is not installed.
    """
    keep_triton_out()
    return needed("torch", "training")


@dataclass(frozen=True, eq=False)
class Step:
    """`function(*inputs, *weights, *constants)` gives the output tensor, or a tuple of them where `several`.

    `weights` become parameters, `constants` buffers.  A None weight is left out.
    """

    function: Function
    weights: Mapping[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])
    constants: Mapping[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])
    several: bool = False


StepRule = Callable[[Any, Any], Step]


def step_of(op: Op, dtype: Any) -> Step:
    """The operation as a step; integers that it computes with become `dtype` first.

    Raises:
        UsageError: more spatial axes than torch has convolutions or pools for.
    """
    rule = STEPS.get(op)
    return _by_meaning(op, dtype) if rule is None else rule(op, dtype)


def passes_gradient(op: Op) -> bool:
    """Whether the operation is known here, so that a gradient passes it; any other is run by its meaning in NumPy."""
    return op in STEPS


def _layer_step(make: Callable[[Any], Function]) -> StepRule:
    def step(op: Op, dtype: Any) -> Step:
        return Step(_floating(make(op), dtype), weights(op))

    return step


def _raw_step(make: Callable[[Any], Function]) -> StepRule:
    """Of what takes numbers of any type as they are."""
    return lambda op, _: Step(make(op))


def _dense_of(op: Dense) -> Function:
    return _dense(op.layer)


def _affine_of(_: Affine) -> Function:
    return _affine


def _plus_of(_: BiasMap) -> Function:
    return _plus


def _product_of(_: Product) -> Function:
    return _product


def _activation_of(op: Activation) -> Function:
    return activation(load_torch(), op)


def _pool_of(op: Pool) -> Function:
    return pool(load_torch(), op)


def _select_step(op: Select, _: Any) -> Step:
    return Step(_select, constants={"indices": op.indices.astype(np.int64)})


def _identity(_: Identity) -> Unary:
    return lambda x: x


def _flatten(op: Flatten) -> Unary:
    first = op.order == "channels_first"
    return lambda x: (x if first else x.movedim(1, -1)).reshape(x.shape[0], -1)


def _slice(op: Slice) -> Unary:
    return lambda x: x.narrow(op.axis, op.start, op.stop - op.start)


def _concat(op: Concat) -> Function:
    cat = load_torch().cat

    def joined(*xs: Any) -> Any:
        return cat(xs, dim=op.axis)

    return joined


def _pad(op: Pad) -> Unary:
    pad, value = load_torch().nn.functional.pad, op.value
    widths = flat_pads((op.channels, *op.pads) if any(op.channels) else op.pads)
    return lambda x: pad(x, widths, value=value)


def _plus(x: Any, values: Any) -> Any:
    return x + values


def _select(x: Any, indices: Any) -> Any:
    return x.index_select(1, indices)


def _floating(function: Function, dtype: Any) -> Function:
    def computed(x: Any, *rest: Any) -> Any:
        return function(x if x.is_floating_point() else x.to(dtype), *rest)

    return computed


def flat_pads(pads: Pads) -> list[int]:
    """(before, after) per axis as torch wants them: the last axis first, one flat list."""
    return [width for pair in reversed(pads) for width in pair]


def _rank_function(name: str, rank: int) -> Function:
    if rank > 3:
        raise UsageError(f"a layer over {rank} spatial axes cannot be trained: PyTorch has convolutions over 1 to 3 axes")
    return getattr(load_torch().nn.functional, f"{name}{rank}d")


def _conv(op: Conv) -> Function:
    if op.rank == 0:
        return _dense(op)
    conv, pad = _rank_function("conv", op.rank), load_torch().nn.functional.pad
    stride, dilation, groups = op.stride, op.dilation, op.groups
    if all(lo == hi >= 0 for lo, hi in op.padding):
        padding = tuple(lo for lo, _ in op.padding)

        def plain(x: Any, weight: Any, bias: Any = None) -> Any:
            return conv(x, weight, bias, stride, padding, dilation, groups)

        return plain
    widths = flat_pads(op.padding)

    def padded(x: Any, weight: Any, bias: Any = None) -> Any:
        return conv(pad(x, widths), weight, bias, stride, 0, dilation, groups)

    return padded


def _transposed(op: ConvTranspose) -> Function:
    if op.weight.ndim == 2:
        raise UsageError("a transposed convolution over no axes cannot be trained: make it a dense layer")
    conv, pad = _rank_function("conv_transpose", op.rank), load_torch().nn.functional.pad
    stride, dilation, groups = op.stride, op.dilation, op.groups
    extra = tuple(lo - hi for lo, hi in op.padding)
    room = (max(s, d) for s, d in zip(stride, dilation, strict=True))
    if all(lo >= 0 and 0 <= e < r for (lo, _), e, r in zip(op.padding, extra, room, strict=True)):
        crop = tuple(lo for lo, _ in op.padding)

        def plain(x: Any, weight: Any, bias: Any = None) -> Any:
            return conv(x, weight, bias, stride, crop, extra, groups, dilation)

        return plain
    widths, column = flat_pads(tuple((-lo, -hi) for lo, hi in op.padding)), (-1, *(1,) * op.rank)

    def cropped(x: Any, weight: Any, bias: Any = None) -> Any:
        # the bias comes after the crop: a negative crop extends the map by what the bias alone gives
        y = pad(conv(x, weight, None, stride, 0, 0, groups, dilation), widths)
        return y if bias is None else y + bias.view(column)

    return cropped


def _dense(layer: Conv) -> Function:
    linear, groups = load_torch().nn.functional.linear, layer.groups
    if groups == 1:
        return linear

    def grouped(x: Any, weight: Any, bias: Any = None) -> Any:
        parts = x.unflatten(-1, (groups, -1)).unsqueeze(-2) @ weight.view(groups, -1, weight.shape[1]).mT
        y = parts.flatten(-3)
        return y if bias is None else y + bias

    return grouped


def _affine(x: Any, scale: Any, shift: Any) -> Any:
    column = (-1, *(1,) * (x.ndim - 2))
    return x * scale.view(column) + shift.view(column)


def _global_pool(op: GlobalPool) -> Unary:
    def pooled(x: Any) -> Any:
        axes = tuple(range(2, x.ndim))
        if not axes:
            return x
        return x.mean(axes, keepdim=op.keepdims) if op.kind == "avg" else x.amax(axes, keepdim=op.keepdims)

    return pooled


def _add(op: Add) -> Function:
    def summed(*xs: Any) -> Any:
        total = xs[0] if not op.signs or op.signs[0] > 0 else -xs[0]
        for x, sign in zip(xs[1:], op.signs[1:] or (1,) * (len(xs) - 1), strict=True):
            total = total + x if sign > 0 else total - x
        return total

    return summed


def _product(*xs: Any) -> Any:
    return reduce(mul, xs)


def _upsample(op: Upsample) -> Unary:
    def repeated(x: Any) -> Any:
        for axis, factor in enumerate(op.factor, start=2):
            x = x if factor == 1 else x.repeat_interleave(factor, axis)
        return x

    return repeated


def _by_meaning(op: Op, dtype: Any) -> Step:
    """An operation by its meaning in NumPy; no gradient passes."""
    if isinstance(op, Foreign) and op.evaluate is None:

        def refused(*_: Any) -> Any:
            raise CannotInterpret(f"{op.kind} has no meaning in NumPy: nothing behind it can be trained or evaluated here")

        return Step(refused, several=True)

    def run(*xs: Any) -> Any:
        return tuple(_result(array, dtype) for array in evaluate(op, [_array(x) for x in xs]))

    return Step(run, several=True)


def tensor_of(array: NDArray[Any]) -> Any:
    """A copy as a tensor of the same type."""
    return load_torch().tensor(np.ascontiguousarray(array))


def _array(x: Any) -> NDArray[Any]:
    x = x.detach().cpu()
    return (x.double() if x.is_floating_point() else x).numpy()


def _result(array: NDArray[Any], dtype: Any) -> Any:
    tensor = tensor_of(np.asarray(array))
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


STEPS: Table[StepRule] = Table(
    "training",
    {
        Conv: _layer_step(_conv), ConvTranspose: _layer_step(_transposed), Dense: _layer_step(_dense_of),
        Affine: _layer_step(_affine_of), BiasMap: _layer_step(_plus_of), Activation: _layer_step(_activation_of),
        Pool: _layer_step(_pool_of), GlobalPool: _layer_step(_global_pool), Add: _layer_step(_add),
        Product: _layer_step(_product_of), Pad: _layer_step(_pad), Select: _select_step, Concat: _raw_step(_concat),
        Identity: _raw_step(_identity), Flatten: _raw_step(_flatten), Slice: _raw_step(_slice), Upsample: _raw_step(_upsample),
    },
    {Foreign: "run by its meaning in NumPy, where it has one; no gradient passes"},
)
"""What has no rule is run by its meaning in NumPy, which the interpreter knows, and no gradient passes it."""
