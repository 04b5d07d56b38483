"""The user's data as batches: every way to give it, memory, order, and one clear line for each way in which it is bad."""

from __future__ import annotations

import tracemalloc
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decascade.algebra.conv import Conv
from decascade.errors import UsageError
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.ops import Activation, Add, Dense, Flatten
from decascade.ir.shapes import infer_graph

torch = pytest.importorskip("torch")
data = import_module("decascade.compression.data.batches")
load, Scaling = data.load_dataset, data.Scaling


def image_graph(size: int | str = 4, channels: int = 3, dtype: str = "float32") -> Graph:
    """x (N, C, size, size) → flatten → dense → softmax over 5 classes."""
    width = channels * size * size if isinstance(size, int) else 5
    nodes = (
        Node("flat", Flatten(), ("x",), ("f",)),
        Node("dense", Dense(Conv(np.ones((5, width)))), ("f",), ("z",)),
        Node("soft", Activation("softmax", (1,)), ("z",), ("y",)),
    )
    return infer_graph(Graph(nodes, ("x",), ("y",), {"x": Tensor("x", ("N", channels, size, size), dtype)}))


def two_inputs() -> Graph:
    tensors = {name: Tensor(name, ("N", 2)) for name in ("a", "b")}
    return infer_graph(Graph((Node("add", Add(), ("a", "b"), ("c",)),), ("a", "b"), ("c",), tensors))


GRAPH = image_graph()
RNG = np.random.default_rng(0)
FIRST = RNG.integers(0, 256, (10, 3, 4, 4), dtype=np.uint8)
LAST = np.ascontiguousarray(np.moveaxis(FIRST, 1, -1))
Y = RNG.integers(0, 5, 10)


def last_first(name: str, array: Any) -> Any:
    """As Keras: the model's own layout is channels-last."""
    return np.moveaxis(array, -1, 1)


def everything(dataset: Any) -> np.ndarray:
    return np.concatenate([b["x"].numpy() for b in dataset.batches(3)])


def saved(tmp_path: Path, kind: str) -> Any:
    path = tmp_path / "d.npz"
    if kind == "stored":
        np.savez(path, x=FIRST, y=Y)
    elif kind == "deflated":
        np.savez_compressed(path, x=FIRST, y=Y)
    elif kind == "fortran":
        np.savez_compressed(path, x=np.asfortranarray(FIRST), y=Y)
    elif kind in ("lzma", "bzip2"):
        method = zipfile.ZIP_LZMA if kind == "lzma" else zipfile.ZIP_BZIP2
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, array in (("x", FIRST), ("y", Y)):
                with archive.open(f"{name}.npy", "w") as stream:
                    np.lib.format.write_array(stream, array)
    elif kind.startswith("npy"):
        path = tmp_path / "d.npy"
        np.save(path, np.asfortranarray(FIRST) if kind.endswith("fortran") else FIRST)
    elif kind == "big-endian":
        np.savez(path, x=FIRST.astype(">i2"), y=Y)
    return path


KINDS = ["stored", "deflated", "fortran", "lzma", "bzip2", "npy", "npy fortran", "big-endian"]


@pytest.mark.parametrize("memory", [0, 2**28])
@pytest.mark.parametrize("kind", KINDS)
def test_files(kind: str, memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "IN_MEMORY", memory)
    found = load(saved(tmp_path, kind), GRAPH)
    assert found.count == 10
    assert np.array_equal(everything(found), FIRST)
    assert everything(found).dtype == (np.int16 if kind == "big-endian" else np.uint8)
    assert (found.labels is None) == kind.startswith("npy")
    if found.labels is not None:
        assert np.array_equal(found.targets(np.array([3, 1])), Y[[3, 1]])


GIVEN: dict[str, Callable[[], Any]] = {
    "array": lambda: FIRST,
    "tensor": lambda: torch.tensor(FIRST),
    "pair": lambda: (FIRST, Y),
    "mapping": lambda: {"x": FIRST, "y": Y},
    "list of batches": lambda: [FIRST[:4], FIRST[4:]],
    "list of pairs": lambda: [(torch.tensor(FIRST[:4]), Y[:4]), (torch.tensor(FIRST[4:]), Y[4:])],
    "mappings": lambda: iter([{"x": FIRST[:7], "y": Y[:7]}, {"x": FIRST[7:], "y": Y[7:]}]),
    "generator function": lambda: lambda: (FIRST[i : i + 3] for i in range(0, 10, 3)),
    "one-hot": lambda: (FIRST, np.eye(5)[Y]),
    "column": lambda: (FIRST, Y[:, None].astype(np.float32)),
}


@pytest.mark.parametrize("name", GIVEN)
def test_objects(name: str) -> None:
    found = load(GIVEN[name](), GRAPH)
    assert np.array_equal(everything(found), FIRST)
    if found.labels is not None:
        assert np.array_equal(found.labels, Y)
    assert (found.labels is None) == (name in ("array", "tensor", "list of batches", "generator function"))


def test_data_loader_of_torch() -> None:
    utils = torch.utils.data
    loader = utils.DataLoader(utils.TensorDataset(torch.tensor(FIRST), torch.tensor(Y)), batch_size=4)
    found = load(loader, GRAPH)
    assert np.array_equal(everything(found), FIRST)
    assert np.array_equal(found.labels, Y)


@pytest.mark.parametrize("memory", [0, 2**28])
def test_several_files_and_folders_of_files(memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "IN_MEMORY", memory)
    for number, part in enumerate((slice(0, 4), slice(4, 5), slice(5, 10))):
        np.savez_compressed(tmp_path / f"part{number}.npz", x=FIRST[part], y=Y[part])
    for given in (tmp_path, [tmp_path / f"part{n}.npz" for n in range(3)], [str(tmp_path)]):
        found = load(given, GRAPH)
        assert np.array_equal(everything(found), FIRST)
        assert np.array_equal(found.labels, Y)
        places = np.array([9, 0, 4, 3, 9])
        assert np.array_equal(found.arrays(places)["x"], FIRST[places])


def test_several_inputs() -> None:
    a, b = RNG.standard_normal((2, 6, 2)).astype(np.float32)
    for given in ({"a": a, "b": b}, [(a[:4], b[:4]), (a[4:], b[4:])]):
        found = load(given, two_inputs())
        assert np.array_equal(found.arrays(np.arange(6))["b"], b)


def test_layouts() -> None:
    assert np.array_equal(everything(load(LAST, GRAPH, last_first)), FIRST)
    assert not load(LAST, GRAPH, last_first).notes
    turned = load(LAST, GRAPH)
    assert np.array_equal(everything(turned), FIRST)
    assert turned.notes == ("the samples of x are read as channels-last",)
    plain = load(FIRST, GRAPH, last_first)
    assert np.array_equal(everything(plain), FIRST)
    assert plain.notes == ("the samples of x are read as channels-first",)
    grey = load(FIRST[:, 0], image_graph(channels=1), last_first)
    assert np.array_equal(everything(grey), FIRST[:, :1])
    assert grey.notes == ("the samples of x are read as one channel",)


def test_pixels_stay_pixels_until_they_are_scaled() -> None:
    assert load(FIRST, GRAPH).tensors(np.arange(2))["x"].dtype == torch.uint8
    scaled = load(FIRST, GRAPH, scaling=Scaling(1 / 255, (0.1, 0.2, 0.3), (0.5,))).tensors(np.arange(2))["x"]
    mean = np.array([0.1, 0.2, 0.3]).reshape(3, 1, 1)
    np.testing.assert_allclose(scaled.numpy(), (FIRST[:2] / 255 - mean) / 0.5, rtol=0, atol=1e-6)
    # integers that the model takes as such are no pixels
    whole = load(FIRST, image_graph(dtype="int32"), scaling=Scaling(1 / 255))
    assert whole.tensors(np.arange(2))["x"].dtype == torch.uint8


TYPES = [("float64", "float32"), ("uint16", "int32"), ("bool", "bool"), ("float16", "float16")]


@pytest.mark.parametrize(("stored", "given"), TYPES)
def test_types_that_torch_lacks_or_that_are_too_wide(stored: str, given: str) -> None:
    tensor = load(FIRST.astype(stored), GRAPH).tensors(np.arange(3))["x"]
    assert tensor.dtype == getattr(torch, given)
    assert np.array_equal(tensor.numpy(), FIRST[:3].astype(stored).astype(given))


def test_order_is_decided_by_seed_and_epoch() -> None:
    found = load(FIRST, GRAPH)
    one, again, other, later = (found.shuffled(3, *key) for key in ((1, 0), (1, 0), (2, 0), (1, 1)))
    assert [list(p) for p in one] == [list(p) for p in again]
    assert [list(p) for p in one] != [list(p) for p in other]
    assert [list(p) for p in one] != [list(p) for p in later]
    assert len(one) == 3
    flat = np.concatenate(one)
    assert len(set(flat.tolist())) == 9
    assert len(found.shuffled(20, 0, 0)) == 1
    assert sorted(found.shuffled(20, 0, 0)[0].tolist()) == list(range(10))


def test_parts_have_no_sample_in_common() -> None:
    found = load((FIRST, Y), GRAPH)
    fit, held = found.split(3, seed=4)
    assert (fit.count, held.count) == (7, 3)
    assert sorted([*fit.chosen, *held.chosen]) == list(range(10))
    assert np.array_equal(held.arrays(np.arange(3))["x"], FIRST[held.chosen])
    assert np.array_equal(held.targets(np.arange(3)), Y[held.chosen])
    assert list(found.split(3, seed=4)[1].chosen) == list(held.chosen)
    assert list(found.split(3, seed=5)[1].chosen) != list(held.chosen)
    with pytest.raises(UsageError, match=r"^10 of 10 samples cannot be held out: give more samples$"):
        found.split(10, 0)
    assert found.first(4).count == 4
    assert found.first(40) is found


def test_a_limit_draws_from_all_of_a_file_and_stops_a_stream() -> None:
    few = load(FIRST, GRAPH, limit=4, seed=1)
    assert few.count == 4
    assert list(few.chosen) == sorted(few.chosen)
    assert list(few.chosen) != list(load(FIRST, GRAPH, limit=4, seed=2).chosen)

    def endless() -> Any:
        while True:
            yield FIRST[:3]

    stream = load(endless, GRAPH, limit=7)
    assert np.array_equal(everything(stream), np.concatenate([FIRST[:3]] * 3)[:7])


def test_decoded_data_are_found_again_and_not_taken_from_another_file(tmp_path: Path) -> None:
    path, cache = saved(tmp_path, "deflated"), tmp_path / "run"
    load(path, GRAPH, cache=cache)
    (rows, *_) = sorted(cache.glob("*.rows"))
    before = {p: p.stat().st_mtime_ns for p in cache.iterdir()}
    load(path, GRAPH, cache=cache)
    assert {p: p.stat().st_mtime_ns for p in cache.iterdir()} == before
    rows.write_bytes(b"cut")
    assert np.array_equal(everything(load(path, GRAPH, cache=cache)), FIRST)
    np.savez_compressed(path, x=255 - FIRST, y=Y)
    assert np.array_equal(everything(load(path, GRAPH, cache=cache)), 255 - FIRST)
    assert not list(cache.glob("*.part"))


def test_a_temporary_cache_goes_with_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gc
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = load([FIRST], GRAPH)
    part, _ = found.split(2, 0)
    assert len(list(tmp_path.iterdir())) == 1
    del found
    gc.collect()
    assert part.arrays(np.arange(8))["x"].shape == (8, 3, 4, 4)
    del part, _
    gc.collect()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["npy", "stored", "deflated", "stream"])
def test_memory_stays_at_a_few_batches(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """128 MiB of floats, of which every one is checked and read."""
    monkeypatch.setattr(data, "IN_MEMORY", 2**26)
    count = 2**25 // 48
    big = np.ones((count, 3, 4, 4), np.float32)
    path = tmp_path / ("d.npy" if kind == "npy" else "d.npz")
    given: Any = path
    if kind == "npy":
        np.save(path, big)
    elif kind != "stream":
        (np.savez if kind == "stored" else np.savez_compressed)(path, x=big)
    else:
        piece = big[:4096].copy()
        given = lambda: (piece for _ in range(count // 4096))  # noqa: E731
    del big
    tracemalloc.start()
    try:
        found = load(given, GRAPH, cache=tmp_path / "run")
        for batch in found.batches(8192):
            assert float(batch["x"].min()) == 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 80 * 2**20


def bad(given: Any, graph: Graph = GRAPH, **options: Any) -> str:
    with pytest.raises(UsageError) as error:
        load(given, graph, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def nan_at(place: tuple[int, ...], value: float) -> np.ndarray:
    x = FIRST.astype(np.float32)
    x[place] = value
    return x


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "shape": (
        lambda: FIRST[..., :3],
        "samples of shape (3, 4, 3) for x, which takes (3, 4, 4) (channels first): give data as the model takes it",
    ),
    "words": (lambda: FIRST.astype("U3"), "the data of x is of type <U3: give numbers (uint8, float32, …)"),
    "complex": (lambda: FIRST.astype(complex), "the data of x is of type complex128: give numbers (uint8, float32, …)"),
    "NaN": (lambda: nan_at((7, 0, 0, 0), np.nan), "1 of 10 samples of x are not finite (sample 7 holds nan): repair them"),
    "infinite": (lambda: nan_at((2, 1), np.inf), "1 of 10 samples of x are not finite (sample 2 holds inf): repair them"),
    "too large": (
        lambda: nan_at((4, 2), 0).astype(np.float64) * 1e300 + 1e300,
        "10 of 10 samples of x are not finite (sample 0 holds",
    ),
    "empty": (lambda: FIRST[:0], "the data holds no samples for x"),
    "no batches": (list, "the data holds no samples: the iterable gave no batches"),
    "number": (lambda: {"x": 3}, "data x is a single number: give an array with the samples on its first axis"),
    "object": (lambda: 3, "data of type int: give a file, a folder, an array, or batches of arrays"),
    "other names": (lambda: {"x_train": FIRST}, "the data holds x_train: the model needs an array x"),
    "label count": (lambda: (FIRST, Y[:4]), "4 labels for 10 samples: give one for each"),
    "label too large": (
        lambda: (FIRST, np.array([0, 1, 5, *[0] * 6, 9])),
        "label 5 of sample 2 is outside the model's 5 classes (0 to 4): 2 of 10 labels are",
    ),
    "label negative": (
        lambda: (FIRST, np.array([0, -1, *[0] * 8])),
        "label -1 of sample 1 is outside the model's 5 classes (0 to 4): 1 of 10 labels are",
    ),
    "label fractions": (
        lambda: (FIRST, Y + 0.5), "labels of type float64 and shape (10,): give one whole number per sample"
    ),
    "soft labels": (
        lambda: (FIRST, np.full((10, 5), 0.2)), "labels of shape (10, 5) are not one-hot: give one class number per sample"
    ),
    "label words": (
        lambda: (FIRST, np.array(["cat"] * 10)), "labels of type <U3 and shape (10,): give one whole number per sample"
    ),
    "batches differ in shape": (
        lambda: [FIRST, FIRST[:, :2]],
        "batch 1 of the data has samples x uint8[2, 4, 4], earlier ones uint8[3, 4, 4]: give one shape and type",
    ),
    "batches differ in type": (
        lambda: [FIRST, FIRST.astype(np.float32)],
        "batch 1 of the data has samples x float32[3, 4, 4], earlier ones uint8[3, 4, 4]: give one shape and type",
    ),
    "batch of parts that differ": (lambda: [(FIRST, Y[:3])], "batch 0 of the data has parts of 3 and 10 samples"),
    "batch of three": (lambda: [(FIRST, Y, Y)], "batch 0 of the data has 3 parts: give arrays for x, y"),
    "batch of nothing": (
        lambda: [None], "batch 0 of the data is no array of samples, or has other parts than those before it"
    ),
    "labels come and go": (
        lambda: [(FIRST, Y), FIRST], "batch 1 of the data is no array of samples, or has other parts than those before it"
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data(name: str) -> None:
    given, words = BAD[name]
    assert bad(given()).startswith(words)


def test_more_bad_data() -> None:
    assert bad(FIRST, least=11) == "10 samples are too few: give at least 11"
    assert bad(np.ones((4, 3, 4, 4)), image_graph(dtype="int64")) == (
        "the data of x is float64, the model takes int64 there: give whole numbers"
    )
    assert bad(FIRST, two_inputs()) == "the data holds x: the model needs arrays a, b"
    assert bad({"a": np.ones((3, 2)), "b": np.ones((2, 2))}, two_inputs()) == (
        "the inputs have different numbers of samples (3 for a, 2 for b): give as many for each"
    )
    # where the model has no classes, only what no class number can be is refused
    whole = {"a": np.ones((3, 2)), "b": np.ones((3, 2)), "y": np.array([0, 1, 99])}
    regress = two_inputs()
    assert bad({**whole, "y": np.array([0, 1, -9])}, regress) == (
        "label -9 of sample 2 is outside the model's 2 classes (0 to 1): 1 of 3 labels are"
    )
    assert bad(FIRST, scaling=Scaling(1, (0.0, 0.0), (1.0,))) == (
        "mean and std of 2 numbers for the 3 channels of x: give one, or one per channel"
    )
    with pytest.raises(UsageError) as error:
        Scaling(0)
    assert str(error.value) == "scaling 0, mean (0.0,), std (1.0,): give finite numbers, scale and std not zero"


def test_bad_files(tmp_path: Path) -> None:
    assert bad(tmp_path / "none.npz") == f"data {tmp_path / 'none.npz'} does not exist: check the name"
    text = tmp_path / "d.csv"
    text.write_text("1,2")
    assert bad(text) == f"data {text}: give a .npz file with an array x, a .npy file, or a folder of images"
    broken = tmp_path / "d.npz"
    broken.write_bytes(b"PK\3\4 no archive")
    assert bad(broken) == f"data {broken} cannot be read: File is not a zip file"
    whole = saved(tmp_path, "deflated").read_bytes()
    at = whole.index(b"x.npy") + 200
    broken.write_bytes(whole[:at] + bytes(40) + whole[at + 40 :])
    assert bad(broken, cache=tmp_path / "run").startswith(f"data {broken} cannot be read: ")
    assert not list((tmp_path / "run").glob("*"))
    np.savez(broken, x=np.array([{}], object))
    assert bad(broken) == f"data {broken} cannot be read: it holds Python objects, which are never loaded: save plain numbers"
    other = tmp_path / "e.npz"
    np.savez(broken, x=FIRST)
    np.savez(other, x=FIRST, y=Y)
    assert bad([broken, other]) == f"data {other} holds x, y, {broken} holds x: give files alike"
    np.savez(other, x=FIRST.astype(np.float32))
    told = f"the samples in x of {other} are float32[3, 4, 4], those in x of {broken} uint8[3, 4, 4]"
    assert bad([broken, other]) == f"{told}: give data of one shape and type"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert bad(empty) == f"data {empty} holds no .npz, .npy or image files"


def test_a_file_that_shrinks_or_goes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "IN_MEMORY", 0)
    path = saved(tmp_path, "npy")
    found, again = load(path, GRAPH), load(path, GRAPH)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match=r"d.npy ends before sample \d+: it was cut off while it was in use$"):
        found.arrays(np.arange(10))
    path.unlink()
    with pytest.raises(UsageError, match=r"^data .*d.npy cannot be read any more: No such file or directory$"):
        again.arrays(np.arange(10))


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = import_module("decascade.compression.data.files")
    path = saved(tmp_path, "deflated")
    real = Path.open

    def opened(self: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        file = real(self, mode, *rest, **more)
        if self.suffix != ".part":
            return file

        class Full:
            closed = property(lambda _: file.closed)

            def write(self, _: Any) -> None:
                raise OSError(28, "No space left on device")

            def close(self) -> None:
                file.close()

        return Full()

    monkeypatch.setattr(files.Path, "open", opened)
    words = bad(path, cache=tmp_path / "run")
    assert words == (
        f"decoded data cannot be kept in {tmp_path / 'run'}: No space left on device (0 MiB are wanted); "
        "free some space or choose another folder"
    )
    assert not list((tmp_path / "run").iterdir())


def test_images(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    for sub, part in (("cats", LAST[:2]), ("dogs", LAST[2:3])):
        (tmp_path / sub).mkdir()
        for number, pixels in enumerate(part):
            pillow.fromarray(pixels).save(tmp_path / sub / f"{number}.png")
    found = load(tmp_path, GRAPH)
    assert np.array_equal(everything(found), FIRST[:3])
    assert list(found.labels) == [0, 0, 1]
    flat = load(tmp_path / "cats", GRAPH)
    assert flat.labels is None
    assert flat.count == 2
    # another size is scaled to cover the model's and cut to its middle
    pillow.fromarray(np.full((8, 16, 3), 9, np.uint8)).save(tmp_path / "cats" / "wide.png")
    assert np.all(load(tmp_path / "cats", GRAPH).arrays(np.array([2]))["x"] == 9)
    (tmp_path / "dogs" / "broken.png").write_bytes(b"no image")
    assert bad(tmp_path).startswith(f"image {tmp_path / 'dogs' / 'broken.png'} cannot be read: ")
    assert bad(tmp_path / "cats", image_graph("S")).endswith("is 16×8, others 4×4: scale them alike")
    grey = load(tmp_path / "cats", image_graph(channels=1))
    assert grey.arrays(np.array([2]))["x"].shape == (1, 1, 4, 4)
    assert bad(tmp_path / "cats", image_graph(channels=2)) == (
        "a folder of images for an input of shape (2, 4, 4): images have 1 or 3 channels and two axes"
    )


def test_images_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"")

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("decascade.frameworks.import_module", missing)
    assert bad(tmp_path).startswith("reading a folder of images needs Pillow, which cannot be imported (")
    assert bad(tmp_path).endswith('): pip install "decascade[torch]"')
