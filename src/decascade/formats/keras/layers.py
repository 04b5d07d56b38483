"""What each Keras layer is in the graph: one operation, or a short chain of them.

A reader returns the chain, or the reason in words why the layer stays `Foreign`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from decascade.algebra.conv import Conv, ConvTranspose, Pads
from decascade.formats.batch_norm import batch_norm
from decascade.formats.keras.activations import read_function, read_layer
from decascade.formats.keras.base import (
    AnyArray,
    Layout,
    applied,
    channel_axis,
    class_of,
    copies_the_edge,
    graph_axis,
    keras,
    same_pads,
    to_array,
)
from decascade.ir.graph import Shape
from decascade.ir.ops import (
    Activation,
    Add,
    Affine,
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
    Upsample,
)
from decascade.ir.shapes import multiplies


@dataclass(frozen=True, eq=False)
class Step:
    """One operation of a chain.  `part` names it within its layer; `function` is the activation it stands for."""

    op: Op
    part: str = ""
    function: Any = None


@dataclass(frozen=True, eq=False)
class Use:
    """A layer as it is called: the graph's shapes of what it reads and writes."""

    layer: Any
    shapes: tuple[Shape, ...]
    result: Shape
    layout: Layout

    @property
    def rank(self) -> int:
        return len(self.shapes[0])

    @property
    def channels(self) -> int | None:
        size = self.shapes[0][1] if self.rank > 1 else None
        return size if isinstance(size, int) else None

    @property
    def spatial(self) -> tuple[int | None, ...]:
        return tuple(n if isinstance(n, int) else None for n in self.shapes[0][2:])


Chain = Sequence[Step]
Reader = Callable[[Use], Chain | str]


def read(use: Use) -> Chain | str:
    """The chain that a layer is, or the reason why it is none."""
    kind = class_of(use.layer)
    reader = _readers().get(kind)
    if reader is None:
        return f"{kind.__name__} is no operation that decascade knows"
    if getattr(use.layer, "quantization_mode", None):
        return f"its weights are quantized ({use.layer.quantization_mode})"
    if getattr(use.layer, "lora_enabled", False):
        return "it has LoRA weights"
    order = getattr(use.layer, "data_format", None)
    if order is None and type(use.layer).__name__.startswith(("Cropping1D", "ZeroPadding1D", "UpSampling1D")):
        order = "channels_last"
    if order not in (None, use.layout) and use.rank > 2 and type(use.layer) is not keras().layers.Flatten:
        return f"its data_format is {order}, the model's is {use.layout}"
    return reader(use)


def _activated(use: Use, chain: list[Step]) -> Chain:
    """The chain and the layer's own `activation`."""
    function: Any = getattr(use.layer, "activation", None)
    op: Op | None = read_function(function, len(use.result), use.layout)
    if isinstance(op, Identity):
        return chain
    name = getattr(function, "__name__", None) or getattr(function, "name", None) or "activation"
    return [*chain, Step(op or Foreign(f"activation {name}", applied(function, use.layout)), str(name), function)]


def _bias(layer: Any) -> AnyArray | None:
    return None if layer.bias is None else to_array(layer.bias)


def _pads(use: Use, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Pads | str:
    padding = use.layer.padding
    if padding == "valid":
        return ((0, 0),) * len(kernel)
    if padding == "causal":
        return ((dilation[0] * (kernel[0] - 1), 0),)
    pads = [same_pads(n, k, s, d) for n, k, s, d in zip(use.spatial, kernel, stride, dilation, strict=True)]
    known = tuple(p for p in pads if p is not None)
    if len(known) < len(pads):
        return "'same' padding with a stride on a map whose size is not known before the model runs"
    return known


def _kernel(weight: AnyArray) -> AnyArray:
    """(*K, I, O) → (O, I, *K)."""
    return weight.transpose(-1, -2, *range(weight.ndim - 2))


def _depthwise_kernel(weight: AnyArray) -> AnyArray:
    """(*K, I, M) → (I·M, 1, *K), the outputs of one input side by side."""
    kernel = weight.shape[:-2]
    return weight.transpose(-2, -1, *range(len(kernel))).reshape(-1, 1, *kernel)


def _conv(use: Use) -> Chain | str:
    layer = use.layer
    pads = _pads(use, layer.kernel_size, layer.strides, layer.dilation_rate)
    if isinstance(pads, str):
        return pads
    weight = _kernel(to_array(layer.kernel))
    conv = Conv(weight, _bias(layer), layer.strides, layer.dilation_rate, pads, layer.groups)
    return _activated(use, [Step(conv)])


def _depthwise(use: Use) -> Chain | str:
    layer = use.layer
    pads = _pads(use, layer.kernel_size, layer.strides, layer.dilation_rate)
    if isinstance(pads, str):
        return pads
    weight = to_array(layer.kernel)
    conv = Conv(_depthwise_kernel(weight), _bias(layer), layer.strides, layer.dilation_rate, pads, weight.shape[-2])
    return _activated(use, [Step(conv)])


def _separable(use: Use) -> Chain | str:
    layer = use.layer
    pads = _pads(use, layer.kernel_size, layer.strides, layer.dilation_rate)
    if isinstance(pads, str):
        return pads
    weight = to_array(layer.depthwise_kernel)
    depthwise = Conv(_depthwise_kernel(weight), None, layer.strides, layer.dilation_rate, pads, weight.shape[-2])
    pointwise = Conv(_kernel(to_array(layer.pointwise_kernel)), _bias(layer))
    return _activated(use, [Step(depthwise, "depthwise"), Step(pointwise, "pointwise")])


def _transposed(use: Use) -> Chain | str:
    """The output has n·s + max(k − s, 0) positions ('valid') or n·s ('same', cropped as SAME of the forward conv pads)."""
    layer = use.layer
    if getattr(layer, "output_padding", None) is not None:
        return "output_padding, whose meaning differs between Keras' backends"
    pads: list[tuple[int, int]] = []
    for k, s, d in zip(layer.kernel_size, layer.strides, layer.dilation_rate, strict=True):
        reach = (k - 1) * d + 1
        before = max(reach - s, 0) // 2 if layer.padding == "same" else 0
        pads.append((before, reach - s - before if layer.padding == "same" else min(reach - s, 0)))
    # (*K, O, I) → (I, O, *K)
    weight = _kernel(to_array(layer.kernel))
    return _activated(use, [Step(ConvTranspose(weight, _bias(layer), layer.strides, layer.dilation_rate, pads))])


def _dense(use: Use) -> Chain | str:
    weight, bias = to_array(use.layer.kernel).T, _bias(use.layer)
    if use.rank == 2 or use.layout == "channels_first":
        return _activated(use, [Step(Dense(Conv(weight, bias)))])
    # on the last axis of a channels-last map: a 1×1 convolution
    return _activated(use, [Step(Conv(weight.reshape(*weight.shape, *(1,) * (use.rank - 2)), bias))])


def _batch_norm(use: Use) -> Chain | str:
    layer = use.layer
    if layer.axis % use.rank != channel_axis(use.rank, use.layout):
        return f"it normalises axis {layer.axis}, not the channels"
    if getattr(layer, "renorm", False):
        return "batch renormalisation"
    gamma, beta = (None if values is None else to_array(values) for values in (layer.gamma, layer.beta))
    mean, variance = to_array(layer.moving_mean), to_array(layer.moving_variance)
    return [Step(batch_norm(layer.name, mean, variance, layer.epsilon, gamma, beta))]


def per_channel(value: Any, use: Use) -> AnyArray | None:
    """A constant that is added or multiplied, as one number per channel; None where it varies otherwise."""
    array = np.asarray(value, dtype=np.float64)
    if use.channels is None:
        return None
    if array.size == 1:
        return np.full(use.channels, array.reshape(()))
    axis = channel_axis(use.rank, use.layout) - use.rank
    if array.ndim < -axis or array.ndim > use.rank or array.size != array.shape[axis] or array.size != use.channels:
        return None
    return array.reshape(-1)


def _as_computed(layer: Any, value: Any) -> AnyArray:
    """A number of a float64 layer as the backend has it: TensorFlow makes it a float32 before it casts it to float64."""
    return to_array(keras().ops.cast(value, "float64")) if layer.compute_dtype == "float64" else np.asarray(value)


def _rescaling(use: Use) -> Chain | str:
    scale, shift = _as_computed(use.layer, use.layer.scale), _as_computed(use.layer, use.layer.offset)
    if scale.ndim and keras().backend.image_data_format() == "channels_first":
        return "a Rescaling by several numbers, which Keras lays out anew under channels_first"
    found = per_channel(scale, use), per_channel(shift, use)
    if found[0] is None or found[1] is None:
        return "its numbers differ from place to place, or the channels are not known"
    return [Step(Affine(found[0], found[1]))]


def _normalization(use: Use) -> Chain | str:
    layer = use.layer
    mean = per_channel(to_array(layer.mean), use)
    spread = per_channel(np.maximum(np.sqrt(to_array(layer.variance).astype(np.float64)), keras().config.epsilon()), use)
    if mean is None or spread is None:
        return "its numbers differ from place to place"
    return [Step(Affine(spread, mean) if layer.invert else Affine(1 / spread, -mean / spread))]


def _pool(use: Use) -> Chain | str:
    layer, kind = use.layer, "avg" if "Average" in type(use.layer).__name__ else "max"
    kernel, stride = tuple(layer.pool_size), tuple(layer.strides)
    pads = _pads(use, kernel, stride, (1,) * len(kernel))
    if isinstance(pads, str):
        return pads
    if kind == "avg" and copies_the_edge(pads):
        return "under the torch backend Keras pads this average with copies of the edge"
    # Keras leaves the padding out of an average
    return [Step(Pool(kind, kernel, stride, pads, (1,) * len(kernel)))]


def _global_pool(use: Use) -> Chain | str:
    return [Step(GlobalPool("avg" if "Average" in type(use.layer).__name__ else "max", bool(use.layer.keepdims)))]


def _flatten(use: Use) -> Chain | str:
    if use.rank < 2:
        return "its input has no axes to flatten"
    moved = use.layer.data_format == "channels_first" and use.rank > 2
    if moved and use.layout == "channels_last":
        return "its data_format is channels_first, the model's is channels_last"
    # Keras moves the channels of a channels-first map to the end before it flattens
    first = use.layout == "channels_first" and not moved
    return [Step(Flatten("channels_first" if first else "channels_last"))]


def _reshape(use: Use) -> Chain | str:
    if use.result == use.shapes[0]:
        return [Step(Identity())]
    if len(use.result) == 2 and use.rank > 2:
        return [Step(Flatten(use.layout))]
    return f"it reshapes {use.shapes[0][1:]} to {use.result[1:]}"


def _frame(sizes: Any, sign: int) -> Pads:
    pairs = [sizes] if isinstance(sizes[0], int) else sizes
    return tuple((sign * int(a), sign * int(b)) for a, b in pairs)


def _add(use: Use) -> Chain | str:
    if any(s != use.shapes[0] for s in use.shapes):
        return f"it adds shapes that differ: {use.shapes}"
    if len(use.shapes) == 1:
        return [Step(Identity())]
    layers = keras().layers
    if type(use.layer) is layers.Subtract:
        return [Step(Add((1, -1)))]
    if type(use.layer) is layers.Average:
        if use.channels is None:
            return "the number of channels is not known"
        share = np.full(use.channels, 1 / len(use.shapes))
        return [Step(Add(), "sum"), Step(Affine(share, np.zeros(use.channels)))]
    return [Step(Add())]


def _multiply(use: Use) -> Chain | str:
    return [Step(Product())] if multiplies(use.shapes) else f"it multiplies shapes that differ: {use.shapes}"


def _concat(use: Use) -> Chain | str:
    if any(len(s) != use.rank for s in use.shapes):
        return "its inputs differ in rank"
    axis = graph_axis(use.layer.axis, use.rank, use.layout)
    return [Step(Concat(axis))] if axis else "it joins along the batch"


def _upsample(use: Use) -> Chain | str:
    if getattr(use.layer, "interpolation", "nearest") != "nearest":
        return f"interpolation {use.layer.interpolation}"
    size = use.layer.size
    return [Step(Upsample((size,) if isinstance(size, int) else tuple(size)))]


def _element(use: Use) -> Chain | str:
    op = read_layer(use.layer, use.rank, use.layout)
    if op is None:
        return f"{type(use.layer).__name__} with these options is no activation that decascade knows"
    if isinstance(op, Activation) and op.slope is not None and op.slope.shape != (use.channels,):
        return "its slopes are not one per channel"
    return [Step(op, function=use.layer)]


def _identity(use: Use) -> Chain | str:
    return [Step(Identity())]


_IDENTITIES = (
    "Identity", "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "AlphaDropout", "GaussianDropout",
    "GaussianNoise", "ActivityRegularization",
)
_CLASSES: dict[Reader, Sequence[str]] = {
    _conv: ("Conv1D", "Conv2D", "Conv3D"),
    _depthwise: ("DepthwiseConv1D", "DepthwiseConv2D"),
    _separable: ("SeparableConv1D", "SeparableConv2D"),
    _transposed: ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
    _dense: ("Dense",),
    _batch_norm: ("BatchNormalization",),
    _rescaling: ("Rescaling",),
    _normalization: ("Normalization",),
    _pool: tuple(f"{kind}Pooling{n}D" for kind in ("Average", "Max") for n in (1, 2, 3)),
    _global_pool: tuple(f"Global{kind}Pooling{n}D" for kind in ("Average", "Max") for n in (1, 2, 3)),
    _flatten: ("Flatten",),
    _reshape: ("Reshape",),
    lambda use: [Step(Pad(_frame(use.layer.padding, 1)))]: ("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D"),
    lambda use: [Step(Pad(_frame(use.layer.cropping, -1)))]: ("Cropping1D", "Cropping2D", "Cropping3D"),
    _add: ("Add", "Subtract", "Average"),
    _multiply: ("Multiply",),
    _concat: ("Concatenate",),
    _upsample: ("UpSampling1D", "UpSampling2D", "UpSampling3D"),
    _element: ("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax"),
    _identity: _IDENTITIES,
}


def _readers() -> dict[type, Reader]:
    """By exact class: a class derived from a layer may do anything."""
    layers = keras().layers
    found = ((getattr(layers, name, None), reader) for reader, names in _CLASSES.items() for name in names)
    return {cls: reader for cls, reader in found if cls is not None}
