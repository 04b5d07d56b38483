"""Exact low-rank splits: one convolution as two, where an unfolding of its kernel has a rank that makes two cheaper.

Each split puts all padding and stride where the composition is border-free, so it is exact as it stands:
    point_after    k×k to r channels, then 1×1           rank of the unfolding (O, C·K)
    point_before   1×1 to r channels, then k×k           rank of (O·K, C)
    separable      k×1 to r channels, then 1×k (2-D)     rank of (O·k, C·k)
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from decascade.algebra.compose import Float64
from decascade.algebra.conv import Conv

EXACT = 1e-13
"""Singular values below this share of the largest are the rounding of float64 composition, so zero."""
NEGLIGIBLE = 2.0**-126
"""The smallest normal number of float32.  Weights below it, which weight decay leaves of dead channels, are taken for zero, as
devices do that know no subnormal numbers."""


def splits(layer: Conv) -> Iterator[tuple[Conv, Conv]]:
    """The exact splits of an ungrouped layer into (first, second) that store fewer numbers than it does."""
    if layer.groups != 1:
        return
    kernel = layer.weight.astype(np.float64)
    out, channels = kernel.shape[:2]
    ones = (1,) * layer.rank
    if any(k > 1 for k in layer.kernel):
        if (found := low_rank(kernel.reshape(out, -1), layer.weight.size)) is not None:
            left, right = found
            first = Conv(right.reshape(-1, channels, *layer.kernel), None, layer.stride, layer.dilation, layer.padding)
            yield first, Conv(left.reshape(out, -1, *ones), layer.bias)
        if (found := low_rank(np.moveaxis(kernel, 1, -1).reshape(-1, channels), layer.weight.size)) is not None:
            left, right = found
            second = np.moveaxis(left.reshape(out, *layer.kernel, -1), -1, 1)
            yield (Conv(right.reshape(-1, channels, *ones)),
                   Conv(second, layer.bias, layer.stride, layer.dilation, layer.padding))
    elif (found := low_rank(kernel.reshape(out, channels), layer.weight.size)) is not None:
        left, right = found
        yield (Conv(right.reshape(-1, channels, *ones), None, layer.stride, 1, layer.padding),
               Conv(left.reshape(out, -1, *ones), layer.bias))
    if layer.rank == 2 and min(layer.kernel) > 1:
        yield from _separable(layer, kernel)


def _separable(layer: Conv, kernel: Float64) -> Iterator[tuple[Conv, Conv]]:
    out, channels, high, wide = kernel.shape
    found = low_rank(kernel.transpose(0, 3, 1, 2).reshape(out * wide, channels * high), layer.weight.size)
    if found is None:
        return
    left, right = found
    (sh, sw), (dh, dw), (ph, pw) = layer.stride, layer.dilation, layer.padding
    first = Conv(right.reshape(-1, channels, high, 1), None, (sh, 1), (dh, 1), (ph, (0, 0)))
    second = np.moveaxis(left.reshape(out, wide, -1), 2, 1)[:, :, None, :]
    yield first, Conv(second, layer.bias, (1, sw), (1, dw), ((0, 0), pw))


def low_rank(matrix: Float64, budget: int) -> tuple[Float64, Float64] | None:
    """(left, right) with left·right = matrix up to rounding of each row, if the rank makes them smaller than `budget` numbers.

    An SVD errs by a share of the largest row, and rows are output channels, of which some may be small: so all are scaled to
    one size before, by powers of two, which changes no rank.  A cheap Gram matrix rules out full rank before the SVD is paid
    for.
    """
    rows, columns = matrix.shape
    most = (budget - 1) // (rows + columns)
    if most < 1 or min(rows, columns) <= 1:
        return None
    matrix = np.where(np.abs(matrix) < NEGLIGIBLE, 0.0, matrix)
    largest = np.abs(matrix).max(axis=1, keepdims=True)
    size = np.where(largest > 0, np.exp2(np.frexp(largest)[1]), 0.0)
    even = np.divide(matrix, size, out=np.zeros_like(matrix), where=size > 0)
    if _clearly_above(even, most):
        return None
    u, s, v = np.linalg.svd(even, full_matrices=False)
    rank = max(int(np.count_nonzero(s > EXACT * s[0])), 1)
    if rank > most:
        return None
    root, top = np.sqrt(s[:rank]), float(size.max())
    half = 2.0 ** round(np.log2(top) / 2) if top else 1.0  # both factors have their share of the size
    return size / half * u[:, :rank] * root, half * root[:, None] * v[:rank] * matrix.any(axis=0)


def _clearly_above(matrix: Float64, rank: int) -> bool:
    """Whether the rank is surely above `rank`: of its first rank + 1 rows (or columns) no
    combination is near zero."""
    if rank >= min(matrix.shape):
        return False
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    few = short[: rank + 1]  # rank + 1 rows that are independent are proof enough
    values = np.linalg.eigvalsh(few @ few.T)
    return bool(values[0] > 1e-10 * values[-1])
