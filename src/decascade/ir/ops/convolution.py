"""Layers with a kernel: the algebra's own `Conv` and `ConvTranspose`, and `Dense`, a Conv over no axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from decascade.algebra.axis import Axis
from decascade.algebra.conv import Conv, ConvTranspose
from decascade.errors import GraphError
from decascade.ir import dims
from decascade.ir.dims import UNKNOWN, Shape, show
from decascade.ir.ops.definition import AnyArray, Definition
from decascade.ir.ops.rules import (
    also,
    array_text,
    geometry_text,
    need,
    need_channels,
    positive,
    rms,
    times,
    unary,
    window_axes,
    windows,
)


@dataclass(frozen=True, eq=False)
class Dense:
    """y[..., o] = Σ_i W[o, i] x[..., i] + b[o] on the last axis; `layer` is a Conv over no axes."""

    layer: Conv


def _layer_shape(op: Conv | ConvTranspose, x: Shape) -> Shape:
    need(op, x, op.rank)
    need_channels(op, x, op.in_channels)
    if isinstance(op, Conv):
        size = windows(x[2:], op.kernel, op.stride, op.dilation, op.padding)
    else:
        fields = zip(x[2:], op.kernel, op.stride, op.dilation, op.padding, strict=True)
        size = [dims.shifted(dims.scaled(n, s), (k - 1) * d + 1 - s - lo - hi) for n, k, s, d, (lo, hi) in fields]
    return (x[0], op.out_channels, *positive(op, x, size))


def _least(op: Conv | ConvTranspose) -> Shape:
    return (UNKNOWN, op.in_channels, *(UNKNOWN,) * op.rank)


def _dense_shape(op: Dense, x: Shape) -> Shape:
    if op.layer.rank:
        raise GraphError(f"Dense has a layer over {op.layer.rank} spatial axes: its weight must be (O, I)")
    if not x or (isinstance(x[-1], int) and x[-1] != op.layer.in_channels):
        raise GraphError(f"Dense is made for {op.layer.in_channels} features, its input is {show(x)}")
    return (*x[:-1], op.layer.out_channels)


def _layer_meaning(op: Conv | ConvTranspose, arrays: Sequence[AnyArray]) -> AnyArray:
    return op(arrays[0])


def _dense_meaning(op: Dense, arrays: Sequence[AnyArray]) -> AnyArray:
    x = arrays[0]
    flat = op.layer(x.reshape(-1, x.shape[-1]))
    return flat.reshape(*x.shape[:-1], op.layer.out_channels)


def _layer_text(layer: Conv | ConvTranspose) -> list[str]:
    bias = [] if layer.bias is None else [f"bias rms {rms(layer.bias)}"]
    groups = [f"groups {layer.groups}"] if layer.groups > 1 else []
    return [array_text(layer.weight), *bias, *geometry_text(layer.stride, layer.dilation, layer.padding), *groups]


def _dense_text(op: Dense) -> list[str]:
    return _layer_text(op.layer)


def _layer_words(op: Conv | ConvTranspose) -> str:
    depthwise = op.groups > 1 and op.groups == op.in_channels
    groups = f", {op.groups} groups" if op.groups > 1 and not depthwise else ""
    what = "transposed convolution" if isinstance(op, ConvTranspose) else "convolution"
    words = f"{'depthwise ' if depthwise else ''}{times(op.kernel)} {what}".strip()
    return f"{words}{also('stride', op.stride)}{also('dilation', op.dilation)}{groups}"


def _dense_words(op: Dense) -> str:
    return f"dense {op.layer.in_channels} to {op.layer.out_channels}"


def _conv_axes(op: Conv, rank: int) -> tuple[Axis, ...]:
    del rank
    return window_axes(op.kernel, op.stride, op.dilation, op.padding)


def _dense_axes(op: Dense, rank: int) -> tuple[Axis, ...] | None:
    del op
    return None if rank else ()


def _depthwise(op: Conv) -> bool:
    return op.groups == op.out_channels == op.in_channels


def _layer_weights(op: Conv | ConvTranspose) -> Mapping[str, AnyArray]:
    return {"weight": op.weight} | ({} if op.bias is None else {"bias": op.bias})


def _with_layer_weights(op: Any, arrays: Mapping[str, AnyArray]) -> Any:
    return replace(op, **arrays)


def _dense_weights(op: Dense) -> Mapping[str, AnyArray]:
    return _layer_weights(op.layer)


def _with_dense_weights(op: Dense, arrays: Mapping[str, Any]) -> Dense:
    return Dense(replace(op.layer, **arrays))


CONV = Definition(
    unary(_layer_shape, _least), _layer_meaning, _layer_words, text=_layer_text, linear=True, any_size=True,
    per_channel=_depthwise, layer=True, activation=True, axes=_conv_axes, weights=_layer_weights,
    with_weights=_with_layer_weights,
)
CONV_TRANSPOSE = Definition(
    unary(_layer_shape, _least), _layer_meaning, _layer_words, text=_layer_text, linear=True, any_size=True, layer=True,
    activation=True, weights=_layer_weights, with_weights=_with_layer_weights,
)
DENSE = Definition(
    unary(_dense_shape), _dense_meaning, _dense_words, text=_dense_text, linear=True, layer=True, activation=True,
    axes=_dense_axes, weights=_dense_weights, with_weights=_with_dense_weights,
)
