"""Sizes and counts read off shapes: multiply-accumulates, parameters, bytes."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from decascade.algebra.conv import ConvTranspose
from decascade.ir.graph import Node, Tensor
from decascade.ir.ops import Affine, Dense
from decascade.ir.ops.traits import layer_of, weights


def sizes(tensor: Tensor) -> tuple[int, ...]:
    """The shape of one sample; a size that is not known counts as 1."""
    return tuple(n if isinstance(n, int) else 1 for n in (tensor.shape or ())[1:])


def macs(node: Node, tensors: Mapping[str, Tensor]) -> int:
    """Multiply-accumulates of one sample: convolutions and dense layers; taps on padding count, all else is 0."""
    layer = layer_of(node.op)
    if layer is None:
        return 0
    if isinstance(node.op, Dense):
        return layer.weight.size * prod(sizes(tensors[node.output])[:-1])
    # a transposed convolution multiplies every sample of its input with the whole kernel
    name = node.inputs[0] if isinstance(layer, ConvTranspose) else node.output
    return layer.weight.size * prod(sizes(tensors[name])[1:])


def parameters(node: Node) -> int:
    """Numbers that the node stores; the ones of a scale and the zeros of a shift are not stored."""
    op = node.op
    if isinstance(op, Affine):
        return (op.scale.size if np.any(op.scale != 1) else 0) + (op.shift.size if np.any(op.shift) else 0)
    return sum(array.size for array in weights(op).values())


def bytes_of(tensor: Tensor) -> int:
    """Bytes of one sample of a tensor."""
    width = 2 if tensor.dtype == "bfloat16" else np.dtype(tensor.dtype).itemsize if tensor.dtype in np.sctypeDict else 4
    return prod(sizes(tensor)) * width
