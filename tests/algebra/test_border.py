"""Border classes: the kernel of every class is exact at every one of its positions, and the kinds say what is so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from cascades import Options, cascades, random_input
from decascade.algebra.affine import identity
from decascade.algebra.border import Border, find_border
from decascade.algebra.constant import bias_map
from decascade.algebra.conv import Conv
from decascade.algebra.program import Program, Scale, chain
from decascade.ir.graph import Graph
from decascade.ir.interpret import run
from decascade.regions.lower import lower
from drawn import chains, in_sequence, normal, rounding
from laws import EPS, at_positions, fan_in, sizes_of


def ranges(border: Border, index: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(c[i].start, c[i].stop) for c, i in zip(border.axes, index, strict=True)]


def assert_every_class_is_exact(border: Border, x: np.ndarray, y: np.ndarray, tolerance: float) -> None:
    """y (N, O, *S) is what the classes' kernels give, with and without the taps that only meet padding."""
    seen = np.zeros(y.shape[2:], int)
    for index in border.indices:
        place = tuple(slice(a, b) for a, b in ranges(border, index))
        seen[place] += 1
        kernel = border.kernel(index)
        visible = border.visible(kernel, index)
        for layer in (kernel, visible):
            assert np.abs(at_positions(layer, x, ranges(border, index)) - y[(..., *place)]).max() <= tolerance
        assert visible.weight.size <= kernel.weight.size
    assert np.all(seen == 1), "every position is in one class"


def assert_kind_is_true(border: Border, x: np.ndarray, y: np.ndarray, tolerance: float) -> None:
    every = [(0, n) for n in y.shape[2:]]
    if border.kind == "free":
        assert np.abs(at_positions(border.whole, x, every) - y).max() <= tolerance
    if border.kind == "bias":
        bare = Conv(border.whole.weight, None, border.whole.stride, border.whole.dilation, border.whole.padding,
                    border.whole.groups)
        assert np.abs(at_positions(bare, x, every) + bias_map(border) - y).max() <= tolerance


@settings(max_examples=120, deadline=None)
@given(chains(depth=(2, 3)))
def test_chains_are_exact_at_every_position_of_every_class(drawn):
    layers, x = drawn
    border = find_border(chain(layers, x.shape[2:]))
    y = in_sequence(layers, x)
    assert_every_class_is_exact(border, x, y, rounding(layers, x))
    assert_kind_is_true(border, x, y, rounding(layers, x))


def test_what_a_position_in_the_middle_of_a_class_reads_past_a_map_is_seen():
    """All positions read the padding alone, the middle one where the composed kernel would read the entry."""
    layers = [Conv([[[1.0]]]), Conv([[[2.0, 3.0]]], padding=[(1, 0)]), Conv([[[1.0]]], stride=2, padding=[(1, 3)])]
    x = np.ones((1, 1, 1))
    border, y = find_border(chain(layers, (1,))), in_sequence(layers, x)
    assert not y.any()
    assert border.single or border.kind == "ring"
    assert_every_class_is_exact(border, x, y, 0.0)
    wide = [Conv(np.asarray(layer.weight)[:, :, None], None, (1, *layer.stride), 1, [(0, i % 2), *layer.padding])
            for i, layer in enumerate(layers)]
    x = np.ones((1, 1, 1, 1))
    border, y = find_border(chain(wide, (1, 1))), in_sequence(wide, x)
    assert_every_class_is_exact(border, x, y, 0.0)
    assert_kind_is_true(border, x, y, 0.0)


def lowered(graph: Graph) -> Program:
    program = lower(graph, graph.nodes, "x", "y")
    assert isinstance(program, Program), program
    return program


@settings(max_examples=120, deadline=None)
@given(cascades(Options(size=(4, 9), size_3d=(3, 5))))
def test_regions_with_skips_pools_and_flattens_are_exact_at_every_position_of_every_class(graph):
    program = lowered(graph)
    border = find_border(program)
    inputs = random_input(graph, np.random.default_rng(0))
    x, y = inputs["x"].astype(np.float64), run(graph, inputs)["y"]
    # a kernel also reads where the maps have ended: inputs as large as the largest everywhere bound that too
    large = {"x": np.full_like(x, np.abs(x).max())}
    tolerance = 4 * sum(fan_in(n.op) for n in graph.nodes) * EPS * sizes_of(graph, large)["y"].max()
    y = y.reshape(*y.shape, *(1,) * (x.ndim - y.ndim))
    assert_every_class_is_exact(border, x, y, tolerance)
    if not any(isinstance(s.op, Scale) for s in program.steps):
        assert_kind_is_true(border, x, y, tolerance)


def layer(kernel: int, pad: int = 0, bias: bool = True, channels: int = 2, **more) -> Conv:
    weight = normal((channels, channels, kernel), kernel)
    return Conv(weight, normal((channels,), 1) if bias else None, padding=pad, **more)


@pytest.mark.parametrize(
    ("layers", "kind", "classes"),
    [
        ([layer(3, 1), layer(3, 0)], "free", 1),
        ([layer(3, 1), layer(3, 1)], "ring", 3),
        ([layer(3, 1), layer(5, 2)], "ring", 5),
        ([layer(3, 1), layer(3, 1), layer(3, 1)], "ring", 5),
        ([layer(1, 0), layer(3, 1)], "bias", 3),
        ([layer(1, 0, bias=False), layer(3, 1)], "free", 3),
        ([layer(1, 1, bias=False), layer(3, 1)], "free", 3),
        ([layer(3, 1), layer(1, 0)], "free", 1),
        ([layer(3, 1), layer(1, 1)], "ring", 3),
        ([layer(3, 1), layer(3, [(0, 1)])], "ring", 2),
        ([layer(3, 1), layer(3, -1)], "free", 1),
        ([layer(3, 1), layer(3, 1, stride=2)], "ring", 2),
    ],
)
def test_kind_and_number_of_classes_by_hand(layers, kind, classes):
    border = find_border(chain(layers, (12,)))
    assert (border.kind, len(border.axes[0]), border.unknown) == (kind, classes, False)
    assert border.single == (classes == 1)


def test_classes_of_two_padded_layers_by_hand():
    """5 taps on 8 samples; the outer positions see the first map through two taps and not three."""
    border = find_border(chain([layer(3, 1), layer(3, 1)], (8,)))
    first, inner, last = border.axes[0]
    assert [(c.start, c.stop, c.positions) for c in border.axes[0]] == [(0, 1, 1), (1, 7, 6), (7, 8, 1)]
    assert (first.windows["1"], inner.windows["1"], last.windows["1"]) == ((0, 1), (-1, 1), (-1, 0))
    assert (first.entry, inner.entry, last.entry) == ((0, 2), (-2, 2), (-2, 0))  # of −2 … 2 what is on the entry
    assert (first.outside, inner.outside, last.outside) == ((0, 0), None, (0, 0))
    assert border.interior == (1,)


def test_interior_class_is_the_first_of_equals():
    assert find_border(chain([layer(3, 1), layer(3, 1)], (3,))).interior == (0,)
    assert find_border(chain([layer(3, 1), layer(1)], (3,))).interior == (0,)


def test_a_class_that_sees_nothing_answers_its_bias():
    """The last layer's padding is wider than its kernel: its outermost outputs see no sample at all."""
    layers = [layer(1, bias=True), layer(1, 2, bias=True)]
    border = find_border(chain(layers, (4,)))
    assert [c.positions for c in border.axes[0]] == [2, 4, 2]
    outer = border.visible(border.kernel((0,)), (0,))
    assert (outer.kernel, bool(np.any(outer.weight))) == ((1,), False)
    assert np.array_equal(outer.bias64, layers[1].bias64)


def test_visible_kernels_leave_out_what_only_meets_the_padding():
    layers = [Conv(normal((1, 1, 5), 0), padding=2), Conv(normal((1, 1, 5), 1), padding=2)]
    for size, widths in ((12, [5, 6, 9, 6, 5]), (6, [5, 6, 7, 6, 5])):
        border = find_border(chain(layers, (size,)))
        assert [border.visible(border.kernel(i), i).kernel[0] for i in border.indices] == widths
        for i in border.indices:
            (axis,), (start, stop) = border.visible(border.kernel(i), i).axes, ranges(border, i)[0]
            for tap in (axis.start, axis.start + axis.reach):
                assert any(0 <= p + tap < size for p in range(start, stop)), "a tap that never meets the entry"


def test_a_tap_that_every_output_misses_is_no_part_of_the_bias():
    """Two rows of padding that no output sees past: the border is free, and the bias is not that of the unbounded kernel."""
    first = Conv(normal((1, 1, 1, 1), 0), [2.0])
    second = Conv(normal((1, 1, 3, 1), 1), [3.0], 1, 1, [(0, 1), (0, 0)])
    pad = Conv(np.ones((1, 1, 1, 1)), None, 1, 1, [(0, 0), (1, 1)])
    layers, x = [identity(1, 2), pad, first, second], normal((1, 1, 2, 5), 2)
    border = find_border(chain(layers, (2, 5)))
    assert (border.kind, [len(c) for c in border.axes]) == ("free", [1, 3])
    y = in_sequence(layers, x)
    assert np.abs(at_positions(border.whole, x, [(0, 1), (0, 7)]) - y).max() <= rounding(layers, x)


def unknown(graph_size: tuple[int | None, ...], layers: list[Conv]) -> Program:
    known = chain(layers, [n or 12 for n in graph_size])
    size = {name: tuple(None if m is None else n for n, m in zip(s, graph_size, strict=True)) for name, s in known.size.items()}
    return Program(known.steps, known.entry, known.exit, known.channels, size)


@pytest.mark.parametrize(
    ("layers", "kind"),
    [
        ([layer(3, 1), layer(3, 0)], "free"),
        ([layer(3, 1), layer(3, -1)], "free"),
        ([layer(1, bias=False), layer(3, 1)], "free"),
        ([layer(1), layer(3, 1)], "bias"),
        ([layer(1, stride=2), layer(3, 1)], "bias"),
        ([layer(1, 1), layer(3, 1)], "ring"),
        ([layer(1, [(0, 1)]), layer(3, 1)], "ring"),
        ([layer(3, 1), layer(3, 1)], "ring"),
    ],
)
def test_kind_where_the_size_is_not_known(layers, kind):
    border = find_border(unknown((None,), layers))
    assert (border.kind, border.unknown, border.axes) == (kind, kind != "free", (None,))
    assert not border.single
    x = normal((1, 2, 12), 0)
    if kind == "free":
        y = in_sequence(layers, x)
        assert np.abs(at_positions(border.whole, x, [(0, y.shape[2])]) - y).max() <= rounding(layers, x)


def test_positions_that_are_scaled_differently_are_in_different_classes():
    """Factors 1 2 2 3 3 3 on a map that nothing else cuts, seen through two taps."""
    factors = np.array([1.0, 2, 2, 3, 3, 3])
    first, second = Conv(np.ones((1, 1, 1))), Conv(normal((1, 1, 2), 0))
    known = chain([first, second], (6,))
    steps = (known.steps[0], type(known.steps[0])(Scale((factors,)), ("1",), "s"), type(known.steps[0])(second, ("s",), "2"))
    program = Program(steps, "0", "2", {**known.channels, "s": 1}, {**known.size, "s": (6,)})
    border = find_border(program)
    assert [(c.start, c.stop) for c in border.axes[0]] == [(0, 1), (1, 2), (2, 3), (3, 5)]
    x = normal((1, 1, 6), 1)
    assert_every_class_is_exact(border, x, second(factors * x), 1e-14)


def test_a_scale_by_position_makes_the_border_a_ring_where_the_size_is_not_known():
    program = unknown((None,), [layer(1), layer(1)])
    step = type(program.steps[0])(Scale((np.ones(12),)), ("2",), "3")
    more = Program((*program.steps, step), "0", "3", {**program.channels, "3": 2}, {**program.size, "3": (None,)})
    assert find_border(more).kind == "ring"
