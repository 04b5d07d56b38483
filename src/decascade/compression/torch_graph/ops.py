"""Each operation as a function of torch tensors: (N, C, *S) in, (N, C, *S) out, every gradient that there is kept.

A `Step` holds the function and the arrays that it takes after its inputs, by field name.  Functions are made once per node
from the op's options alone, so that a copied module shares them and reads its own weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, reduce
from importlib import import_module
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv, ConvTranspose, Pads
from decascade.compression.torch_graph.activations import activation
from decascade.compression.torch_graph.pools import pool
from decascade.errors import CannotInterpret, UsageError
from decascade.frameworks import keep_triton_out
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

Function = Callable[..., Any]
Unary = Callable[[Any], Any]


@cache
def load_torch() -> Any:
    """The torch module.

    Raises:
        UsageError: torch is not installed.
    """
    keep_triton_out()
    try:
        return import_module("torch")
    except ImportError as error:
        raise UsageError(f"training needs PyTorch, which cannot be imported ({error}): pip install torch") from None


@dataclass(frozen=True, eq=False)
class Step:
    """`function(*inputs, *weights, *constants)` gives the output tensor, or a tuple of them where `several`.

    `weights` become parameters, `constants` buffers.  A None weight is left out.
    """

    function: Function
    weights: Mapping[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])
    constants: Mapping[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])
    several: bool = False


def step_of(op: Op, dtype: Any) -> Step:
    """The operation as a step; integers that it computes with become `dtype` first.

    Raises:
        UsageError: more spatial axes than torch has convolutions or pools for.
    """
    match op:
        case Conv():
            return Step(_floating(_conv(op), dtype), _arrays(op))
        case ConvTranspose():
            return Step(_floating(_transposed(op), dtype), _arrays(op))
        case Dense():
            return Step(_floating(_dense(op.layer), dtype), _arrays(op.layer))
        case Affine():
            return Step(_floating(_affine, dtype), {"scale": op.scale, "shift": op.shift})
        case BiasMap():
            return Step(_floating(_plus, dtype), {"values": op.values})
        case Activation():
            return Step(_floating(activation(load_torch(), op), dtype), {} if op.slope is None else {"slope": op.slope})
        case Pool():
            return Step(_floating(pool(load_torch(), op), dtype))
        case GlobalPool():
            return Step(_floating(_global_pool(op), dtype))
        case Select():
            return Step(_select, constants={"indices": op.indices.astype(np.int64)})
        case Foreign():
            return Step(_foreign(op, dtype), several=True)
        case _:
            return Step(_plain(op, dtype))


def _plain(op: Op, dtype: Any) -> Function:
    """What has neither weights nor constants."""
    match op:
        case Add():
            return _floating(_add(op), dtype)
        case Product():
            return _floating(_product, dtype)
        case Concat():
            return _concat(op)
        case Pad():
            return _floating(_pad(op), dtype)
        case _:
            return _move(op)


def _move(op: Op) -> Unary:
    match op:
        case Identity():
            return lambda x: x
        case Flatten():
            first = op.order == "channels_first"
            return lambda x: (x if first else x.movedim(1, -1)).reshape(x.shape[0], -1)
        case Slice():
            return lambda x: x.narrow(op.axis, op.start, op.stop - op.start)
        case Upsample():
            return _upsample(op)
        case _:
            raise CannotInterpret(f"no rule for {type(op).__name__}")


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


def _arrays(layer: Conv | ConvTranspose) -> dict[str, NDArray[Any]]:
    return {"weight": layer.weight} | ({} if layer.bias is None else {"bias": layer.bias})


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


def _foreign(op: Foreign, dtype: Any) -> Function:
    """Its meaning in NumPy; no gradient passes."""
    if op.evaluate is None:

        def refused(*_: Any) -> Any:
            raise CannotInterpret(f"{op.kind} has no meaning in NumPy: nothing behind it can be trained or evaluated here")

        return refused
    evaluate = op.evaluate

    def run(*xs: Any) -> Any:
        return tuple(_result(array, dtype) for array in evaluate([_array(x) for x in xs]))

    return run


def tensor_of(array: NDArray[Any]) -> Any:
    """A copy as a tensor of the same type."""
    return load_torch().tensor(np.ascontiguousarray(array))


def _array(x: Any) -> NDArray[Any]:
    x = x.detach().cpu()
    return (x.double() if x.is_floating_point() else x).numpy()


def _result(array: NDArray[Any], dtype: Any) -> Any:
    tensor = tensor_of(np.asarray(array))
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
