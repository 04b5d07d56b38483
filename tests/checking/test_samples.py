"""Inputs for verification: corners and edges of the range, all batch sizes, the user's own data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from decascade.checking.data import load_data
from decascade.checking.samples import Range, batches, from_data
from decascade.errors import UsageError
from decascade.ir.graph import Graph, Tensor


def graph(shape: tuple[int | str, ...] | None = ("N", 2, 6, 7), dtype: str = "float32") -> Graph:
    return Graph((), ("x",), (), {"x": Tensor("x", shape, dtype)})


def test_corners_edges_and_batch_sizes(rng: np.random.Generator) -> None:
    found = batches(graph(), 13, Range(-2, 3), rng)
    assert [len(b["x"]) for b in found] == [1, 2, 5, 5]
    rows = np.concatenate([b["x"] for b in found])
    assert rows.dtype == np.float32
    assert rows.min() == -2
    assert rows.max() == 3
    assert (rows[1] == -2).all()
    assert (rows[2] == 3).all()
    assert not rows[3].any()
    first, last = rows[4], rows[5]
    assert (first[:, 0, 0] == 3).all()
    assert np.count_nonzero(first) == 2
    assert (last[:, -1, -1] == 3).all()


def test_range_without_zero_rests_at_its_near_end(rng: np.random.Generator) -> None:
    rows = np.concatenate([b["x"] for b in batches(graph(), 8, Range(2, 5), rng)])
    assert rows.min() == 2
    assert (rows[3] == 2).all()
    assert rows[4, 0, 0, 0] == 5


def test_fixed_batch_is_kept(rng: np.random.Generator) -> None:
    assert {b["x"].shape for b in batches(graph((4, 2, 6, 7)), 10, Range(), rng)} == {(4, 2, 6, 7)}


def test_whole_numbers_for_inputs_of_whole_numbers(rng: np.random.Generator) -> None:
    rows = np.concatenate([b["x"] for b in batches(graph(dtype="int64"), 8, Range(-3, 9), rng)])
    assert rows.dtype == np.int64
    assert rows.min() >= 0


def test_unknown_rank(rng: np.random.Generator) -> None:
    with pytest.raises(UsageError, match="input x has no known shape"):
        batches(graph(None), 3, Range(), rng)


@pytest.mark.parametrize(("lo", "hi"), [(1, 1), (2, 1), (float("nan"), 1), (0, float("inf"))])
def test_ranges_that_are_none(lo: float, hi: float) -> None:
    with pytest.raises(UsageError, match="give two finite numbers, the smaller one first"):
        Range(lo, hi)


def test_data_is_cut_into_batches() -> None:
    found = from_data(graph(), {"x": np.ones((70, 2, 6, 7), np.uint8)})
    assert [b["x"].shape[0] for b in found] == [32, 32, 6]
    assert found[0]["x"].dtype == np.float32
    assert [len(b["x"]) for b in from_data(graph((4, 2, 6, 7)), {"x": np.ones((11, 2, 6, 7))})] == [4, 4]


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((0, 2, 6, 7), "at least one"),
        ((5, 2, 6, 8), r"data of shape \(2, 6, 8\) per sample for input x of shape \(2, 6, 7\)"),
        ((3, 2, 6, 7), "3 samples for a model of fixed batch 4"),
    ],
)
def test_data_that_does_not_fit(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        from_data(graph((4, 2, 6, 7)), {"x": np.zeros(shape)})


def test_data_from_files_and_objects(tmp_path: Path) -> None:
    x = np.arange(6.0).reshape(2, 3)
    np.savez(tmp_path / "d.npz", x=x, y=x)
    np.save(tmp_path / "d.npy", x)
    for given in (tmp_path / "d.npz", str(tmp_path / "d.npy"), x, {"image": x}, {"x": x}):
        assert np.array_equal(load_data(given, ["image"])["image"], x)
    assert set(load_data({"a": x, "b": x, "c": x}, ["a", "b"])) == {"a", "b"}


def test_data_that_cannot_be_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "named.npz", z=np.ones(3))
    np.save(tmp_path / "pickle.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "named.npz").read_bytes()[:40])
    rows = {
        "named.npz": "the data holds z: the model needs an array x",
        "pickle.npy": "cannot be read: it holds Python objects, which are never loaded: save plain numbers",
        "empty.npz": "cannot be read",
        "cut.npz": "cannot be read",
        "missing.npz": "does not exist",
        "text.csv": "give a .npz file",
    }
    for name, words in rows.items():
        with pytest.raises(UsageError, match=words):
            load_data(tmp_path / name, ["image"])
