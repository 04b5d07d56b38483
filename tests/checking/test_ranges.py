"""Input ranges in a model's own layout: every form, outward rounding, what inputs are drawn, and every refusal's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decascade.checking.models import Subject
from decascade.checking.ranges import box_of, check_inside, ranges
from decascade.checking.samples import batches, pinned
from decascade.errors import UsageError
from decascade.formats.base import Document
from decascade.ir.graph import Graph, Tensor


class ChannelsLast:
    """A format whose arrays are (N, *S, C)."""

    @staticmethod
    def to_graph(_document: Any, _name: str, array: Any) -> Any:
        return np.moveaxis(array, -1, 1)


def subject(dtype: str = "float32", size: int | str = 4, inputs: tuple[str, ...] = ("x",)) -> Subject:
    tensors = {n: Tensor(n, ("N", 3, size, 5), dtype) for n in inputs}
    form: Any = ChannelsLast()
    return Subject(form, Document("test", Graph((), inputs, (), tensors), None))


def test_arrays_of_every_entry_are_in_the_models_own_layout() -> None:
    lo, hi = np.zeros((4, 5, 3)), np.ones((4, 5, 3))
    hi[1, 2, 0] = 9
    box = box_of(subject(), (lo, hi))
    assert box.intervals["x"].hi.shape == (3, 4, 5)
    assert box.intervals["x"].hi[0, 1, 2] == 9
    assert box.intervals["x"].hi.sum() == 59 + 9


def test_one_number_per_channel_and_one_for_all(tmp_path: Path) -> None:
    np.savez(tmp_path / "box.npz", lo=[0, 1, 2], hi=[3, 4, 5])
    for given in (tmp_path / "box.npz", str(tmp_path / "box.npz"), ([0, 1, 2], [3, 4, 5]), {"x": ([0, 1, 2], (3, 4, 5))},
                  {"lo": [0, 1, 2], "hi": [3, 4, 5]}, np.array([[0, 1, 2], [3, 4, 5]])):
        assert box_of(subject(), given).facts() == {"x": {"lo": [0.0, 1.0, 2.0], "hi": [3.0, 4.0, 5.0]}}
    assert box_of(subject(), (0, 255)).facts() == {"x": {"lo": 0.0, "hi": 255.0}}


def test_several_inputs(tmp_path: Path) -> None:
    two = subject(inputs=("a", "b"))
    assert box_of(two, (0, 1)).facts() == {n: {"lo": 0.0, "hi": 1.0} for n in "ab"}
    wanted = {"a": {"lo": 0.0, "hi": 1.0}, "b": {"lo": -2.0, "hi": 2.0}}
    assert box_of(two, {"a": (0, 1), "b": (-2, 2)}).facts() == wanted
    np.savez(tmp_path / "box.npz", **{"a.lo": 0, "a.hi": 1, "b.lo": -2, "b.hi": 2})
    assert box_of(two, tmp_path / "box.npz").facts() == wanted


@pytest.mark.parametrize(("dtype", "kind"), [("float32", np.float32), ("float16", np.float16)])
def test_a_number_rounded_to_the_inputs_type_lies_inside(dtype: str, kind: Any) -> None:
    for lo, hi in [(-0.1, 0.1), (0.1, 0.3), (-0.7, -0.3)]:
        box = box_of(subject(dtype), (lo, hi))
        x = np.stack([np.full((3, 4, 5), end).astype(kind) for end in (lo, hi)])
        assert box.contains("x", x).all()
        assert box.intervals["x"].lo.min() <= lo
        assert box.intervals["x"].hi.max() >= hi
        assert box.intervals["x"].hi.max() - hi <= np.spacing(kind(abs(hi)))
    wide = box_of(subject("bfloat16"), (-0.1, 0.1)).intervals["x"]
    assert float(wide.hi.max()) > 0.10009765625  # 0.1 in bfloat16
    assert box_of(subject("uint8"), (0, 255)).facts() == {"x": {"lo": 0.0, "hi": 255.0}}


def test_the_facts_of_a_box_make_it_again() -> None:
    rng = np.random.default_rng(0)
    full = (rng.random((4, 5, 3)), 2 + rng.random((4, 5, 3)))
    for given in [(0, 1), ([0, 1, 2], [3, 4, 5]), full, (0, rng.random((1, 5, 1)))]:
        one = subject()
        box = box_of(one, given)
        again = type(box).of(one.graph, box.facts())
        for name in one.graph.inputs:
            a, b = box.intervals[name], again.intervals[name]
            for x, y in ((a.lo, b.lo), (a.hi, b.hi)):
                assert np.array_equal(np.broadcast_to(x, (3, 4, 5)), np.broadcast_to(y, (3, 4, 5)))


def test_inputs_are_drawn_from_the_box_and_reach_its_ends(rng: np.random.Generator) -> None:
    lo, hi = np.zeros((4, 5, 3)), np.ones((4, 5, 3))
    lo[..., 1], hi[..., 2], hi[0, 0, 0] = -3, 7, 0
    one = subject(size="H")
    box = box_of(one, (lo, hi))
    graph = pinned(one.graph, ranges(box))
    assert graph.shape("x") == ("N", 3, 4, 5)
    rows = np.concatenate([b["x"] for b in batches(graph, 24, ranges(box), rng)])
    assert box.contains("x", rows).all()
    assert np.array_equal(rows.min(axis=0), np.moveaxis(lo, -1, 0))
    assert np.array_equal(rows.max(axis=0), np.moveaxis(hi, -1, 0))
    assert pinned(one.graph, ranges(box_of(one, (0, 1)))).shape("x") == ("N", 3, "H", 5)


BAD: list[tuple[Any, str]] = [
    ((1, 0), "input range of x: lowest value 1 above highest 0: swap them"),
    (([0, 2, 0], [1, 1, 1]), "input range of x channel 1: lowest value 2 above highest 1: swap them"),
    ((np.zeros((4, 5, 3)), np.eye(4, 5)[..., None] - 0.5),
     r"input range of x channel 0 at \[0, 1\]: lowest value 0 above highest -0.5"),
    ((0, float("nan")), "input range of x is not finite: give finite numbers, not nan"),
    (([0, 0, -np.inf], 1), r"input range of x is not finite: give finite numbers \(1 of 3 values are not\)"),
    (([0, 0], [1, 1]), r"input range of shape \(2,\) for input x of shape \(3, 4, 5\): give one number, one per channel"),
    ((np.zeros((3, 4, 5)), 1), r"input range of shape \(3, 4, 5\) for input x: give one number, one per channel \(3\),"
                               r" or one per entry \(4, 5, 3\)"),
    ({"y": (0, 1)}, "input range without an entry for input x: give one for each of x"),
    ({"x": (0, 1), "y": (0, 1)}, "input range for an input y: the model has none"),
    (("a", "b"), "input range of x: values of type <U1: give numbers"),
    ((0, 1, 2), r"input range \(0, 1, 2\): give the lowest and the highest value"),
    ("01", "input range 01 does not exist: check the name"),
]


@pytest.mark.parametrize(("given", "words"), BAD, ids=range(len(BAD)))
def test_ranges_that_do_not_fit(given: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        box_of(subject(), given)


def test_files_that_hold_no_range(tmp_path: Path) -> None:
    np.savez(tmp_path / "low.npz", low=0)
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "low.npz").read_bytes()[:50])
    (tmp_path / "text.npz").write_text("lo=0 hi=1")
    rows = {
        "low.npz": "arrays low: it needs lo and hi$", "one.npy": "arrays x: it needs lo and hi$",
        "empty.npz": "cannot be read: File is not a zip file",
        "cut.npz": "input range .*cut.npz cannot be read: File is not a zip file",
        "text.npz": "input range .*text.npz cannot be read: File is not a zip file",
    }
    for name, words in rows.items():
        with pytest.raises(UsageError, match=words):
            box_of(subject(), tmp_path / name)
    with pytest.raises(UsageError, match=r"it needs lo and hi, or for each input, such as a.lo and a.hi"):
        box_of(subject(inputs=("a", "b")), tmp_path / "low.npz")


def test_data_must_lie_inside() -> None:
    box = box_of(subject(), (0, 1))
    inside, outside = np.full((2, 3, 4, 5), 0.5, np.float32), np.full((3, 3, 4, 5), 0.5, np.float32)
    check_inside([{"x": inside}, {"x": outside}], box)
    for value, words in ((1.5, "1.5"), (np.nan, "nan")):
        outside[1, 2, 0, 0] = value
        told = f"sample 3 of the data has the value {words} in input x, outside of the input range"
        with pytest.raises(UsageError, match=told):
            check_inside([{"x": inside}, {"x": outside}], box)
