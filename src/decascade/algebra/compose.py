"""Sequential composition: one layer that does what two in sequence do (DESIGN §3).

    W[o, c, a·d2·s1 + e·d1] += Σ_m W2[o, m, a] · W1[m, c, e]        b[o] = b2[o] + Σ_{m,a} W2[o, m, a] · b1[m]

The law holds at every position whose taps stay on the intermediate map.  Where the second layer pads, it reads zeros
and the composed layer reads what the first layer would have produced there: `border.py` puts that right.
"""

from __future__ import annotations

from itertools import product
from math import gcd
from typing import overload

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.axis import Axis, compose_axis
from decascade.algebra.conv import Array, Conv, ConvTranspose, Layer
from decascade.errors import AlgebraError

Float64 = NDArray[np.float64]


@overload
def compose(second: Conv, first: Conv) -> Conv: ...
@overload
def compose(second: ConvTranspose, first: ConvTranspose) -> ConvTranspose: ...
@overload
def compose(second: Layer, first: Layer) -> Layer: ...
def compose(second: Layer, first: Layer) -> Layer:
    """The layer `second ∘ first` in float64, kernels as on an unbounded map.

    A ConvTranspose and a stride-1 Conv, in either order, give a ConvTranspose; with a strided Conv there is none.

    Raises:
        AlgebraError: channels or ranks that do not fit, a strided Conv beside a ConvTranspose, or a bias that a strided
            ConvTranspose spreads unevenly.
    """
    if second.in_channels != first.out_channels or second.rank != first.rank:
        raise AlgebraError(
            f"cannot compose: the first layer gives {first.out_channels} channels on {first.rank} axes, "
            f"the second takes {second.in_channels} on {second.rank}"
        )
    if isinstance(second, Conv) and isinstance(first, Conv):
        return _compose_conv(second, first)
    return _compose_transpose(as_transpose(second), as_transpose(first))


def _compose_conv(second: Conv, first: Conv) -> Conv:
    axes = tuple(compose_axis(b, a) for b, a in zip(second.axes, first.axes, strict=True))
    padding = tuple(
        (-axis.start, p1[1] + s1 * p2[1])
        for axis, p1, s1, p2 in zip(axes, first.padding, first.stride, second.padding, strict=True)
    )
    groups = gcd(first.groups, second.groups)
    bias = None
    if first.bias is not None or second.bias is not None:
        bias = second.bias64 + response_to_constant(second, first.bias64)
    weight = _compose_kernels(second, first, axes, groups)
    return Conv(weight, bias, [a.stride for a in axes], [a.step for a in axes], padding, groups)


def _compose_transpose(second: ConvTranspose, first: ConvTranspose) -> ConvTranspose:
    """T2∘T1 is the adjoint of C1∘C2, where C is the Conv with the same kernel array."""
    joined = _compose_conv(_adjoint(first), _adjoint(second))
    bias = None
    if first.bias is not None or second.bias is not None:
        bias = second.bias64 + _even_response(second, first.bias64)
    return ConvTranspose(joined.weight, bias, joined.stride, joined.dilation, joined.padding, joined.groups)


def _adjoint(layer: ConvTranspose) -> Conv:
    return Conv(layer.weight, None, layer.stride, layer.dilation, layer.padding, layer.groups)


def as_transpose(layer: Layer) -> ConvTranspose:
    """A stride-1 Conv as the ConvTranspose that it is: kernel flipped, crop = reach − padding.

    Raises:
        AlgebraError: a Conv with a stride above 1.
    """
    if isinstance(layer, ConvTranspose):
        return layer
    if any(s != 1 for s in layer.stride):
        raise AlgebraError(f"a convolution of stride {layer.stride} beside a transposed one is neither of the two")
    blocks = layer.weight.reshape(layer.groups, -1, *layer.weight.shape[1:]).swapaxes(1, 2)
    weight = np.flip(blocks, axis=tuple(range(3, blocks.ndim))).reshape(layer.in_channels, -1, *layer.kernel)
    crop = [(a.reach - lo, a.reach - hi) for a, (lo, hi) in zip(layer.axes, layer.padding, strict=True)]
    return ConvTranspose(weight, layer.bias, 1, layer.dilation, crop, layer.groups)


def response_to_constant(layer: Conv, values: Array) -> Float64:
    """Σ_{m,a} W[o, m, a]·values[m]: what the layer answers to a constant per channel, its own bias left out."""
    summed = layer.weight.reshape(*layer.weight.shape[:2], -1).sum(axis=2, dtype=np.float64)
    blocks = summed.reshape(layer.groups, -1, summed.shape[1])
    return (blocks @ values.astype(np.float64).reshape(layer.groups, -1, 1)).reshape(-1)


def _even_response(layer: ConvTranspose, values: Array) -> Float64:
    """What a ConvTranspose answers, far from the border, to a constant per channel: (O,), one answer for all phases of
    its stride."""
    blocks = layer.weight.astype(np.float64).reshape(layer.groups, -1, *layer.weight.shape[1:])
    terms = blocks * values.astype(np.float64).reshape(layer.groups, -1, 1, *(1,) * layer.rank)
    answer = terms.sum(axis=1).reshape(layer.out_channels, *layer.kernel)
    phases = np.zeros((layer.out_channels, *layer.stride))
    for tap in product(*map(range, layer.kernel)):
        phase = tuple(t * d % s for t, d, s in zip(tap, layer.dilation, layer.stride, strict=True))
        phases[(slice(None), *phase)] += answer[(slice(None), *tap)]
    flat = phases.reshape(layer.out_channels, -1)
    if np.ptp(flat, axis=1).max() > layer.weight.size * np.finfo(np.float64).eps * np.abs(terms).sum():
        raise AlgebraError(f"cannot compose: a transposed convolution of stride {layer.stride} spreads the bias of the layer "
                           "before it unevenly, so no bias per channel does the same")
    return flat.mean(axis=1)


def _compose_kernels(second: Conv, first: Conv, axes: tuple[Axis, ...], groups: int) -> Float64:
    """Scatter, for every tap of the second kernel, its mixture of the first kernel onto the joint lattice."""
    out = np.zeros((second.out_channels, first.in_channels // groups, *(a.taps for a in axes)))
    mix = _mixer(second, first, groups)
    for tap in product(*map(range, second.kernel)):
        place = tuple(
            _range(t * b.step * a.stride // axis.step, a.step // axis.step if a.taps > 1 else 1, a.taps)
            for t, b, a, axis in zip(tap, second.axes, first.axes, axes, strict=True)
        )
        out[(slice(None), slice(None), *place)] += mix(tap)
    return out


def _range(start: int, step: int, count: int) -> slice:
    return slice(start, start + step * (count - 1) + 1, step)


class _mixer:  # noqa: N801 - a function with its arrays prepared
    """tap → Σ_m W2[:, m, tap]·W1[m] as (O, C/groups, *k1), by the cheapest form that the groups allow."""

    def __init__(self, second: Conv, first: Conv, groups: int) -> None:
        self.shape = (second.out_channels, first.in_channels // groups, *first.kernel)
        w2, w1 = second.weight.astype(np.float64), first.weight.astype(np.float64)
        ones = (1,) * first.rank
        if w2.shape[1] == 1:  # depthwise second: every output scales one kernel of the first
            self.left = w2.reshape(second.out_channels, 1, *ones, *second.kernel)
            self.right = np.repeat(w1, second.out_channels // second.in_channels, axis=0)
            self.matmul = False
        elif w1.shape[1] == 1 and first.groups == first.out_channels:  # depthwise first: every column is scaled
            self.left = w2.reshape(second.groups, -1, w2.shape[1], *ones, *second.kernel)
            self.right = w1.reshape(second.groups, 1, w2.shape[1], *first.kernel)
            self.matmul = False
        else:
            dense2, dense1 = regroup(w2, second.groups, groups), regroup(w1, first.groups, groups)
            self.left = dense2.reshape(groups, -1, *dense2.shape[1:])
            self.right = dense1.reshape(groups, dense2.shape[1], -1)
            self.matmul = True

    def __call__(self, tap: tuple[int, ...]) -> Float64:
        column = self.left[(..., *tap)]
        return (column @ self.right if self.matmul else column * self.right).reshape(self.shape)


def regroup(weight: Array, groups: int, fewer: int) -> Array:
    """The same kernel (O, C/groups, *K) stored with `fewer` groups, zeros filled in; `fewer` divides `groups`."""
    if groups == fewer:
        return weight
    ratio, rows = groups // fewer, weight.shape[0] // groups
    out = np.zeros((fewer, ratio, rows, ratio, *weight.shape[1:]), dtype=weight.dtype)
    blocks = weight.reshape(fewer, ratio, rows, *weight.shape[1:])
    for i in range(ratio):
        out[:, i, :, i] = blocks[:, i]
    return out.reshape(weight.shape[0], ratio * weight.shape[1], *weight.shape[2:])


def most_groups(weight: Array) -> int:
    """The largest number of groups that a kernel stored without groups (O, C, *K) can have, zeros being exact."""
    out_channels, in_channels = weight.shape[:2]
    used = np.any(weight.reshape(out_channels, in_channels, -1), axis=2)
    limit = gcd(out_channels, in_channels)
    for groups in range(limit, 1, -1):
        if limit % groups:
            continue
        blocks = used.reshape(groups, out_channels // groups, groups, in_channels // groups)
        if not np.any(blocks.any(axis=(1, 3)) & ~np.eye(groups, dtype=bool)):
            return groups
    return 1


def with_groups(weight: Array, groups: int) -> Array:
    """The kernel (O, C, *K) stored with `groups` groups; what lies outside the blocks is dropped (it is zero)."""
    out_channels, in_channels = weight.shape[:2]
    blocks = weight.reshape(groups, out_channels // groups, groups, in_channels // groups, *weight.shape[2:])
    index = np.arange(groups)
    return blocks[index, :, index].reshape(out_channels, in_channels // groups, *weight.shape[2:])
