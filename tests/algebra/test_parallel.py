"""Parallel composition: sums, stacks, splits, picks and signs, against doing it on the outputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decascade.algebra.affine import identity
from decascade.algebra.conv import Conv
from decascade.algebra.parallel import add, embed, negate, pick_inputs, pick_outputs, split, stack
from decascade.errors import AlgebraError
from drawn import Draw, normal, rounding
from laws import at_positions


@st.composite
def branches(draw: Draw, same_outputs: bool) -> tuple[list[Conv], np.ndarray]:
    """Layers of equal stride on one input; grouped, dilated, with any padding."""
    rank, channels = draw(st.integers(1, 2)), draw(st.sampled_from([1, 2, 4]))
    stride = [draw(st.integers(1, 3)) for _ in range(rank)]
    out = draw(st.sampled_from([1, 2, 4]))
    found = list[Conv]()
    for i in range(draw(st.integers(2, 3))):
        rows = out if same_outputs else draw(st.sampled_from([1, 2, 4]))
        groups = draw(st.sampled_from([g for g in (1, 2, 4) if channels % g == 0 and rows % g == 0]))
        kernel, dilation = ([draw(st.integers(1, 3)) for _ in range(rank)] for _ in range(2))
        pads = [(draw(st.integers(-1, 3)), draw(st.integers(-1, 3))) for _ in range(rank)]
        bias = normal((rows,), i + 50) if draw(st.booleans()) else None
        found.append(Conv(normal((rows, channels // groups, *kernel), i), bias, stride, dilation, pads, groups))
    return found, normal((1, channels, *(draw(st.integers(9, 12)) for _ in range(rank))), 9)


def common(layers: Sequence[Conv], x: np.ndarray) -> list[tuple[int, int]]:
    """The output positions that all layers have."""
    sizes = [layer.output_size(x.shape[2:]) for layer in layers]
    return [(0, min(n)) for n in zip(*sizes, strict=True)]


def tolerance(layers: Sequence[Conv], x: np.ndarray) -> float:
    return sum(rounding([layer], x) for layer in layers)


@settings(max_examples=120, deadline=None)
@given(branches(same_outputs=True))
def test_the_sum_of_branches(drawn):
    layers, x = drawn
    joint = add(*layers)
    place = common(layers, x)
    y = sum(at_positions(layer, x, place) for layer in layers)
    assert joint(x).shape[2:] == tuple(n for _, n in place)
    assert np.abs(joint(x) - y).max() <= tolerance(layers, x)
    assert all(g % joint.groups == 0 for g in (layer.groups for layer in layers))


@settings(max_examples=120, deadline=None)
@given(branches(same_outputs=False))
def test_the_concatenation_of_branches(drawn):
    layers, x = drawn
    joint = stack(*layers)
    place = common(layers, x)
    y = np.concatenate([at_positions(layer, x, place) for layer in layers], axis=1)
    assert joint(x).shape[2:] == tuple(n for _, n in place)
    assert np.abs(joint(x) - y).max() <= tolerance(layers, x)


@settings(max_examples=60, deadline=None)
@given(branches(same_outputs=False))
def test_split_undoes_stack(drawn):
    layers, x = drawn
    parts = split(stack(*layers), [layer.out_channels for layer in layers])
    place = common(layers, x)
    for part, layer in zip(parts, layers, strict=True):
        assert np.array_equal(part.bias64, layer.bias64)
        assert np.abs(at_positions(part, x, place) - at_positions(layer, x, place)).max() <= tolerance(layers, x)


@settings(max_examples=60, deadline=None)
@given(branches(same_outputs=True), st.data())
def test_picks_and_signs(drawn, data):
    (layer, *_), x = drawn
    outputs = data.draw(st.lists(st.integers(0, layer.out_channels - 1), min_size=1, max_size=5))
    y = layer(x)
    assert np.abs(pick_outputs(layer, outputs)(x) - y[:, outputs]).max() <= tolerance([layer], x)
    assert np.array_equal(negate(layer)(x), -y)
    wide = normal((1, 5, *x.shape[2:]), 3)
    inputs = data.draw(st.lists(st.integers(0, 4), min_size=layer.in_channels, max_size=layer.in_channels))
    picked = pick_inputs(layer, inputs, 5)
    assert np.abs(picked(wide) - layer(wide[:, inputs])).max() <= 2 * tolerance([layer], wide[:, inputs])


def test_a_skip_is_a_delta_kernel():
    layer = Conv(normal((4, 1, 3, 3), 0), None, 1, 2, 2, groups=4)
    joint = add(identity(4, 2), layer)
    assert (joint.groups, joint.kernel, joint.dilation, joint.padding) == (4, (3, 3), (2, 2), ((2, 2), (2, 2)))
    assert np.array_equal(joint.weight[:, 0, 1, 1], layer.weight[:, 0, 1, 1] + 1)


def test_a_1x1_beside_a_3x3_by_hand():
    joint = add(Conv([[[1.0, 2.0, 3.0]]], [1.0], padding=1), Conv([[[10.0]]], [5.0]))
    assert (joint.weight.tolist(), joint.bias.tolist(), joint.padding) == ([[[1.0, 12.0, 3.0]]], [6.0], ((1, 1),))


def test_the_sum_keeps_a_dilation_and_gives_it_up_where_it_must():
    a, b = Conv(normal((1, 1, 3), 0), dilation=4, padding=4), Conv(normal((1, 1, 3), 1), dilation=2, padding=2)
    assert (add(a, a).dilation, add(a, a).kernel) == ((4,), (3,))
    assert (add(a, b).dilation, add(a, b).kernel) == ((2,), (5,))
    assert embed(a, add(a, b).axes, 1)[0, 0].tolist() == [a.weight[0, 0, 0], 0, a.weight[0, 0, 1], 0, a.weight[0, 0, 2]]


def one(out: int = 1, channels: int = 1, rank: int = 1, stride: int = 1) -> Conv:
    return Conv(np.ones((out, channels, *(1,) * rank)), None, stride)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: add(one(2), one(3)), "cannot add branches of 2 and 3 output channels"),
        (
            lambda: add(one(1, 2), one(1, 3)),
            "branches do not fit: 2 and 3 input channels, strides (1,) and (1,)",
        ),
        (
            lambda: add(one(stride=2), one(stride=3)),
            "branches do not fit: 1 and 1 input channels, strides (2,) and (3,)",
        ),
        (
            lambda: stack(one(2), one(3), one(1, stride=2)),
            "branches do not fit: 1 and 1 input channels, strides (1,) and (2,)",
        ),
        (
            lambda: stack(one(1, 2), one(1, 3)),
            "branches do not fit: 2 and 3 input channels, strides (1,) and (1,)",
        ),
        (
            lambda: split(one(4), [1, 2]),
            "parts (1, 2) of 4 output channels: the sizes must sum to them",
        ),
    ],
)
def test_branches_that_do_not_fit(make, words):
    with pytest.raises(AlgebraError) as error:
        make()
    assert str(error.value) == words
