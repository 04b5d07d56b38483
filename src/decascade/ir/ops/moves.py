"""Operations that move values about, and `Pad`, which adds a constant around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.axis import Axis
from decascade.algebra.conv import Pads, crop_or_pad
from decascade.errors import GraphError
from decascade.ir import dims
from decascade.ir.dims import UNKNOWN, Shape, show
from decascade.ir.ops.definition import AnyArray, Definition, at_its_own_position
from decascade.ir.ops.rules import need, pads_text, positive, same_shape, times, unary


@dataclass(frozen=True)
class Identity:
    """Identity, dropout at inference, linear activation, cast to the same type."""


@dataclass(frozen=True)
class Flatten:
    """(N, C, *S) → (N, C·ΠS).  `order` "channels_first" runs through (C, *S), "channels_last" through (*S, C)."""

    order: Literal["channels_first", "channels_last"] = "channels_first"


@dataclass(frozen=True)
class Pad:
    """Constant padding of the spatial axes by (before, after); negative numbers crop.

    `channels` does the same to the channel axis.
    """

    pads: Pads
    value: float = 0.0
    channels: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Concat:
    """Concatenation along `axis` (1 is the channel axis)."""

    axis: int = 1


@dataclass(frozen=True, eq=False)
class Select:
    """Channels picked by index, y[:, j] = x[:, indices[j]]: a slice, a split's part, a shuffle, a permutation."""

    indices: NDArray[np.int64]


@dataclass(frozen=True)
class Slice:
    """Positions start ≤ i < stop of one spatial axis (`axis` counts from 2)."""

    axis: int
    start: int
    stop: int


@dataclass(frozen=True)
class Upsample:
    """Nearest-neighbour repetition of every sample, `factor` times per spatial axis."""

    factor: tuple[int, ...]


def _identity(_: Identity, arrays: Sequence[AnyArray]) -> AnyArray:
    return arrays[0]


def _flatten_shape(op: Flatten, x: Shape) -> Shape:
    need(op, x, None)
    return (x[0], dims.product(x[1:]))


def flatten(op: Flatten, arrays: Sequence[AnyArray]) -> AnyArray:
    """(N, C, *S) → (N, C·ΠS)."""
    x = arrays[0]
    ordered = x if op.order == "channels_first" else np.moveaxis(x, 1, -1)
    return ordered.reshape(x.shape[0], prod(x.shape[1:]))


def _flatten_text(op: Flatten) -> list[str]:
    return [] if op.order == "channels_first" else [op.order]


def _pad_shape(op: Pad, x: Shape) -> Shape:
    need(op, x, len(op.pads))
    size = [dims.shifted(n, lo + hi) for n, (lo, hi) in zip(x[1:], (op.channels, *op.pads), strict=True)]
    return (x[0], *positive(op, x, size))


def _pad(op: Pad, arrays: Sequence[AnyArray]) -> AnyArray:
    return crop_or_pad(arrays[0], (op.channels, *op.pads), op.value)


def _pad_text(op: Pad) -> list[str]:
    value = [f"value {op.value:g}"] if op.value else []
    return [pads_text(op.pads), *([f"channels {pads_text((op.channels,))}"] if any(op.channels) else []), *value]


def _pad_axes(op: Pad, rank: int) -> tuple[Axis, ...]:
    del rank
    return tuple(Axis(start=-before) for before, _ in op.pads)


def _keeps_channels(op: Pad) -> bool:
    return not any(op.channels)


def _concat_shape(op: Concat, shapes: Sequence[Shape | None]) -> Shape | None:
    known = [s for s in shapes if s is not None]
    if any(not 0 <= op.axis < len(s) for s in known):
        raise GraphError(f"Concat axis {op.axis} is outside one of its inputs {', '.join(map(show, shapes))}")
    joined: Shape | None = None
    for shape in known:
        rest = (*shape[: op.axis], UNKNOWN, *shape[op.axis + 1 :])
        joined = rest if joined is None else dims.joined(joined, rest)
        if joined is None:
            raise GraphError(f"Concat inputs differ off axis {op.axis}: {', '.join(map(show, shapes))}")
    if joined is None:
        return None
    along = dims.total([s[op.axis] for s in known]) if len(known) == len(shapes) else UNKNOWN
    return (*joined[: op.axis], along, *joined[op.axis + 1 :])


def _concat(op: Concat, arrays: Sequence[AnyArray]) -> AnyArray:
    return np.concatenate(arrays, axis=op.axis)


def _concat_text(op: Concat) -> list[str]:
    return [f"axis {op.axis}"]


def _concat_axes(op: Concat, rank: int) -> tuple[Axis, ...] | None:
    return at_its_own_position(op, rank) if op.axis == 1 else None


def _select_shape(op: Select, x: Shape) -> Shape:
    need(op, x, None)
    if op.indices.ndim != 1 or not op.indices.size:
        raise GraphError(f"Select indices of shape {op.indices.shape} must be a list of at least one channel")
    low, high = int(op.indices.min()), int(op.indices.max())
    if low < 0 or (isinstance(x[1], int) and high >= x[1]):
        raise GraphError(f"Select picks channels {low} to {high}, its input is {show(x)}")
    return (x[0], op.indices.size, *x[2:])


def _select(op: Select, arrays: Sequence[AnyArray]) -> AnyArray:
    return arrays[0][:, op.indices]


def _select_text(op: Select) -> list[str]:
    """3:7 for a run, else the list, its middle left out where it is long."""
    values = [int(i) for i in op.indices]
    if values == list(range(values[0], values[0] + len(values))):
        return [f"{values[0]}:{values[0] + len(values)}"]
    listed = [str(v) for v in values]
    return [" ".join(listed if len(listed) <= 12 else [*listed[:10], "...", listed[-1], f"({len(listed)})"])]


def _slice_shape(op: Slice, x: Shape) -> Shape:
    need(op, x, None)
    if not 2 <= op.axis < len(x):
        raise GraphError(f"Slice axis {op.axis} is not a spatial axis of {show(x)}")
    size = x[op.axis]
    if not 0 <= op.start < op.stop or (isinstance(size, int) and op.stop > size):
        raise GraphError(f"Slice {op.start}:{op.stop} is empty or outside axis {op.axis} of {show(x)}")
    return (*x[: op.axis], op.stop - op.start, *x[op.axis + 1 :])


def _slice(op: Slice, arrays: Sequence[AnyArray]) -> AnyArray:
    return arrays[0][(*(slice(None),) * op.axis, slice(op.start, op.stop))]


def _slice_text(op: Slice) -> list[str]:
    return [f"axis {op.axis}", f"{op.start}:{op.stop}"]


def _slice_axes(op: Slice, rank: int) -> tuple[Axis, ...]:
    return tuple(Axis(start=op.start if axis == op.axis - 2 else 0) for axis in range(rank))


def _upsample_shape(op: Upsample, x: Shape) -> Shape:
    need(op, x, len(op.factor))
    if any(f < 1 for f in op.factor):
        raise GraphError(f"Upsample factor {op.factor} has an entry below 1")
    return (*x[:2], *map(dims.scaled, x[2:], op.factor))


def _upsample(op: Upsample, arrays: Sequence[AnyArray]) -> AnyArray:
    x = arrays[0]
    for axis, factor in enumerate(op.factor, start=2):
        x = np.repeat(x, factor, axis)
    return x


def _upsample_text(op: Upsample) -> list[str]:
    return [times(op.factor)]


IDENTITY = Definition(
    unary(same_shape), _identity, "identity", linear=True, moves=True, view=True, pointwise=True, any_size=True,
    per_channel=True, joins=True, axes=at_its_own_position,
)
FLATTEN = Definition(
    unary(_flatten_shape), flatten, "flatten", text=_flatten_text, linear=True, moves=True, view=True, joins=True,
)
PAD = Definition(
    unary(_pad_shape), _pad, "padding", text=_pad_text, linear=True, any_size=True, per_channel=_keeps_channels,
    folds="padding", axes=_pad_axes,
)
CONCAT = Definition(
    _concat_shape, _concat, "concatenation", inputs=(1, None), text=_concat_text, linear=True, moves=True, any_size=True,
    axes=_concat_axes,
)
SELECT = Definition(
    unary(_select_shape), _select, "channel selection", text=_select_text, linear=True, moves=True, pointwise=True,
    any_size=True, folds="channel selection", axes=at_its_own_position,
)
SLICE = Definition(
    unary(_slice_shape), _slice, "crop", text=_slice_text, linear=True, moves=True, per_channel=True, folds="crop",
    axes=_slice_axes,
)
UPSAMPLE = Definition(
    unary(_upsample_shape), _upsample, "upsampling", text=_upsample_text, linear=True, moves=True, any_size=True,
    per_channel=True, layer=True,
)
