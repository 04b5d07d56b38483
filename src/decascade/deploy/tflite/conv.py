"""Convolutions and dense layers in TensorFlow, in the forms that its converter maps to one TFLite operation each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Array, Conv, ConvTranspose, Pads
from decascade.deploy.tflite.layout import Padding, is_same, padded, spatial, through_2d, to_first, to_last, trimmed
from decascade.errors import UsageError

L = TypeVar("L", Conv, ConvTranspose)


def conv(tf: Any, op: Conv, x: Any) -> Any:
    """A convolution over one to three axes on (N, *S, C)."""
    if op.rank == 0:
        return dense(tf, op, x)
    if op.rank == 1:
        return through_2d(tf, x, lambda wide: conv(tf, _widened(op), wide))
    size = spatial(x)
    x, padding = _padding(tf, op, x, size)
    weight = _float32(np.moveaxis(op.weight, (0, 1), (-1, -2)))
    if op.rank == 3:
        if op.groups > 1:
            raise UsageError("a grouped convolution over 3 axes has no TFLite form")
        y = tf.nn.conv3d(x, weight, (1, *op.stride, 1), padding, dilations=(1, *op.dilation, 1))
    elif op.groups == op.in_channels and op.groups > 1:
        y = _depthwise(tf, op, x, padding)
    else:
        y = tf.nn.conv2d(x, weight, op.stride, padding, dilations=op.dilation)
    return _biased(tf, y, op.bias)


def _depthwise(tf: Any, op: Conv, x: Any, padding: Padding) -> Any:
    """Rows of the weight run through (channel, multiplier) as TensorFlow's do."""
    weight = np.moveaxis(op.weight.reshape(op.groups, -1, *op.kernel), (0, 1), (-2, -1))
    fields = {"strides": [1, *op.stride, 1], "padding": padding, "dilations": [1, *op.dilation, 1]}
    return tf.raw_ops.DepthwiseConv2dNative(input=x, filter=_float32(weight), **fields)


def _padding(tf: Any, op: Conv, x: Any, size: tuple[int, ...]) -> tuple[Any, Padding]:
    fields = (size, op.kernel, op.stride, op.dilation)
    pads = trimmed(*fields, op.padding)
    if not any(lo or hi for lo, hi in pads):
        return x, "VALID"
    if is_same(*fields, pads):
        return x, "SAME"
    return padded(tf, x, pads), "VALID"


def _widened(op: L) -> L:
    """A layer over one axis as one over two, the first of size 1."""
    return type(op)(op.weight[:, :, None, :], op.bias, (1, *op.stride), (1, *op.dilation), ((0, 0), *op.padding), op.groups)


def dense(tf: Any, layer: Conv, x: Any) -> Any:
    """A dense layer on the last axis of the graph's layout."""
    if len(x.shape) > 2:
        return to_last(tf, _matmul(tf, layer, to_first(tf, x)))
    return _matmul(tf, layer, x)


def _matmul(tf: Any, layer: Conv, x: Any) -> Any:
    weight = ungrouped(layer)
    if len(x.shape) == 2:
        return _biased(tf, tf.matmul(x, _float32(weight.T)), layer.bias)
    flat = tf.reshape(x, (-1, x.shape[-1]))
    return tf.reshape(_biased(tf, tf.matmul(flat, _float32(weight.T)), layer.bias), (*x.shape[:-1], layer.out_channels))


def pixel_convolution(tf: Any, layer: Conv, x: Any) -> Any:
    """A dense layer on vectors as a convolution of one pixel, (N, 1, 1, I) → (N, 1, 1, O); on maps as `dense`."""
    if len(x.shape) > 2:
        return dense(tf, layer, x)
    one = Conv(ungrouped(layer)[:, :, None, None], layer.bias)
    return tf.reshape(conv(tf, one, tf.reshape(x, (-1, 1, 1, x.shape[-1]))), (-1, layer.out_channels))


def ungrouped(layer: Conv) -> NDArray[np.float64]:
    """The matrix (O, I) of a dense layer, zeros between its groups."""
    full = np.zeros((layer.out_channels, layer.in_channels))
    rows, columns = layer.out_channels // layer.groups, layer.in_channels // layer.groups
    for g in range(layer.groups):
        here = slice(g * rows, (g + 1) * rows)
        full[here, g * columns : (g + 1) * columns] = layer.weight[here]
    return full


def conv_transpose(tf: Any, op: ConvTranspose, x: Any) -> Any:
    """A transposed convolution on (N, *S, C): one operation per group, the crop after it unless it is SAME."""
    if op.rank == 1:
        return through_2d(tf, x, lambda wide: conv_transpose(tf, _widened(op), wide))
    if op.rank != 2:
        raise UsageError(f"a transposed convolution over {op.rank} axes has no TFLite form")
    op = _undilated(op)
    size = spatial(x)
    same = _same_crop(op)
    shape = tuple(n * s if same else (n - 1) * s + k for n, s, k in zip(size, op.stride, op.kernel, strict=True))
    parts = tf.split(x, op.groups, axis=-1) if op.groups > 1 else [x]
    outputs = list[Any]()
    for g, part in enumerate(parts):
        rows = op.in_channels // op.groups
        weight = _float32(np.moveaxis(op.weight[g * rows : (g + 1) * rows], (0, 1), (-1, -2)))
        full = (part.shape[0], *shape, op.weight.shape[1])
        outputs.append(tf.nn.conv2d_transpose(part, weight, full, op.stride, "SAME" if same else "VALID"))
    y = tf.concat(outputs, axis=-1) if len(outputs) > 1 else outputs[0]
    if not same:
        y = padded(tf, y, tuple((-lo, -hi) for lo, hi in op.padding))
    return _biased(tf, y, op.bias)


def _undilated(op: ConvTranspose) -> ConvTranspose:
    """The kernel with its zeros written out: TFLite has no dilated transposed convolution."""
    if all(d == 1 for d in op.dilation):
        return op
    full = tuple((k - 1) * d + 1 for k, d in zip(op.kernel, op.dilation, strict=True))
    weight = np.zeros((*op.weight.shape[:2], *full), op.weight.dtype)
    weight[(..., *(slice(None, None, d) for d in op.dilation))] = op.weight
    return replace(op, weight=weight, dilation=(1,) * op.rank)


def _same_crop(op: ConvTranspose) -> bool:
    extra = [k - s for k, s in zip(op.kernel, op.stride, strict=True)]
    wanted: Pads = tuple((e // 2, e - e // 2) for e in extra)
    return min(extra) >= 0 and op.padding == wanted


def _biased(tf: Any, y: Any, bias: Array | None) -> Any:
    return y if bias is None or not np.any(bias) else tf.nn.bias_add(y, _float32(bias))


def _float32(array: NDArray[Any]) -> NDArray[np.float32]:
    return np.ascontiguousarray(array, np.float32)
