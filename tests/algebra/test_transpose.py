"""Transposed convolutions: the adjoint, their composition, and stride-1 convolutions as transposed ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decascade.algebra.affine import upsample
from decascade.algebra.compose import as_transpose, compose
from decascade.algebra.conv import Conv, ConvTranspose, Layer
from decascade.errors import AlgebraError
from drawn import Draw, convs, normal
from laws import EPS, magnitude


@st.composite
def transposed(draw: Draw, rank: int, channels: int, stride: int = 3, bias: bool = True, crop: bool = False) -> ConvTranspose:
    axes = range(rank)
    groups = draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))
    kernel = [draw(st.integers(1, 3)) for _ in axes]
    seed, width = draw(st.integers(0, 2**16)), draw(st.integers(1, 2))
    pads = [(draw(st.integers(-1, 1)), draw(st.integers(-1, 1))) if crop else (0, 0) for _ in axes]
    return ConvTranspose(
        normal((channels, width, *kernel), seed), normal((width * groups,), seed + 1) if bias and draw(st.booleans()) else None,
        [draw(st.integers(1, stride)) for _ in axes], [draw(st.integers(1, 2)) for _ in axes], pads, groups,
    )


def rounding(layers: list[Layer], x: np.ndarray) -> float:
    large = np.abs(x)
    for layer in layers:
        large = magnitude(layer)(large)
    return 4 * EPS * sum(layer.weight.size + 1 for layer in layers) * large.max()


def close(layers: list[Layer], joint: Layer, x: np.ndarray) -> None:
    """The layers in sequence and the one layer give the same."""
    y = x
    for layer in layers:
        y = layer(y)
    z = joint(x)
    assert y.shape == z.shape
    assert np.abs(y - z).max() <= rounding(layers, x)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3).flatmap(lambda r: st.tuples(transposed(r, 2, crop=True), st.just(r))), st.data())
def test_the_adjoint_of_the_convolution_with_the_same_kernel(drawn, data):
    layer, rank = drawn
    if any(p < 0 for pads in layer.padding for p in pads) or any(n < 1 for n in layer.output_size((3,) * rank)):
        return
    x = normal((1, 2, *(3,) * rank), data.draw(st.integers(0, 99)))
    bare = ConvTranspose(layer.weight, None, layer.stride, layer.dilation, layer.padding, layer.groups)
    y = bare(x)
    w = normal(y.shape, 7)
    back = Conv(layer.weight, None, layer.stride, layer.dilation, layer.padding, layer.groups)(w)
    assert abs(np.vdot(y, w) - np.vdot(x, back)) <= 100 * rounding([bare], x) * np.abs(w).max() * w.size


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3).flatmap(lambda r: convs(r, 2, stride=1, least_pad=-1)))
def test_a_stride_1_convolution_is_a_transposed_one(layer):
    x = normal((1, 2, *(12 if layer.rank < 3 else 8,) * layer.rank), 0)
    close([layer], as_transpose(layer), x)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_two_transposed_convolutions_are_one_where_nothing_is_cropped_between(data):
    rank = data.draw(st.integers(1, 2))
    first = data.draw(transposed(rank, 2, bias=False))
    second = data.draw(transposed(rank, first.out_channels, crop=True))
    x = normal((1, 2, *(4,) * rank), 0)
    if all(n > 0 for n in second.output_size(first.output_size((4,) * rank))):
        joint = compose(second, first)
        close([first, second], joint, x)
        assert joint.stride == tuple(a * b for a, b in zip(first.stride, second.stride, strict=True))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_stride_1_convolution_without_padding_after_a_transposed_one(data):
    rank = data.draw(st.integers(1, 2))
    first = data.draw(transposed(rank, 2, crop=True))
    second = data.draw(convs(rank, first.out_channels, stride=1))
    bare = Conv(second.weight, second.bias, 1, second.dilation, 0, second.groups)
    x = normal((1, 2, *(6,) * rank), 0)
    middle = first.output_size((6,) * rank)
    if all(n > 0 for n in middle) and all(n > 0 for n in bare.output_size(middle)):
        close([first, bare], compose(bare, first), x)


def test_nearest_upsampling_is_repetition():
    x = normal((2, 3, 4, 5), 0)
    assert np.array_equal(upsample(3, (2, 3))(x), x.repeat(2, 2).repeat(3, 3))
    assert (upsample(3, (2, 3)).groups, upsample(3, (2, 3)).stride) == (3, (2, 3))


def test_a_bias_that_all_phases_see_alike_is_kept():
    first = ConvTranspose(normal((2, 2, 3), 0), normal((2,), 1), 2)
    close([first, upsample(2, (2,))], compose(upsample(2, (2,)), first), normal((1, 2, 5), 2))


@pytest.mark.parametrize(
    ("second", "first", "words"),
    [
        (
            ConvTranspose(np.arange(1.0, 4.0).reshape(1, 1, 3), None, 2), ConvTranspose(np.ones((1, 1, 2)), [1.0], 2),
            "cannot compose: a transposed convolution of stride (2,) spreads the bias of the layer before it unevenly, "
            "so no bias per channel does the same",
        ),
        (
            Conv(np.ones((1, 1, 3)), None, 2), ConvTranspose(np.ones((1, 1, 2))),
            "a convolution of stride (2,) beside a transposed one is neither of the two",
        ),
        (
            ConvTranspose(np.ones((1, 1, 2))), Conv(np.ones((1, 1, 3)), None, 2),
            "a convolution of stride (2,) beside a transposed one is neither of the two",
        ),
        (
            ConvTranspose(np.ones((2, 1, 2))), Conv(np.ones((1, 1, 3))),
            "cannot compose: the first layer gives 1 channels on 1 axes, the second takes 2 on 1",
        ),
    ],
)
def test_pairs_that_are_no_single_layer(second, first, words):
    with pytest.raises(AlgebraError) as error:
        compose(second, first)
    assert str(error.value) == words
