"""Parallel composition: branches that are summed, stacked, split or permuted, as one kernel."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import numpy as np
from numpy.typing import ArrayLike, NDArray

from decascade.algebra.axis import Axis, join_axis
from decascade.algebra.compose import Float64, regroup
from decascade.algebra.conv import Array, Conv, Pads
from decascade.errors import AlgebraError


def add(*branches: Conv) -> Conv:
    """The layer x ↦ Σ branch(x): kernels aligned on their offsets, biases summed.

    Raises:
        AlgebraError: branches that differ in channels, rank or stride.
    """
    total = branches[0]
    for branch in branches[1:]:
        total = _add(total, branch)
    return total


def _add(a: Conv, b: Conv) -> Conv:
    if (a.out_channels, a.rank) != (b.out_channels, b.rank):
        raise AlgebraError(f"cannot add branches of {a.out_channels} and {b.out_channels} output channels")
    axes, padding, groups = _aligned(a, b)
    weight = embed(a, axes, groups) + embed(b, axes, groups)
    bias = None if a.bias is None and b.bias is None else a.bias64 + b.bias64
    return Conv(weight, bias, a.stride, [x.step for x in axes], padding, groups)


def stack(*branches: Conv) -> Conv:
    """The layer x ↦ concat(branch(x), …) along the channels.  The branches read the same input.

    Raises:
        AlgebraError: branches that differ in input channels, rank or stride.
    """
    first, *rest = branches
    axes, padding = first.axes, first.padding
    for branch in rest:
        aligned = _aligned(Conv(np.zeros((1, first.in_channels, *(x.taps for x in axes))), None, first.stride,
                                [x.step for x in axes], padding), branch)
        axes, padding = aligned[0], aligned[1]
    weight = np.concatenate([embed(branch, axes, 1) for branch in branches])
    bias = None if all(b.bias is None for b in branches) else np.concatenate([b.bias64 for b in branches])
    return Conv(weight, bias, first.stride, [x.step for x in axes], padding)


def split(layer: Conv, sizes: Sequence[int]) -> tuple[Conv, ...]:
    """The layers that give the consecutive parts of the output channels.

    Raises:
        AlgebraError: sizes that do not sum to the output channels.
    """
    if sum(sizes) != layer.out_channels:
        raise AlgebraError(f"parts {tuple(sizes)} of {layer.out_channels} output channels: the sizes must sum to them")
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(pick_outputs(layer, np.arange(at, at + size)) for at, size in zip(starts, sizes, strict=True))


def pick_outputs(layer: Conv, indices: ArrayLike) -> Conv:
    """The layer x ↦ layer(x)[:, indices]."""
    chosen = np.asarray(indices)
    weight = regroup(layer.weight, layer.groups, 1)[chosen]
    return Conv(weight, None if layer.bias is None else layer.bias[chosen], layer.stride, layer.dilation, layer.padding)


def pick_inputs(layer: Conv, indices: ArrayLike, channels: int) -> Conv:
    """The layer x ↦ layer(x[:, indices]) on an x of `channels` channels."""
    weight = regroup(layer.weight, layer.groups, 1)
    out = np.zeros((weight.shape[0], channels, *weight.shape[2:]))
    for column, channel in enumerate(np.asarray(indices, np.int64).tolist()):  # a channel may be picked twice
        out[:, channel] += weight[:, column]
    return Conv(out, layer.bias, layer.stride, layer.dilation, layer.padding)


def negate(layer: Conv) -> Conv:
    """The layer x ↦ −layer(x)."""
    return Conv(-layer.weight, None if layer.bias is None else -layer.bias, layer.stride, layer.dilation, layer.padding,
                layer.groups)


def embed(layer: Conv, axes: tuple[Axis, ...], groups: int) -> Float64:
    """The kernel on the wider lattice `axes`, with `groups` groups (which divide the layer's own)."""
    weight: Array = regroup(layer.weight, layer.groups, groups)
    out: NDArray[np.float64] = np.zeros((*weight.shape[:2], *(a.taps for a in axes)))
    place = tuple(
        slice((a.start - x.start) // x.step, (a.start - x.start + a.reach) // x.step + 1, a.step // x.step if a.taps > 1 else 1)
        for a, x in zip(layer.axes, axes, strict=True)
    )
    out[(slice(None), slice(None), *place)] = weight
    return out


def _aligned(a: Conv, b: Conv) -> tuple[tuple[Axis, ...], Pads, int]:
    if a.in_channels != b.in_channels or a.rank != b.rank or a.stride != b.stride:
        raise AlgebraError(
            f"branches do not fit: {a.in_channels} and {b.in_channels} input channels, strides {a.stride} and {b.stride}"
        )
    axes = tuple(join_axis(x, y) for x, y in zip(a.axes, b.axes, strict=True))
    padding = tuple(
        (-joint.start, joint.reach + joint.start + min(p[1] - x.reach + p[0], q[1] - y.reach + q[0]))
        for joint, x, p, y, q in zip(axes, a.axes, a.padding, b.axes, b.padding, strict=True)
    )
    return axes, padding, gcd(a.groups, b.groups)
