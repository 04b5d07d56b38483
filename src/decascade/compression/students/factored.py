"""Students whose kernel is a product: low rank, bottleneck, spatially separable, depthwise-separable.

Each is fitted on the moments alone: with Ŵ the least-squares kernel, Σ|z − Wᵀp|² = const + tr (W − Ŵ)ᵀG(W − Ŵ), so the best
factors are those of Ŵ in the metric of G.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from decascade.algebra.conv import Conv
from decascade.compression.students.families import Fit, Site, Student, kernel_of, layer, named, titled, unset
from decascade.compression.students.least_squares import Matrix, eigh
from decascade.compression.students.moments import Moments
from decascade.compression.students.products import depthwise_factors, two_factors
from decascade.compression.students.windows import Request, Window
from decascade.ir.ops import Op

MULTIPLIERS = (1, 2, 3, 4, 6)
"""Depthwise kernels per channel."""


def _ranks(most: int) -> Iterator[int]:
    """One eighth to seven eighths of the full rank."""
    yield from dict.fromkeys(max(1, most * j // 8) for j in range(1, 8) if most > 1)


@dataclass(frozen=True, eq=False)
class LowRank:
    """k×k to `rank` channels, then 1×1: reduced-rank regression, Ŵ = W V Vᵀ with V the first eigenvectors of WᵀGW
    (Izenman 1975, Reduced-rank regression for the multivariate linear model), optimal for its rank."""

    site: Site
    window: Window
    rank: int
    skip: bool = False

    @property
    def label(self) -> str:
        return titled("low rank", named(self.window), f"r={self.rank}", skip=self.skip)

    @staticmethod
    def propose(site: Site) -> Iterator[Student]:
        for window in site.windows():
            for rank in _ranks(min(site.channels * prod(window.kernel), site.out_channels)):
                for skip in site.skips():
                    yield LowRank(site, window, rank, skip)

    def requests(self) -> tuple[Request, ...]:
        return (self.site.request(self.window, self.skip),)

    def blank(self) -> tuple[Op, ...]:
        first = unset(self.rank, self.site.channels, *self.window.kernel)
        return self._ops(first, unset(self.site.out_channels, self.rank), unset(self.site.out_channels))

    def _ops(self, first: Matrix, second: Matrix, bias: Matrix) -> tuple[Op, ...]:
        point = second.reshape(*second.shape, *(1,) * len(self.window.kernel))
        return layer(first, None, self.window, self.site), layer(point, bias)

    def fit(self, moments: Moments) -> Fit:
        (request,) = self.requests()
        regression, weight = moments.regression(request), moments.regression(request).weight
        basis = regression.once("outputs", lambda: eigh(weight.T @ regression.gram @ weight)[1][:, ::-1])[:, : self.rank]
        full = weight @ basis @ basis.T
        ops = self._ops(kernel_of(weight @ basis, self.window), basis, regression.bias(full))
        return Fit(ops, *regression.error(full))


@dataclass(frozen=True, eq=False)
class Bottleneck:
    """1×1 to `rank` channels, then k×k: Ŵ in two factors between its channels and its taps."""

    site: Site
    window: Window
    rank: int
    skip: bool = False

    @property
    def label(self) -> str:
        return titled("bottleneck", named(self.window), f"r={self.rank}", skip=self.skip)

    @staticmethod
    def propose(site: Site) -> Iterator[Student]:
        for window in site.windows():
            if prod(window.kernel) > 1:
                for rank in _ranks(min(site.channels, site.out_channels * prod(window.kernel))):
                    for skip in site.skips():
                        yield Bottleneck(site, window, rank, skip)

    def requests(self) -> tuple[Request, ...]:
        return (self.site.request(self.window, self.skip),)

    def blank(self) -> tuple[Op, ...]:
        second = unset(self.site.out_channels, self.rank, *self.window.kernel)
        return self._ops(unset(self.rank, self.site.channels), second, unset(self.site.out_channels))

    def _ops(self, first: Matrix, second: Matrix, bias: Matrix) -> tuple[Op, ...]:
        point = first.reshape(*first.shape, *(1,) * len(self.window.kernel))
        return layer(point, None), layer(second, bias, self.window, self.site)

    def fit(self, moments: Moments) -> Fit:
        (request,) = self.requests()
        regression = moments.regression(request)
        first, second = two_factors(regression, self.site.channels, self.rank)
        full = (first.T @ second.reshape(self.rank, -1)).reshape(regression.cross.shape)
        return Fit(self._ops(first, kernel_of(second, self.window), regression.bias(full)), *regression.error(full))


@dataclass(frozen=True, eq=False)
class Separable:
    """k×1 to `rank` channels, then 1×k (Jaderberg et al. 2014): Ŵ in two factors between its rows and its columns."""

    site: Site
    window: Window
    rank: int
    skip: bool = False

    @property
    def label(self) -> str:
        return titled("separable", named(self.window), f"r={self.rank}", skip=self.skip)

    @staticmethod
    def propose(site: Site) -> Iterator[Student]:
        for window in site.windows():
            if len(window.kernel) == 2 and min(window.kernel) > 1:
                high, wide = window.kernel
                for rank in _ranks(min(site.channels * high, site.out_channels * wide)):
                    for skip in site.skips():
                        yield Separable(site, window, rank, skip)

    def requests(self) -> tuple[Request, ...]:
        return (self.site.request(self.window, self.skip),)

    def blank(self) -> tuple[Op, ...]:
        high, wide = self.window.kernel
        second = unset(self.site.out_channels, self.rank, 1, wide)
        return self._ops(unset(self.rank, self.site.channels, high, 1), second, unset(self.site.out_channels))

    def _ops(self, first: Matrix, second: Matrix, bias: Matrix) -> tuple[Op, ...]:
        site, window = self.site, self.window
        middle = (site.out_size[0], site.size[1])
        down = Window((window.kernel[0], 1), (window.stride[0], 1), (window.start[0], 0))
        across = Window((1, window.kernel[1]), (1, window.stride[1]), (0, window.start[1]))
        return (Conv(first, None, down.stride, 1, down.padding(site.size, middle)),
                Conv(second, bias, across.stride, 1, across.padding(middle, site.out_size)))

    def fit(self, moments: Moments) -> Fit:
        (request,) = self.requests()
        regression, (high, wide) = moments.regression(request), self.window.kernel
        first, second = two_factors(regression, self.site.channels * high, self.rank)
        full = (first.T @ second.reshape(self.rank, -1)).reshape(regression.cross.shape)
        down = first.reshape(self.rank, self.site.channels, high, 1)
        across = second.T.reshape(self.site.out_channels, self.rank, 1, wide)
        return Fit(self._ops(down, across, regression.bias(full)), *regression.error(full))


@dataclass(frozen=True, eq=False)
class DepthwiseSeparable:
    """k×k depthwise with `multiplier` kernels per channel, then 1×1: every channel's part of Ŵ in two factors between its taps
    and the outputs."""

    site: Site
    window: Window
    multiplier: int = 1
    skip: bool = False

    @property
    def label(self) -> str:
        return titled("depthwise-separable", named(self.window), f"x{self.multiplier}", skip=self.skip)

    @staticmethod
    def propose(site: Site) -> Iterator[Student]:
        for window in site.windows():
            if prod(window.kernel) > 1 and site.channels > 1:
                for multiplier in MULTIPLIERS:
                    if multiplier < min(prod(window.kernel), site.out_channels):
                        yield from (DepthwiseSeparable(site, window, multiplier, skip) for skip in site.skips())

    def requests(self) -> tuple[Request, ...]:
        return (self.site.request(self.window, self.skip),)

    def blank(self) -> tuple[Op, ...]:
        middle, out = self.site.channels * self.multiplier, self.site.out_channels
        return self._ops(unset(middle, 1, *self.window.kernel), unset(out, middle), unset(out))

    def _ops(self, depth: Matrix, point: Matrix, bias: Matrix) -> tuple[Op, ...]:
        point = point.reshape(*point.shape, *(1,) * len(self.window.kernel))
        return layer(depth, None, self.window, self.site, self.site.channels), layer(point, bias)

    def fit(self, moments: Moments) -> Fit:
        (request,) = self.requests()
        regression = moments.regression(request)
        depth, point = depthwise_factors(regression, self.site.channels, self.multiplier)
        full = np.swapaxes(depth, 1, 2) @ point.reshape(self.site.channels, self.multiplier, -1)
        full = full.reshape(regression.cross.shape)
        ops = self._ops(depth.reshape(-1, 1, *self.window.kernel), point.T, regression.bias(full))
        return Fit(ops, *regression.error(full))
