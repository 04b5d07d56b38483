"""Bias-only borders: the kernel is exact and only the bias depends on the position.  Three exact forms of it.

A constant map; a channel of ones beside the entry, whose zero padding masks the bias; or a constant added to the entry,
so that its zero padding stands for the value that the first layer answers with zero (a padding value per channel).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from decascade.algebra.axis import Axis, compose_axis, join_axis
from decascade.algebra.border import Border
from decascade.algebra.compose import Float64, response_to_constant
from decascade.algebra.conv import Conv
from decascade.algebra.frame import Frame, all_seen, ones_frame
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


@dataclass(frozen=True, eq=False)
class Ones:
    """A bias as a layer (O, 1, *K) on a map of ones, with the part (O,) that does not depend on the position.

    `frame`: how far per axis (before, after) the ones reach beyond the entry; beyond them come zeros.
    """

    layer: Conv
    frame: Frame


def ones_kernel(border: Border) -> Ones | None:
    """The bias of a bias-only border by a channel of ones that ends where the biased maps end.

    None where no bias is cut, or where no one frame ends where every such map ends.
    """
    program = border.program
    frame = ones_frame(border)
    if frame is None:
        return None
    parts, bias = list[Conv](), np.zeros(program.channels[program.exit])
    for step, operator in backward(program, {}):
        if step is None or not isinstance(step.op, Conv) or not step.op.has_bias:
            continue
        if operator is None or all_seen(border, step.output):
            bias += step.op.bias64 if operator is None else response_to_constant(operator, step.op.bias64)
            continue
        part = _on_entry(_constant_response(operator, step.op.bias64), border, step.output, frame)
        if part is None:
            return None
        parts.append(part)
    if not parts:
        return None
    kernel = add(*parts)
    return Ones(Conv(kernel.weight, bias, kernel.stride, kernel.dilation, kernel.padding), frame)


def _constant_response(layer: Conv, values: Float64) -> Conv:
    """The layer as seen by one channel that every input channel is a multiple of: (O, 1, *K)."""
    blocks = layer.weight.reshape(layer.groups, -1, *layer.weight.shape[1:])
    column = values.reshape(layer.groups, 1, -1, *(1,) * layer.rank)
    weight = (blocks * column).sum(axis=2).reshape(layer.out_channels, 1, *layer.kernel)
    return Conv(weight, None, layer.stride, layer.dilation, layer.padding)


def _on_entry(layer: Conv, border: Border, name: str, frame: Frame) -> Conv | None:
    """A layer on a map of ones as a layer on the entry's ones, which begin and end with it.

    Along an axis on which every output sees all its taps they are summed, at a tap of the entry that every output sees;
    None where there is no such tap.
    """
    weight, axes = layer.weight, list[Axis]()
    for a, (taps, (before, _)) in enumerate(zip(layer.axes, frame, strict=True)):
        stride = border.program.reach[border.program.entry][a].stride
        if not all_seen(border, name, a):
            axes.append(compose_axis(taps, Axis(1, stride // taps.stride, 1, -before)))
            continue
        at = _tap_seen_by_all(border, a, frame)
        if at is None:
            return None
        weight = weight.sum(axis=2 + a, keepdims=True)
        axes.append(Axis(1, stride, 1, at))
    return Conv(weight, None, [x.stride for x in axes], [x.step for x in axes], [(-x.start, 0) for x in axes])


def _tap_seen_by_all(border: Border, axis: int, frame: Frame) -> int | None:
    """A tap of the composed kernel that meets the ones at every output."""
    program = border.program
    taps, (before, after) = program.reach[program.entry][axis], frame[axis]
    size, positions = program.size[program.entry][axis], (program.size[program.exit] or (1,) * program.rank)[axis]
    if size is None or positions is None:  # the last window ends at most at the padding
        last = taps.start + taps.reach - border.whole.padding[axis][1]
    else:
        last = size + after - 1 - taps.stride * (positions - 1)
    return next((t for t in range(taps.start, taps.start + taps.reach + 1, taps.step) if -before <= t <= last), None)


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
