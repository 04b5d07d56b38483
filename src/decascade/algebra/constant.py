"""Bias-only borders: the kernel is exact and only the bias depends on the position.  Three exact forms of it.

A constant map; a channel of ones beside the entry, whose zero padding masks the bias; or a constant added to the entry,
so that its zero padding stands for the value that the first layer answers with zero (a padding value per channel).
"""

from __future__ import annotations

import numpy as np

from decascade.algebra.axis import Axis, join_axis
from decascade.algebra.border import Border, single_tap_maps
from decascade.algebra.compose import Float64
from decascade.algebra.conv import Conv
from decascade.algebra.parallel import add, embed
from decascade.algebra.program import backward


def bias_map(border: Border) -> Float64:
    """The bias at every output position, (O, *S); every size must be known."""
    classes = [c for c in border.axes if c is not None]
    out = np.zeros((border.program.channels[border.program.exit], *(c[-1].stop for c in classes)))
    for index in border.indices:
        place = tuple(slice(c[i].start, c[i].stop) for c, i in zip(classes, index, strict=True))
        out[(slice(None), *place)] = border.kernel(index).bias64.reshape(-1, *(1,) * len(classes))
    return out


def ones_kernel(border: Border) -> Conv | None:
    """The bias as a layer on the map that is one on the entry and zero beyond: weight (O, 1, *K), bias (O,) the part
    that does not depend on the position.  None where some padded map does not end where the entry ends.
    """
    program = border.program
    aligned = single_tap_maps(program)
    kernel, bias = None, np.zeros(program.channels[program.exit])
    for step, operator in backward(program, {}):
        if step is None or not isinstance(step.op, Conv) or not step.op.has_bias:
            continue
        if operator is None:
            bias += step.op.bias64
            continue
        answer = _constant_response(operator, step.op.bias64)
        if step.output in aligned:
            axes = aligned[step.output]
            part = _on_entry(answer, axes)
            kernel = part if kernel is None else add(kernel, part)
        elif _never_cut(border, step.output):
            bias += answer.weight.reshape(bias.size, -1).sum(axis=1)
        else:
            return None
    return None if kernel is None else Conv(kernel.weight, bias, kernel.stride, kernel.dilation, kernel.padding)


def _constant_response(layer: Conv, values: Float64) -> Conv:
    """The layer as seen by one channel that every input channel is a multiple of: (O, 1, *K)."""
    blocks = layer.weight.reshape(layer.groups, -1, *layer.weight.shape[1:])
    column = values.reshape(layer.groups, 1, -1, *(1,) * layer.rank)
    weight = (blocks * column).sum(axis=2).reshape(layer.out_channels, 1, *layer.kernel)
    return Conv(weight, None, layer.stride, layer.dilation, layer.padding)


def _on_entry(layer: Conv, axes: tuple[Axis, ...]) -> Conv:
    """A layer on a map whose sample q is the entry's sample stride·q, as a layer on the entry."""
    stride = [s * a.stride for s, a in zip(layer.stride, axes, strict=True)]
    dilation = [d * a.stride if k > 1 else 1 for d, a, k in zip(layer.dilation, axes, layer.kernel, strict=True)]
    padding = [(lo * a.stride, hi * a.stride) for (lo, hi), a in zip(layer.padding, axes, strict=True)]
    return Conv(layer.weight, None, stride, dilation, padding)


def _never_cut(border: Border, name: str) -> bool:
    """Whether every output sees all taps of a map that the unbounded kernel has, and of every map behind it.

    It is not enough that all outputs see the same taps: on a small map there can be one that every output misses.
    """
    behind = {name}
    for step in border.program.steps:
        if behind.intersection(step.inputs):
            if border.unknown and isinstance(step.op, Conv) and any(lo > 0 or hi > 0 for lo, hi in step.op.padding):
                return False
            behind.add(step.output)
    return border.unknown or all(_whole(border, n) for n in behind)


def _whole(border: Border, name: str) -> bool:
    """Whether no class misses a tap of a map."""
    taps = border.program.reach[name]
    return all(
        c.windows.get(name) in (None, (axis.start, axis.start + axis.reach))
        for axis, classes in zip(taps, border.axes, strict=False) for c in classes or ()
    )


def with_ones(kernel: Conv, ones: Conv) -> Conv:
    """The layer on the entry with a channel of ones behind its own: one ungrouped kernel (O, C + 1, *K)."""
    axes = tuple(join_axis(a, b) for a, b in zip(kernel.axes, ones.axes, strict=True))
    weight = np.concatenate([embed(kernel, axes, 1), embed(ones, axes, 1)], axis=1)
    padding = [
        (-x.start, max(p[1] + x.start + x.reach + p[0] - a.reach, 0))
        for x, a, p in zip(axes, kernel.axes, kernel.padding, strict=True)
    ]
    return Conv(weight, ones.bias, kernel.stride, [x.step for x in axes], padding)


def padding_value(kernel: Conv, ones: Conv) -> Float64 | None:
    """v (C,) with W[:, :, tap]·v = ones[:, tap] for every tap, so that the layer on x + v needs no ones channel.

    None where there is none (the first layer has more output than input channels, as a rule).
    """
    axes = tuple(join_axis(a, b) for a, b in zip(kernel.axes, ones.axes, strict=True))
    if kernel.groups == kernel.in_channels:  # every input channel for itself: a division where it meets a tap
        return _depthwise_value(kernel, embed(kernel, axes, kernel.groups), embed(ones, axes, 1))
    matrix = np.moveaxis(embed(kernel, axes, 1), 1, -1).reshape(-1, kernel.in_channels)
    target = embed(ones, axes, 1).reshape(kernel.out_channels, -1).reshape(-1)
    value: Float64 = np.asarray(np.linalg.lstsq(matrix, target, rcond=None)[0], np.float64)
    return value if _solves(matrix @ value, target, np.abs(matrix) @ np.abs(value)) else None


def _depthwise_value(kernel: Conv, weight: Float64, ones: Float64) -> Float64 | None:
    rows = weight.reshape(kernel.in_channels, -1)
    target = ones.reshape(kernel.in_channels, -1)
    norm = (rows * rows).sum(axis=1)
    value = np.divide((rows * target).sum(axis=1), norm, out=np.zeros_like(norm), where=norm > 0)
    got = rows * value[:, None]
    return value if _solves(got, target, np.abs(got)) else None


def _solves(got: Float64, target: Float64, terms: Float64) -> bool:
    """Equal up to the rounding of the sum that gave it, with room for the solver's."""
    return bool(np.all(np.abs(got - target) <= 1e-12 * (terms + np.abs(target))))
