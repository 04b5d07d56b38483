"""One rule for each TFLite operation: its options and constants as an operation of the graph, multipliers as in TFLM.

Sources: tensorflow/lite/kernels/kernel_util.cc and tensorflow/lite/micro/kernels/*_common.cc.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from decascade.errors import UsageError
from decascade.stream.fixed import Multiplier, multiplier_of, rounded
from decascade.stream.graph import Map
from decascade.stream.ops.conv import Conv, Depthwise, Geometry, Rescale
from decascade.stream.ops.elementwise import Product, Sum, Table, operands_of
from decascade.stream.ops.pool import Mean, Pool
from decascade.stream.ops.shape import Concat, Pad, Reshape
from decascade.stream.ops.softmax import Softmax, exponentials
from decascade.stream.read.builder import Builder
from decascade.stream.read.flat import OPTIONAL, Operator, Tensor
from decascade.stream.read.unary import FUNCTIONS

Rule = Callable[[Builder, Operator], None]
SAME = 0
"""The schema's number for SAME padding."""


def clamp_of(activation: int, out: Map) -> tuple[int, int]:
    """CalculateActivationRangeQuantized for the schema's NONE, RELU, RELU_N1_TO_1, RELU6.

    Raises:
        UsageError: another fused activation.
    """
    def stored(real: float) -> int:
        return out.zero + rounded(float(np.float32(real) / np.float32(out.scale)))

    if activation == 0:
        return -128, 127
    if activation == 1:
        return max(-128, stored(0.0)), 127
    if activation == 2:
        return max(-128, stored(-1.0)), min(127, stored(1.0))
    if activation == 3:
        return max(-128, stored(0.0)), min(127, stored(6.0))
    raise UsageError(f"map {out.name} has the fused activation {activation}: NONE, RELU, RELU6 and RELU_N1_TO_1 are streamed")


def _rescale(b: Builder, operator: Operator, channels: int, single: bool = False) -> Rescale:
    """Of a convolution; `single`: a dense layer with one scale, whose product of scales TFLite takes in float32."""
    x, weights, out = b.tensor(operator.inputs[0]), b.tensor(operator.inputs[1]), b.map_of(b.tensor(operator.outputs[0]))
    if not np.all(np.isfinite(weights.scales) & (weights.scales >= 0)):
        raise UsageError(f"weights {weights.name} have a scale that is negative or not finite")
    if len(weights.scales) not in (1, channels):
        raise UsageError(f"weights {weights.name} have {len(weights.scales)} scales for {channels} channels")
    if any(weights.zeros):
        raise UsageError(f"weights {weights.name} have a zero point other than 0: only symmetric weights are streamed")
    if single and len(weights.scales) == 1:
        products = [float(np.float32(x.scales[0]) * np.float32(weights.scales[0]))]
    else:
        products = [float(x.scales[0]) * float(s) for s in weights.scales]
    b.map_of(x)
    found = [multiplier_of(p / out.scale) for p in products] * (channels // len(products))
    low, high = clamp_of(int(operator.options["fusedActivationFunction"]), out)
    return Rescale(*_arrays(found), out.zero, low, high)


def _arrays(found: Sequence[Multiplier]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.array([m.mantissa for m in found], np.int64), np.array([m.shift for m in found], np.int64)


def _weights(tensor: Tensor) -> NDArray[np.int8]:
    if tensor.kind != "int8" or tensor.data is None:
        raise UsageError(f"weights {tensor.name} are {tensor.kind}{'' if tensor.data is not None else ', computed'}: "
                         "only stored int8 weights are streamed")
    return tensor.data


def _bias(b: Builder, operator: Operator, channels: int, at: int = 2) -> NDArray[np.int64]:
    if len(operator.inputs) <= at or operator.inputs[at] == OPTIONAL:
        return np.zeros(channels, np.int64)
    tensor = b.tensor(operator.inputs[at])
    if tensor.data is None or tensor.kind != "int32":
        raise UsageError(f"bias {tensor.name} is {tensor.kind}: only a stored int32 bias is streamed")
    return tensor.data.astype(np.int64).reshape(-1)


def _geometry(b: Builder, operator: Operator, kernel: Sequence[int], dilation: Sequence[int] = (1, 1)) -> Geometry:
    """Kernel and dilation given for height and width; SAME pads the smaller half first."""
    options = operator.options
    size = b.axes(kernel)
    stride, dilated = b.axes((options["strideH"], options["strideW"])), b.axes(dilation)
    source, target = b.shape(b.tensor(operator.inputs[0])), b.shape(b.tensor(operator.outputs[0]))
    pad = [0, 0]
    if options["padding"] == SAME:
        pad = [max(0, (o - 1) * s + (k - 1) * d + 1 - n) // 2
               for o, s, k, d, n in zip(target, stride, size, dilated, source, strict=False)]
    return Geometry(size, stride, dilated, (pad[0], pad[1]))


def _dilation(operator: Operator) -> tuple[int, int]:
    return int(operator.options["dilationHFactor"]), int(operator.options["dilationWFactor"])


def conv(b: Builder, operator: Operator) -> None:
    weights = _weights(b.tensor(operator.inputs[1]))
    geometry = _geometry(b, operator, weights.shape[1:3], _dilation(operator))
    channels = b.shape(b.tensor(operator.inputs[0]))[2]
    if channels % weights.shape[3]:
        raise UsageError(f"CONV_2D has {channels} channels in and weights for {weights.shape[3]}")
    turned = weights.transpose(0, 2, 1, 3) if b.flat else weights
    b.ops.append(Conv((b.place(operator.inputs[0]),), b.place(operator.outputs[0]), turned, _bias(b, operator, len(weights)),
                      geometry, _rescale(b, operator, len(weights)), channels // weights.shape[3]))


def depthwise(b: Builder, operator: Operator) -> None:
    weights = _weights(b.tensor(operator.inputs[1]))
    geometry = _geometry(b, operator, weights.shape[1:3], _dilation(operator))
    turned = weights[0].transpose(1, 0, 2) if b.flat else weights[0]
    channels = turned.shape[2]
    b.ops.append(Depthwise((b.place(operator.inputs[0]),), b.place(operator.outputs[0]), turned,
                           _bias(b, operator, channels), geometry, _rescale(b, operator, channels)))


def dense(b: Builder, operator: Operator) -> None:
    """A 1×1 convolution of every pixel, or, behind a whole map, one with a kernel of the map's size."""
    weights = _weights(b.tensor(operator.inputs[1]))
    if operator.options.get("weightsFormat"):
        raise UsageError("FULLY_CONNECTED with shuffled weights has no streamed form: convert the model again without it")
    source, target = b.place(operator.inputs[0]), b.place(operator.outputs[0])
    rows, columns, channels = b.maps[source].shape
    wide, outs = weights.shape[1], len(weights)
    kernel = (1, 1) if wide == channels else (rows, columns)
    if wide != kernel[0] * kernel[1] * channels:
        raise UsageError(f"FULLY_CONNECTED takes {wide} values of a map of shape {[rows, columns, channels]}: flatten it first")
    b.ops.append(Conv((source,), target, weights.reshape(outs, *kernel, channels), _bias(b, operator, outs), Geometry(kernel),
                      _rescale(b, operator, outs, single=True)))


def add(b: Builder, operator: Operator) -> None:
    _sum(b, operator, False)


def sub(b: Builder, operator: Operator) -> None:
    _sum(b, operator, True)


def _sum(b: Builder, operator: Operator, minus: bool) -> None:
    first, second = (b.place(i) for i in operator.inputs)
    target = b.place(operator.outputs[0])
    out = b.maps[target]
    one, two, multiplier = operands_of(b.maps[first], b.maps[second], out.scale)
    low, high = clamp_of(int(operator.options["fusedActivationFunction"]), out)
    b.ops.append(Sum((first, second), target, (one, two), multiplier, out.zero, low, high, minus))


def mul(b: Builder, operator: Operator) -> None:
    first, second = (b.place(i) for i in operator.inputs)
    target = b.place(operator.outputs[0])
    out, one, two = b.maps[target], b.maps[first], b.maps[second]
    low, high = clamp_of(int(operator.options["fusedActivationFunction"]), out)
    multiplier = multiplier_of(one.scale * two.scale / out.scale)
    b.ops.append(Product((first, second), target, (one.zero, two.zero), multiplier, out.zero, low, high))


def pool(average: bool) -> Rule:
    def rule(b: Builder, operator: Operator) -> None:
        options = operator.options
        source, target = b.place(operator.inputs[0]), b.place(operator.outputs[0])
        low, high = clamp_of(int(options["fusedActivationFunction"]), b.maps[target])
        geometry = _geometry(b, operator, (options["filterHeight"], options["filterWidth"]))
        if average and geometry.kernel == b.maps[source].shape[:2] and b.maps[target].shape[:2] == (1, 1):
            b.ops.append(Mean((source,), target, low=low, high=high))
        else:
            b.ops.append(Pool((source,), target, geometry, average, low, high))

    return rule


def mean(b: Builder, operator: Operator) -> None:
    tensor, axes = b.tensor(operator.inputs[0]), b.tensor(operator.inputs[1]).data
    if axes is None:
        raise UsageError("MEAN has computed axes: only constant ones are streamed")
    source, target = b.place(operator.inputs[0]), b.place(operator.outputs[0])
    rows, columns, _ = b.maps[source].shape
    rank = len(tensor.shape)
    over = {int(a) % rank for a in axes.reshape(-1)}
    spans = {a for a in over if tensor.shape[a] > 1}
    if spans != {a for a in range(1, rank - 1) if tensor.shape[a] > 1}:
        raise UsageError(f"MEAN over the axes {sorted(over)} of {list(tensor.shape)}: only height and width together are "
                         "streamed")
    one, two = b.maps[source], b.maps[target]
    count, whole = rows * columns, multiplier_of(one.scale / two.scale)
    shift = min(count.bit_length() - 1, 32, 31 + whole.shift)
    inner = Multiplier((whole.mantissa << shift) // count, whole.shift - shift)
    b.ops.append(Mean((source,), target, inner, (one.zero, two.zero)))


def softmax(b: Builder, operator: Operator) -> None:
    source, target = b.place(operator.inputs[0]), b.place(operator.outputs[0])
    out = b.maps[target]
    if out.zero != -128 or out.scale != 1 / 256:
        raise UsageError(f"SOFTMAX writes the scale {out.scale:g} and zero point {out.zero}: int8 needs 1/256 and −128")
    b.ops.append(Softmax((source,), target, exponentials(b.maps[source].scale, float(operator.options["beta"]))))


def pad(b: Builder, operator: Operator) -> None:
    widths = b.tensor(operator.inputs[1]).data
    source, target = b.place(operator.inputs[0]), b.place(operator.outputs[0])
    if widths is None or len(widths) != 4 or np.any(widths[0]):
        raise UsageError("PAD is streamed with constant widths for height, width and channels of a map of four axes")
    rows, columns, channels = ((int(a), int(z)) for a, z in widths[1:])
    if b.flat:
        rows, columns = columns, rows
    fill = b.maps[target].zero
    if len(operator.inputs) > 2:
        value = b.tensor(operator.inputs[2]).data
        if value is None:
            raise UsageError("PADV2 has a computed value: only a constant one is streamed")
        fill = int(value.reshape(-1)[0])
    b.ops.append(Pad((source,), target, (rows, columns, channels), fill))


def reshape(b: Builder, operator: Operator) -> None:
    b.ops.append(Reshape((b.place(operator.inputs[0]),), b.place(operator.outputs[0])))


def concat(b: Builder, operator: Operator) -> None:
    target = b.place(operator.outputs[0])
    rank = len(b.tensor(operator.outputs[0]).shape)
    axis = int(operator.options["axis"]) % rank - (rank - 3)
    sources = tuple(b.place(i) for i in operator.inputs)
    out = b.maps[target]
    for source in sources:
        found = b.maps[source]
        if (found.scale, found.zero) != (out.scale, out.zero):
            raise UsageError(f"CONCATENATION joins maps of other scales ({found.name}): convert the model again")
    if b.flat and axis == 1:
        axis = 0
    if axis not in (0, 1, 2):
        raise UsageError("CONCATENATION along the batch has no streamed form")
    b.ops.append(Concat(sources, target, axis))


def unary(kind: str) -> Rule:
    """A function of one value."""
    def rule(b: Builder, operator: Operator) -> None:
        source, target = b.place(operator.inputs[0]), b.place(operator.outputs[0])
        b.ops.append(Table((source,), target, FUNCTIONS[kind](b.maps[source], b.maps[target], operator.options)))

    return rule


RULES: Mapping[str, Rule] = {
    **{kind: unary(kind) for kind in FUNCTIONS},
    "ADD": add,
    "AVERAGE_POOL_2D": pool(True),
    "CONCATENATION": concat,
    "CONV_2D": conv,
    "DEPTHWISE_CONV_2D": depthwise,
    "EXPAND_DIMS": reshape,
    "FULLY_CONNECTED": dense,
    "MAX_POOL_2D": pool(False),
    "MEAN": mean,
    "MUL": mul,
    "PAD": pad,
    "PADV2": pad,
    "RESHAPE": reshape,
    "SOFTMAX": softmax,
    "SQUEEZE": reshape,
    "SUB": sub,
}
"""Everything else is refused by name."""
