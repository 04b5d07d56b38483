"""Bias-only borders: three forms of a bias that depends on the position, each exact or honestly none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from decascade.algebra.border import Border, find_border
from decascade.algebra.constant import Ones, bias_map, ones_kernel, padding_value, with_ones
from decascade.algebra.conv import Conv
from decascade.algebra.frame import ones_frame
from decascade.algebra.program import Program, chain
from drawn import Draw, convs, in_sequence, least_size, normal, rounding
from laws import at_positions


@st.composite
def point_then_padded(draw: Draw) -> tuple[list[Conv], np.ndarray]:
    """A 1×…×1 layer with bias (strided, grouped), then a padded one, perhaps a third behind it: a bias-only border."""
    rank, channels = draw(st.integers(1, 2)), draw(st.integers(1, 4))
    groups = draw(st.sampled_from([1, channels]))
    out = groups * draw(st.integers(1, 2))
    point = Conv(normal((out, channels // groups, *(1,) * rank), 0), normal((out,), 1), draw(st.integers(1, 2)), groups=groups)
    layers = [point, draw(convs(rank, out, least_pad=0))]
    if draw(st.booleans()):
        last = draw(convs(rank, layers[-1].out_channels))
        layers.append(Conv(last.weight, last.bias, last.stride, last.dilation, 0, last.groups))
    size = [least_size(layers, a) + draw(st.integers(0, 5)) for a in range(rank)]
    return layers, normal((1, channels, *size), 2)


def every(y: np.ndarray) -> list[tuple[int, int]]:
    return [(0, n) for n in y.shape[2:]]


def with_channel(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x, np.ones_like(x[:, :1])], axis=1)


def border_of(layers: list[Conv], x: np.ndarray) -> Border:
    return find_border(chain(layers, x.shape[2:]))


@settings(max_examples=80, deadline=None)
@given(point_then_padded())
def test_a_constant_map_and_a_channel_of_ones_are_exact(drawn):
    layers, x = drawn
    border = border_of(layers, x)
    y = in_sequence(layers, x)
    assert border.kind in ("bias", "free")
    whole = border.whole
    bare = Conv(whole.weight, None, whole.stride, whole.dilation, whole.padding, whole.groups)
    assert np.abs(at_positions(bare, x, every(y)) + bias_map(border) - y).max() <= rounding(layers, x)
    ones = ones_kernel(border)
    assert (ones is not None) == layers[0].has_bias or border.kind == "free"
    if ones is not None:
        wide = with_ones(whole, ones.layer)
        assert wide.in_channels == x.shape[1] + 1
        assert np.abs(at_positions(wide, with_channel(x), every(y)) - y).max() <= rounding(layers, x)


@settings(max_examples=80, deadline=None)
@given(point_then_padded())
def test_a_padding_value_is_exact_where_there_is_one(drawn):
    layers, x = drawn
    border = border_of(layers, x)
    ones = ones_kernel(border)
    value = None if ones is None else padding_value(border.whole, ones.layer)
    if value is None:
        return
    whole = border.whole
    layer = Conv(whole.weight, ones.layer.bias, whole.stride, whole.dilation, whole.padding, whole.groups)
    shifted = x + value.reshape(-1, *(1,) * (x.ndim - 2))
    y = in_sequence(layers, x)
    size = np.abs(shifted).max() / np.abs(x).max()
    assert np.abs(at_positions(layer, shifted, every(y)) - y).max() <= (rounding(layers, x) * size
                                                                      + 1e-12 * whole.weight[0].size * size * np.abs(y).max())


def test_the_padding_value_of_an_invertible_point_is_the_input_that_it_answers_with_zero():
    """W·v + b = 0 backwards: x + v meets zero padding where W·x + b met it."""
    first = Conv(normal((3, 3, 1), 0), normal((3,), 1))
    border = border_of([first, Conv(normal((2, 3, 3), 2), padding=1)], normal((1, 3, 8), 3))
    value = padding_value(border.whole, ones_kernel(border).layer)
    assert np.abs(first.weight[..., 0] @ value - first.bias).max() <= 1e-12


def test_more_outputs_than_inputs_have_no_padding_value():
    first = Conv(normal((5, 2, 1), 0), normal((5,), 1))
    border = border_of([first, Conv(normal((6, 5, 3), 2), padding=1)], normal((1, 2, 8), 3))
    assert padding_value(border.whole, ones_kernel(border).layer) is None


def test_depthwise_padding_values_are_channel_by_channel():
    first = Conv(normal((4, 1, 1), 0), normal((4,), 1), groups=4)
    second = Conv(normal((4, 1, 3), 2), padding=1, groups=4)
    border = border_of([first, second], normal((1, 4, 8), 3))
    value = padding_value(border.whole, ones_kernel(border).layer)
    assert np.abs(value - first.bias / first.weight[:, 0, 0]).max() <= 1e-12
    dead = Conv(first.weight * np.array([0.0, 1, 1, 1]).reshape(4, 1, 1), first.bias, groups=4)
    border = border_of([dead, second], normal((1, 4, 8), 3))
    assert padding_value(border.whole, ones_kernel(border).layer) is None


def on_ones(border: Border, ones: Ones, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The one layer on the entry in its frame, with a channel of ones."""
    wide, around = with_ones(border.whole, ones.layer), ones.frame
    padding = [(lo - before, hi - after) for (lo, hi), (before, after) in zip(wide.padding, around, strict=True)]
    framed = np.pad(x, [(0, 0), (0, 0), *around])
    return at_positions(Conv(wide.weight, wide.bias, wide.stride, wide.dilation, padding), with_channel(framed), every(y))


@st.composite
def bias_borders(draw: Draw) -> tuple[list[Conv], np.ndarray]:
    """Layers of few taps, with padding anywhere and biases: many have a border that is bias-only."""
    rank, layers = draw(st.integers(1, 2)), list[Conv]()
    for seed in range(draw(st.integers(2, 3))):
        kernel = [draw(st.sampled_from([1, 1, 1, 2, 3])) for _ in range(rank)]
        pads = [(draw(st.sampled_from([0, 0, 1, 2])), draw(st.sampled_from([0, 0, 1, 2]))) for _ in range(rank)]
        strides, dilations = ([draw(st.sampled_from([1, 1, 2])) for _ in range(rank)] for _ in range(2))
        bias = normal((2,), seed) if draw(st.booleans()) else None
        layers.append(Conv(normal((2, 2, *kernel), 10 + seed), bias, strides, dilations, pads))
    size = [least_size(layers, a) + draw(st.integers(0, 6)) for a in range(rank)]
    return layers, normal((1, 2, *size), draw(st.integers(0, 99)))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(bias_borders(), st.booleans())
def test_a_channel_of_ones_is_exact_wherever_there_is_one(drawn, known):
    layers, x = drawn
    program = chain(layers, x.shape[2:])
    unsized = Program(program.steps, program.entry, program.exit, program.channels,
                      dict.fromkeys(program.size, (None,) * program.rank))
    border = find_border(program if known else unsized)
    assume(border.kind == "bias")
    ones = ones_kernel(border)
    assert ones is None or ones.frame == ones_frame(border)
    y = in_sequence(layers, x)
    if ones is not None:
        assert np.abs(on_ones(border, ones, x, y) - y).max() <= 2 * rounding(layers, x)


def test_ones_reach_as_far_as_a_padded_point_does():
    """1×1 padded, then 3×3 padded: the map between ends one sample beyond the entry, and so do the ones."""
    layers = [Conv(normal((2, 2, 1), 0), normal((2,), 1), padding=1), Conv(normal((2, 2, 3), 2), padding=1)]
    x = normal((1, 2, 8), 3)
    border, y = border_of(layers, x), in_sequence(layers, x)
    ones = ones_kernel(border)
    assert (border.kind, ones.frame) == ("bias", ((1, 1),))
    assert np.abs(on_ones(border, ones, x, y) - y).max() <= rounding(layers, x)


def test_a_bias_that_only_one_axis_cuts_has_its_ones_at_one_tap_of_the_other():
    """k×1, then 1×k: along the first axis the bias is the same everywhere, whatever the taps there."""
    layers = [Conv(normal((2, 2, 5, 1), 0), normal((2,), 1), padding=[(2, 2), (0, 0)]),
              Conv(normal((2, 2, 1, 5), 2), normal((2,), 3), padding=[(0, 0), (2, 2)])]
    x = normal((1, 2, 9, 8), 4)
    border, y = border_of(layers, x), in_sequence(layers, x)
    ones = ones_kernel(border)
    assert (ones.layer.kernel, ones.layer.padding[0][0], ones.frame) == ((1, 5), 0, ((0, 0), (0, 0)))
    assert np.abs(on_ones(border, ones, x, y) - y).max() <= rounding(layers, x)


@pytest.mark.parametrize(
    "layers",
    [
        [Conv(normal((2, 2, 1), 0), normal((2,), 1), padding=1), Conv(normal((2, 2, 1), 2), normal((2,), 3), padding=1),
         Conv(normal((2, 2, 3), 4), padding=1)],
        [Conv(normal((2, 2, 2), 0), normal((2,), 1)), Conv(normal((2, 2, 1), 2), None, 2, 1, [(2, 0)])],
    ],
    ids=["maps that end in different places", "a map that ends inside the entry"],
)
def test_maps_that_no_one_frame_ends_with_have_no_channel_of_ones(layers):
    x = normal((1, 2, 8), 3)
    border, y = border_of(layers, x), in_sequence(layers, x)
    assert (border.kind, ones_kernel(border)) == ("bias", None)
    bare = Conv(border.whole.weight, None, border.whole.stride, 1, border.whole.padding)
    assert np.abs(at_positions(bare, x, every(y)) + bias_map(border) - y).max() <= rounding(layers, x)


def test_a_bias_that_no_border_cuts_is_no_part_of_the_ones():
    """The bias of the last layer, and of a layer that is only read without padding."""
    layers = [Conv(normal((2, 2, 1), 0), normal((2,), 1)), Conv(normal((2, 2, 3), 2), normal((2,), 3), padding=1),
              Conv(normal((3, 2, 2), 4), normal((3,), 5))]
    border = border_of(layers, normal((1, 2, 9), 3))
    ones = ones_kernel(border)
    bare = [Conv(w.weight, None if i else w.bias, 1, 1, w.padding) for i, w in enumerate(layers)]
    without = ones_kernel(border_of(bare, normal((1, 2, 9), 3)))
    assert np.array_equal(ones.layer.weight, without.layer.weight)
    assert not np.any(without.layer.bias64)
    expected = layers[2].bias + layers[2].weight.sum(2) @ layers[1].bias
    assert np.abs(ones.layer.bias - expected).max() <= 1e-14


def test_no_inner_bias_no_ones():
    layers = [Conv(normal((2, 2, 1), 0)), Conv(normal((2, 2, 3), 2), normal((2,), 3), padding=1)]
    assert ones_kernel(border_of(layers, normal((1, 2, 9), 3))) is None


@pytest.mark.parametrize("stride", [1, 2])
def test_a_channel_of_ones_is_exact_at_a_size_that_is_not_known(stride):
    layers = [Conv(normal((2, 2, 1), 0), normal((2,), 1), stride), Conv(normal((3, 2, 3), 2), normal((3,), 3), stride, 2, 2)]
    known = chain(layers, (11,))
    border = find_border(Program(known.steps, "0", "2", known.channels, dict.fromkeys("012", (None,))))
    wide = with_ones(border.whole, ones_kernel(border).layer)
    for size in (7, 8, 11, 12):
        x = normal((1, 2, size), size)
        y = in_sequence(layers, x)
        assert np.abs(at_positions(wide, with_channel(x), every(y)) - y).max() <= rounding(layers, x)
        assert wide(with_channel(x)).shape == y.shape


def test_a_tap_that_every_output_misses_is_no_part_of_the_constant():
    """On a map of width 1 all outputs see the middle tap of the last layer alone: the same taps, and yet not all."""
    layers = [Conv(normal((2, 2, 1, 1), 0), normal((2,), 1)),
              Conv(normal((2, 2, 3, 1), 2), normal((2,), 3), padding=[(1, 1), (0, 0)]),
              Conv(normal((3, 2, 1, 3), 4), normal((3,), 5), 1, (1, 3), [(0, 0), (3, 3)])]
    x = normal((1, 2, 5, 1), 6)
    border = border_of(layers, x)
    assert border.kind == "bias"
    y = in_sequence(layers, x)
    ones = ones_kernel(border)
    got = None if ones is None else at_positions(with_ones(border.whole, ones.layer), with_channel(x), every(y))
    assert got is None or np.abs(got - y).max() <= rounding(layers, x)
