"""Programs: what each map is seen through, pulled back to the entry."""

from __future__ import annotations

import numpy as np
import pytest

from decascade.algebra.axis import Axis
from decascade.algebra.border import find_border
from decascade.algebra.conv import Conv
from decascade.algebra.program import Flat, Pick, Program, Scale, Stack, Step, Sum, chain, crop, pull_back, taps_within
from decascade.errors import AlgebraError
from drawn import normal
from laws import EPS


def point(out: int, channels: int, bias: bool = False, **more) -> Conv:
    return Conv(normal((out, channels, 1), out), normal((out,), 9) if bias else None, **more)


def test_chain_gives_every_map_its_channels_and_size():
    program = chain([Conv(np.ones((4, 2, 3)), stride=2), Conv(np.ones((5, 4, 1)), padding=1)], (9,))
    assert program.channels == {"0": 2, "1": 4, "2": 5}
    assert program.size == {"0": (9,), "1": (4,), "2": (6,)}
    assert (program.entry, program.exit, program.rank) == ("0", "2", 1)
    assert program.reach == {"2": (Axis(),), "1": (Axis(1, 1, 1, -1),), "0": (Axis(3, 2, 1, -2),)}


@pytest.mark.parametrize(
    ("layers", "size", "words"),
    [
        ([point(3, 2), point(4, 5)], (9,), "layer 1 takes 5 channels on 1 axes, it is given 3 on 1"),
        ([point(3, 2)], (9, 9), "layer 0 takes 2 channels on 1 axes, it is given 2 on 2"),
        ([Conv(np.ones((1, 1, 5))), Conv(np.ones((1, 1, 6)))], (9,), "layer 1 leaves nothing of a map of size (5,)"),
    ],
)
def test_layers_that_make_no_chain(layers, size, words):
    with pytest.raises(AlgebraError) as error:
        chain(layers, size)
    assert str(error.value) == words


def branching(a: Conv, b: Conv) -> Program:
    steps = (Step(a, ("x",), "a"), Step(b, ("x",), "b"), Step(Sum((1, -1)), ("a", "b"), "y"))
    return Program(steps, "x", "y", {"x": 2, "a": 2, "b": 2, "y": 2}, dict.fromkeys("xaby", (8,)))


def test_paths_of_different_strides_have_no_reach():
    with pytest.raises(AlgebraError) as error:
        branching(point(2, 2, stride=1), point(2, 2, stride=2)).reach  # noqa: B018 - it is computed when it is asked for
    assert str(error.value) == "two paths from x to the output have different strides"


def test_paths_of_different_strides_have_no_border():
    with pytest.raises(AlgebraError) as error:
        find_border(branching(point(2, 2, stride=1), point(2, 2, stride=2)))
    assert str(error.value) == "two branches have strides 1 and 2"


def test_a_difference_of_branches():
    a, b = point(2, 2, bias=True), Conv(normal((2, 2, 3), 5), normal((2,), 6), padding=1)
    whole = pull_back(branching(a, b), {})
    x = normal((1, 2, 8), 0)
    assert np.abs(whole(x) - (a(x) - b(x))).max() <= 32 * EPS * np.abs(x).max() * 10


def test_a_map_cropped_to_nothing_leaves_the_bias():
    program = chain([point(2, 2), point(2, 2, bias=True)], (8,))
    nothing = pull_back(program, {"1": ((3, 2),)})
    assert not np.any(nothing.weight)
    assert np.array_equal(nothing.bias64, program.steps[1].op.bias64)


def test_stacks_picks_and_flattens():
    a, b = point(2, 2), point(3, 2)
    dense = Conv(normal((4, 3 * 8), 7), normal((4,), 8))
    steps = (Step(a, ("x",), "a"), Step(b, ("x",), "b"), Step(Stack(), ("a", "b"), "c"),
             Step(Pick(np.array([4, 0, 4])), ("c",), "p"), Step(Flat(True), ("p",), "f"), Step(dense, ("f",), "y"))
    size = {**dict.fromkeys("xabcp", (8,)), "f": (), "y": ()}
    program = Program(steps, "x", "y", {"x": 2, "a": 2, "b": 3, "c": 5, "p": 3, "f": 24, "y": 4}, size)
    x = normal((2, 2, 8), 0)
    picked = np.concatenate([a(x), b(x)], axis=1)[:, [4, 0, 4]]
    wanted = dense(np.moveaxis(picked, 1, -1).reshape(2, -1))
    got = pull_back(program, {})(x)[..., 0]
    assert np.abs(got - wanted).max() <= 200 * EPS * np.abs(dense.weight).sum(1).max() * 10
    assert program.groups == 1


def test_a_scale_by_position_needs_its_position():
    factors = np.arange(1.0, 9.0)
    steps = (Step(point(2, 2), ("x",), "a"), Step(Scale((factors,)), ("a",), "y"))
    program = Program(steps, "x", "y", dict.fromkeys("xay", 2), dict.fromkeys("xay", (8,)))
    for p in (0, 3, 7):
        assert np.array_equal(pull_back(program, {}, (p,)).weight, factors[p] * steps[0].op.weight)


def test_groups_that_the_kernel_is_sure_to_have():
    assert chain([point(4, 1, groups=4), point(6, 2, groups=2)], (8,)).groups == 2
    assert chain([point(4, 1, groups=4), point(4, 1, groups=4)], (8,)).groups == 4
    skip = (Step(point(4, 1, groups=4), ("x",), "a"), Step(Sum((1, 1)), ("a", "x"), "y"))
    assert Program(skip, "x", "y", dict.fromkeys("xay", 4), dict.fromkeys("xay", (8,))).groups == 4
    bare = (Step(Sum((1, 1)), ("x", "x"), "y"),)
    assert Program(bare, "x", "y", dict.fromkeys("xy", 4), dict.fromkeys("xy", (8,))).groups == 4


def test_groups_are_found_again_behind_stacks_and_picks():
    """Depthwise, shuffled and shuffled back: the zeros of the kernel tell its groups."""
    shuffle = np.array([0, 2, 1, 3])
    steps = (Step(Pick(shuffle), ("x",), "a"), Step(point(4, 1, groups=4), ("a",), "b"), Step(Pick(shuffle), ("b",), "y"))
    program = Program(steps, "x", "y", dict.fromkeys("xaby", 4), dict.fromkeys("xaby", (8,)))
    assert pull_back(program, {}).groups == 4


@pytest.mark.parametrize(
    ("axis", "window", "kept"),
    [
        (Axis(5, start=-2), (-2, 2), (0, 4)),
        (Axis(5, start=-2), (-1, 1), (1, 3)),
        (Axis(5, step=3, start=-6), (-4, 4), (1, 3)),
        (Axis(3, step=2, start=0), (-9, 3), (0, 1)),
        (Axis(3, step=2, start=0), (5, 9), (3, 2)),
        (Axis(3, step=2, start=0), (-9, -1), (0, -1)),
    ],
)
def test_taps_within_a_window(axis, window, kept):
    assert taps_within(axis, *window) == kept
    first, last = kept
    offsets = [axis.start + axis.step * j for j in range(axis.taps)]
    assert [t for t in offsets if window[0] <= t <= window[1]] == offsets[first : last + 1]


def test_crop_keeps_the_taps_of_a_window_where_they_are():
    layer = Conv(normal((1, 1, 5), 0), [1.0], 2, 3, [(6, 0)])
    cut = crop(layer, ((-4, 4),))
    assert np.array_equal(cut.weight, layer.weight[..., 1:4])
    assert (cut.axes[0].start, cut.stride, cut.dilation, cut.bias.tolist()) == (-3, (2,), (3,), [1.0])
    assert crop(layer, ((1, 2),)) is None
