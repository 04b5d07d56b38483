"""The kernels that a replacement stores: composed for real, or only sketched (right shape, no numbers) to be costed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, combinations
from typing import Protocol

import numpy as np

from decascade.algebra.axis import Axis
from decascade.algebra.border import AxisClass, Border
from decascade.algebra.compose import Float64, regroup
from decascade.algebra.constant import Ones, bias_map, ones_kernel, padding_value, with_ones
from decascade.algebra.conv import Conv
from decascade.algebra.frame import Frame, ones_frame
from decascade.algebra.parallel import add, negate
from decascade.algebra.program import Window, crop, pull_back, taps_within

FREE = (-(1 << 40), 1 << 40)


class Kernels(Protocol):
    """What the forms ask for; `index` is a border class per axis."""

    @property
    def border(self) -> Border: ...
    def whole(self) -> Conv: ...
    def tile(self, index: tuple[int, ...]) -> Conv: ...
    def strip(self, index: tuple[int | None, ...]) -> Conv: ...
    def frame(self) -> Frame | None: ...
    def shift(self) -> tuple[Float64, Conv] | None: ...
    def ones(self) -> Conv | None: ...
    def map(self) -> tuple[Conv, Float64]: ...


@dataclass(frozen=True, eq=False)
class Composed:
    """The real kernels, in float64."""

    border: Border
    _bounded: dict[tuple[int | None, ...], Conv] = field(default_factory=dict[tuple[int | None, ...], Conv], repr=False)

    def whole(self) -> Conv:
        """The one kernel of a free border."""
        kernel = self._whole
        return self.border.visible(kernel, (0,) * len(self.border.axes)) if self.border.single else kernel

    @cached_property
    def _whole(self) -> Conv:
        return self.border.whole

    @cached_property
    def _ones(self) -> Ones | None:
        return ones_kernel(self.border)

    def frame(self) -> Frame | None:
        return None if self._ones is None else self._ones.frame

    def tile(self, index: tuple[int, ...]) -> Conv:
        return self.border.visible(self.border.kernel(index), index)

    def strip(self, index: tuple[int | None, ...]) -> Conv:
        """What to add to the unbounded kernel in one border class: Σ over subsets of its axes, signs alternating,
        of the kernel that is bounded on those axes only.  None in `index`: the axis is not at a border."""
        axes = [a for a, i in enumerate(index) if i is not None]
        subsets = chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1))
        total: Conv | None = None
        for subset in subsets:
            picked = tuple(i if a in subset else None for a, i in enumerate(index))
            kernel = self._partly_bounded(picked)
            term = kernel if (len(axes) - len(subset)) % 2 == 0 else negate(kernel)
            total = term if total is None else add(total, term)
        assert total is not None
        scale = float(np.abs(self._whole.weight).max())
        seen = crop(total, outside_of(self.border, index)) or no_taps(total)
        bias = seen.bias if corrects_bias(self.border, index) else None
        return trim(Conv(seen.weight, bias, seen.stride, seen.dilation, seen.padding, seen.groups),
                    64 * np.finfo(np.float64).eps * scale)

    def _partly_bounded(self, index: tuple[int | None, ...]) -> Conv:
        if index not in self._bounded:
            self._bounded[index] = pull_back(self.border.program, windows_of(self.border, index))
        return self._bounded[index]

    def shift(self) -> tuple[Float64, Conv] | None:
        return self._shift

    @cached_property
    def _shift(self) -> tuple[Float64, Conv] | None:
        ones = self._ones
        value = None if ones is None else padding_value(self._whole, ones.layer)
        if ones is None or value is None:
            return None
        kernel = self._whole
        return value, Conv(kernel.weight, ones.layer.bias, kernel.stride, kernel.dilation, kernel.padding, kernel.groups)

    def ones(self) -> Conv | None:
        return None if self._ones is None else with_ones(self._whole, self._ones.layer)

    def map(self) -> tuple[Conv, Float64]:
        kernel = self._whole
        return Conv(kernel.weight, None, kernel.stride, kernel.dilation, kernel.padding, kernel.groups), bias_map(self.border)


@dataclass(frozen=True, eq=False)
class Sketched:
    """Kernels of the right shape with no numbers in them: nothing is computed and nothing is stored."""

    border: Border

    def _conv(self, axes: tuple[Axis, ...], inputs: int | None = None, bias: bool | None = None) -> Conv:
        program = self.border.program
        out, channels = program.channels[program.exit], inputs or program.channels[program.entry]
        groups = program.groups if inputs is None and out % program.groups == 0 else 1
        weight = np.broadcast_to(np.float32(0), (out, channels // groups, *(a.taps for a in axes)))
        has_bias = program.has_constant[program.exit] if bias is None else bias
        stored = np.broadcast_to(np.float32(1), (out,)) if has_bias else None
        return Conv(weight, stored, [a.stride for a in axes], [a.step for a in axes], [(-a.start, 0) for a in axes], groups)

    @property
    def _axes(self) -> tuple[Axis, ...]:
        return self.border.program.reach[self.border.program.entry]

    def _within(self, windows: Window) -> tuple[Axis, ...]:
        """The taps of the entry inside a window per axis; one tap where there is none."""
        axes = list[Axis]()
        for axis, window in zip(self._axes, windows, strict=True):
            first, last = taps_within(axis, *window)
            inside = Axis(last - first + 1, axis.stride, axis.step, axis.start + first * axis.step)
            axes.append(inside if first <= last else Axis(1, axis.stride))
        return tuple(axes)

    def whole(self) -> Conv:
        return self.tile((0,) * len(self.border.axes)) if self.border.single else self._conv(self._axes)

    def tile(self, index: tuple[int, ...]) -> Conv:
        picked = zip(self.border.axes, index, strict=True)
        return self._conv(self._within(tuple(FREE if c is None else c[i].entry for c, i in picked)))

    def strip(self, index: tuple[int | None, ...]) -> Conv:
        return self._conv(self._within(outside_of(self.border, index)), bias=corrects_bias(self.border, index))

    @cached_property
    def _frame(self) -> Frame | None:
        return ones_frame(self.border)

    def frame(self) -> Frame | None:
        return self._frame

    def shift(self) -> tuple[Float64, Conv] | None:
        channels = self.border.program.channels[self.border.program.entry]
        return np.broadcast_to(np.float64(1), (channels,)), self._conv(self._axes)

    def ones(self) -> Conv | None:
        return self._conv(self._axes, self.border.program.channels[self.border.program.entry] + 1)

    def map(self) -> tuple[Conv, Float64]:
        program = self.border.program
        size = tuple(c[-1].stop if c else 1 for c in self.border.axes)
        return self._conv(self._axes, bias=False), np.broadcast_to(np.float64(1), (program.channels[program.exit], *size))


def outside_of(border: Border, index: tuple[int | None, ...]) -> Window:
    """Per axis the entry taps that a correction reads: those behind the maps' ends, or all on a free axis."""
    picked = zip(border.axes, index, strict=True)
    return tuple(FREE if i is None or c is None else c[i].outside or (1, 0) for c, i in picked)


def cut_maps(border: Border, axis: int, index: int) -> list[str]:
    """The maps of which a class sees less along an axis than the unbounded kernel does."""
    reach, cls = border.program.reach, (border.axes[axis] or ())[index]
    return [name for name, window in cls.windows.items()
            if reach[name] and window != (reach[name][axis].start, reach[name][axis].start + reach[name][axis].reach)]


def corrects_bias(border: Border, index: tuple[int | None, ...]) -> bool:
    """Whether a correction may have a bias: a constant reaches some cut map on every axis that it is for."""
    return all(any(border.program.has_constant[name] for name in cut_maps(border, axis, i))
               for axis, i in enumerate(index) if i is not None)


def no_taps(layer: Conv) -> Conv:
    """The layer that answers its bias alone."""
    weight = np.zeros((*layer.weight.shape[:2], *(1,) * layer.rank))
    return Conv(weight, layer.bias, layer.stride, 1, 0, layer.groups)


def windows_of(border: Border, index: tuple[int | None, ...]) -> Mapping[str, Window]:
    """Per map of the program, what the class sees of it; None in `index` leaves the axis unbounded."""
    picked: list[AxisClass | None] = [
        None if c is None or i is None else c[i] for c, i in zip(border.axes, index, strict=True)
    ]
    names = {name for c in picked if c is not None for name in c.windows}
    return {
        name: tuple(FREE if c is None else c.windows.get(name, FREE) for c in picked)
        for name in names
        if border.program.size[name]
    }


def trim(layer: Conv, negligible: float) -> Conv:
    """The layer without outer taps whose numbers are all at most `negligible` (rounding of an exact zero)."""
    used = np.abs(layer.weight).max(axis=(0, 1)) > negligible
    if not used.any():
        return no_taps(layer)
    window = list[tuple[int, int]]()
    for a, axis in enumerate(layer.axes):
        at = np.flatnonzero(used.any(axis=tuple(i for i in range(layer.rank) if i != a)))
        window.append((axis.start + int(at[0]) * axis.step, axis.start + int(at[-1]) * axis.step))
    cut = crop(layer, tuple(window))
    assert cut is not None
    return Conv(np.where(np.abs(cut.weight) > negligible, cut.weight, 0.0), cut.bias, cut.stride, cut.dilation, cut.padding,
                cut.groups)


def dense_rows(layer: Conv, channels_last: bool, size: tuple[int, ...]) -> Conv:
    """A kernel that covers a whole map, as a dense layer behind a flatten."""
    weight = regroup(layer.weight, layer.groups, 1)
    if channels_last:
        weight = np.moveaxis(weight, 1, -1)
    return Conv(weight.reshape(layer.out_channels, layer.in_channels * int(np.prod(size))), layer.bias)
