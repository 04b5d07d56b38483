"""New pools: torch pads them evenly and by at most half a window, so any other padding goes before the pool."""

from __future__ import annotations

import operator
from math import inf
from typing import Any

from decascade.errors import GraphError
from decascade.formats.torch.build import Builder, pad
from decascade.formats.torch.common import load
from decascade.ir.ops import Pool

_GET: Any = operator.getitem


def emit_pool(builder: Builder, name: str, op: Pool, x: Any) -> Any:
    """The fx node of a pool over `x`.

    Raises:
        GraphError: an average over a dilated window, which PyTorch does not have.
    """
    if op.kind == "avg" and any(d != 1 for d in op.dilation):
        raise GraphError(f"{name}: PyTorch has no average pool with dilation {op.dilation}")
    plain = all(0 <= lo == hi <= k // 2 for (lo, hi), k in zip(op.padding, op.kernel, strict=True))
    if op.kind == "max":
        return _pool(builder, name, op, x if plain else pad(builder, x, op.padding, -inf), plain)
    if plain or op.count_padding:
        return _pool(builder, name, op, x if plain else pad(builder, x, op.padding), plain)
    # each window is divided by its own number of samples: the average, padding counted, of x over that of ones
    ones = builder.call(load().ones_like, builder.call(_GET, x, (slice(None, 1), slice(None, 1))))
    share = _pool(builder, f"{name}_share", op, pad(builder, ones, op.padding), plain=False)
    return builder.call(load().div, _pool(builder, name, op, pad(builder, x, op.padding), plain=False), share)


def _pool(builder: Builder, name: str, op: Pool, x: Any, plain: bool) -> Any:
    nn = load().nn
    rank = len(op.kernel)
    padding = tuple(lo for lo, _ in op.padding) if plain else (0,) * rank
    if op.kind == "max":
        made = getattr(nn, f"MaxPool{rank}d")(op.kernel, op.stride, padding, op.dilation)
    else:
        made = getattr(nn, f"AvgPool{rank}d")(op.kernel, op.stride, padding, count_include_pad=op.count_padding)
    return builder.module(name, made, x)
