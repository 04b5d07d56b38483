"""Taps along one axis: the laws, by listing the taps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from decascade.algebra.axis import Axis, compose_axis, join_axis


def axes(stride: int = 0) -> st.SearchStrategy[Axis]:
    strides = st.just(stride) if stride else st.integers(1, 4)
    return st.builds(Axis, st.integers(1, 5), strides, st.integers(1, 4), st.integers(-6, 6))


def taps(axis: Axis, position: int) -> set[int]:
    return {axis.stride * position + axis.start + axis.step * j for j in range(axis.taps)}


@given(axes(), st.integers(-5, 5))
def test_first_and_last_tap(axis, position):
    assert axis.first(position) == min(taps(axis, position))
    assert axis.last(position) == max(taps(axis, position))
    assert axis.reach == axis.last(0) - axis.first(0)


@given(axes(), axes(), st.integers(-5, 5))
def test_composition_has_the_taps_of_the_taps_and_no_wider_reach(second, first, position):
    joint = compose_axis(second, first)
    wanted = {t for q in taps(second, position) for t in taps(first, q)}
    assert wanted <= taps(joint, position)
    assert (min(wanted), max(wanted)) == (joint.first(position), joint.last(position))
    assert joint.stride == first.stride * second.stride


@given(axes(), axes(), axes())
def test_composition_is_associative(c, b, a):
    assert compose_axis(c, compose_axis(b, a)) == compose_axis(compose_axis(c, b), a)


@given(axes())
def test_the_single_tap_is_neutral(axis):
    plain = axis if axis.taps > 1 else Axis(1, axis.stride, 1, axis.start)
    assert compose_axis(axis, Axis()) == plain
    assert compose_axis(Axis(), axis) == plain


def test_a_pure_dilation_is_kept_as_one():
    """3 taps 4 apart behind a single tap of stride 1, and 3 behind a stride of 2: no zeros are stored between."""
    assert compose_axis(Axis(3, step=4), Axis()) == Axis(3, 1, 4, 0)
    assert compose_axis(Axis(3), Axis(1, stride=2)) == Axis(3, 2, 2, 0)
    assert compose_axis(Axis(3, step=2), Axis(2, step=4)).taps == 5  # offsets 0 … 8 in steps of 2


@given(st.integers(1, 3).flatmap(lambda s: st.tuples(axes(s), axes(s), axes(s))), st.integers(-3, 3))
def test_joining_has_the_taps_of_both_and_is_associative_and_commutative(three, position):
    a, b, c = three
    joint = join_axis(a, b)
    both = taps(a, position) | taps(b, position)
    assert both <= taps(joint, position)
    assert (min(both), max(both)) == (joint.first(position), joint.last(position))
    assert joint == join_axis(b, a)
    assert join_axis(join_axis(a, b), c) == join_axis(a, join_axis(b, c))
