"""The merge formula of each block's own paper, in our own words: W, b and one zero padding, whatever the border.

Kernels are (O, I, h, w).  `product` is W2∘W1 in sequence, `fold` a batch norm behind a convolution.  What the papers demand of
the padding between the layers (DBB and ECBSR pad with the bias) is not checked here: merging a block that was built
without it is the mistake that users report.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Merged = tuple[Any, Any, int, int]
"""Kernel, bias, stride, zero padding."""


def product(second: Any, first: Any) -> Any:
    """W[o, i, a + e] = Σ_m W2[o, m, a]·W1[m, i, e] (ExpandNets; DBB's transform III where the first is 1×1)."""
    return nn.functional.conv_transpose2d(second, first)


def wide(weight: Any, groups: int) -> Any:
    """A grouped kernel with the zeros between its groups written out."""
    out, inside = weight.shape[0] // groups, weight.shape[1]
    full = weight.new_zeros(weight.shape[0], inside * groups, *weight.shape[2:])
    for g in range(groups):
        full[g * out : (g + 1) * out, g * inside : (g + 1) * inside] = weight[g * out : (g + 1) * out]
    return full


def kernel(conv: Any) -> tuple[Any, Any]:
    bias = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias
    return wide(conv.weight, conv.groups), bias


def sequence(*convs: Any) -> tuple[Any, Any]:
    """Convolutions one after the other: b = b2 + Σ W2·b1."""
    weight, bias = kernel(convs[0])
    for conv in convs[1:]:
        w, b = kernel(conv)
        weight, bias = product(w, weight), b + w.sum((2, 3)) @ bias
    return weight, bias


def scale(bn: Any) -> tuple[Any, Any]:
    factor = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    return factor, bn.bias - bn.running_mean * factor


def fold(weight: Any, bias: Any, bn: Any) -> tuple[Any, Any]:
    """Transform I: W·γ/σ, (b − μ)·γ/σ + β."""
    factor, shift = scale(bn)
    return weight * factor.view(-1, 1, 1, 1), bias * factor + shift


def identity(channels: int, like: Any) -> Any:
    return torch.eye(channels, dtype=like.dtype).view(channels, channels, 1, 1)


def centred(parts: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    """Kernels padded with zeros to the largest, around their centres, and added (RepVGG, ACNet, DBB's transforms II and VI)."""
    size = [max(w.shape[a] for w, _ in parts) for a in (2, 3)]

    def padded(w: Any) -> Any:
        rows, columns = ((n - k) // 2 for n, k in zip(size, w.shape[2:], strict=True))
        return nn.functional.pad(w, (columns, columns, rows, rows))

    return sum(padded(w) for w, _ in parts), sum(b for _, b in parts)


def branches(module: Any) -> Merged:
    """RepVGG, ACNet, MobileOne, RepLKNet, DBB's multi-scale form: fold each branch, pad its kernel, add."""
    parts, stride = list[tuple[Any, Any]](), 1
    for branch in module.branches:
        if isinstance(branch, nn.BatchNorm2d):
            weight = identity(branch.num_features, branch.weight)
            parts.append(fold(weight, 0 * branch.bias, branch))
        else:
            conv, bn = branch
            parts.append(fold(*kernel(conv), bn))
            stride = conv.stride[0]
    weight, bias = centred(parts)
    return weight, bias, stride, weight.shape[2] // 2


def dbb(module: Any) -> Merged:
    """Transforms I, III, V and VI: k×k; 1×1; 1×1 → k×k; 1×1 → average, a diagonal kernel of 1/k²."""
    square, point, expand, average = module.branches
    parts = [fold(*kernel(branch[0]), branch[1]) for branch in (square, point)]
    for first, between, second, bn in (expand, average):
        inner, inner_bias = fold(*kernel(first), getattr(between, "bn", between))
        if isinstance(second, nn.AvgPool2d):
            mean = torch.eye(len(inner), dtype=inner.dtype)[:, :, None, None].expand(-1, -1, 3, 3) / 9
            outer, outer_bias = mean, 0 * inner_bias
        else:
            outer, outer_bias = kernel(second)
        parts.append(fold(product(outer, inner), outer_bias + outer.sum((2, 3)) @ inner_bias, bn))
    weight, bias = centred(parts)
    return weight, bias, square[0].stride[0], 1


def sesr(module: Any) -> Merged:
    """SESR: what the pair answers to a delta picture, which is the product; the residual as a delta kernel."""
    weight, bias = sequence(*module.body)
    return *centred([(weight, bias), (identity(len(weight), weight), 0 * bias)]), 1, 1


def ecbsr(module: Any) -> Merged:
    """ECBSR: 3×3, expand-squeeze, and 1×1 before scaled filters, whose padding is the 1×1's bias; identity."""
    plain, expand, *masked = module.body[0].branches
    parts = [kernel(plain), sequence(expand.first, expand.second)]
    for branch in masked:
        mask = wide(branch.scale * branch.mask, len(branch.mask))
        parts.append((product(mask, branch.k0), branch.bias + mask.sum((2, 3)) @ branch.b0))
    weight, bias = centred(parts)
    return *centred([(weight, bias), (identity(len(weight), weight), 0 * bias)]), 1, 1


def in_sequence(module: Any) -> Merged:
    """ExpandNets and kernels per axis: the products; paddings as the layers have them, all of one sample per tap."""
    convs = [part for part in module if isinstance(part, nn.Conv2d)]
    weight, bias = sequence(*convs)
    padding = max(max(conv.padding) for conv in convs)
    return weight, bias, max(max(conv.stride) for conv in convs), padding


def orepa(module: Any) -> Merged:
    """OREPA squeezes its branches into one kernel while it trains; what is left is the batch norm."""
    weight, bias = fold(module.kernel(), 0 * module.bn.bias, module.bn)
    return weight, bias, 1, 1


def bsconv(module: Any) -> Merged:
    """BSConv: a blueprint per output channel times its weights, W[o, i] = D[o]·P[o, i]; its norm folded."""
    *points, depthwise = (part for part in module if isinstance(part, nn.Conv2d))
    mix = points[0].weight[:, :, 0, 0]
    for point in points[1:]:
        mix = point.weight[:, :, 0, 0] @ mix
    weight, bias = depthwise.weight * mix[:, :, None, None], depthwise.bias
    return *(fold(weight, bias, module[-1]) if isinstance(module[-1], nn.BatchNorm2d) else (weight, bias)), 1, 1


def fean(module: Any) -> Merged:
    """No formula is known to us: the others' for grouped 1×1 with its rows shuffled, depthwise, 1×1, the skip as a delta."""
    first, shuffle, depthwise, last = module.body
    weight, bias = kernel(first)
    order = torch.arange(len(weight)).view(shuffle.groups, -1).T.reshape(-1)
    weight, bias = weight[order], bias[order]
    for conv in (depthwise, last):
        w, b = kernel(conv)
        weight, bias = product(w, weight), b + w.sum((2, 3)) @ bias
    return *centred([(weight, bias), (identity(len(weight), weight), 0 * bias)]), 1, 1


def mbconv(module: Any) -> Merged:
    """DepthShrinker: each batch norm folded, the three kernels multiplied, the skip as a delta."""
    body = getattr(module, "body", module)
    weight, bias, stride = None, None, 1
    for conv, bn in zip(body[::2], body[1::2], strict=True):
        w, b = kernel(conv)
        if isinstance(bn, nn.BatchNorm2d):
            w, b = fold(w, b, bn)
        weight, bias = (w, b) if weight is None else (product(w, weight), b + w.sum((2, 3)) @ bias)
        stride = max(stride, conv.stride[0])
    assert weight is not None
    parts = [(weight, bias)] if body is module else [(weight, bias), (identity(len(weight), weight), 0 * bias)]
    return *centred(parts), stride, 1


FORMULAS: dict[str, Callable[[Any], Merged]] = {
    "RepVGG": branches, "ACNet": branches, "DBB multi-scale": branches, "MobileOne": branches, "RepLKNet": branches,
    "DBB": dbb, "SESR": sesr, "ECBSR": ecbsr, "ExpandNet": in_sequence, "separable": in_sequence, "OREPA": orepa,
    "FEAN": fean, "BSConv": bsconv, "MBConv": mbconv,
}
"""By the start of the block's name, the longest that fits."""


def published(name: str, module: Any) -> Any:
    """The block as its paper merges it: an nn.Conv2d in float64."""
    formula = FORMULAS[max((key for key in FORMULAS if name.startswith(key)), key=len)]
    with torch.no_grad():
        weight, bias, stride, padding = formula(module)
        groups = len(weight) if _diagonal(weight) else 1
        if groups > 1:
            weight = weight[torch.arange(groups), torch.arange(groups)][:, None]
        conv = nn.Conv2d(weight.shape[1] * groups, len(weight), weight.shape[2:], stride, padding, groups=groups)
        conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
    return conv.eval()


def _diagonal(weight: Any) -> bool:
    """Whether the kernel is depthwise, as that of a depthwise block stays."""
    if weight.shape[0] != weight.shape[1]:
        return False
    return not weight[~torch.eye(len(weight), dtype=torch.bool)].any()
