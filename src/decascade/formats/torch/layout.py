"""Code that only moves values (views, permutations, slices, splits), read off an array of indices.

A channel shuffle is a view, a transpose and a view; a flatten may be any of ten spellings.  So the chain of calls is run on
an array whose entries are their own positions, and the result says which of the graph's operations it is.  Symbolic sizes
are tried with two sets of numbers; both must agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.formats.torch.common import load, words
from decascade.formats.torch.modules import layout_modules
from decascade.formats.torch.pure import call_name
from decascade.formats.torch.values import Sizes, Values, evaluate, trials
from decascade.ir.graph import Shape
from decascade.ir.ops import Flatten, Identity, Op, Pad, Pool, Select, Slice

_MOVES = words(
    "view reshape flatten unflatten permute transpose t swapaxes swapdims movedim moveaxis squeeze unsqueeze chunk split "
    "split_with_sizes tensor_split unbind narrow getitem select slice contiguous detach alias clone index_select flip roll "
    "lift_fresh_copy lift_fresh _unsafe_view channel_shuffle native_channel_shuffle index"
)
_DEEPEST = 8
"""How many calls back the start of a chain is looked for."""


def moves(node: Any, module: Any) -> bool:
    """Whether a node is a call that only moves values."""
    if node.op == "call_module":
        return isinstance(module.get_submodule(node.target), layout_modules())
    return node.op in ("call_function", "call_method") and call_name(node) in _MOVES


def read_layout(
    node: Any, values: Values, shape: Callable[[Any], Shape | None], understood: Callable[[Any], bool]
) -> tuple[Op, Any] | None:
    """The operation that a chain of moves ending in `node` stands for, and the node that it starts from.

    The shortest chain that starts from a tensor that is `understood`, or failing that the shortest.
    """
    start, fallback = node, None
    for _ in range(_DEEPEST):
        if not moves(start, values.module) or not start.args or not values.is_tensor(start.args[0]):
            break
        start = start.args[0]
        found = _recognised(node, start, values, shape)
        if found is not None and (understood(start) or not moves(start, values.module)):
            return found, start
        fallback = fallback or (None if found is None else (found, start))
    return fallback


def _recognised(node: Any, start: Any, values: Values, shape: Callable[[Any], Shape | None]) -> Op | None:
    tried = list[tuple[NDArray[np.int64], NDArray[np.int64]]]()
    symbolic = any(isinstance(size, str) for size in shape(start) or ())
    for sizes in trials() if symbolic else trials()[:1]:
        trial = _trial(node, start, values, shape, sizes)
        if trial is None:
            return None
        tried.append(trial)
    for match in (_same, _flat, _selected, _cropped, _sliced, _thinned):
        found = [match(before, after) for before, after in tried]
        if found[0] is not None and all(_equal(found[0], other) for other in found[1:]):
            return found[0]
    return None


def _equal(a: Op | None, b: Op | None) -> bool:
    if isinstance(a, Select) and isinstance(b, Select):
        return np.array_equal(a.indices, b.indices)
    return a == b


def _trial(
    node: Any, start: Any, values: Values, shape: Callable[[Any], Shape | None], sizes: Sizes
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """The positions before and after the chain; None where it cannot be run on positions alone."""
    torch = load()
    try:
        size = sizes.concrete(shape(start))
        if len(size) < 2 or int(np.prod(size)) > 1 << 24:
            return None
        before = torch.arange(int(np.prod(size))).reshape(size)
        known = {start: before}
        for other in _outside(node, start, values):
            known[other] = torch.empty(sizes.concrete(shape(other)), device="meta")
        after = evaluate(node, known, values.module)
        if not isinstance(after, torch.Tensor) or after.device.type != "cpu":
            return None
        return before.numpy(), after.numpy()
    except Exception:  # the chain does not fit positions: it is not a move after all
        return None


def _outside(node: Any, start: Any, values: Values) -> list[Any]:
    """The other tensors whose sizes the chain uses."""
    found = dict[Any, None]()
    stack, seen = [node], {start}
    while stack:
        for source in stack.pop().all_input_nodes:
            if source in seen:
                continue
            seen.add(source)
            if values.kinds[source] == "tensor" and not moves(source, values.module):
                found[source] = None
            else:
                stack.append(source)
    return list(found)


def _same(before: NDArray[np.int64], after: NDArray[np.int64]) -> Op | None:
    return Identity() if np.array_equal(before, after) else None


def _flat(before: NDArray[np.int64], after: NDArray[np.int64]) -> Op | None:
    if after.ndim != 2 or after.shape[0] != before.shape[0]:
        return None
    if np.array_equal(after, before.reshape(len(before), -1)):
        return Flatten()
    last = np.moveaxis(before, 1, -1).reshape(len(before), -1)
    return Flatten("channels_last") if np.array_equal(after, last) else None


def _selected(before: NDArray[np.int64], after: NDArray[np.int64]) -> Op | None:
    if after.ndim != before.ndim or after.shape[0] != before.shape[0] or after.shape[2:] != before.shape[2:]:
        return None
    plane = int(np.prod(before.shape[2:]))
    first = after[0].reshape(after.shape[1], -1)[:, 0]
    indices = first // plane % before.shape[1]
    return Select(indices.astype(np.int64)) if np.array_equal(after, before[:, indices]) else None


def _cropped(before: NDArray[np.int64], after: NDArray[np.int64]) -> Op | None:
    """What is cut off each side."""
    if after.ndim != before.ndim or after.shape[:2] != before.shape[:2] or not after.size:
        return None
    start = np.unravel_index(after.flat[0], before.shape)[2:]
    window = tuple(slice(int(lo), int(lo) + n) for lo, n in zip(start, after.shape[2:], strict=True))
    if not np.array_equal(after, before[(slice(None), slice(None), *window)]):
        return None
    return Pad(tuple((-w.start, w.stop - n) for w, n in zip(window, before.shape[2:], strict=True)))


def _sliced(before: NDArray[np.int64], after: NDArray[np.int64]) -> Op | None:
    """One axis cut at fixed positions, whatever its size."""
    crop = _cropped(before, after)
    cut = [index for index, pads in enumerate(crop.pads) if pads != (0, 0)] if isinstance(crop, Pad) else []
    if not isinstance(crop, Pad) or len(cut) != 1:
        return None
    axis, start = cut[0] + 2, -crop.pads[cut[0]][0]
    return Slice(axis, start, start + after.shape[axis])


def _thinned(before: NDArray[np.int64], after: NDArray[np.int64]) -> Op | None:
    """Every s-th position: an average over a window of one."""
    if after.ndim != before.ndim or after.shape[:2] != before.shape[:2] or 0 in after.shape:
        return None
    steps = list[int]()
    for axis in range(2, before.ndim):
        unit = int(np.prod(before.shape[axis + 1 :]))
        line = np.moveaxis(after, axis, 0).reshape(after.shape[axis], -1)[:, 0]
        steps.append(int(line[1] - line[0]) // unit if len(line) > 1 else before.shape[axis])
    thin = (slice(None), slice(None), *(slice(None, None, s) for s in steps if s > 0))
    if any(s < 1 for s in steps) or not np.array_equal(after, before[thin]):
        return None
    rank = len(steps)
    return Pool("avg", (1,) * rank, tuple(steps), ((0, 0),) * rank, (1,) * rank)
