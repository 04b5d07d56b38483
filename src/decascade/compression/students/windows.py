"""What a fit regresses on what: windows, as convolutions have them, and the requests for moments that are made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, order=True)
class Window:
    """The taps of a convolution per axis: output o reads the positions stride·o + start … stride·o + start + kernel − 1."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    start: tuple[int, ...]

    def padding(self, size: Sequence[int], out: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """(before, after) per axis that makes `out` positions of a map of `size`; negative numbers crop."""
        each = zip(self.kernel, self.stride, self.start, size, out, strict=True)
        return tuple((-first, (o - 1) * s + first + k - n) for k, s, first, n, o in each)

    def union(self, other: Window) -> Window:
        """The smallest window that holds both; their strides are equal."""
        start = tuple(map(min, self.start, other.start))
        stop = tuple(max(a + k, b + m) for a, k, b, m in zip(self.start, self.kernel, other.start, other.kernel, strict=True))
        return Window(tuple(b - a for a, b in zip(start, stop, strict=True)), self.stride, start)

    def rows(self, inner: Window, channels: int) -> NDArray[np.int64]:
        """The entries of a patch of this window, which runs through (taps, channels), that make a patch of a window inside it
        as kernels have it, (channels, taps)."""
        index = np.arange(channels * prod(self.kernel)).reshape(*self.kernel, channels)
        cut = tuple(slice(b - a, b - a + k) for a, b, k in zip(self.start, inner.start, inner.kernel, strict=True))
        return np.moveaxis(index[cut], -1, 0).reshape(-1)


@dataclass(frozen=True, order=True)
class Request:
    """A regression of the tensor `target`, less the tensor `minus` where one is named, on the patches of `tensor`."""

    tensor: str
    window: Window
    target: str
    minus: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.target, self.minus


def patches_per_unknown(request: Request, shapes: Mapping[str, Sequence[int]], samples: float) -> float:
    """How many rows there would be for every unknown of a fit."""
    return samples * prod(shapes[request.target][1:]) / (shapes[request.tensor][0] * prod(request.window.kernel) + 1)
