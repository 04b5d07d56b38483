"""Normalisation, pools, dense layers and pads as convolutions, against the interpreter's definitions of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decascade.algebra.affine import average_pool, batch_norm, flatten_dense, identity, pad, scale_shift
from decascade.algebra.conv import Conv
from decascade.errors import AlgebraError
from decascade.ir.interpret import evaluate
from decascade.ir.ops import Flatten, Pad, Pool
from drawn import normal
from laws import EPS


@pytest.mark.parametrize("epsilon", [1e-3, 1e-5, 0.0, 0.7])
@pytest.mark.parametrize("parts", ["gamma beta", "gamma", "beta", ""])
def test_batch_norm_is_its_formula_with_its_own_epsilon(epsilon, parts):
    mean, variance, gamma, beta = normal((4,), 0), np.abs(normal((4,), 1)) + 0.1, normal((4,), 2), normal((4,), 3)
    gamma, beta = (gamma if "gamma" in parts else None), (beta if "beta" in parts else None)
    scale, shift = batch_norm(gamma, beta, mean, variance, epsilon)
    x = normal((5, 4), 4)
    y = (x - mean) / np.sqrt(variance + epsilon)
    y = y * (1 if gamma is None else gamma) + (0 if beta is None else beta)
    assert np.abs(scale * x + shift - y).max() <= 32 * EPS * np.abs(y).max()
    assert (scale.dtype, shift.dtype) == (np.float64, np.float64)


def test_batch_norm_of_float32_statistics_is_made_in_float64():
    scale, _ = batch_norm(None, None, np.zeros(1, np.float32), np.full(1, 0.1, np.float32), 1e-5)
    assert scale[0] == 1 / np.sqrt(np.float64(np.float32(0.1)) + 1e-5)


def test_a_variance_that_cannot_be():
    with pytest.raises(AlgebraError) as error:
        batch_norm(None, None, [0.0, 0.0], [1.0, -0.5], 1e-3)
    assert str(error.value) == "batch normalisation with variance + epsilon = -0.499: it must be positive"
    with pytest.raises(AlgebraError, match="variance \\+ epsilon = 0: it must be positive"):
        batch_norm(None, None, [0.0], [0.0], 0.0)


def test_scale_and_shift_and_identity():
    x = normal((2, 3, 4, 5), 0)
    column = np.array([1.0, -2.0, 3.0]).reshape(3, 1, 1)
    assert np.array_equal(scale_shift([1, -2, 3], [4, 5, 6], 2)(x), column * x + np.array([4.0, 5.0, 6.0]).reshape(3, 1, 1))
    assert np.array_equal(scale_shift([1, -2, 3], None, 2)(x), column * x)
    assert np.array_equal(identity(3, 2)(x), x)
    assert identity(3, 2).groups == 3
    assert np.array_equal(identity(3, 0)(x[..., 0, 0]), x[..., 0, 0])


@given(st.lists(st.tuples(st.integers(-2, 3), st.integers(-1, 3)), min_size=1, max_size=3))
def test_pads_and_crops(pads):
    x = normal((1, 2, *(5 for _ in pads)), 0)
    assert np.array_equal(pad(2, tuple(pads))(x), evaluate(Pad(tuple(pads)), [x])[0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*(st.integers(1, 3),) * 3, st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=2))
def test_an_average_that_counts_its_padding(axes):
    kernel, stride, dilation = (tuple(a[i] for a in axes) for i in range(3))
    pads = tuple(a[3:] for a in axes)
    x = normal((1, 2, *(9 for _ in axes)), 0)
    wanted = evaluate(Pool("avg", kernel, stride, pads, dilation, count_padding=True), [x])[0]
    got = average_pool(2, kernel, stride, pads, dilation)(x)
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= 16 * EPS * np.abs(x).max()


@pytest.mark.parametrize("order", ["channels_first", "channels_last"])
@pytest.mark.parametrize("size", [(4,), (2, 3), (2, 1, 3)])
def test_a_dense_layer_behind_a_flatten_is_one_kernel_over_the_map(order, size):
    x = normal((2, 3, *size), 0)
    dense = Conv(normal((5, 3 * np.prod(size)), 1), normal((5,), 2))
    whole = flatten_dense(dense, 3, size, order == "channels_last")
    assert whole.kernel == size
    wanted = dense(evaluate(Flatten(order), [x])[0])
    assert np.abs(whole(x).reshape(2, 5) - wanted).max() <= 40 * EPS * (np.abs(dense.weight).sum(1).max() * np.abs(x).max() + 3)


def test_a_dense_layer_of_other_width():
    with pytest.raises(AlgebraError) as error:
        flatten_dense(Conv(np.ones((2, 10))), 3, (2, 2), False)
    assert str(error.value) == "a dense layer of 10 inputs behind a map of 3 × (2, 2)"


def test_a_depthwise_map_behind_a_flatten_is_ungrouped() -> None:
    """A scale per feature behind a flatten: groups over the features are none over the channels."""
    rng = np.random.default_rng(0)
    scale, x = rng.standard_normal(12), rng.standard_normal((2, 3, 2, 2))
    layer = flatten_dense(scale_shift(scale, None, 0), 3, (2, 2), False)
    assert np.allclose(layer(x)[:, :, 0, 0], x.reshape(2, 12) * scale, rtol=1e-14)
