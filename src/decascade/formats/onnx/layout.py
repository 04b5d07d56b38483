"""Readers of what only moves values: reshapes, transposes, slices, splits, gathers, and chains and trees of these.

What a chain does is worked out in `onnx_atoms`; a chain or tree that has no meaning as a whole is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np

from decascade.formats.onnx.atoms import Layout, NotLayout, meaning, picked, regroup, start
from decascade.formats.onnx.fold import Size
from decascade.formats.onnx.layers import Match, Matches, Reader
from decascade.formats.onnx.nodes import Native
from decascade.formats.onnx.view import View
from decascade.ir.dims import UNKNOWN
from decascade.ir.graph import Shape

_DEPTH = 8
_LARGEST = 2**24


def _integers(view: View, name: str) -> list[int] | None:
    array = view.constant(name)
    return None if array is None or array.dtype.kind != "i" else [int(v) for v in array.reshape(-1)]


def _axes(view: View, native: Native, position: int) -> list[int] | None:
    """Axes as an attribute or, in later opsets, as a constant input; None where there are none.

    Raises:
        NotLayout: an input that is not constant.
    """
    if not native.input(position):
        return native.get("axes")
    found = _integers(view, native.input(position))
    if found is None:
        raise NotLayout
    return found


def _reshape(view: View, native: Native, layout: Layout) -> list[Layout]:
    target = _integers(view, native.input(1)) or view.folded.sizes.get(native.input(1))
    if target is None or (native.get("allowzero", 0) and 0 in target):
        raise NotLayout
    if any(t == 0 and k >= len(layout.groups) for k, t in enumerate(target)):
        raise NotLayout
    return [regroup(layout, [_entry(view, native, k, t) for k, t in enumerate(target)])]


def _entry(view: View, native: Native, axis: int, size: Size) -> int | None:
    """A target size as `regroup` takes it."""
    if isinstance(size, tuple):
        return _size_entry(view, native, *size)
    return None if size == -1 else -axis - 1 if size == 0 else size


def _size_entry(view: View, native: Native, tensor: str, axis: int) -> int:
    """What Reshape's target says where it names a size: the size, or −k−1 for axis k of the tensor that is reshaped."""
    source = native.inputs[0]
    if tensor == source:
        return -axis - 1
    size, shape = (view.shapes.get(tensor) or ())[axis], view.shapes.get(source) or ()
    if size == UNKNOWN or size not in shape:
        raise NotLayout
    return size if isinstance(size, int) else -shape.index(size) - 1


def _flatten(view: View, native: Native, layout: Layout) -> list[Layout]:
    axis = native.get("axis", 1)
    axis += len(layout.groups) if axis < 0 else 0
    groups = layout.groups
    lead = tuple(a for group in groups[:axis] for a in group)
    return [Layout((lead, tuple(a for group in groups[axis:] for a in group)), layout.offset)]


def _transpose(view: View, native: Native, layout: Layout) -> list[Layout]:
    order = native.get("perm") or range(len(layout.groups))[::-1]
    if sorted(order) != list(range(len(layout.groups))):
        raise NotLayout
    return [Layout(tuple(layout.groups[k] for k in order), layout.offset)]


def _squeeze(view: View, native: Native, layout: Layout) -> list[Layout]:
    rank = len(layout.groups)
    axes = _axes(view, native, 1)
    if axes is None:
        sizes = [layout.size(k) for k in range(rank)]
        if None in sizes:
            raise NotLayout
        axes = [k for k, n in enumerate(sizes) if n == 1]
    gone = {a % rank for a in axes}
    if any(layout.groups[k] for k in gone):
        raise NotLayout
    return [Layout(tuple(g for k, g in enumerate(layout.groups) if k not in gone), layout.offset)]


def _unsqueeze(view: View, native: Native, layout: Layout) -> list[Layout]:
    axes = _axes(view, native, 1)
    if axes is None:
        raise NotLayout
    rank = len(layout.groups) + len(axes)
    new, old = {a % rank for a in axes}, iter(layout.groups)
    if len(new) != len(axes):
        raise NotLayout
    return [Layout(tuple(() if k in new else next(old) for k in range(rank)), layout.offset)]


def _gather(view: View, native: Native, layout: Layout) -> list[Layout]:
    indices = view.constant(native.input(1))
    if indices is None or indices.dtype.kind != "i" or indices.ndim > 1:
        raise NotLayout
    axis = native.get("axis", 0) % len(layout.groups)
    size = layout.size(axis)
    if size is None or np.any(indices >= size) or np.any(indices < -size):
        raise NotLayout
    return [picked(layout, axis, int(indices) if indices.ndim == 0 else indices.astype(np.int64))]


def _slice(view: View, native: Native, layout: Layout) -> list[Layout]:
    if view.opset < 10:
        starts, ends, axes, steps = native.get("starts"), native.get("ends"), native.get("axes"), None
    else:
        starts, ends = _integers(view, native.input(1)), _integers(view, native.input(2))
        axes, steps = _integers(view, native.input(3)), _integers(view, native.input(4))
        if (native.input(3) and axes is None) or (native.input(4) and steps is None):
            raise NotLayout
    if starts is None or ends is None:
        raise NotLayout
    axes, steps = axes or range(len(starts)), steps or [1] * len(starts)
    for axis, first, end, step in zip(axes, starts, ends, steps, strict=True):
        if first == 0 and end >= 2**31 - 1 and step == 1:
            continue
        if layout.size(axis) is None or not step:
            raise NotLayout
        layout = picked(layout, axis % len(layout.groups), slice(first, _open_end(end), step))
    return [layout]


def _open_end(end: int) -> int | None:
    """ONNX writes "to the very front" of a backward slice as a very small number."""
    return None if end <= -(2**31) else end


def _split_parts(view: View, native: Native, layout: Layout) -> list[Layout]:
    axis = native.get("axis", 0) % len(layout.groups)
    size, count = layout.size(axis), len(native.outputs)
    if size is None:
        raise NotLayout
    sizes = native.get("split")
    if native.input(1):
        sizes = _integers(view, native.input(1))
        if sizes is None:
            raise NotLayout
    part = -(-size // count)
    sizes = sizes or [min(part, size - k * part) for k in range(count)]
    ends = np.cumsum([0, *sizes]).tolist()
    if len(sizes) != count or ends[-1] != size or min(sizes) < 1:
        raise NotLayout
    return [picked(layout, axis, slice(a, b)) for a, b in pairwise(ends)]


def _same(view: View, native: Native, layout: Layout) -> list[Layout]:
    return [layout]


_STEPS: Mapping[str, Callable[[View, Native, Layout], list[Layout]]] = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Gather": _gather,
    "Slice": _slice,
    "Split": _split_parts,
    "Identity": _same,
}


def read_layout(view: View, native: Native) -> Matches:
    """The chain or tree of moves that starts with this node, if all its ends mean something."""
    shape = view.shapes.get(native.inputs[0])
    if shape is None or len(shape) < 2 or any(n == 0 for n in shape):
        return None
    # a size beyond all reason is not enumerated, only carried along
    shape = tuple(n if isinstance(n, str) or n <= _LARGEST else str(n) for n in shape)
    found: list[Match] = []
    try:
        _walk(view, native, start(shape), shape, (), found)
    except NotLayout:
        return None
    source = native.inputs[0]
    return [Match(m.op, (source,), m.output, m.natives) for m in found] or None


def _walk(view: View, native: Native, layout: Layout, shape: Shape, path: tuple[int, ...], found: list[Match]) -> None:
    path = (*path, native.index)
    for name, result in zip(native.outputs, _STEPS[native.kind](view, native, layout), strict=False):
        users = view.users.get(name, ())
        if not name or (not users and name not in view.outputs):
            continue
        op = meaning(result, shape)
        if op is not None:
            found.append(Match(op, (), name, path))
            continue
        if name in view.outputs or len(path) == _DEPTH:
            raise NotLayout
        for user in users:
            if user.kind not in _STEPS or not user.standard or user.reads.count(name) != 1 or user.inputs[0] != name:
                raise NotLayout
            _walk(view, user, result, shape, path, found)


READERS: Mapping[str, Reader] = dict.fromkeys(_STEPS, read_layout)
