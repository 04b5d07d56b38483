"""The one object of the algebra: a convolution layer as a frozen value, and its float64 meaning.

Cross-correlation as in all frameworks.  Arrays are channels-first: inputs (N, C, *S), weights (O, C/groups, *K);
*S may have any number of axes, none included: a dense layer is a convolution over no axes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from decascade.algebra.axis import Axis
from decascade.errors import AlgebraError

Array = NDArray[np.floating[Any]]
Pads = tuple[tuple[int, int], ...]


def _per_axis(value: int | Sequence[int], rank: int, name: str, least: int) -> tuple[int, ...]:
    values = (value,) * rank if isinstance(value, int) else tuple(int(v) for v in value)
    if len(values) != rank:
        raise AlgebraError(f"{name} {values} has {len(values)} entries for {rank} axes: give one per axis or one number")
    if any(v < least for v in values):
        raise AlgebraError(f"{name} {values} has an entry below {least}")
    return values


def _pads(value: int | Sequence[int | tuple[int, int]], rank: int) -> Pads:
    if isinstance(value, int):
        return ((value, value),) * rank
    pads = tuple((v, v) if isinstance(v, int) else (int(v[0]), int(v[1])) for v in value)
    if len(pads) != rank:
        raise AlgebraError(f"padding {pads} has {len(pads)} entries for {rank} axes: give one per axis or one number")
    return pads


def _floating(value: ArrayLike) -> Array:
    array = np.asarray(value)
    return array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float64)


class _Layer:
    """What Conv and ConvTranspose share: the checks on their fields."""

    weight: Array
    bias: Array | None
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Pads
    groups: int

    def __init__(
        self,
        weight: ArrayLike,
        bias: ArrayLike | None = None,
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
        padding: int | Sequence[int | tuple[int, int]] = 0,
        groups: int = 1,
    ) -> None:
        put = object.__setattr__
        put(self, "weight", _floating(weight))
        if self.weight.ndim < 2:
            raise AlgebraError(f"weight of shape {self.weight.shape}: expected two channel axes before the kernel axes")
        if 0 in self.weight.shape:
            raise AlgebraError(f"weight of shape {self.weight.shape} is empty")
        rank = self.weight.ndim - 2
        put(self, "stride", _per_axis(stride, rank, "stride", 1))
        put(self, "dilation", _per_axis(dilation, rank, "dilation", 1))
        put(self, "padding", _pads(padding, rank))
        put(self, "groups", int(groups))
        if self.groups < 1 or self.weight.shape[0] % self.groups:
            raise AlgebraError(f"groups = {groups} does not divide the {self.weight.shape[0]} rows of the weight")
        put(self, "bias", None if bias is None else _floating(bias))
        if self.bias is not None and self.bias.shape != (self.out_channels,):
            raise AlgebraError(f"bias of shape {self.bias.shape} for {self.out_channels} output channels")

    @property
    def rank(self) -> int:
        """Number of spatial axes; 0 for a dense layer."""
        return self.weight.ndim - 2

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.weight.shape[2:]

    @property
    def out_channels(self) -> int:
        raise NotImplementedError

    @property
    def has_bias(self) -> bool:
        """Whether some bias is not zero."""
        return self.bias is not None and bool(np.any(self.bias))

    @property
    def bias64(self) -> NDArray[np.float64]:
        """The bias in float64, zeros where there is none."""
        return np.zeros(self.out_channels) if self.bias is None else self.bias.astype(np.float64)

    @property
    def parameters(self) -> int:
        """Stored numbers: kernel and bias."""
        return self.weight.size + (0 if self.bias is None else self.bias.size)


@dataclass(frozen=True, eq=False, init=False)
class Conv(_Layer):
    """A convolution layer: weight (O, I/groups, *K), bias (O,) or None, and per axis stride, dilation and padding.

    Padding is (before, after) per axis with zeros; a negative number crops.  One number stands for all axes.

    Raises:
        AlgebraError: fields whose shapes do not fit together.
    """

    weight: Array
    bias: Array | None
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Pads
    groups: int

    @property
    def out_channels(self) -> int:
        return self.weight.shape[0]

    @property
    def in_channels(self) -> int:
        return self.weight.shape[1] * self.groups

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """The taps along each spatial axis."""
        fields = zip(self.kernel, self.stride, self.dilation, self.padding, strict=True)
        return tuple(Axis(k, s, d, -p[0]) for k, s, d, p in fields)

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Spatial output size for a spatial input size; floor as in all frameworks."""
        return tuple(
            (n + lo + hi - (k - 1) * d - 1) // s + 1
            for n, k, s, d, (lo, hi) in zip(size, self.kernel, self.stride, self.dilation, self.padding, strict=True)
        )

    def __call__(self, x: ArrayLike) -> NDArray[np.float64]:
        """The layer in float64 on x (N, C, *S): the sum over taps of W[:, :, tap] times the shifted input.

        Raises:
            AlgebraError: the channels do not fit, or the kernel is larger than the padded input.
        """
        data = np.asarray(x, dtype=np.float64)
        if data.ndim != self.rank + 2 or data.shape[1] != self.in_channels:
            raise AlgebraError(f"input of shape {data.shape} for a layer of {self.in_channels} channels and {self.rank} axes")
        size = self.output_size(data.shape[2:])
        if any(n < 1 for n in size):
            raise AlgebraError(f"kernel {self.kernel} is larger than the padded input {data.shape[2:]}")
        data = crop_or_pad(data, self.padding).reshape(data.shape[0], self.groups, -1, *_padded_size(data, self.padding))
        weight = self.weight.astype(np.float64).reshape(self.groups, self.out_channels // self.groups, -1)
        out = np.empty((data.shape[0], *weight.shape[:2], int(np.prod(size))))
        for sample, result in zip(data, out, strict=True):  # one at a time: the unfolded input is the kernel's size larger
            np.matmul(weight, self._unfolded(sample, size), out=result)
        return out.reshape(data.shape[0], self.out_channels, *size) + _column(self.bias64, self.rank)

    def _unfolded(self, sample: NDArray[np.float64], size: Sequence[int]) -> NDArray[np.float64]:
        """(groups, C/groups·ΠK, positions): every window of one padded sample as a column."""
        near, steps = sample.strides[:2], sample.strides[2:]
        taps = tuple(d * s for d, s in zip(self.dilation, steps, strict=True))
        moves = tuple(n * s for n, s in zip(self.stride, steps, strict=True))
        windows = np.lib.stride_tricks.as_strided(
            sample, (*sample.shape[:2], *self.kernel, *size), (*near, *taps, *moves), writeable=False
        )
        return windows.reshape(self.groups, -1, int(np.prod(size)))


@dataclass(frozen=True, eq=False, init=False)
class ConvTranspose(_Layer):
    """A transposed convolution: weight (I, O/groups, *K); padding is what is cropped from the full output.

    The output has (n − 1)·stride + (k − 1)·dilation + 1 − before − after positions; a negative crop extends it
    with what the bias alone gives (frameworks' output_padding).

    Raises:
        AlgebraError: fields whose shapes do not fit together.
    """

    weight: Array
    bias: Array | None
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Pads
    groups: int

    @property
    def in_channels(self) -> int:
        return self.weight.shape[0]

    @property
    def out_channels(self) -> int:
        return self.weight.shape[1] * self.groups

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Spatial output size for a spatial input size."""
        return tuple(
            (n - 1) * s + (k - 1) * d + 1 - lo - hi
            for n, k, s, d, (lo, hi) in zip(size, self.kernel, self.stride, self.dilation, self.padding, strict=True)
        )

    def __call__(self, x: ArrayLike) -> NDArray[np.float64]:
        """The layer in float64 on x (N, C, *S): every input sample adds its kernel to the output.

        Raises:
            AlgebraError: the channels do not fit, or nothing is left after the crop.
        """
        data = np.asarray(x, dtype=np.float64)
        if data.ndim != self.rank + 2 or data.shape[1] != self.in_channels:
            raise AlgebraError(f"input of shape {data.shape} for a layer of {self.in_channels} channels and {self.rank} axes")
        if any(n < 1 for n in self.output_size(data.shape[2:])):
            raise AlgebraError(f"padding {self.padding} crops the whole output of an input {data.shape[2:]}")
        size = data.shape[2:]
        grouped = data.reshape(data.shape[0], self.groups, -1, int(np.prod(size)))
        weight = self.weight.astype(np.float64).reshape(self.groups, -1, self.weight.shape[1], *self.kernel)
        full = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(size, self.stride, self.kernel, self.dilation, strict=True)]
        out = np.zeros((data.shape[0], self.groups, weight.shape[2], *full))
        for tap in product(*map(range, self.kernel)):
            part = weight[(..., *tap)].swapaxes(1, 2) @ grouped
            out[(..., *_strided(tap, self.stride, self.dilation, size))] += part.reshape(*part.shape[:3], *size)
        out = out.reshape(data.shape[0], self.out_channels, *full)
        return crop_or_pad(out, tuple((-lo, -hi) for lo, hi in self.padding)) + _column(self.bias64, self.rank)


Layer = Conv | ConvTranspose


def _strided(tap: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...], count: Sequence[int]) -> Iterator[slice]:
    """Per axis, the samples that one tap meets: `count` of them, `stride` apart, from dilation·tap on."""
    for t, s, d, n in zip(tap, stride, dilation, count, strict=True):
        yield slice(t * d, t * d + (n - 1) * s + 1, s)


def _padded_size(data: Array, pads: Pads) -> tuple[int, ...]:
    return tuple(n + lo + hi for n, (lo, hi) in zip(data.shape[2:], pads, strict=True))


def _column(values: Array, rank: int) -> Array:
    return values.reshape(-1, *(1,) * rank)


def crop_or_pad(data: NDArray[np.float64], pads: Pads, value: float = 0.0) -> NDArray[np.float64]:
    """Pad the trailing axes by (before, after); negative numbers crop."""
    if not any(lo or hi for lo, hi in pads):
        return data
    lead = data.ndim - len(pads)
    width = [(0, 0)] * lead + [(max(lo, 0), max(hi, 0)) for lo, hi in pads]
    padded = np.pad(data, width, constant_values=value)
    cut = [slice(None)] * lead + [
        slice(max(-lo, 0), n - max(-hi, 0)) for n, (lo, hi) in zip(padded.shape[lead:], pads, strict=True)
    ]
    return padded[tuple(cut)]
