"""Tensor layouts as products of atoms, and what operation takes a tensor to a layout.

Every axis is written as a product of *atoms*, parts of the axes of the tensor that a chain of moves starts from.  Reshape
regroups atoms, splitting them where it must, Transpose permutes the groups, Slice and Gather thin an atom out.  Where the
groups come out as the axes they were, with other channels, the chain is a `Select` (a channel shuffle, a split, a slice), a
spatial `Slice`, a crop, a `Flatten` or an `Identity`.  Sizes that are not known are atoms that cannot be split, so what is
found holds for every size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.ir.graph import Shape
from decascade.ir.ops import Flatten, Identity, Op, Pad, Select, Slice

Indices = NDArray[np.int64]


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


class NotLayout(Exception):  # noqa: N818
    """A step that is no rearrangement of atoms; never leaves this module."""


def start(shape: Shape) -> Layout:
    groups = [() if n == 1 else (Atom(k, np.arange(n) if isinstance(n, int) else None),) for k, n in enumerate(shape)]
    return Layout(tuple(groups), (0,) * len(shape))


def _fused(group: Group) -> tuple[int, Indices]:
    """A group of atoms of one axis as one: the axis and the values of its positions."""
    axes = {atom.axis for atom in group}
    values = [atom.values for atom in group if atom.values is not None]
    if len(axes) != 1 or len(values) != len(group):
        raise NotLayout
    return axes.pop(), reduce(lambda a, b: np.add.outer(a, b).reshape(-1), values)


def _split(atom: Atom, outer: int) -> tuple[Atom, Atom]:
    if atom.values is None:
        raise NotLayout
    grid = atom.values.reshape(outer, -1)
    rows, columns = grid[:, 0], grid[0] - grid[0, 0]
    if not np.array_equal(grid, rows[:, None] + columns):
        raise NotLayout
    return Atom(atom.axis, rows), Atom(atom.axis, columns)


def _take(atoms: list[Atom], size: int, from_end: bool) -> Group:
    """Atoms of this total size from one end of the list, the last of them split where it is too large."""
    taken: list[Atom] = []
    while size > 1:
        atom = atoms.pop(-1 if from_end else 0) if atoms else None
        if atom is None or atom.values is None:
            raise NotLayout
        n = len(atom.values)
        if size % n == 0:
            taken.append(atom)
            size //= n
            continue
        if n % size:
            raise NotLayout
        outer, inner = _split(atom, n // size if from_end else size)
        taken.append(inner if from_end else outer)
        atoms.insert(len(atoms) if from_end else 0, outer if from_end else inner)
        size = 1
    return tuple(reversed(taken) if from_end else taken)


def _take_group(atoms: list[Atom], group: Group, from_end: bool) -> Group:
    for atom in reversed(group) if from_end else group:
        if not atoms or atoms.pop(-1 if from_end else 0) is not atom:
            raise NotLayout
    return group


def regroup(layout: Layout, target: Sequence[int | None]) -> Layout:
    """Reshape: `target` has a size per axis, None for the one that takes the rest, and −k−1 to keep axis k as it is."""
    atoms = [atom for group in layout.groups for atom in group]
    rest = target.index(None) if None in target else len(target)

    def take(entry: int | None, from_end: bool) -> Group:
        if entry is None or entry == 0:
            raise NotLayout
        return _take_group(atoms, layout.groups[-entry - 1], from_end) if entry < 0 else _take(atoms, entry, from_end)

    before = [take(entry, False) for entry in target[:rest]]
    after = [take(entry, True) for entry in reversed(target[rest + 1 :])]
    if rest == len(target) and atoms:
        raise NotLayout
    middle = [tuple(atoms)] if rest < len(target) else []
    return Layout((*before, *middle, *reversed(after)), layout.offset)


def picked(layout: Layout, axis: int, choice: slice | Indices | int) -> Layout:
    """Positions of one axis picked; a single index removes the axis."""
    groups, offset = list(layout.groups), list(layout.offset)
    if not groups[axis]:
        kept: Any = np.zeros(1, np.int64)[choice]
        if np.size(kept) != 1:
            raise NotLayout
        groups[axis : axis + 1] = [] if isinstance(choice, int) else [()]
        return Layout(tuple(groups), layout.offset)
    source, values = _fused(groups[axis])
    kept = values[choice]
    if np.size(kept) == 0:
        raise NotLayout
    if np.size(kept) == 1:
        offset[source] += int(np.reshape(kept, ()))
        groups[axis : axis + 1] = [] if isinstance(choice, int) else [()]
    else:
        groups[axis] = (Atom(source, kept),)
    return Layout(tuple(groups), tuple(offset))


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


def meaning(layout: Layout, shape: Shape) -> Op | None:
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
    if len(changed) > 1:
        return _crop(layout, shape) if changed[0] > 1 else None
    if changed == [0] or not isinstance(shape[changed[0]], int):
        return None
    axis = changed[0]
    found = _positions(layout.groups[axis], axis, layout)
    if found is None:
        return None
    if axis == 1:
        return Select(found.astype(np.int64))
    window = _window(found)
    return Slice(axis, *window) if window else None


def _window(found: Indices) -> tuple[int, int] | None:
    """First position and the one behind the last, where all between are there in their order."""
    first, end = int(found[0]), int(found[-1]) + 1
    return (first, end) if np.array_equal(found, np.arange(first, end)) else None


def _crop(layout: Layout, shape: Shape) -> Op | None:
    """What is cut off both ends of several spatial axes."""
    pads = list[tuple[int, int]]()
    for axis in range(2, len(shape)):
        size, found = shape[axis], None
        if isinstance(size, int):
            found = _positions(layout.groups[axis], axis, layout)
        elif _is_whole(layout.groups[axis], axis, layout, shape):
            pads.append((0, 0))
            continue
        window = None if found is None else _window(found)
        if window is None or not isinstance(size, int):
            return None
        pads.append((-window[0], window[1] - size))
    return Pad(tuple(pads))


def _runs_through(group: Group, order: Sequence[int], layout: Layout, shape: Shape) -> bool:
    """Whether the group is these source axes, each whole, one inside the other."""
    ranks = [order.index(atom.axis) if atom.axis in order else -1 for atom in group]
    if -1 in ranks or ranks != sorted(ranks):
        return False
    return all(_is_whole(tuple(a for a in group if a.axis == k), k, layout, shape) for k in order)
