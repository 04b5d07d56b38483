"""Random layers and chains of layers for hypothesis; simple choices come first, they are what it shrinks to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from hypothesis import strategies as st

from decascade.algebra.conv import Conv
from laws import EPS, magnitude

Draw = Callable[[st.SearchStrategy[Any]], Any]


def normal(shape: Sequence[int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@st.composite
def convs(draw: Draw, rank: int, channels: int, stride: int = 3, least_pad: int = -1) -> Conv:
    """A convolution on `channels` channels: grouped, depthwise with a multiplier, dilated, its padding asymmetric and
    negative at times."""
    axes = range(rank)
    kernel = [draw(st.integers(1, 2 if rank == 3 else 4)) for _ in axes]
    groups = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
    out = groups * draw(st.integers(1, max(1, 4 // groups)))
    seed = draw(st.integers(0, 2**16))
    weight = normal((out, channels // groups, *kernel), seed)
    bias = normal((out,), seed + 1) if draw(st.booleans()) else None
    pads = [(draw(st.integers(least_pad, 3)), draw(st.integers(least_pad, 3))) for _ in axes]
    strides, dilations = ([draw(st.integers(1, top)) for _ in axes] for top in (stride, 3))
    return Conv(weight, bias, strides, dilations, pads, groups)


def least_size(layers: Sequence[Conv], axis: int) -> int:
    """The shortest map on which every layer leaves something."""
    for n in range(1, 400):
        size = n
        for layer in layers:
            size = layer.output_size((size,) * layer.rank)[axis] if size > 0 else 0
        if size > 0:
            return n
    raise AssertionError("no size will do")


@st.composite
def chains(draw: Draw, depth: tuple[int, int] = (2, 3), ranks: Sequence[int] = (1, 2, 3)) -> tuple[list[Conv], np.ndarray]:
    """Layers that fit in sequence, and an input (1, C, *S) on which each leaves something."""
    rank = draw(st.sampled_from(ranks))
    channels = draw(st.integers(1, 4))
    layers = list[Conv]()
    for _ in range(draw(st.integers(*depth))):
        layers.append(draw(convs(rank, layers[-1].out_channels if layers else channels, 2 if rank == 3 else 3)))
    size = [least_size(layers, a) + draw(st.integers(0, 3 if rank == 3 else 7)) for a in range(rank)]
    return layers, normal((1, channels, *size), draw(st.integers(0, 2**16)))


def in_sequence(layers: Sequence[Conv], x: np.ndarray) -> np.ndarray:
    for layer in layers:
        x = layer(x)
    return x


def rounding(layers: Sequence[Conv], x: np.ndarray) -> float:
    """Terms × ε × Σ|w||x| of layers in sequence, the largest over all positions of an input as large as x everywhere.

    On an input grown by all that any layer reaches, so that it also holds for kernels that read beyond the maps.
    """
    large = np.full(x.shape[:2] + (1,) * (x.ndim - 2), np.abs(x).max())
    for layer in layers:
        weight = np.abs(layer.weight.reshape(*layer.weight.shape[:2], -1)).sum(-1)
        large = magnitude(Conv(weight.reshape(*weight.shape, *(1,) * layer.rank), layer.bias, groups=layer.groups))(large)
    terms = sum(prod(layer.weight.shape[1:]) + 1 for layer in layers)
    return terms * EPS * large.max() * 4
