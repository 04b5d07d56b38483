"""Readers of layers: convolutions, dense layers, normalisations, arithmetic with constants, pools.

Each reader takes the view and a node and returns the operations that the node is, or None: it is then carried through
as it is.  A layer whose weights are not constant is not read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Array, Conv, ConvTranspose, Pads
from decascade.formats.batch_norm import batch_norm
from decascade.formats.onnx.nodes import Native
from decascade.formats.onnx.view import View
from decascade.ir.dims import UNKNOWN
from decascade.ir.graph import Dim, Shape
from decascade.ir.ops import Add, Affine, BiasMap, Dense, GlobalPool, Op, Pool, Product
from decascade.ir.shapes import multiplies


@dataclass(frozen=True)
class Match:
    """One operation that stands for the nodes `natives` (their indices)."""

    op: Op
    inputs: tuple[str, ...]
    output: str
    natives: tuple[int, ...]


Matches = list[Match] | None
Reader = Callable[[View, Native], Matches]


def one(native: Native, op: Op | None, *inputs: str) -> Matches:
    """The node as one operation on `inputs`, its first input if none is given."""
    return None if op is None else [Match(op, inputs or native.inputs[:1], native.outputs[0], (native.index,))]


def known_shape(view: View, name: str) -> Shape | None:
    """The shape, where the rank is known and the channel axis has a size."""
    shape = view.shapes.get(name)
    return shape if shape is not None and len(shape) >= 2 and isinstance(shape[1], int) else None


@dataclass(frozen=True)
class Window:
    """Stride, dilation and padding of a convolution or pool, `auto_pad` resolved."""

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Pads


def window(native: Native, kernel: Sequence[int], size: Sequence[Dim]) -> Window | None:
    """None where an attribute has the wrong length, or SAME padding depends on a size that is not known."""
    rank = len(kernel)
    stride = tuple(native.get("strides") or (1,) * rank)
    dilation = tuple(native.get("dilations") or (1,) * rank)
    if len(stride) != rank or len(dilation) != rank:
        return None
    pads = _auto_pads(native, kernel, stride, dilation, size)
    return None if pads is None else Window(stride, dilation, pads)


def _auto_pads(
    native: Native, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], size: Sequence[Dim]
) -> Pads | None:
    mode = native.get("auto_pad", "NOTSET")
    rank = len(kernel)
    if mode in ("NOTSET", ""):
        pads = native.get("pads") or (0,) * (2 * rank)
        return tuple(zip(pads[:rank], pads[rank:], strict=True)) if len(pads) == 2 * rank else None
    if mode == "VALID":
        return ((0, 0),) * rank
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        return None
    found: list[tuple[int, int]] = []
    for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
        if s == 1:
            total = (k - 1) * d
        elif isinstance(n, int):
            total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        else:
            return None
        found.append(_shared(total, mode))
    return tuple(found)


def _shared(total: int, mode: str) -> tuple[int, int]:
    """A total padding split in two; the odd one goes to the end for SAME_UPPER, to the start for SAME_LOWER."""
    small, large = total // 2, total - total // 2
    return (small, large) if mode == "SAME_UPPER" else (large, small)


def _weights(view: View, native: Native) -> tuple[Array, Array | None] | None:
    """Constant floating weight and bias of a node that has them at inputs 1 and 2."""
    weight, bias = view.constant(native.input(1)), view.constant(native.input(2))
    if weight is None or weight.dtype.kind != "f" or weight.ndim < 3 or not weight.size:
        return None
    if native.input(2) and (bias is None or bias.ndim != 1):
        return None
    return weight, bias


def read_conv(view: View, native: Native) -> Matches:
    found = _weights(view, native)
    shape = known_shape(view, native.inputs[0])
    if found is None or shape is None or len(shape) != found[0].ndim:
        return None
    weight, bias = found
    groups = native.get("group", 1)
    place = window(native, weight.shape[2:], shape[2:])
    fits = shape[1] == weight.shape[1] * groups and weight.shape[0] % groups == 0
    if place is None or not fits or (bias is not None and bias.shape != weight.shape[:1]):
        return None
    return one(native, Conv(weight, bias, place.stride, place.dilation, place.padding, groups))


def read_conv_transpose(view: View, native: Native) -> Matches:
    """`output_shape` is not read; SAME is, where the kernel is not smaller than the stride."""
    found = _weights(view, native)
    shape = known_shape(view, native.inputs[0])
    if found is None or shape is None or len(shape) != found[0].ndim or native.get("output_shape"):
        return None
    weight, bias = found
    groups, kernel = native.get("group", 1), weight.shape[2:]
    extra = native.get("output_padding") or (0,) * len(kernel)
    mode = native.get("auto_pad", "NOTSET")
    # under SAME the output has n·stride positions whatever n, so that the size does not matter
    place = window(native, kernel, (1,) * len(kernel))
    if place is None or len(extra) != len(kernel) or shape[1] != weight.shape[0] or weight.shape[0] % groups:
        return None
    pads = place.padding
    if mode.startswith("SAME"):
        totals = [(k - 1) * d + 1 - s + e for k, d, s, e in zip(kernel, place.dilation, place.stride, extra, strict=True)]
        if min(totals) < 0:
            return None
        pads = tuple(_shared(total, mode) for total in totals)
    pads = tuple((lo, hi - e) for (lo, hi), e in zip(pads, extra, strict=True))
    if bias is not None and bias.shape != (weight.shape[1] * groups,):
        return None
    return one(native, ConvTranspose(weight, bias, place.stride, place.dilation, pads, groups))


def read_gemm(view: View, native: Native) -> Matches:
    """alpha·x·B + beta·C with constant B and C."""
    weight = view.constant(native.input(1))
    shape = view.shapes.get(native.inputs[0])
    if weight is None or weight.ndim != 2 or weight.dtype.kind != "f" or native.get("transA", 0):
        return None
    if shape is None or len(shape) != 2 or not weight.size:
        return None
    weight = weight if native.get("transB", 0) else weight.T
    alpha, beta = native.get("alpha", 1.0), native.get("beta", 1.0)
    bias = None
    if native.input(2):
        term = view.constant(native.input(2))
        bias = None if term is None else last_axis_vector(term, weight.shape[0])
        if bias is None:
            return None
        bias = bias if beta == 1 else bias.astype(np.float64) * beta
    return one(native, Dense(Conv(weight if alpha == 1 else weight.astype(np.float64) * alpha, bias)))


def read_matmul(view: View, native: Native) -> Matches:
    """x·W, together with the bias that the next node adds where that is the only one to read it."""
    weight = view.constant(native.input(1))
    shape = view.shapes.get(native.inputs[0])
    if weight is None or weight.ndim != 2 or weight.dtype.kind != "f" or not weight.size:
        return None
    if native.inputs[0] in view.constants or shape is None or len(shape) < 2 or shape[-1] not in (weight.shape[0], UNKNOWN):
        return None
    follower = view.only_user(native.outputs[0])
    if follower is not None and follower.standard and follower.kind == "Add" and len(follower.inputs) == 2:
        other = follower.inputs[1 - follower.inputs.index(native.outputs[0])]
        term = view.constant(other)
        bias = None if term is None or term.ndim > len(shape) else last_axis_vector(term, weight.shape[1])
        if bias is not None:
            indices = (native.index, follower.index)
            return [Match(Dense(Conv(weight.T, bias)), native.inputs[:1], follower.outputs[0], indices)]
    return one(native, Dense(Conv(weight.T)))


def last_axis_vector(term: NDArray[Any], count: int) -> Array | None:
    """A constant that differs along the last axis alone, as (count,); None for any other."""
    if term.dtype.kind != "f" or term.size not in (1, count) or (term.ndim and term.shape[-1] != term.size):
        return None
    return np.broadcast_to(term.reshape(-1), (count,))


def channel_vector(term: NDArray[Any], shape: Shape) -> Array | None:
    """A constant that differs along the channels alone when it meets a tensor of this shape, as (C,)."""
    channels = shape[1]
    if term.dtype.kind != "f" or term.ndim > len(shape) or not isinstance(channels, int):
        return None
    full = (1,) * (len(shape) - term.ndim) + term.shape
    if any(n != 1 for k, n in enumerate(full) if k != 1) or full[1] not in (1, channels):
        return None
    return np.broadcast_to(term.reshape(-1), (channels,))


def _map_values(term: NDArray[Any], shape: Shape) -> Array | None:
    """A constant of shape (C, *S) when it meets a tensor of this shape, every entry of which is known but the batch."""
    size = tuple(n for n in shape[1:] if isinstance(n, int))
    if term.dtype.kind != "f" or term.ndim > len(shape) or len(size) + 1 != len(shape):
        return None
    full = (1,) * (len(shape) - term.ndim) + term.shape
    if full[0] != 1 or any(n not in (1, m) for n, m in zip(full[1:], size, strict=True)):
        return None
    return np.broadcast_to(term.reshape(full[1:]), size)


def read_batch_normalization(view: View, native: Native) -> Matches:
    """The inference form, with its own epsilon; statistics per channel.

    Raises:
        FormatError: statistics that no output can be computed from.
    """
    shape = known_shape(view, native.inputs[0])
    numbers = [view.constant(native.input(k)) for k in range(1, 5)]
    if shape is None or len(native.writes) != 1 or native.get("training_mode", 0) or not native.get("spatial", 1):
        return None
    arrays = [a for a in numbers if a is not None and a.shape == (shape[1],)]
    if len(arrays) != 4:
        return None
    gamma, beta, mean, variance = arrays
    return one(native, batch_norm(native.name, mean, variance, native.get("epsilon", 1e-5), gamma, beta))


def _same_shape(shapes: Sequence[Shape | None]) -> bool:
    """Whether the shapes are equal beyond doubt: a size that is not known could be 1 and be broadcast."""
    first = shapes[0]
    return first is not None and UNKNOWN not in first and all(shape == first for shape in shapes[1:])


def read_sum(view: View, native: Native) -> Matches:
    """Add, Sub and Sum: of tensors of equal shape, or of a tensor and a constant."""
    terms = [view.constant(name) for name in native.inputs]
    if all(term is None for term in terms):
        if len(native.inputs) < 2 or not _same_shape([view.shapes.get(name) for name in native.inputs]):
            return None
        return one(native, Add((1, -1) if native.kind == "Sub" else ()), *native.inputs)
    if len(terms) != 2:
        return None
    where = 0 if terms[0] is None else 1
    term, name = terms[1 - where], native.inputs[where]
    shape = known_shape(view, name)
    if term is None or shape is None or name in view.constants:
        return None
    own, other = (1.0, 1.0) if native.kind != "Sub" else (1.0, -1.0) if where == 0 else (-1.0, 1.0)
    vector = channel_vector(term, shape)
    if vector is not None:
        return one(native, Affine(np.full(vector.shape, own), vector.astype(np.float64) * other), name)
    values = _map_values(term, shape) if own == 1 else None
    return None if values is None else one(native, BiasMap(values if other == 1 else -values), name)


def read_product(view: View, native: Native) -> Matches:
    """Mul and Div by a constant per channel; Mul of two tensors."""
    terms = [view.constant(name) for name in native.inputs]
    if native.kind == "Mul" and all(term is None for term in terms):
        shapes = [view.shapes.get(name) for name in native.inputs]
        return one(native, Product(), *native.inputs) if multiplies(shapes) else None
    if len(terms) != 2 or (terms[0] is None) == (terms[1] is None) or (native.kind == "Div" and terms[1] is None):
        return None
    where = 0 if terms[0] is None else 1
    term, shape = terms[1 - where], known_shape(view, native.inputs[where])
    vector = None if term is None or shape is None else channel_vector(term, shape)
    if vector is None or (native.kind == "Div" and not np.all(vector)):
        return None
    factor = vector.astype(np.float64) if native.kind == "Mul" else 1 / vector.astype(np.float64)
    return one(native, Affine(factor, np.zeros(vector.shape)), native.inputs[where])


def read_pool(view: View, native: Native) -> Matches:
    """AveragePool and MaxPool; `ceil_mode` where it gives the size that floor gives too."""
    shape = known_shape(view, native.inputs[0])
    kernel = tuple(native.get("kernel_shape") or ())
    if shape is None or len(shape) != len(kernel) + 2 or len(native.writes) != 1:
        return None
    place = window(native, kernel, shape[2:])
    if place is None or (native.get("ceil_mode", 0) and not _floor_is_ceil(kernel, place, shape[2:])):
        return None
    kind = "avg" if native.kind == "AveragePool" else "max"
    counted = kind == "avg" and bool(native.get("count_include_pad", 0))
    return one(native, Pool(kind, kernel, place.stride, place.padding, place.dilation, counted))


def _floor_is_ceil(kernel: Sequence[int], place: Window, size: Sequence[Dim]) -> bool:
    fields = zip(size, kernel, place.stride, place.dilation, place.padding, strict=True)
    return all(isinstance(n, int) and (n + lo + hi - (k - 1) * d - 1) % s == 0 for n, k, s, d, (lo, hi) in fields)


def read_global_pool(view: View, native: Native) -> Matches:
    shape = known_shape(view, native.inputs[0])
    if shape is None or len(shape) < 3:
        return None
    return one(native, GlobalPool("avg" if native.kind == "GlobalAveragePool" else "max"))


def read_reduce(view: View, native: Native) -> Matches:
    """ReduceMean and ReduceMax over all spatial axes and no other."""
    shape = known_shape(view, native.inputs[0])
    axes = native.get("axes")
    if native.input(1):
        given = view.constant(native.input(1))
        axes = None if given is None else given.reshape(-1).tolist()
    if shape is None or len(shape) < 3 or not axes or {a % len(shape) for a in axes} != set(range(2, len(shape))):
        return None
    return one(native, GlobalPool("avg" if native.kind == "ReduceMean" else "max", bool(native.get("keepdims", 1))))


READERS: Mapping[str, Reader] = {
    "Conv": read_conv,
    "ConvTranspose": read_conv_transpose,
    "Gemm": read_gemm,
    "MatMul": read_matmul,
    "BatchNormalization": read_batch_normalization,
    "Add": read_sum,
    "Sub": read_sum,
    "Sum": read_sum,
    "Mul": read_product,
    "Div": read_product,
    "AveragePool": read_pool,
    "MaxPool": read_pool,
    "GlobalAveragePool": read_global_pool,
    "GlobalMaxPool": read_global_pool,
    "ReduceMean": read_reduce,
    "ReduceMax": read_reduce,
}
