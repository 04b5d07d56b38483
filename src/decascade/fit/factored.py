"""Students whose kernel is a product: low rank, bottleneck, spatially separable, depthwise-separable.

Each is fitted on the Gram matrix alone: with W the least-squares kernel, ‖Y − PW‖² = const + ‖G^½(W − Ŵ)‖², so the best
factors are those of W in the metric of G.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from decascade.algebra.conv import Conv
from decascade.fit.least_squares import Matrix, beside_identity, cholesky, eigh, ridge_solve
from decascade.fit.moments import Moments
from decascade.fit.students import Fit, Site, Student, kernel_of, layer, named, zeros
from decascade.fit.windows import Request, Window
from decascade.ir.ops import Op

SWEEPS = 6
"""Alternations between the two factors of a depthwise-separable kernel."""


def _ranks(most: int) -> Iterator[int]:
    """One eighth to seven eighths of the full rank."""
    yield from dict.fromkeys(max(1, most * j // 8) for j in range(1, 8) if most > 1)


def _top(symmetric: Matrix, rank: int) -> Matrix:
    """The eigenvectors of the largest eigenvalues, (n, rank)."""
    return eigh(symmetric)[1][:, ::-1][:, :rank]


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
        return f"low rank {named(self.window)} r={self.rank}" + " + skip" * self.skip

    @staticmethod
    def propose(site: Site) -> Iterator[Student]:
        for window in site.windows():
            for rank in _ranks(min(site.channels * prod(window.kernel), site.out_channels)):
                for skip in site.skips():
                    yield LowRank(site, window, rank, skip)

    def requests(self) -> tuple[Request, ...]:
        return (self.site.request(self.window, self.skip),)

    def blank(self) -> tuple[Op, ...]:
        first = zeros(self.rank, self.site.channels, *self.window.kernel)
        return self._ops(first, zeros(self.site.out_channels, self.rank), zeros(self.site.out_channels))

    def _ops(self, first: Matrix, second: Matrix, bias: Matrix) -> tuple[Op, ...]:
        point = second.reshape(*second.shape, *(1,) * len(self.window.kernel))
        return layer(first, None, self.window, self.site), layer(point, bias)

    def fit(self, moments: Moments) -> Fit:
        (request,) = self.requests()
        regression, weight = moments.regression(request), moments.regression(request).weight
        basis = _top(weight.T @ regression.gram @ weight, self.rank)
        full = weight @ basis @ basis.T
        ops = self._ops(kernel_of(weight @ basis, self.window), basis, regression.bias(full))
        return Fit(ops, *regression.error(full))


@dataclass(frozen=True, eq=False)
class Bottleneck:
    """1×1 to `rank` channels, then k×k.  The 1×1 keeps the channel directions that the kernel uses most, each weighted with
    what the data has in it; the k×k is the least-squares optimum behind it."""

    site: Site
    window: Window
    rank: int
    skip: bool = False

    @property
    def label(self) -> str:
        return f"bottleneck {named(self.window)} r={self.rank}" + " + skip" * self.skip

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
        second = zeros(self.site.out_channels, self.rank, *self.window.kernel)
        return self._ops(zeros(self.rank, self.site.channels), second, zeros(self.site.out_channels))

    def _ops(self, first: Matrix, second: Matrix, bias: Matrix) -> tuple[Op, ...]:
        point = first.reshape(*first.shape, *(1,) * len(self.window.kernel))
        return layer(point, None), layer(second, bias, self.window, self.site)

    def fit(self, moments: Moments) -> Fit:
        (request,) = self.requests()
        regression, weight = moments.regression(request), moments.regression(request).weight
        taps, channels = prod(self.window.kernel), self.site.channels
        gram = regression.gram
        blocks = gram.reshape(channels, taps, channels, taps)
        metric = np.einsum("ctdt->cd", blocks) / taps
        value, vector = eigh(metric)
        root = (vector * np.sqrt(np.maximum(value, 0))) @ vector.T
        inverse = (vector / np.sqrt(np.maximum(value, 1e-9 * max(value[-1], 1e-30)))) @ vector.T
        by_channel = root @ weight.reshape(channels, -1)
        first = _top(by_channel @ by_channel.T, self.rank).T @ inverse @ metric  # (rank, C)
        lift = beside_identity(first.T, taps)  # patches of the entry → patches of the bottleneck
        second = ridge_solve(lift.T @ gram @ lift, lift.T @ regression.cross)
        full = lift @ second
        return Fit(self._ops(first, kernel_of(second, self.window), regression.bias(full)), *regression.error(full))


@dataclass(frozen=True, eq=False)
class Separable:
    """k×1 to `rank` channels, then 1×k (Jaderberg et al. 2014).  The first is the best rank-`rank` factor of W unfolded as
    (channel, row) × (column, output); the second the least-squares optimum behind it."""

    site: Site
    window: Window
    rank: int
    skip: bool = False

    @property
    def label(self) -> str:
        return f"separable {named(self.window)} r={self.rank}" + " + skip" * self.skip

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
        second = zeros(self.site.out_channels, self.rank, 1, wide)
        return self._ops(zeros(self.rank, self.site.channels, high, 1), second, zeros(self.site.out_channels))

    def _ops(self, first: Matrix, second: Matrix, bias: Matrix) -> tuple[Op, ...]:
        site, window = self.site, self.window
        middle = (site.out_size[0], site.size[1])
        down = Window((window.kernel[0], 1), (window.stride[0], 1), (window.start[0], 0))
        across = Window((1, window.kernel[1]), (1, window.stride[1]), (0, window.start[1]))
        return (Conv(first, None, down.stride, 1, down.padding(site.size, middle)),
                Conv(second, bias, across.stride, 1, across.padding(middle, site.out_size)))

    def fit(self, moments: Moments) -> Fit:
        (request,) = self.requests()
        regression, weight = moments.regression(request), moments.regression(request).weight
        (high, wide), channels = self.window.kernel, self.site.channels
        unfolded = weight.reshape(channels * high, wide * self.site.out_channels)
        blocks = regression.gram.reshape(channels * high, wide, channels * high, wide)
        metric = np.einsum("ajbj->ab", blocks) / wide
        root = cholesky(metric + 1e-9 * np.trace(metric) / len(metric) * np.eye(len(metric)))
        scaled = root.T @ unfolded
        factor = np.linalg.solve(root.T, _top(scaled @ scaled.T, self.rank))  # (C·high, rank)
        lift = beside_identity(factor, wide)  # rows (channel, row, column) → (rank, column)
        second = ridge_solve(lift.T @ regression.gram @ lift, lift.T @ regression.cross)
        full = lift @ second
        first = factor.T.reshape(self.rank, channels, high, 1)
        outer = second.T.reshape(self.site.out_channels, self.rank, 1, wide)
        return Fit(self._ops(first, outer, regression.bias(full)), *regression.error(full))


@dataclass(frozen=True, eq=False)
class DepthwiseSeparable:
    """k×k depthwise, then 1×1: W[c, t, o] = D[c, t]·P[c, o], the two factors solved in turn."""

    site: Site
    window: Window
    skip: bool = False

    @property
    def label(self) -> str:
        return f"depthwise-separable {named(self.window)}" + " + skip" * self.skip

    @staticmethod
    def propose(site: Site) -> Iterator[Student]:
        for window in site.windows():
            if prod(window.kernel) > 1 and site.channels > 1:
                for skip in site.skips():
                    yield DepthwiseSeparable(site, window, skip)

    def requests(self) -> tuple[Request, ...]:
        return (self.site.request(self.window, self.skip),)

    def blank(self) -> tuple[Op, ...]:
        depth = zeros(self.site.channels, 1, *self.window.kernel)
        return self._ops(depth, zeros(self.site.out_channels, self.site.channels), zeros(self.site.out_channels))

    def _ops(self, depth: Matrix, point: Matrix, bias: Matrix) -> tuple[Op, ...]:
        point = point.reshape(*point.shape, *(1,) * len(self.window.kernel))
        return layer(depth, None, self.window, self.site, self.site.channels), layer(point, bias)

    def fit(self, moments: Moments) -> Fit:
        (request,) = self.requests()
        regression, weight = moments.regression(request), moments.regression(request).weight
        taps, channels, gram, cross = prod(self.window.kernel), self.site.channels, regression.gram, regression.cross
        depth = np.linalg.svd(weight.reshape(channels, taps, -1), full_matrices=False)[0][:, :, 0]
        point = np.zeros((channels, cross.shape[1]))
        for _ in range(SWEEPS):
            lift = np.zeros((channels * taps, channels))
            lift[np.arange(channels * taps), np.repeat(np.arange(channels), taps)] = depth.reshape(-1)
            point = ridge_solve(lift.T @ gram @ lift, lift.T @ cross)
            mixed = np.repeat(np.repeat(point @ point.T, taps, 0), taps, 1)
            right = np.einsum("cto,co->ct", cross.reshape(channels, taps, -1), point).reshape(-1, 1)
            depth = ridge_solve(gram * mixed, right).reshape(channels, taps)
        full = (depth[:, :, None] * point[:, None, :]).reshape(channels * taps, -1)
        # the last sweep moved `depth` after `point`: both stand in `full`
        ops = self._ops(depth.reshape(channels, 1, *self.window.kernel), point.T, regression.bias(full))
        return Fit(ops, *regression.error(full))
