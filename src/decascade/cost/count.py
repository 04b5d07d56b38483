"""Sizes and counts read off shapes: multiply-accumulates, parameters, bytes."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from decascade.algebra.conv import Conv, ConvTranspose
from decascade.ir.graph import Node, Tensor
from decascade.ir.ops import Activation, Affine, BiasMap, Dense


def sizes(tensor: Tensor) -> tuple[int, ...]:
    """The shape of one sample; a size that is not known counts as 1."""
    return tuple(n if isinstance(n, int) else 1 for n in (tensor.shape or ())[1:])


def macs(node: Node, tensors: Mapping[str, Tensor]) -> int:
    """Multiply-accumulates of one sample: convolutions and dense layers; taps on padding count, all else is 0."""
    if isinstance(node.op, Conv):
        return node.op.weight.size * prod(sizes(tensors[node.output])[1:])
    if isinstance(node.op, ConvTranspose):
        return node.op.weight.size * prod(sizes(tensors[node.inputs[0]])[1:])
    if isinstance(node.op, Dense):
        return node.op.layer.weight.size * prod(sizes(tensors[node.output])[:-1])
    return 0


def parameters(node: Node) -> int:
    """Numbers that the node stores; the ones of a scale and the zeros of a shift are not stored."""
    op = node.op
    if isinstance(op, (Conv, ConvTranspose)):
        return op.parameters
    if isinstance(op, Dense):
        return op.layer.parameters
    if isinstance(op, Affine):
        return (op.scale.size if np.any(op.scale != 1) else 0) + (op.shift.size if np.any(op.shift) else 0)
    if isinstance(op, BiasMap):
        return op.values.size
    return op.slope.size if isinstance(op, Activation) and op.slope is not None else 0


def bytes_of(tensor: Tensor) -> int:
    """Bytes of one sample of a tensor."""
    width = 2 if tensor.dtype == "bfloat16" else np.dtype(tensor.dtype).itemsize if tensor.dtype in np.sctypeDict else 4
    return prod(sizes(tensor)) * width
