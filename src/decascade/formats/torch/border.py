"""A border that code writes into a padded tensor: y = pad(x); y[:, :, :1] = v; …

Blocks of the literature pad with one value per channel that way.  What the assignments make is read off an array of
positions, as in `torch_layout`: with the same value v[c] all around, it is x − v, padded with zeros, plus v.  Most often v
is the bias of the layer that makes x; then it is that layer without its bias, padded with zeros, plus the bias.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv
from decascade.formats.torch.common import load, words
from decascade.formats.torch.pure import call_name
from decascade.formats.torch.values import Sizes, Values, evaluate, trials, widener
from decascade.ir.graph import Shape
from decascade.ir.ops import Affine, Op, Pad

_ASSIGNING = frozenset(("slice_scatter", "select_scatter"))
_PADS = frozenset(("pad", "constant_pad_nd"))
_BETWEEN = _ASSIGNING | words("slice getitem select copy expand expand_as full_like clone alias fill")


def read_border(
    node: Any, values: Values, shape: Callable[[Any], Shape | None], understood: Callable[[Any], Op | None]
) -> tuple[tuple[Op, ...], Any, bool] | None:
    """The operations that a chain of assignments ending in `node` stands for, and the tensor that it starts from.

    `understood` gives the operation that a tensor comes from.  The last result says whether the first of the operations
    is that one, without its bias.
    """
    if node.op not in ("call_function", "call_method") or call_name(node) not in _ASSIGNING:
        return None
    start = _start(node, values)
    if start is None:
        return None
    tried = [_trial(node, start, values, shape, sizes) for sizes in trials()]
    found = [None if trial is None else _padded(*trial) for trial in tried]
    first, second = found
    if first is None or second is None or first[0] != second[0] or not np.array_equal(first[1], second[1]):
        return None
    pads, border = first
    if np.all(border == border[0]):
        return (Pad(pads, float(border[0])),), start, False
    ones = np.ones(len(border))
    layer = _layer_without_bias(border, start, understood)
    if layer is not None:
        return (layer[0], Pad(pads), Affine(ones, layer[1])), start, True
    return (Affine(ones, -border), Pad(pads), Affine(ones, border)), start, False


def _layer_without_bias(
    border: NDArray[np.float64], start: Any, understood: Callable[[Any], Op | None]
) -> tuple[Op, NDArray[np.float64]] | None:
    """The layer before without its bias, and that bias, if nothing else reads it and the border is its bias.

    The code computes the border in another order than the layer; equal means within float64 rounding.
    """
    op = understood(start)
    if isinstance(op, Affine):
        own, plain = np.asarray(op.shift, dtype=np.float64), Affine(op.scale, np.zeros(len(op.scale)))
    elif isinstance(op, Conv):
        own, plain = op.bias64, Conv(op.weight, None, op.stride, op.dilation, op.padding, op.groups)
    else:
        return None
    readers = [user for user in start.users if user.op not in ("call_function", "call_method") or call_name(user) not in _PADS]
    if readers or own.shape != border.shape or np.abs(own - border).max() > 2.0**-46 * np.abs(own).max(initial=0.0):
        return None
    return plain, own


def _start(node: Any, values: Values) -> Any:
    """The tensor that is padded before the assignments; None where something else stands between."""
    current = node
    while current.op in ("call_function", "call_method") and current.args and values.is_tensor(current.args[0]):
        name = call_name(current)
        if name in _PADS:
            return current.args[0]
        if name not in _BETWEEN:
            return None
        current = current.args[0]
    return None


def _trial(
    node: Any, start: Any, values: Values, shape: Callable[[Any], Shape | None], sizes: Sizes
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    torch = load()
    try:
        size = sizes.concrete(shape(start))
        if int(np.prod(size)) > 1 << 22:
            return None
        before = torch.arange(int(np.prod(size)), dtype=torch.float64).reshape(size)
        with torch.no_grad():
            after = evaluate(node, {start: before}, values.module, widener())
        return before.numpy(), np.asarray(after.numpy(), dtype=np.float64)
    except Exception:  # it needs more than that tensor, or another type: not this pattern
        return None


def _padded(
    before: NDArray[np.float64], after: NDArray[np.float64]
) -> tuple[tuple[tuple[int, int], ...], NDArray[np.float64]] | None:
    """Pads and the border's value per channel; None if it is not the input with an even border."""
    if after.ndim != before.ndim or after.ndim < 3 or after.shape[:2] != before.shape[:2]:
        return None
    more = [n - m for n, m in zip(after.shape[2:], before.shape[2:], strict=True)]
    middle = after[(0, 0, *(n // 2 for n in after.shape[2:]))]
    at = np.unravel_index(int(middle), before.shape)[2:] if 0 <= middle < before.size else (0,) * len(more)
    lows = [n // 2 - int(i) for n, i in zip(after.shape[2:], at, strict=True)]
    if any(not 0 <= lo <= extra for lo, extra in zip(lows, more, strict=True)) or not any(more):
        return None
    inside = (slice(None), slice(None), *(slice(lo, lo + m) for lo, m in zip(lows, before.shape[2:], strict=True)))
    if not np.array_equal(after[inside], before):
        return None
    ring = np.ones(after.shape[2:], dtype=bool)
    ring[inside[2:]] = False
    border = after[:, :, ring]
    if not np.all(border == border[:1, :, :1]):
        return None
    return tuple((lo, extra - lo) for lo, extra in zip(lows, more, strict=True)), border[0, :, 0]
