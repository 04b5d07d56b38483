"""Kernels that are smaller than the array that stores them: rings of zeros, blocks, diagonals, identities.

Rules, in order:
    zero ring        planes of zeros at an end of a kernel axis are cut off, the padding with them; taps that lie on a coarser
                     lattice become a dilation
    blocks           a kernel that is block-diagonal in its channels becomes a grouped one, a diagonal one depthwise
    identity         a depthwise 1×1 convolution by ones goes
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv, Pads
from decascade.ir.graph import Node
from decascade.ir.ops import Dense, Identity, Op, Pad


@dataclass(frozen=True, eq=False)
class Smaller:
    """Operations in sequence that do the job of one, and why they can."""

    ops: tuple[Op, ...]
    words: str


def smaller(node: Node) -> Smaller | None:
    """The cheaper operations that a convolution really is, None where it is what it says."""
    op = node.op
    if node.pinned or not isinstance(op, (Conv, Dense)):
        return None
    layer, words, crops = op.layer if isinstance(op, Dense) else op, list[str](), list[Op]()
    if isinstance(op, Conv) and (cropped := _cropped(op)) is not None:
        words.append(f"{_by(op.kernel)} → {_by(cropped[0].kernel)}: the rest of its kernel is zero")
        layer, outside = cropped
        crops = [Pad(outside)] if any(map(any, outside)) else []
    if isinstance(op, Conv) and (groups := blocks(layer)) > layer.groups:
        words.append(f"{groups} groups: its kernel is block-diagonal")
        layer = _grouped(layer, groups)
    if isinstance(op, Conv) and _is_identity(layer):
        return Smaller((*crops, Identity()), "it is the identity")
    return Smaller((*crops, layer), "; ".join(words)) if words else None


def _by(kernel: tuple[int, ...]) -> str:
    return "x".join(map(str, kernel))


def _cropped(op: Conv) -> tuple[Conv, Pads] | None:
    """The convolution without planes of zeros, and what has to be cut off before it where it is not padded enough."""
    if not op.rank or not np.any(op.weight):
        return None
    weight, dilation, padding, outside = op.weight, list(op.dilation), list(op.padding), [(0, 0)] * op.rank
    for axis in range(op.rank):
        used = np.flatnonzero(np.any(np.moveaxis(weight, 2 + axis, 0) != 0, axis=tuple(range(1, weight.ndim))))
        first, last = int(used[0]), int(used[-1])
        step = gcd(*(int(u) - first for u in used[1:])) if len(used) > 1 else 1
        taps = np.arange(first, last + 1, step)
        if len(taps) == weight.shape[2 + axis]:
            continue
        cut = [p - n * op.dilation[axis] for p, n in zip(op.padding[axis], (first, op.kernel[axis] - 1 - last), strict=True)]
        weight, dilation[axis] = np.take(weight, taps, axis=2 + axis), op.dilation[axis] * step if len(taps) > 1 else 1
        padding[axis] = (max(cut[0], 0), max(cut[1], 0))
        outside[axis] = (min(cut[0], 0), min(cut[1], 0))
    if weight is op.weight:
        return None
    return Conv(weight, op.bias, op.stride, dilation, padding, op.groups), tuple(outside)


def blocks(layer: Conv) -> int:
    """The largest number of groups under which the layer computes the same."""
    reads = np.any(layer.weight != 0, axis=tuple(range(2, layer.weight.ndim)))      # (O, I/g)
    best = layer.groups
    per = gcd(layer.out_channels // layer.groups, layer.weight.shape[1])
    for factor in range(2, per + 1):
        if per % factor == 0 and _is_blocked(reads, layer.groups, factor):
            best = layer.groups * factor
    return best


def _is_blocked(reads: NDArray[np.bool_], groups: int, factor: int) -> bool:
    rows, columns = reads.shape[0] // groups, reads.shape[1]
    row = np.array([i % rows // (rows // factor) for i in range(reads.shape[0])], np.int64)
    column = np.array([i // (columns // factor) for i in range(columns)], np.int64)
    return not np.any(reads & (row[:, None] != column[None, :]))


def _grouped(layer: Conv, groups: int) -> Conv:
    factor = groups // layer.groups
    width, rows = layer.weight.shape[1] // factor, layer.out_channels // layer.groups
    blocks_of = [i % rows // (rows // factor) for i in range(layer.out_channels)]
    weight = np.stack([layer.weight[i, b * width : (b + 1) * width] for i, b in enumerate(blocks_of)])
    return Conv(weight, layer.bias, layer.stride, layer.dilation, layer.padding, groups)


def _is_identity(layer: Conv) -> bool:
    if not layer.rank or not layer.groups == layer.in_channels == layer.out_channels or any(k != 1 for k in layer.kernel):
        return False
    moves = any(s != 1 for s in layer.stride) or any(map(any, layer.padding))
    return not moves and bool(np.all(layer.weight == 1)) and not layer.has_bias
