"""Exact low-rank splits: found where the rank is there, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from decascade.algebra.compose import compose
from decascade.algebra.conv import Conv
from decascade.algebra.factor import low_rank, splits
from drawn import normal
from laws import EPS


def layer(out: int, channels: int, kernel: tuple[int, ...], rank: int, kind: str, **more) -> Conv:
    """A kernel of that rank in one unfolding and of full rank in the others."""
    taps = int(np.prod(kernel))
    if kind == "after":
        weight = (normal((out, rank), 0) @ normal((rank, channels * taps), 1)).reshape(out, channels, *kernel)
    elif kind == "before":
        weight = (normal((out * taps, rank), 2) @ normal((rank, channels), 3)).reshape(out, *kernel, channels)
        weight = np.moveaxis(weight, -1, 1)
    else:
        high, wide = kernel
        weight = (normal((out * wide, rank), 4) @ normal((rank, channels * high), 5)).reshape(out, wide, channels, high)
        weight = weight.transpose(0, 2, 3, 1)
    return Conv(weight, normal((out,), 6), **more)


GEOMETRY = {"stride": (2, 1), "dilation": (1, 2), "padding": [(1, 2), (2, 0)]}


@pytest.mark.parametrize(
    ("kernel", "kind", "first", "second"),
    [
        ((3, 3), "after", (2, 8, 3, 3), (9, 2, 1, 1)),
        ((3, 3), "before", (2, 8, 1, 1), (9, 2, 3, 3)),
        ((3, 3), "separable", (2, 8, 3, 1), (9, 2, 1, 3)),
        ((1, 1), "after", (2, 8, 1, 1), (9, 2, 1, 1)),
    ],
)
def test_each_kind_of_split_is_exact_with_strides_dilations_and_pads(kernel, kind, first, second):
    whole = layer(9, 8, kernel, 2, kind, **GEOMETRY)
    found = [pair for pair in splits(whole) if (pair[0].weight.shape, pair[1].weight.shape) == (first, second)]
    assert len(found) == 1
    a, b = found[0]
    assert a.weight.size + b.weight.size < whole.weight.size
    x = normal((2, 8, 9, 9), 7)
    y = whole(x)
    assert b(a(x)).shape == y.shape
    scale = np.linalg.norm(whole.weight) * np.linalg.norm(x)
    assert np.abs(b(a(x)) - y).max() <= (1e-13 + 200 * EPS) * scale
    joint = compose(b, a)
    assert joint.padding == whole.padding
    assert np.abs(joint.weight - whole.weight).max() <= (1e-13 + 200 * EPS) * np.linalg.norm(whole.weight)
    assert a.bias is None
    assert np.array_equal(b.bias, whole.bias)


def test_a_dense_layer_of_low_rank():
    whole = Conv(normal((20, 3), 0) @ normal((3, 30), 1), normal((20,), 2))
    ((a, b),) = splits(whole)
    assert (a.weight.shape, b.weight.shape) == ((3, 30), (20, 3))
    assert np.abs(compose(b, a).weight - whole.weight).max() <= 1e-12 * np.abs(whole.weight).max()


@pytest.mark.parametrize("shape", [(8, 8, 3, 3), (16, 8), (8, 16, 1), (4, 4, 3)])
def test_full_rank_is_not_split(shape):
    assert list(splits(Conv(normal(shape, 0)))) == []


def test_a_rank_that_saves_nothing_is_not_split():
    """Rank 8 of 16 × 16: two layers of 16·8 numbers store as many as the one."""
    weight = normal((16, 8), 0) @ normal((8, 16), 1)
    assert list(splits(Conv(weight))) == []
    assert len(list(splits(Conv(normal((16, 7), 0) @ normal((7, 16), 1))))) == 1


def test_grouped_layers_are_not_split():
    assert list(splits(Conv(np.ones((8, 4, 3, 3)), groups=2))) == []


def test_float32_rounding_of_a_low_rank_kernel_is_full_rank():
    """An approximation is not exact: singular values at 1e-8 of the largest are kept."""
    weight = normal((20, 3), 0) @ normal((3, 30), 1)
    assert low_rank(weight, weight.size) is not None
    assert low_rank(weight.astype(np.float32).astype(np.float64), weight.size) is None


@pytest.mark.parametrize("rank", [1, 2, 5, 9])
def test_the_rank_found_is_the_rank(rank):
    matrix = normal((30, rank), 0) @ normal((rank, 40), 1)
    left, right = low_rank(matrix, matrix.size)
    assert (left.shape, right.shape) == ((30, rank), (rank, 40))
    assert np.abs(left @ right - matrix).max() <= 1e-12 * np.abs(matrix).max()


def test_no_budget_no_split_and_a_row_is_no_product():
    matrix = normal((30, 1), 0) @ normal((1, 40), 1)
    assert low_rank(matrix, 70) is None
    assert low_rank(matrix, 71) is not None
    assert low_rank(normal((1, 40), 0), 10**6) is None
    assert low_rank(normal((40, 1), 0), 10**6) is None


def test_a_kernel_of_zeros_is_of_rank_one():
    left, right = low_rank(np.zeros((5, 6)), 30)
    assert (left.shape, right.shape) == ((5, 1), (1, 6))
    assert not np.any(left @ right)


def test_small_rows_are_as_exact_as_large_ones():
    matrix = np.logspace(0, -30, 30)[:, None] * (normal((30, 3), 0) @ normal((3, 40), 1))
    left, right = low_rank(matrix, matrix.size)
    assert left.shape == (30, 3)
    error = np.abs(left @ right - matrix).max(axis=1)
    assert (error <= 1e-13 * np.abs(matrix).max(axis=1)).all()


def test_channels_that_weight_decay_switched_off_are_zeros():
    """Subnormal numbers of any pattern, in rows and columns, add nothing to the rank, and no noise is put in their place."""
    matrix = normal((30, 4), 0) @ normal((4, 40), 1)
    matrix[5:25] = 1e-41 * normal((20, 40), 2)
    matrix[:, 7:11] = 1e-80 * normal((30, 4), 3)
    left, right = low_rank(matrix, matrix.size)
    assert left.shape == (30, 4)
    assert not np.any((left @ right)[5:25])
    assert not np.any((left @ right)[:, 7:11])
    assert np.abs(left @ right - matrix).max() <= 1e-13 * np.abs(matrix).max()


def test_a_small_row_of_its_own_counts():
    """One that is small, but not negligible, is no rounding: it raises the rank."""
    matrix = normal((30, 3), 0) @ normal((3, 40), 1)
    matrix[4] = 1e-30 * normal((40,), 2)
    left, right = low_rank(matrix, matrix.size)
    assert left.shape == (30, 4)
    assert np.abs(left @ right - matrix)[4].max() <= 1e-13 * np.abs(matrix[4]).max()


def test_both_factors_have_their_share_of_the_size():
    matrix = 1e-6 * normal((30, 3), 0) @ normal((3, 40), 1)
    left, right = low_rank(matrix, matrix.size)
    assert 0.1 < np.linalg.norm(left) / np.linalg.norm(right) < 10
