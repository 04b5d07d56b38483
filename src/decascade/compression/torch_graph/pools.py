"""Pools as functions of a torch tensor: torch's own where its padding rules are the graph's, else composed of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from math import inf, prod
from typing import Any

from decascade.errors import UsageError
from decascade.ir.ops import Pool

Function = Callable[[Any], Any]


def pool(torch: Any, op: Pool) -> Function:
    """The pool as a function of x (N, C, *S).

    Raises:
        UsageError: more spatial axes than torch has pools for.
    """
    rank = len(op.kernel)
    if rank > 3:
        raise UsageError(f"a pool over {rank} spatial axes cannot be trained: PyTorch has pools over 1 to 3 axes")
    return _maximum(torch, op) if op.kind == "max" else _average(torch, op)


def _own_padding(op: Pool) -> tuple[int, ...] | None:
    """The padding as torch takes it: the same on both sides and at most half the kernel."""
    own = all(lo == hi and 0 <= lo <= k // 2 for (lo, hi), k in zip(op.padding, op.kernel, strict=True))
    return tuple(lo for lo, _ in op.padding) if own else None


def _widths(op: Pool) -> list[int]:
    return [width for pair in reversed(op.padding) for width in pair]


def _maximum(torch: Any, op: Pool) -> Function:
    F = torch.nn.functional
    largest: Any = getattr(F, f"max_pool{len(op.kernel)}d")
    padding = _own_padding(op)
    if padding is not None:
        return lambda x: largest(x, op.kernel, op.stride, padding, op.dilation)
    widths = _widths(op)
    return lambda x: largest(F.pad(x, widths, value=-inf), op.kernel, op.stride, 0, op.dilation)


def _average(torch: Any, op: Pool) -> Function:
    mean: Any = getattr(torch.nn.functional, f"avg_pool{len(op.kernel)}d")
    padding = _own_padding(op)
    if padding is not None and all(d == 1 for d in op.dilation):
        return lambda x: mean(x, op.kernel, op.stride, padding, False, op.count_padding)
    return _composed_average(torch, op)


def _composed_average(torch: Any, op: Pool) -> Function:
    """Sum over the taps, then the division by how many of them lie within the map."""
    F, widths = torch.nn.functional, _widths(op)
    counts = dict[Any, Any]()

    def divisor(x: Any) -> Any:
        key = (tuple(x.shape[2:]), x.dtype, x.device)
        if key not in counts:
            inside = F.pad(torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device), widths)
            # a window that lies wholly in the padding averages nothing: 0
            counts[key] = _summed(op, inside).clamp(min=1)
        return counts[key]

    def averaged(x: Any) -> Any:
        total = _summed(op, F.pad(x, widths))
        return total / (prod(op.kernel) if op.count_padding else divisor(x))

    return averaged


def _summed(op: Pool, x: Any) -> Any:
    """The sum of a window is that of its axes, one after the other."""
    for axis, (k, s, d) in enumerate(zip(op.kernel, op.stride, op.dilation, strict=True), start=2):
        count = (x.shape[axis] - (k - 1) * d - 1) // s + 1
        x = reduce(_plus, _taps(x, axis, [t * d for t in range(k)], (count - 1) * s + 1, s))
    return x


def _taps(x: Any, axis: int, starts: Sequence[int], reach: int, step: int) -> list[Any]:
    lead = (slice(None),) * axis
    return [x[(*lead, slice(start, start + reach, step))] for start in starts]


def _plus(a: Any, b: Any) -> Any:
    return a + b
