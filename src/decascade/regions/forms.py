"""The forms in which a linear region can be written down again, as nodes of the graph (DESIGN §3, Borders).

    conv     one convolution: the border is free
    shift    a constant added to the entry, then one convolution: bias-only borders
    ones     a channel of ones beside the entry, then one convolution: bias-only borders
    map      one convolution plus a constant map: bias-only borders, known size
    tiles    one convolution per border class, concatenated: ring borders, known size
    strips   one convolution plus thin corrections along the edges: ring borders, known size
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from decascade.algebra.axis import Axis
from decascade.algebra.conv import Conv
from decascade.algebra.frame import Frame
from decascade.algebra.program import Scale
from decascade.ir.graph import Dim, Graph, Node, Shape, Tensor
from decascade.ir.names import Names
from decascade.ir.ops import Add, Affine, BiasMap, Concat, Dense, Flatten, Identity, Op, Pad, Slice
from decascade.regions.kernels import Kernels, corrects_bias, cut_maps, dense_rows, no_taps, outside_of


@dataclass
class Builder:
    """Collects the nodes of one replacement between two tensors; `names` gives them names that start with `label`."""

    graph: Graph
    entry: str
    exit: str
    label: str
    names: Names
    nodes: list[Node] = field(default_factory=list[Node])
    tensors: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def size(self) -> tuple[int, ...] | None:
        return self.graph.spatial(self.entry)

    def add(self, op: Op, inputs: Sequence[str], shape: Shape, role: str = "", last: bool = False) -> str:
        """Append a node; `last`: it writes the exit."""
        name = self.names.node(f"{self.label}{role}")
        if last:
            output = self.exit
        else:
            output = self.names.tensor(f"{name}/out")
            self.tensors[output] = Tensor(output, shape, self.graph.tensors[self.exit].dtype)
        self.nodes.append(Node(name, op, tuple(inputs), (output,)))
        return output

    @property
    def exit_shape(self) -> Shape:
        return self.graph.shape(self.exit) or ()

    @property
    def batch(self) -> Dim:
        return self.exit_shape[0]


def write_form(form: str, kernels: Kernels, builder: Builder) -> bool:
    """Append the nodes of a form; False where the region has no such form."""
    return {"conv": _conv, "shift": _shift, "ones": _ones, "map": _map, "tiles": _tiles, "strips": _strips}[form](
        kernels, builder
    )


def _conv(kernels: Kernels, builder: Builder) -> bool:
    if not kernels.border.axes:
        builder.add(Dense(kernels.whole()), [builder.entry], (), last=True)
        return True
    kernel = kernels.whole()
    if len(builder.exit_shape) == 2:
        _to_vector(kernel, builder)
    else:
        _convolve(kernel, builder, builder.entry, last=True)
    return True


def _to_vector(kernel: Conv, builder: Builder) -> None:
    """One output position: a dense layer on the flattened map where the kernel covers it, else convolution, flatten."""
    size, out = builder.size or (), kernel.out_channels
    channels = kernel.in_channels
    if kernel.kernel == size and not any(a.start for a in kernel.axes):
        flat = builder.add(Flatten(), [builder.entry], (builder.batch, channels * int(np.prod(size))), "/flatten")
        builder.add(Dense(dense_rows(kernel, False, size)), [flat], (), last=True)
        return
    pads = [(-a.start, a.start + a.reach + 1 - n) for a, n in zip(kernel.axes, size, strict=True)]
    conv = Conv(kernel.weight, kernel.bias, 1, kernel.dilation, pads, kernel.groups)
    point = builder.add(conv, [builder.entry], (builder.batch, out, *(1,) * len(size)), "/conv")
    builder.add(Flatten(), [point], (), last=True)


def _convolve(kernel: Conv, builder: Builder, source: str, role: str = "", last: bool = False, frame: Frame = ()) -> str:
    """The kernel over the whole exit, padded so that its size comes out right; `frame`: what the source is padded by."""
    shape = (builder.batch, kernel.out_channels, *builder.exit_shape[2:])
    kernel = _padded(kernel, builder)
    if any(map(any, frame)):
        padding = [(lo - before, hi - after) for (lo, hi), (before, after) in zip(kernel.padding, frame, strict=True)]
        kernel = Conv(kernel.weight, kernel.bias, kernel.stride, kernel.dilation, padding, kernel.groups)
    if _is_scale(kernel):
        return builder.add(Affine(kernel.weight.reshape(-1), kernel.bias64), [source], shape, role, last)
    return builder.add(kernel, [source], shape, role, last)


def _is_scale(kernel: Conv) -> bool:
    point = all(k == 1 and s == 1 and p == (0, 0)
                for k, s, p in zip(kernel.kernel, kernel.stride, kernel.padding, strict=True))
    return point and kernel.groups == kernel.in_channels == kernel.out_channels > 0 and bool(kernel.rank)


def _padded(kernel: Conv, builder: Builder) -> Conv:
    """The kernel with the padding after the last sample that gives the exit's size.  A stride leaves a choice: that of the
    composed layers if it can be, which is right at every size; else symmetric, else none."""
    padding = list[tuple[int, int]]()
    for a, axis in enumerate(kernel.axes):
        lo, hi = -axis.start, kernel.padding[a][1]
        n, out = (builder.graph.shape(name)[2 + a] for name in (builder.entry, builder.exit))  # type: ignore[index]
        if isinstance(n, int) and isinstance(out, int):
            hi = _after(axis, lo, n, out, hi)
        padding.append((lo, hi))
    return Conv(kernel.weight, kernel.bias, kernel.stride, kernel.dilation, padding, kernel.groups)


def _after(axis: Axis, before: int, size: int, positions: int, wanted: int | None = None) -> int:
    """The padding after the last sample that gives so many positions; a stride leaves a choice."""
    least = (positions - 1) * axis.stride + axis.reach + 1 - size - before
    most = least + axis.stride - 1
    if wanted is not None and least <= wanted <= most:
        return wanted
    if least <= before <= most:
        return before
    return 0 if least <= 0 <= most else least if least > 0 else most


def _shift(kernels: Kernels, builder: Builder) -> bool:
    frame = kernels.frame()
    found = None if frame is None else kernels.shift()
    if frame is None or found is None:
        return False
    value, kernel = found
    source, shape = _framed(builder, frame)
    shifted = builder.add(Affine(np.ones(value.size), value), [source], shape, "/padding_value")
    _convolve(kernel, builder, shifted, last=True, frame=frame)
    return True


def _ones(kernels: Kernels, builder: Builder) -> bool:
    frame = kernels.frame()
    kernel = None if frame is None else kernels.ones()
    if frame is None or kernel is None:
        return False
    source, stated = _framed(builder, frame)
    shape = (*stated[:1], kernel.in_channels, *stated[2:])
    pads = ((0, 0),) * kernel.rank
    wide = builder.add(Pad(pads, 1.0, (0, 1)), [source], shape, "/ones_channel")
    _convolve(kernel, builder, wide, last=True, frame=frame)
    return True


def _framed(builder: Builder, frame: Frame) -> tuple[str, tuple[Dim, ...]]:
    """The entry within a frame of zeros, and its shape."""
    stated = builder.graph.shape(builder.entry) or ()
    if not any(map(any, frame)):
        return builder.entry, stated
    sizes = (n + sum(more) if isinstance(n, int) else n for n, more in zip(stated[2:], frame, strict=True))
    shape = (*stated[:2], *sizes)
    return builder.add(Pad(frame), [builder.entry], shape, "/frame"), shape


def _map(kernels: Kernels, builder: Builder) -> bool:
    if kernels.border.unknown:
        return False
    kernel, values = kernels.map()
    out = _convolve(kernel, builder, builder.entry, "/conv")
    builder.add(BiasMap(values), [out], (), last=True)
    return True


def _tiles(kernels: Kernels, builder: Builder) -> bool:
    """Along each axis in turn: cut the entry to what a class sees, go on with the next axis, concatenate."""
    if kernels.border.unknown:
        return False
    _tile_axis(kernels, builder, builder.entry, (), ())
    return True


def _tile_axis(kernels: Kernels, builder: Builder, source: str, index: tuple[int, ...], cut: tuple[int, ...]) -> str:
    axis, classes = len(index), kernels.border.axes
    if axis == len(classes):
        return _tile(kernels, builder, source, index, cut)
    here = classes[axis] or ()
    parts = list[str]()
    for i in range(len(here)):
        start, stop = _span(kernels, axis, i, (builder.size or ())[axis])
        piece = _slice(builder, source, axis, start, stop, f"/in_{'_'.join(map(str, (*index, i)))}")
        parts.append(_tile_axis(kernels, builder, piece, (*index, i), (*cut, start)))
    if len(parts) == 1:
        return parts[0]
    shape = list(builder.tensors[parts[0]].shape or ())
    shape[2 + axis] = max(c.stop for c in here)
    role = f"/join_{'_'.join(map(str, index))}" if index else "/join"
    return builder.add(Concat(2 + axis), parts, tuple(shape), role, last=not any(
        len(c or ()) > 1 for c in classes[:axis]))


def _span(kernels: Kernels, axis: int, index: int, size: int) -> tuple[int, int]:
    """The samples of the entry that a class sees along one axis; at least one."""
    cls = (kernels.border.axes[axis] or ())[index]
    stride = kernels.border.program.reach[kernels.border.program.entry][axis].stride
    start, stop = cls.entry[0] + stride * cls.start, cls.entry[1] + stride * (cls.stop - 1) + 1
    start = min(max(start, 0), size - 1)
    return start, max(min(stop, size), start + 1)


def _slice(builder: Builder, source: str, axis: int, start: int, stop: int, role: str) -> str:
    tensor = builder.tensors.get(source) or builder.graph.tensors[source]
    shape = list(tensor.shape or ())
    if (start, stop) == (0, shape[2 + axis]):
        return source
    shape[2 + axis] = stop - start
    return builder.add(Slice(2 + axis, start, stop), [source], tuple(shape), role)


def _tile(kernels: Kernels, builder: Builder, source: str, index: tuple[int, ...], cut: tuple[int, ...]) -> str:
    picked = [(c or ())[i] for c, i in zip(kernels.border.axes, index, strict=True)]
    size = (builder.tensors.get(source) or builder.graph.tensors[source]).shape or ()
    conv = _placed(kernels.tile(index), [(c.start, c.stop) for c in picked], cut, [int(n) for n in size[2:]])
    shape = (builder.batch, conv.out_channels, *(c.positions for c in picked))
    alone = all(len(c or ()) == 1 for c in kernels.border.axes)
    return builder.add(conv, [source], shape, f"/class_{'_'.join(map(str, index))}", last=alone)


def _placed(kernel: Conv, ranges: Sequence[tuple[int, int]], cut: Sequence[int], size: Sequence[int]) -> Conv:
    """The kernel for output positions `ranges` on a piece of the entry that starts at `cut`.

    A kernel none of whose taps meets the piece answers its bias alone.
    """
    fields = list(zip(kernel.axes, ranges, cut, size, strict=True))
    if any(a.last(stop - 1) < at or a.first(start) >= at + n for a, (start, stop), at, n in fields):
        kernel = no_taps(kernel)
        fields = list(zip(kernel.axes, ((0, stop - start) for start, stop in ranges), (0 for _ in cut), size, strict=True))
    firsts = [axis.first(start) - at for axis, (start, _), at, _ in fields]
    padding = [(-first, _after(axis, -first, n, stop - start))
               for first, (axis, (start, stop), _, n) in zip(firsts, fields, strict=True)]
    return Conv(kernel.weight, kernel.bias, kernel.stride, kernel.dilation, padding, kernel.groups)


def _strips(kernels: Kernels, builder: Builder) -> bool:
    """The unbounded kernel everywhere, then per border class what is to be added, padded to the full size."""
    border = kernels.border
    if border.unknown or any(isinstance(step.op, Scale) for step in border.program.steps):
        return False  # a factor per position has no unbounded kernel to correct
    choices = [[None, *(i for i in range(len(classes or ())) if _touched(kernels, axis, i))]
               for axis, classes in enumerate(border.axes)]
    whole = kernels.whole()
    parts = [_convolve(whole, builder, builder.entry, "/whole")]
    indices = (index for index in product(*choices) if any(i is not None for i in index))
    parts += [_strip(kernels, builder, index) for index in indices if _needed(kernels, index)]
    builder.add(Add() if len(parts) > 1 else Identity(), parts, (), last=True)
    return True


def _touched(kernels: Kernels, axis: int, index: int) -> bool:
    """Whether a class sees less of some map than the unbounded kernel does."""
    return bool(cut_maps(kernels.border, axis, index))


def _needed(kernels: Kernels, index: tuple[int | None, ...]) -> bool:
    """Whether a correction has taps on the entry, or a bias."""
    return corrects_bias(kernels.border, index) or all(lo <= hi for lo, hi in outside_of(kernels.border, index))


def _strip(kernels: Kernels, builder: Builder, index: tuple[int | None, ...]) -> str:
    role = "_".join("x" if i is None else str(i) for i in index)
    kernel = kernels.strip(index)
    full = [max(c.stop for c in classes or ()) for classes in kernels.border.axes]
    ranges = [
        (0, n) if i is None else ((c or ())[i].start, (c or ())[i].stop)
        for i, c, n in zip(index, kernels.border.axes, full, strict=True)
    ]
    source, cut = builder.entry, list[int]()
    for axis, (taps, (start, stop), n) in enumerate(zip(kernel.axes, ranges, builder.size or (), strict=True)):
        first = min(max(taps.first(start), 0), n - 1)
        end = max(min(taps.last(stop - 1) + 1, n), first + 1)
        source = _slice(builder, source, axis, first, end, f"/in_{role}_{axis}")
        cut.append(first)
    size = (builder.tensors.get(source) or builder.graph.tensors[source]).shape or ()
    conv = _placed(kernel, ranges, cut, [int(n) for n in size[2:]])
    shape = (builder.batch, conv.out_channels, *(stop - start for start, stop in ranges))
    out = builder.add(conv, [source], shape, f"/strip_{role}")
    pads = tuple((start, n - stop) for (start, stop), n in zip(ranges, full, strict=True))
    return builder.add(Pad(pads), [out], (builder.batch, conv.out_channels, *full), f"/pad_{role}")
