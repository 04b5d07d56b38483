"""What several shape rules and texts have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.axis import Axis
from decascade.algebra.conv import Pads
from decascade.errors import GraphError
from decascade.ir import dims
from decascade.ir.dims import Dim, Shape, show
from decascade.ir.ops.definition import ShapeRule


def nothing_known(_: Any) -> Shape | None:
    return None


def unary(rule: Callable[[Any, Shape], Shape], least: Callable[[Any], Shape | None] = nothing_known) -> ShapeRule:
    """The shape rule of an operation on one input; `least` is what it says itself of an input of which nothing is known."""

    def shape(op: Any, shapes: Sequence[Shape | None]) -> Shape | None:
        x = least(op) if shapes[0] is None else shapes[0]
        return None if x is None else rule(op, x)

    return shape


def same_shape(_: Any, x: Shape) -> Shape:
    return x


def need(op: object, x: Shape, rank: int | None) -> None:
    """At least batch and channels, and `rank` spatial axes if given.

    Raises:
        GraphError: the input has others.
    """
    if len(x) < 2 or (rank is not None and len(x) != rank + 2):
        wanted = "a batch and a channel axis" if rank is None else f"{rank} spatial axes after batch and channels"
        raise GraphError(f"{type(op).__name__} needs {wanted}, its input is {show(x)}")


def need_channels(op: object, x: Shape, wanted: int) -> None:
    """The input has that many channels, for all that is known.

    Raises:
        GraphError: it has others.
    """
    if isinstance(x[1], int) and x[1] != wanted:
        raise GraphError(f"{type(op).__name__} is made for {wanted} channels, its input is {show(x)}")


def positive(op: object, x: Shape, size: Sequence[Dim]) -> tuple[Dim, ...]:
    """A size of which something is left.

    Raises:
        GraphError: nothing is left on some axis.
    """
    if any(isinstance(n, int) and n < 1 for n in size):
        raise GraphError(f"{type(op).__name__} on {show(x)} leaves nothing: spatial size {show(tuple(size))}")
    return tuple(size)


def windows(sizes: Shape, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], pads: Pads) -> list[Dim]:
    """floor((n + before + after − (k − 1)·d − 1) / s) + 1 per axis."""
    fields = zip(sizes, kernel, stride, dilation, pads, strict=True)
    return [dims.strided(n, lo + hi - (k - 1) * d - 1 + s, s) for n, k, s, d, (lo, hi) in fields]


def window_axes(kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], pads: Pads) -> tuple[Axis, ...]:
    """What an output position of a sliding window sees, per spatial axis."""
    fields = zip(kernel, stride, dilation, pads, strict=True)
    return tuple(Axis(k, s, d, -before) for k, s, d, (before, _) in fields)


def column(values: NDArray[Any], rank: int) -> NDArray[np.float64]:
    """One number per channel against an array (N, C, *S) of `rank` axes."""
    return values.astype(np.float64).reshape(-1, *(1,) * (rank - 2))


def geometry_text(stride: Sequence[int], dilation: Sequence[int], padding: Pads) -> list[str]:
    shown = [f"{name} {_same(v)}" for name, v in (("stride", stride), ("dilation", dilation)) if any(n != 1 for n in v)]
    return [*shown, *([f"pad {pads_text(padding)}"] if any(map(any, padding)) else [])]


def _same(values: Sequence[int]) -> str:
    """2 where all axes agree, else 2x1."""
    return str(values[0]) if len(set(values)) == 1 else times(values)


def pads_text(pads: Pads) -> str:
    """1 where all sides agree; 0:1 where all axes do; else 0:1x1:2."""
    axes = [str(lo) if lo == hi else f"{lo}:{hi}" for lo, hi in pads]
    return axes[0] if len(set(axes)) == 1 else "x".join(axes)


def times(values: Sequence[int]) -> str:
    return "x".join(map(str, values))


def array_text(values: NDArray[Any]) -> str:
    return f"{times(values.shape)} rms {rms(values)}"


def rms(values: NDArray[Any]) -> str:
    # 0.0 stays 0; three digits are the same on every machine but for values that lie on a rounding edge
    return f"{float(np.sqrt(np.mean(np.square(values.astype(np.float64))))):.3g}"


def also(name: str, sizes: Sequence[int]) -> str:
    """", stride 2", or nothing where all are 1."""
    if all(n == 1 for n in sizes):
        return ""
    return f", {name} {sizes[0] if len(set(sizes)) == 1 else times(sizes)}"
