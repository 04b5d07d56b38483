"""The least-squares kernel as a product of two, each solved in turn behind the other.

Every start is the best product for a simpler metric, where the problem is a singular value decomposition.  The second factor
is then the least-squares optimum behind the first, the first is improved for that second, and the second found again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from decascade.compression.students.least_squares import RIDGE, Matrix, Regression, eigh, inverse, ridge_solve

KNOWN = 1e-5
"""Energy below this share of a window's largest is no more than the rounding of float32 sums: nothing is divided by less."""
SWEEPS = 2
"""How often the first of two factors is solved again behind the second."""
DEPTHWISE_SWEEPS = 4
"""The same for a depthwise first factor, whose start is further off."""
STEPS = 3
"""Conjugate-gradient steps of such a solution."""


def two_factors(regression: Regression, count: int, rank: int) -> tuple[Matrix, Matrix]:
    """F, (rank, count), and S, (rank·J, O), with W[ij, o] ≈ Σ_r F[r, i]·S[rj, o]: the rows of W are pairs of one of `count` i
    (channels, say) and one of J j (taps).

    The start takes one metric for all j, M = mean_j G[ij, i'j]: F = UᵀM^-½ with U the left singular vectors of M^½Ŵ unfolded
    to (i, jO).
    """
    starts, beside = regression.once(("two factors", count), lambda: _start(regression, count))
    first = starts[:rank]
    second = _behind(regression, first)
    for _ in range(SWEEPS if rank < count else 0):
        first = _improved(regression, first, second, beside)
        second = _behind(regression, first)
    return first, second


def _start(regression: Regression, count: int) -> tuple[Matrix, Matrix]:
    """UᵀM^-½, the most important rows first, and M⁻¹."""
    taps = len(regression.gram) // count
    metric = np.einsum("ijkj->ik", regression.gram.reshape(count, taps, count, taps)) / taps
    up, down = _roots(metric)
    scaled = up @ regression.weight.reshape(count, -1)
    return eigh(scaled @ scaled.T)[1][:, ::-1].T @ down, down @ down


def _roots(metric: Matrix) -> tuple[Matrix, Matrix]:
    """M^½ and M^-½ of matrices (…, n, n), damped in directions that the data hardly shows."""
    value, vector = eigh(metric)
    most = value[..., -1:]
    value = np.where(most > 0, np.maximum(value, KNOWN * most), 1.0)
    turned = np.swapaxes(vector, -1, -2)
    return (vector * np.sqrt(value)[..., None, :]) @ turned, (vector / np.sqrt(value)[..., None, :]) @ turned


def _behind(regression: Regression, first: Matrix) -> Matrix:
    """The least-squares S for F."""
    rank, count = first.shape
    taps, outputs = len(regression.gram) // count, regression.cross.shape[1]
    half = (first @ regression.gram.reshape(count, -1)).reshape(rank * taps, count, taps)
    gram = np.matmul(first, half).reshape(rank * taps, rank * taps)
    return ridge_solve(gram, (first @ regression.cross.reshape(count, -1)).reshape(rank * taps, outputs))


def _improved(regression: Regression, first: Matrix, second: Matrix, beside: Matrix) -> Matrix:
    """F nearer to the least-squares optimum for S, preconditioned with (SSᵀ)⁻¹ and `beside`, M⁻¹."""
    (rank, count), outputs = first.shape, regression.cross.shape[1]
    tail = second.reshape(rank, -1)
    return _solved(
        regression, first,
        kernel=lambda factor: (factor.T @ tail).reshape(-1, outputs),
        gradient=lambda residual: tail @ residual.reshape(count, -1).T,
        before=_inverse(tail @ tail.T), behind=beside,
    )


def depthwise_factors(regression: Regression, channels: int, multiplier: int) -> tuple[Matrix, Matrix]:
    """D, (C, multiplier, T), and P, (C·multiplier, O), with W[ct, o] ≈ Σ_m D[c, m, t]·P[cm, o].

    The start takes the channels for independent: D_c = UᵀG_cc^-½ with U the left singular vectors of G_cc^½Ŵ_c.
    """
    starts, beside = regression.once(("depthwise", channels), lambda: _depthwise_start(regression, channels))
    depth = starts[:, :multiplier]
    point = _point_behind(regression, depth)
    for _ in range(DEPTHWISE_SWEEPS):
        depth = _depth_improved(regression, depth, point, beside)
        point = _point_behind(regression, depth)
    return depth, point


def _depthwise_start(regression: Regression, channels: int) -> tuple[Matrix, Matrix]:
    """UᵀG_cc^-½, (C, T, T), the most important rows first, and G_cc⁻¹."""
    taps = len(regression.gram) // channels
    each = np.arange(channels)
    up, down = _roots(regression.gram.reshape(channels, taps, channels, taps)[each, :, each])
    scaled = up @ regression.weight.reshape(channels, taps, -1)
    order = eigh(scaled @ np.swapaxes(scaled, 1, 2))[1][:, :, ::-1]
    return np.swapaxes(order, 1, 2) @ down, down @ down


def _point_behind(regression: Regression, depth: Matrix) -> Matrix:
    """The least-squares P for D."""
    channels, multiplier, taps = depth.shape
    half = (depth @ regression.gram.reshape(channels, taps, -1)).reshape(channels * multiplier, channels, taps)
    gram = np.matmul(np.swapaxes(half, 0, 1), np.swapaxes(depth, 1, 2))  # (C, C·m, m)
    gram = np.swapaxes(gram, 0, 1).reshape(channels * multiplier, channels * multiplier)
    return ridge_solve(gram, (depth @ regression.cross.reshape(channels, taps, -1)).reshape(channels * multiplier, -1))


def _depth_improved(regression: Regression, depth: Matrix, point: Matrix, beside: Matrix) -> Matrix:
    """D nearer to the least-squares optimum for P, preconditioned with (P_cP_cᵀ)⁻¹ and `beside`, G_cc⁻¹."""
    channels, multiplier, taps = depth.shape
    tail = point.reshape(channels, multiplier, -1)
    turned = np.swapaxes(tail, 1, 2)
    return _solved(
        regression, depth,
        kernel=lambda factor: (np.swapaxes(factor, 1, 2) @ tail).reshape(channels * taps, -1),
        gradient=lambda residual: np.swapaxes(residual.reshape(channels, taps, -1) @ turned, 1, 2),
        before=_inverse(tail @ turned), behind=beside,
    )


def _inverse(square: Matrix) -> Matrix:
    """(A + λI)⁻¹ of matrices (…, n, n)."""
    size = square.shape[-1]
    scale: Any = np.trace(square, axis1=-2, axis2=-1) / size
    return inverse(square + (RIDGE * np.maximum(scale, 1e-30))[..., None, None] * np.eye(size))


def _solved(
    regression: Regression, factor: Matrix, kernel: Callable[[Matrix], Matrix], gradient: Callable[[Matrix], Matrix],
    before: Matrix, behind: Matrix,
) -> Matrix:
    """The factor nearer to where ‖W − Ŵ‖ in the metric of G is least, W = kernel(factor): preconditioned conjugate gradients.
    `gradient` is the transpose of `kernel`; the preconditioner is r ↦ before·r·behind."""
    residual = gradient(regression.cross - regression.gram @ kernel(factor))
    step = ahead = before @ residual @ behind
    size = start = float(np.sum(residual * ahead))
    for _ in range(STEPS):
        if not size > 1e-20 * start:
            break
        moved = gradient(regression.gram @ kernel(step))
        curved = float(np.sum(step * moved))
        if not curved > 0:
            break  # a direction that the data does not show, up to the rounding of its sums
        length = size / curved
        factor, residual = factor + length * step, residual - length * moved
        ahead = before @ residual @ behind
        last, size = size, float(np.sum(residual * ahead))
        step = ahead + size / last * step
    return factor
