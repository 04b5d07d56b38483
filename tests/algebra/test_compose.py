"""Sequential composition: where the law holds it holds to rounding, and where it does not the naive merge is seen to fail."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decascade.algebra.affine import identity
from decascade.algebra.compose import compose, most_groups, regroup, response_to_constant, with_groups
from decascade.algebra.conv import Conv
from decascade.errors import AlgebraError
from drawn import chains, convs, normal, rounding


def interior(second: Conv, middle: tuple[int, ...]) -> tuple[slice, ...]:
    """Per axis the output positions whose taps all stay on the map between."""
    found = []
    for axis, pads, n in zip(second.axes, second.padding, middle, strict=True):
        size = (n + sum(pads) - axis.reach - 1) // axis.stride + 1
        inside = [p for p in range(size) if axis.first(p) >= 0 and axis.last(p) < n]
        found.append(slice(inside[0], inside[-1] + 1) if inside else slice(0, 0))
    return tuple(found)


def same_layer(a: Conv, b: Conv, tolerance: float) -> None:
    assert (a.stride, a.dilation, a.padding, a.groups) == (b.stride, b.dilation, b.padding, b.groups)
    assert a.weight.shape == b.weight.shape
    assert np.abs(a.weight - b.weight).max() <= tolerance
    assert (a.bias is None) == (b.bias is None)
    assert np.abs(a.bias64 - b.bias64).max() <= tolerance


@settings(max_examples=250, deadline=None)
@given(chains(depth=(2, 2)))
def test_composed_is_sequential_in_the_interior(drawn):
    (first, second), x = drawn
    joint = compose(second, first)
    y, z = second(first(x)), joint(x)
    assert y.shape == z.shape
    inside = (..., *interior(second, first(x).shape[2:]))
    assert np.abs(y[inside] - z[inside]).max(initial=0) <= rounding(drawn[0], x)


@settings(max_examples=150, deadline=None)
@given(chains(depth=(2, 2)))
def test_composed_is_sequential_everywhere_without_padding_between(drawn):
    """p2 ≤ 0, or k1 = 1 (and nothing cropped or padded there) without a bias: exact as it stands."""
    (first, second), x = drawn
    bare = Conv(second.weight, second.bias, second.stride, second.dilation, [(min(p, 0), min(q, 0)) for p, q in second.padding],
                second.groups)
    if all(n > 0 for n in bare.output_size(first(x).shape[2:])):
        y = bare(first(x))
        assert np.abs(y - compose(bare, first)(x)).max() <= rounding([first, bare], x)
    point = Conv(first.weight[(..., *(slice(0, 1),) * first.rank)], None, groups=first.groups)
    if all(n > 0 for n in second.output_size(x.shape[2:])):
        assert np.abs(second(point(x)) - compose(second, point)(x)).max() <= rounding([point, second], x)


def test_the_naive_merge_is_wrong_at_the_border():
    """3×3∘3×3 with padding and bias: the composed layer is right inside and off by a fifth of the output at the edges."""
    first, second = (Conv(normal((4, 4, 3, 3), i), normal((4,), 9 + i), padding=1) for i in range(2))
    x = normal((1, 4, 8, 8), 20)
    y, z = second(first(x)), compose(second, first)(x)
    wrong = np.abs(y - z).max(axis=(0, 1)) > rounding([first, second], x)
    expected = np.ones((8, 8), bool)
    expected[1:-1, 1:-1] = False
    assert np.array_equal(wrong, expected)
    assert np.abs(y - z).max() > 0.2 * np.abs(y).max()


@settings(max_examples=150, deadline=None)
@given(chains(depth=(3, 3)))
def test_associative(drawn):
    (a, b, c), x = drawn
    same_layer(compose(c, compose(b, a)), compose(compose(c, b), a), rounding(drawn[0], np.ones_like(x)))


@settings(max_examples=80, deadline=None)
@given(chains(depth=(1, 1)))
def test_the_delta_kernel_is_neutral(drawn):
    (layer,), _ = drawn
    plain = Conv(layer.weight, layer.bias, layer.stride,
                 [d if k > 1 else 1 for d, k in zip(layer.dilation, layer.kernel, strict=True)], layer.padding, layer.groups)
    same_layer(compose(identity(layer.out_channels, layer.rank), layer), plain, 0.0)
    same_layer(compose(layer, identity(layer.in_channels, layer.rank)), plain, 0.0)


def test_the_law_by_hand():
    """Weights 1, 2 then 3, 4 with stride and dilation: taps at a·d2·s1 + e·d1, padding p1 + s1·p2."""
    first = Conv([[[1.0, 2.0]]], [5.0], 2, 3, [(1, 0)])
    second = Conv([[[3.0, 4.0]]], [7.0], 3, 2, [(2, 1)])
    joint = compose(second, first)
    assert joint.weight.tolist() == [[[3.0, 0.0, 0.0, 6.0, 4.0, 0.0, 0.0, 8.0]]]
    assert (joint.stride, joint.dilation, joint.padding, joint.groups) == ((6,), (1,), ((5, 2),), 1)
    assert joint.bias.tolist() == [7.0 + 5.0 * (3 + 4)]


def test_depthwise_stays_depthwise():
    first = Conv(normal((6, 1, 3, 3), 0), None, groups=3)
    second = Conv(normal((12, 1, 3, 3), 1), None, groups=6)
    joint = compose(second, first)
    assert (joint.groups, joint.weight.shape, joint.bias) == (3, (12, 1, 5, 5), None)
    assert compose(Conv(normal((4, 3, 1, 1), 2), None, groups=4 // 2), first).groups == 1


def test_composition_is_made_in_float64():
    first, second = (Conv(np.full((1, 1, 1), v, np.float32)) for v in (1 + 2**-20, 1 - 2**-20))
    assert compose(second, first).weight.dtype == np.float64
    assert compose(second, first).weight.item() == 1 - 2.0**-40


@pytest.mark.parametrize(
    ("second", "first", "words"),
    [
        (
            Conv(np.ones((1, 3, 1))), Conv(np.ones((2, 1, 1))),
            "cannot compose: the first layer gives 2 channels on 1 axes, the second takes 3 on 1",
        ),
        (
            Conv(np.ones((1, 2, 1, 1))), Conv(np.ones((2, 1, 1))),
            "cannot compose: the first layer gives 2 channels on 1 axes, the second takes 2 on 2",
        ),
    ],
)
def test_layers_that_do_not_fit(second, first, words):
    with pytest.raises(AlgebraError) as error:
        compose(second, first)
    assert str(error.value) == words


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4).flatmap(lambda c: convs(2, c)))
def test_response_to_a_constant_is_the_layer_on_a_constant_map(layer):
    values = normal((layer.in_channels,), 3)
    x = np.broadcast_to(values[None, :, None, None], (1, layer.in_channels, 20, 20))
    bare = Conv(layer.weight, None, layer.stride, layer.dilation, 0, layer.groups)
    got, wanted = response_to_constant(layer, values), bare(x)[0, :, 0, 0]
    assert np.abs(got - wanted).max() <= rounding([bare], x)


@given(st.sampled_from([(8, 4), (8, 2), (4, 1), (6, 3), (6, 6)]), st.integers(1, 2))
def test_a_kernel_stored_with_fewer_groups_is_the_same_kernel(groups, rows):
    many, few = groups
    weight = normal((many * rows, 2, 3), 5)
    x = normal((1, many * 2, 7), 6)
    dense = regroup(weight, many, few)
    assert dense.shape == (many * rows, 2 * many // few, 3)
    assert np.abs(Conv(weight, groups=many)(x) - Conv(dense, groups=few)(x)).max() <= rounding([Conv(dense, groups=few)], x)


@given(st.integers(1, 6), st.integers(1, 2), st.integers(1, 2))
def test_the_most_groups_that_the_zeros_allow(groups, rows, columns):
    weight = normal((groups * rows, columns, 2), 7)
    dense = regroup(weight, groups, 1)
    found = most_groups(dense)
    assert found % groups == 0
    assert np.array_equal(regroup(with_groups(dense, found), found, 1), dense)
    dense[0, -1] = 1.0
    if groups > 1:
        assert most_groups(dense) == 1
