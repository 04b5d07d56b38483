"""Readers of what only moves values: reshapes, transposes, slices, splits, gathers, and chains and trees of these.

Every axis of a tensor is written as a product of *atoms*, parts of the axes of the tensor that the chain starts from.
Reshape regroups atoms, splitting them where it must, Transpose permutes the groups, Slice and Gather thin an atom out.
Where the groups come out as the axes they were, with other channels, the chain is a `Select` (a channel shuffle, a split,
a slice), a spatial `Slice`, a `Flatten` or an `Identity`; anything else is left as it is.  Sizes that are not known are
atoms that cannot be split, so what is found holds for every size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.formats.onnx_fold import Size
from decascade.formats.onnx_layers import Match, Matches, Reader
from decascade.formats.onnx_nodes import Native
from decascade.formats.onnx_view import View
from decascade.ir.dims import UNKNOWN
from decascade.ir.graph import Shape
from decascade.ir.ops import Flatten, Identity, Op, Select, Slice

Indices = NDArray[np.int64]
_DEPTH = 8
_LARGEST = 2**24


@dataclass(frozen=True, eq=False)
class Atom:
    """A factor of source axis `axis`: its positions count for `values` on that axis; None where the size is unknown."""

    axis: int
    values: Indices | None


Group = tuple[Atom, ...]


@dataclass(frozen=True, eq=False)
class Layout:
    """A tensor's axes as groups of atoms (an empty group has size 1).  `offset` counts what a fixed index contributes."""

    groups: tuple[Group, ...]
    offset: tuple[int, ...]

    def size(self, axis: int) -> int | None:
        sizes = [None if atom.values is None else len(atom.values) for atom in self.groups[axis]]
        return None if None in sizes else prod(n for n in sizes if n is not None)


class _NotLayout(Exception):  # noqa: N818
    """A step that is no rearrangement of atoms; never leaves this module."""


def _start(shape: Shape) -> Layout:
    groups = [() if n == 1 else (Atom(k, np.arange(n) if isinstance(n, int) else None),) for k, n in enumerate(shape)]
    return Layout(tuple(groups), (0,) * len(shape))


def _fused(group: Group) -> tuple[int, Indices]:
    """A group of atoms of one axis as one: the axis and the values of its positions."""
    axes = {atom.axis for atom in group}
    values = [atom.values for atom in group if atom.values is not None]
    if len(axes) != 1 or len(values) != len(group):
        raise _NotLayout
    return axes.pop(), reduce(lambda a, b: np.add.outer(a, b).reshape(-1), values)


def _split(atom: Atom, outer: int) -> tuple[Atom, Atom]:
    if atom.values is None:
        raise _NotLayout
    grid = atom.values.reshape(outer, -1)
    rows, columns = grid[:, 0], grid[0] - grid[0, 0]
    if not np.array_equal(grid, rows[:, None] + columns):
        raise _NotLayout
    return Atom(atom.axis, rows), Atom(atom.axis, columns)


def _take(atoms: list[Atom], size: int, from_end: bool) -> Group:
    """Atoms of this total size from one end of the list, the last of them split where it is too large."""
    taken: list[Atom] = []
    while size > 1:
        atom = atoms.pop(-1 if from_end else 0) if atoms else None
        if atom is None or atom.values is None:
            raise _NotLayout
        n = len(atom.values)
        if size % n == 0:
            taken.append(atom)
            size //= n
            continue
        if n % size:
            raise _NotLayout
        outer, inner = _split(atom, n // size if from_end else size)
        taken.append(inner if from_end else outer)
        atoms.insert(len(atoms) if from_end else 0, outer if from_end else inner)
        size = 1
    return tuple(reversed(taken) if from_end else taken)


def _take_group(atoms: list[Atom], group: Group, from_end: bool) -> Group:
    for atom in reversed(group) if from_end else group:
        if not atoms or atoms.pop(-1 if from_end else 0) is not atom:
            raise _NotLayout
    return group


def _regroup(layout: Layout, target: Sequence[int | None]) -> Layout:
    """Reshape: `target` has a size per axis, None for the one that takes the rest, and −k−1 to keep axis k as it is."""
    atoms = [atom for group in layout.groups for atom in group]
    rest = target.index(None) if None in target else len(target)

    def take(entry: int | None, from_end: bool) -> Group:
        if entry is None or entry == 0:
            raise _NotLayout
        return _take_group(atoms, layout.groups[-entry - 1], from_end) if entry < 0 else _take(atoms, entry, from_end)

    before = [take(entry, False) for entry in target[:rest]]
    after = [take(entry, True) for entry in reversed(target[rest + 1 :])]
    if rest == len(target) and atoms:
        raise _NotLayout
    middle = [tuple(atoms)] if rest < len(target) else []
    return Layout((*before, *middle, *reversed(after)), layout.offset)


def _picked(layout: Layout, axis: int, choice: slice | Indices | int) -> Layout:
    """Positions of one axis picked; a single index removes the axis."""
    groups, offset = list(layout.groups), list(layout.offset)
    if not groups[axis]:
        kept: Any = np.zeros(1, np.int64)[choice]
        if np.size(kept) != 1:
            raise _NotLayout
        groups[axis : axis + 1] = [] if isinstance(choice, int) else [()]
        return Layout(tuple(groups), layout.offset)
    source, values = _fused(groups[axis])
    kept = values[choice]
    if np.size(kept) == 0:
        raise _NotLayout
    if np.size(kept) == 1:
        offset[source] += int(np.reshape(kept, ()))
        groups[axis : axis + 1] = [] if isinstance(choice, int) else [()]
    else:
        groups[axis] = (Atom(source, kept),)
    return Layout(tuple(groups), tuple(offset))


def _integers(view: View, name: str) -> list[int] | None:
    array = view.constant(name)
    return None if array is None or array.dtype.kind != "i" else [int(v) for v in array.reshape(-1)]


def _axes(view: View, native: Native, position: int) -> list[int] | None:
    """Axes as an attribute or, in later opsets, as a constant input; None where there are none.

    Raises:
        _NotLayout: an input that is not constant.
    """
    if not native.input(position):
        return native.get("axes")
    found = _integers(view, native.input(position))
    if found is None:
        raise _NotLayout
    return found


def _reshape(view: View, native: Native, layout: Layout) -> list[Layout]:
    target = _integers(view, native.input(1)) or view.folded.sizes.get(native.input(1))
    if target is None or (native.get("allowzero", 0) and 0 in target):
        raise _NotLayout
    if any(t == 0 and k >= len(layout.groups) for k, t in enumerate(target)):
        raise _NotLayout
    return [_regroup(layout, [_entry(view, native, k, t) for k, t in enumerate(target)])]


def _entry(view: View, native: Native, axis: int, size: Size) -> int | None:
    """A target size as `_regroup` takes it."""
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
        raise _NotLayout
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
        raise _NotLayout
    return [Layout(tuple(layout.groups[k] for k in order), layout.offset)]


def _squeeze(view: View, native: Native, layout: Layout) -> list[Layout]:
    rank = len(layout.groups)
    axes = _axes(view, native, 1)
    if axes is None:
        sizes = [layout.size(k) for k in range(rank)]
        if None in sizes:
            raise _NotLayout
        axes = [k for k, n in enumerate(sizes) if n == 1]
    gone = {a % rank for a in axes}
    if any(layout.groups[k] for k in gone):
        raise _NotLayout
    return [Layout(tuple(g for k, g in enumerate(layout.groups) if k not in gone), layout.offset)]


def _unsqueeze(view: View, native: Native, layout: Layout) -> list[Layout]:
    axes = _axes(view, native, 1)
    if axes is None:
        raise _NotLayout
    rank = len(layout.groups) + len(axes)
    new, old = {a % rank for a in axes}, iter(layout.groups)
    if len(new) != len(axes):
        raise _NotLayout
    return [Layout(tuple(() if k in new else next(old) for k in range(rank)), layout.offset)]


def _gather(view: View, native: Native, layout: Layout) -> list[Layout]:
    indices = view.constant(native.input(1))
    if indices is None or indices.dtype.kind != "i" or indices.ndim > 1:
        raise _NotLayout
    axis = native.get("axis", 0) % len(layout.groups)
    size = layout.size(axis)
    if size is None or np.any(indices >= size) or np.any(indices < -size):
        raise _NotLayout
    return [_picked(layout, axis, int(indices) if indices.ndim == 0 else indices.astype(np.int64))]


def _slice(view: View, native: Native, layout: Layout) -> list[Layout]:
    if view.opset < 10:
        starts, ends, axes, steps = native.get("starts"), native.get("ends"), native.get("axes"), None
    else:
        starts, ends = _integers(view, native.input(1)), _integers(view, native.input(2))
        axes, steps = _integers(view, native.input(3)), _integers(view, native.input(4))
        if (native.input(3) and axes is None) or (native.input(4) and steps is None):
            raise _NotLayout
    if starts is None or ends is None:
        raise _NotLayout
    axes, steps = axes or range(len(starts)), steps or [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if start == 0 and end >= 2**31 - 1 and step == 1:
            continue
        if layout.size(axis) is None or not step:
            raise _NotLayout
        layout = _picked(layout, axis % len(layout.groups), slice(start, _open_end(end), step))
    return [layout]


def _open_end(end: int) -> int | None:
    """ONNX writes "to the very front" of a backward slice as a very small number."""
    return None if end <= -(2**31) else end


def _split_parts(view: View, native: Native, layout: Layout) -> list[Layout]:
    axis = native.get("axis", 0) % len(layout.groups)
    size, count = layout.size(axis), len(native.outputs)
    if size is None:
        raise _NotLayout
    sizes = native.get("split")
    if native.input(1):
        sizes = _integers(view, native.input(1))
        if sizes is None:
            raise _NotLayout
    part = -(-size // count)
    sizes = sizes or [min(part, size - k * part) for k in range(count)]
    ends = np.cumsum([0, *sizes]).tolist()
    if len(sizes) != count or ends[-1] != size or min(sizes) < 1:
        raise _NotLayout
    return [_picked(layout, axis, slice(a, b)) for a, b in pairwise(ends)]


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


def _positions(group: Group, axis: int, layout: Layout) -> Indices | None:
    """The positions of source axis `axis` that a group of its atoms runs through; None for another's atoms."""
    if not group:
        return np.array([layout.offset[axis]])
    if any(atom.axis != axis for atom in group):
        return None
    return _fused(group)[1] + layout.offset[axis]


def _is_whole(group: Group, axis: int, layout: Layout, shape: Shape) -> bool:
    """Whether the group is source axis `axis` as it was."""
    size = shape[axis]
    if not isinstance(size, int):
        return len(group) == 1 and group[0].axis == axis and group[0].values is None
    found = _positions(group, axis, layout)
    return found is not None and np.array_equal(found, np.arange(size))


def _meaning(layout: Layout, shape: Shape) -> Op | None:
    """The operation that takes the source to this layout."""
    if len(layout.groups) == len(shape):
        return _selection(layout, shape)
    if len(layout.groups) == 2 and len(shape) > 2 and _is_whole(layout.groups[0], 0, layout, shape):
        spatial = tuple(range(2, len(shape)))
        if _runs_through(layout.groups[1], (1, *spatial), layout, shape):
            return Flatten()
        if _runs_through(layout.groups[1], (*spatial, 1), layout, shape):
            return Flatten("channels_last")
    return None


def _selection(layout: Layout, shape: Shape) -> Op | None:
    changed = [k for k, group in enumerate(layout.groups) if not _is_whole(group, k, layout, shape)]
    if not changed:
        return Identity()
    if len(changed) > 1 or changed == [0] or not isinstance(shape[changed[0]], int):
        return None
    axis = changed[0]
    found = _positions(layout.groups[axis], axis, layout)
    if found is None:
        return None
    if axis == 1:
        return Select(found.astype(np.int64))
    first, last = int(found[0]), int(found[-1])
    return Slice(axis, first, last + 1) if np.array_equal(found, np.arange(first, last + 1)) else None


def _runs_through(group: Group, order: Sequence[int], layout: Layout, shape: Shape) -> bool:
    """Whether the group is these source axes, each whole, one inside the other."""
    ranks = [order.index(atom.axis) if atom.axis in order else -1 for atom in group]
    if -1 in ranks or ranks != sorted(ranks):
        return False
    return all(_is_whole(tuple(a for a in group if a.axis == k), k, layout, shape) for k in order)


def read_layout(view: View, native: Native) -> Matches:
    """The chain or tree of moves that starts with this node, if all its ends mean something."""
    shape = view.shapes.get(native.inputs[0])
    if shape is None or len(shape) < 2 or any(n == 0 for n in shape):
        return None
    # a size beyond all reason is not enumerated, only carried along
    shape = tuple(n if isinstance(n, str) or n <= _LARGEST else str(n) for n in shape)
    found: list[Match] = []
    try:
        _walk(view, native, _start(shape), shape, (), found)
    except _NotLayout:
        return None
    source = native.inputs[0]
    return [Match(m.op, (source,), m.output, m.natives) for m in found] or None


def _walk(view: View, native: Native, layout: Layout, shape: Shape, path: tuple[int, ...], found: list[Match]) -> None:
    path = (*path, native.index)
    for name, result in zip(native.outputs, _STEPS[native.kind](view, native, layout), strict=False):
        users = view.users.get(name, ())
        if not name or (not users and name not in view.outputs):
            continue
        op = _meaning(result, shape)
        if op is not None:
            found.append(Match(op, (), name, path))
            continue
        if name in view.outputs or len(path) == _DEPTH:
            raise _NotLayout
        for user in users:
            if user.kind not in _STEPS or not user.standard or user.reads.count(name) != 1 or user.inputs[0] != name:
                raise _NotLayout
            _walk(view, user, result, shape, path, found)


READERS: Mapping[str, Reader] = dict.fromkeys(_STEPS, read_layout)
