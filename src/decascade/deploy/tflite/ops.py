"""Each operation of the graph in TensorFlow, on channels-last tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from math import inf, pi, prod, sqrt
from operator import mul
from typing import Any

import numpy as np

from decascade.algebra.conv import Array, Conv, ConvTranspose
from decascade.deploy.tflite.conv import conv, conv_transpose, dense
from decascade.deploy.tflite.layout import grown, last, spatial, to_first
from decascade.deploy.tflite.pools import global_pool, pool
from decascade.errors import UsageError
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


def lower_op(tf: Any, op: Op, xs: Sequence[Any]) -> Any:
    """The operation on tensors in the layout of `tf_layout`.

    Raises:
        UsageError: an operation that TFLite has no form for, or that is not understood.
    """
    rule = TENSORFLOW.get(op)
    if rule is None:
        what = f"{op.kind} is not understood" if isinstance(op, Foreign) else TENSORFLOW.why_not(op)
        raise UsageError(f"{what}, so it cannot be exported to TFLite from here")
    return rule(tf, op, xs)


def _conv(tf: Any, op: Conv, xs: Sequence[Any]) -> Any:
    return conv(tf, op, xs[0])


def _conv_transpose(tf: Any, op: ConvTranspose, xs: Sequence[Any]) -> Any:
    return conv_transpose(tf, op, xs[0])


def _dense(tf: Any, op: Dense, xs: Sequence[Any]) -> Any:
    return dense(tf, op.layer, xs[0])


def _bias_map(_: Any, op: BiasMap, xs: Sequence[Any]) -> Any:
    return xs[0] + np.moveaxis(op.values, 0, -1).astype(np.float32)


def _pool(tf: Any, op: Pool, xs: Sequence[Any]) -> Any:
    return pool(tf, op, xs[0])


def _global_pool(tf: Any, op: GlobalPool, xs: Sequence[Any]) -> Any:
    return global_pool(tf, op, xs[0])


def _identity(tf: Any, _: Identity, xs: Sequence[Any]) -> Any:
    return tf.identity(xs[0])


def _flatten(tf: Any, op: Flatten, xs: Sequence[Any]) -> Any:
    x = xs[0]
    ordered = x if op.order == "channels_last" or prod(spatial(x)) == 1 else to_first(tf, x)
    return tf.reshape(ordered, (x.shape[0], -1))


def _pad(tf: Any, op: Pad, xs: Sequence[Any]) -> Any:
    return grown(tf, xs[0], ((0, 0), *op.pads, op.channels), op.value)


def _product(_: Any, __: Product, xs: Sequence[Any]) -> Any:
    return reduce(mul, xs)


def _concat(tf: Any, op: Concat, xs: Sequence[Any]) -> Any:
    return tf.concat(xs, axis=last(op.axis, len(xs[0].shape)))


def _slice(tf: Any, op: Slice, xs: Sequence[Any]) -> Any:
    x, rank = xs[0], len(xs[0].shape)
    begin, end = [0] * rank, [int(n) for n in x.shape]
    begin[op.axis - 1], end[op.axis - 1] = op.start, op.stop
    return tf.strided_slice(x, begin, end)


def _affine(_: Any, op: Affine, xs: Sequence[Any]) -> Any:
    x = xs[0]
    if np.any(op.scale != 1):
        x = x * _row(op.scale)
    return x + _row(op.shift) if np.any(op.shift) else x


def _row(values: Array) -> Any:
    return np.asarray(values, np.float32)


def _add(_: Any, op: Add, xs: Sequence[Any]) -> Any:
    total = xs[0] if not op.signs or op.signs[0] > 0 else -xs[0]
    for x, sign in zip(xs[1:], op.signs[1:] or (1,) * (len(xs) - 1), strict=True):
        total = total + x if sign > 0 else total - x
    return total


def _select(tf: Any, op: Select, xs: Sequence[Any]) -> Any:
    x = xs[0]
    first, stop = int(op.indices[0]), int(op.indices[-1]) + 1
    if np.array_equal(op.indices, np.arange(first, stop)):
        begin, end = [0] * len(x.shape), [int(n) for n in x.shape]
        begin[-1], end[-1] = first, stop
        return tf.strided_slice(x, begin, end)
    return tf.gather(x, op.indices.astype(np.int32), axis=-1)


def _upsample(tf: Any, op: Upsample, xs: Sequence[Any]) -> Any:
    x = xs[0]
    if len(op.factor) == 2:
        return tf.image.resize(x, [n * f for n, f in zip(spatial(x), op.factor, strict=True)], method="nearest")
    for axis, factor in enumerate(op.factor, start=1):
        x = tf.repeat(x, factor, axis=axis)
    return x


def _activation(tf: Any, op: Activation, xs: Sequence[Any]) -> Any:
    x = xs[0]
    if op.kind == "prelu" and op.slope is not None:
        # the form that the converter knows as one operation, the slope of one rank less than x
        slope = np.reshape(_row(op.slope), (*(1,) * (len(x.shape) - 2), -1))
        return tf.nn.relu(x) + -slope * tf.nn.relu(-x)
    if op.kind == "softmax":
        return tf.nn.softmax(x, axis=last(int(op.params[0]), len(x.shape)))
    return ACTIVATIONS[op.kind](tf, x, *op.params)


def _relu(tf: Any, x: Any) -> Any:
    return tf.nn.relu(x)


def _clip(tf: Any, x: Any, lo: float, hi: float) -> Any:
    if lo == 0 and hi in (6, inf):
        return tf.nn.relu6(x) if hi == 6 else tf.nn.relu(x)
    x = tf.maximum(x, np.float32(lo)) if lo > -inf else x
    return tf.minimum(x, np.float32(hi)) if hi < inf else x


def _elu(tf: Any, x: Any, alpha: float) -> Any:
    return tf.nn.elu(x) if alpha == 1 else tf.nn.relu(x) + alpha * (tf.exp(tf.minimum(x, 0.0)) - 1.0)


def _selu(tf: Any, x: Any) -> Any:
    return 1.0507009873554805 * _elu(tf, x, 1.6732632423543772)


def _hard_sigmoid(tf: Any, x: Any, alpha: float, beta: float) -> Any:
    return tf.minimum(tf.maximum(alpha * x + beta, 0.0), 1.0)


def _softplus(tf: Any, x: Any) -> Any:
    return tf.nn.relu(x) + tf.math.log(1.0 + tf.exp(-tf.abs(x)))


def _gelu_tanh(tf: Any, x: Any) -> Any:
    return 0.5 * x * (1.0 + tf.tanh(sqrt(2 / pi) * (x + 0.044715 * x * x * x)))


def _leaky_relu(tf: Any, x: Any, alpha: float) -> Any:
    return tf.nn.leaky_relu(x, alpha)


def _hard_swish(tf: Any, x: Any) -> Any:
    return x * tf.nn.relu6(x + 3.0) * (1 / 6)


def _silu(tf: Any, x: Any) -> Any:
    return x * tf.sigmoid(x)


def _gelu(tf: Any, x: Any) -> Any:
    return tf.nn.gelu(x, approximate=False)


def _softsign(tf: Any, x: Any) -> Any:
    return x / (1.0 + tf.abs(x))


def _named(name: str) -> Callable[..., Any]:
    """TensorFlow's own function of that name."""

    def call(tf: Any, x: Any) -> Any:
        return getattr(tf, name)(x)

    return call


ACTIVATIONS: Mapping[str, Callable[..., Any]] = {
    "relu": _relu,
    "clip": _clip,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "selu": _selu,
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": _hard_swish,
    "silu": _silu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "softplus": _softplus,
    "softsign": _softsign,
    "neg": _named("negative"),
    **{name: _named(name) for name in ("sigmoid", "tanh", "exp", "abs", "sqrt")},
}
"""The kinds of `ir.ops.activation` but for prelu and softmax, which need more than their numbers."""

TENSORFLOW: Table[Callable[[Any, Any, Sequence[Any]], Any]] = Table(
    "the export to TFLite",
    {
        Conv: _conv, ConvTranspose: _conv_transpose, Dense: _dense, Affine: _affine, BiasMap: _bias_map, Pool: _pool,
        GlobalPool: _global_pool, Activation: _activation, Identity: _identity, Flatten: _flatten, Pad: _pad, Add: _add,
        Product: _product, Concat: _concat, Select: _select, Slice: _slice, Upsample: _upsample,
    },
    {Foreign: "not understood; the format of the model may know a form for it"},
)
"""What has no rule is lowered as the model's own format says, where that knows a form."""
