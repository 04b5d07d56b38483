"""Other linear layers as convolutions: batch normalisation, scales, pools, dense layers, skips, pads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from decascade.algebra.compose import Float64, regroup
from decascade.algebra.conv import Array, Conv, ConvTranspose, Pads
from decascade.errors import AlgebraError


def batch_norm(
    gamma: ArrayLike | None, beta: ArrayLike | None, mean: ArrayLike, variance: ArrayLike, epsilon: float
) -> tuple[Float64, Float64]:
    """(scale, shift) of y = gamma·(x − mean)/√(variance + epsilon) + beta, per channel, in float64.

    Raises:
        AlgebraError: a variance + epsilon that is not positive.
    """
    spread = np.asarray(variance, np.float64) + epsilon
    if np.any(spread <= 0):
        raise AlgebraError(f"batch normalisation with variance + epsilon = {spread.min():g}: it must be positive")
    scale = (1.0 if gamma is None else np.asarray(gamma, np.float64)) / np.sqrt(spread)
    shift = (0.0 if beta is None else np.asarray(beta, np.float64)) - np.asarray(mean, np.float64) * scale
    return np.asarray(scale), np.asarray(shift)


def scale_shift(scale: ArrayLike, shift: ArrayLike | None, rank: int) -> Conv:
    """y[:, c] = scale[c]·x[:, c] + shift[c] as a depthwise 1×…×1 convolution."""
    values = np.asarray(scale, np.float64)
    return Conv(values.reshape(-1, 1, *(1,) * rank), shift, groups=values.size)


def identity(channels: int, rank: int) -> Conv:
    """The delta kernel: a skip connection as a depthwise convolution."""
    return scale_shift(np.ones(channels), None, rank)


def pad(channels: int, pads: Pads) -> Conv:
    """Zero padding (negative: cropping) as a padded delta kernel."""
    return Conv(np.ones((channels, 1, *(1,) * len(pads))), None, 1, 1, pads, channels)


def average_pool(
    channels: int, kernel: Sequence[int], stride: Sequence[int], padding: Pads, dilation: Sequence[int]
) -> Conv:
    """An average that counts its padding, as a depthwise convolution."""
    weight = np.full((channels, 1, *kernel), 1.0 / np.prod(kernel))
    return Conv(weight, None, stride, dilation, padding, channels)


def flatten_dense(dense: Conv, channels: int, size: Sequence[int], channels_last: bool) -> Conv:
    """A dense layer behind a flatten of (channels, *size), as a convolution whose kernel is the whole map.

    Raises:
        AlgebraError: a dense layer of another number of inputs.
    """
    if dense.in_channels != channels * int(np.prod(size)):
        raise AlgebraError(f"a dense layer of {dense.in_channels} inputs behind a map of {channels} × {tuple(size)}")
    weight: Array = regroup(dense.weight, dense.groups, 1)
    if channels_last:
        weight = np.moveaxis(weight.reshape(-1, *size, channels), -1, 1)
    return Conv(weight.reshape(-1, channels, *size), dense.bias)


def upsample(channels: int, factor: Sequence[int]) -> ConvTranspose:
    """Nearest-neighbour upsampling as a depthwise transposed convolution with a kernel of ones."""
    return ConvTranspose(np.ones((channels, 1, *factor)), None, factor, groups=channels)
