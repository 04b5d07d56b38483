"""The frozen layers: their fields, their errors, and their meaning against the sum written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decascade.algebra.conv import Conv, ConvTranspose, crop_or_pad
from decascade.errors import AlgebraError
from drawn import chains, normal, rounding
from laws import at_positions


@settings(max_examples=60, deadline=None)
@given(chains(depth=(1, 1)))
def test_a_layer_is_the_sum_over_its_taps(drawn):
    (layer,), x = drawn
    y = layer(x)
    assert y.shape[2:] == layer.output_size(x.shape[2:])
    assert np.abs(y - at_positions(layer, x, [(0, n) for n in y.shape[2:]])).max() <= rounding([layer], x)


def test_padding_and_stride_of_the_layers_by_hand():
    layer = Conv([[[1.0, 10.0, 100.0]]], [0.5], 2, 1, [(1, 2)])
    assert layer(np.array([[[1.0, 2.0, 3.0, 4.0]]])).tolist() == [[[210.5, 432.5, 4.5]]]
    assert Conv([[[1.0]]], None, 1, 1, [(-1, -2)])(np.array([[[1.0, 2.0, 3.0, 4.0]]])).tolist() == [[[2.0]]]
    dense = Conv([[1.0, 2.0], [3.0, 4.0]], [0.0, 1.0])
    assert dense(np.array([[1.0, 1.0]])).tolist() == [[3.0, 8.0]]
    transposed = ConvTranspose([[[1.0, 10.0, 100.0]]], [0.5], 2)
    assert transposed(np.array([[[1.0, 2.0]]])).tolist() == [[[1.5, 10.5, 102.5, 20.5, 200.5]]]
    cropped = ConvTranspose([[[1.0, 10.0, 100.0]]], [0.5], 2, 1, [(1, -1)])
    assert cropped(np.array([[[1.0, 2.0]]])).tolist() == [[[10.5, 102.5, 20.5, 200.5, 0.5]]]


def test_one_number_stands_for_all_axes():
    layer = Conv(np.ones((2, 1, 3, 3)), None, 2, 3, 1)
    assert (layer.stride, layer.dilation, layer.padding) == ((2, 2), (3, 3), ((1, 1), (1, 1)))
    assert Conv(np.ones((2, 1, 3, 3)), padding=[1, (0, 2)]).padding == ((1, 1), (0, 2))


def test_integer_weights_become_floats_and_floats_keep_their_type():
    assert Conv(np.ones((1, 1, 3), int)).weight.dtype == np.float64
    assert Conv(np.ones((1, 1, 3), np.float32), np.ones(1, np.float16)).weight.dtype == np.float32
    assert Conv(np.ones((1, 1, 3), np.float32), np.ones(1, np.float16)).bias.dtype == np.float16


def test_counts():
    layer = Conv(np.ones((4, 2, 3, 5)), np.zeros(4), groups=3 - 1)
    assert (layer.in_channels, layer.out_channels, layer.rank, layer.kernel) == (4, 4, 2, (3, 5))
    assert layer.parameters == 4 * 2 * 15 + 4
    assert not layer.has_bias
    assert Conv(np.ones((1, 1)), [2.0]).has_bias
    transposed = ConvTranspose(np.ones((4, 3, 2)), None, groups=2)
    assert (transposed.in_channels, transposed.out_channels, transposed.parameters) == (4, 6, 24)
    assert transposed.bias64.tolist() == [0.0] * 6


@pytest.mark.parametrize("kind", [Conv, ConvTranspose])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"weight": np.ones(3)}, "weight of shape (3,): expected two channel axes before the kernel axes"),
        ({"weight": np.ones((2, 0, 3))}, "weight of shape (2, 0, 3) is empty"),
        ({"stride": (1, 2)}, "stride (1, 2) has 2 entries for 1 axes: give one per axis or one number"),
        ({"dilation": (1, 2)}, "dilation (1, 2) has 2 entries for 1 axes: give one per axis or one number"),
        ({"stride": 0}, "stride (0,) has an entry below 1"),
        ({"dilation": (0,)}, "dilation (0,) has an entry below 1"),
        ({"padding": [(1, 1), (2, 2)]}, "padding ((1, 1), (2, 2)) has 2 entries for 1 axes: give one per axis or one number"),
        ({"groups": 3}, "groups = 3 does not divide the 4 rows of the weight"),
        ({"groups": 0}, "groups = 0 does not divide the 4 rows of the weight"),
        ({"bias": np.ones(3)}, "bias of shape (3,) for 4 output channels"),
    ],
)
def test_fields_that_do_not_fit(kind, arguments, words):
    with pytest.raises(AlgebraError) as error:
        kind(**{"weight": np.ones((4, 4, 3)), **arguments})
    assert str(error.value) == words


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (Conv(np.ones((1, 2, 3))), (1, 3, 9), "input of shape (1, 3, 9) for a layer of 2 channels and 1 axes"),
        (Conv(np.ones((1, 2, 3))), (1, 2, 9, 9), "input of shape (1, 2, 9, 9) for a layer of 2 channels and 1 axes"),
        (Conv(np.ones((1, 2, 3))), (1, 2, 2), "kernel (3,) is larger than the padded input (2,)"),
        (ConvTranspose(np.ones((2, 1, 3))), (1, 3, 9), "input of shape (1, 3, 9) for a layer of 2 channels and 1 axes"),
        (
            ConvTranspose(np.ones((2, 1, 3)), padding=3), (1, 2, 4),
            "padding ((3, 3),) crops the whole output of an input (4,)",
        ),
    ],
)
def test_inputs_that_do_not_fit(layer, shape, words):
    with pytest.raises(AlgebraError) as error:
        layer(np.ones(shape))
    assert str(error.value) == words


@given(st.lists(st.tuples(st.integers(-2, 3), st.integers(-2, 3)), min_size=1, max_size=2))
def test_crop_or_pad_moves_every_sample(pads):
    x = normal((2, *(6 for _ in pads)), 0)
    y = crop_or_pad(x, tuple(pads), 7.0)
    assert y.shape == (2, *(6 + lo + hi for lo, hi in pads))
    for at in np.ndindex(*y.shape[1:]):
        source = tuple(i - lo for i, (lo, _) in zip(at, pads, strict=True))
        inside = all(0 <= i < 6 for i in source)
        assert np.array_equal(y[(slice(None), *at)], x[(slice(None), *source)] if inside else [7.0, 7.0])
