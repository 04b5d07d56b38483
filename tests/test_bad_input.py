"""Everything that can be wrong from outside: one clear line, exit 2, no output file, nothing touched.  For every format."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bad_files import HEADERS, JSON, NUMBERS, PATHS, TABLES, Make, Rows, twice
from decascade.api import merging
from decascade.cli import run

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
FORMATS = (".onnx", ".keras", ".h5", ".pt2")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """The bytes of a good model file of each format."""
    found: dict[str, bytes] = {}

    def good(extension: str) -> bytes:
        if extension not in found:
            if extension == ".h5":
                keras: Any = pytest.importorskip("keras")
                path = tmp_path_factory.mktemp("h5") / "digits.h5"
                keras.saving.save_model(keras.saving.load_model(EXAMPLES / "digits.keras"), path)
                found[extension] = path.read_bytes()
            elif extension == ".pt2":
                found[extension] = exported(tmp_path_factory.mktemp("pt2") / "digits.pt2")
            else:
                found[extension] = (EXAMPLES / f"digits{extension}").read_bytes()
        return found[extension]

    return good


def exported(path: Path) -> bytes:
    """A cascade, and a layer of many weights that stays, in PyTorch's own file format."""
    torch: Any = pytest.importorskip("torch")
    conv, relu = torch.nn.Conv2d, torch.nn.ReLU
    model = torch.nn.Sequential(conv(1, 64, 3, bias=False), conv(64, 64, 1), relu(), conv(64, 64, 3), relu())
    torch.export.save(torch.export.export(model.eval(), (torch.zeros(2, 1, 8, 8),)), path)
    return path.read_bytes()


@contextmanager
def refused(capsys: pytest.CaptureFixture[str], folder: Path, words: str, code: int = 2) -> Iterator[Callable[..., None]]:
    """A command in the block must fail in one line with these words and leave the folder as it was."""

    def command(*arguments: object) -> None:
        assert run([str(a) for a in arguments]) == code

    before = snapshot(folder)
    yield command
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1, err
    assert err.startswith("decascade: ")
    assert "internal error" not in err
    assert words in err
    assert snapshot(folder) == before


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


INPUTS: dict[str, tuple[Callable[[bytes, bytes], bytes | None], str]] = {
    "missing": (lambda _good, _other: None, "does not exist"),
    "empty": (lambda _good, _other: b"", "is empty"),
    "truncated": (lambda good, _other: good[: len(good) // 2], "model"),
    "cut at the end": (lambda good, _other: good[:-100], "model"),
    "another format": (lambda _good, other: other, "model"),
    "random bytes": (lambda _good, _other: np.random.default_rng(0).bytes(5000), "model"),
    "text": (lambda _good, _other: b"hello, this is no model\n" * 20, "model"),
    "zeros": (lambda _good, _other: bytes(5000), "model"),
    "git-lfs pointer": (lambda _good, _other: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
}


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("command", ["inspect", "merge", "verify"])
@pytest.mark.parametrize("row", INPUTS)
def test_input(
    row: str, command: str, extension: str, models: Callable[[str], bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, words = INPUTS[row]
    content = make(models(extension), models(".onnx" if extension != ".onnx" else ".keras"))
    source = tmp_path / f"model{extension}"
    if content is not None:
        source.write_bytes(content)
    more = {"inspect": [], "merge": ["-o", tmp_path / f"out{extension}"], "verify": [source]}[command]
    with refused(capsys, tmp_path, words) as decascade:
        decascade(command, source, *more)


@pytest.mark.parametrize("extension", FORMATS)
def test_folder_as_input(extension: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / f"model{extension}").mkdir()
    with refused(capsys, tmp_path, "is a folder") as decascade:
        decascade("inspect", tmp_path / f"model{extension}")


@pytest.mark.parametrize("name", ["model.onx", "model.tflite", "model"])
def test_unknown_extension(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_bytes(b"x")
    with refused(capsys, tmp_path, "so its format is unknown: give a file (.onnx, .keras, .h5") as decascade:
        decascade("merge", tmp_path / name, "-o", tmp_path / "out.onnx")


@pytest.fixture(params=FORMATS)
def source(request: pytest.FixtureRequest, models: Callable[[str], bytes], tmp_path: Path) -> Path:
    """A good model in the folder under test."""
    path = tmp_path / f"model{request.param}"
    path.write_bytes(models(request.param))
    return path


def test_output_is_the_input(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for other in (source, tmp_path / "." / source.name):
        with refused(capsys, tmp_path, "is the input itself, which is never changed") as decascade:
            decascade("merge", source, "-o", other, "--force")


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_output_is_a_link_to_the_input(
    source: Path, link: Callable[[Path, Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / f"other{source.suffix}"
    link(source, other)
    with refused(capsys, tmp_path, "is the input itself") as decascade:
        decascade("merge", source, "-o", other, "--force")


def test_output_exists(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / f"out{source.suffix}"
    out.write_bytes(b"precious")
    with refused(capsys, tmp_path, "exists: choose another name, or allow overwriting it with --force") as decascade:
        decascade("merge", source, "-o", out)
    assert run(["merge", str(source), "-o", str(out), "--force", "--quiet"]) == 0
    assert out.read_bytes() != b"precious"


def test_output_is_a_folder(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / f"out{source.suffix}"
    out.mkdir()
    with refused(capsys, tmp_path, "is a folder: give a file name in it") as decascade:
        decascade("merge", source, "-o", out, "--force")


def test_output_is_no_regular_file(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / f"out{source.suffix}"
    os.mkfifo(out)
    with refused(capsys, tmp_path, "is not a regular file") as decascade:
        decascade("merge", source, "-o", out, "--force")


def test_output_folder_is_missing(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with refused(capsys, tmp_path, "there is no folder") as decascade:
        decascade("merge", source, "-o", tmp_path / "nowhere" / f"out{source.suffix}")


@pytest.mark.parametrize("extension", [".tflite", ".txt", ""])
def test_output_of_another_kind(source: Path, extension: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with refused(capsys, tmp_path, "model stays one: give an output name that ends in") as decascade:
        decascade("merge", source, "-o", tmp_path / f"out{extension}")


def test_output_folder_cannot_be_written_to(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    if os.access(closed, os.W_OK):  # root may write anywhere: let the system say what it says to others

        def denied(*_args: object, **_kwargs: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("decascade.scratch.tempfile.mkdtemp", denied)
    with refused(capsys, tmp_path, "cannot be written to: Permission denied") as decascade:
        decascade("merge", source, "-o", closed / f"out{source.suffix}")


def test_output_folder_is_read_only(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with mounted(tmp_path / "ro", "ro"), refused(capsys, tmp_path, "cannot be written to: Read-only file system") as decascade:
        decascade("merge", source, "-o", tmp_path / "ro" / f"out{source.suffix}")


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system in memory, where one may be mounted."""
    folder.mkdir()
    tool = shutil.which("mount")
    done = tool and subprocess.run([tool, "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if not done or done.returncode:
        pytest.skip("no right to mount a file system here")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_disk_full_in_mid_write(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with mounted(tmp_path / "small", "size=64k"), refused(capsys, tmp_path, "the disk is full") as decascade:
        decascade("merge", source, "-o", tmp_path / "small" / f"out{source.suffix}")


def test_file_size_limit_in_mid_write(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with refused(capsys, tmp_path, "the disk is full") as decascade:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        try:
            decascade("merge", source, "-o", tmp_path / f"out{source.suffix}")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_report_that_cannot_be_written_keeps_the_model_back(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"out{source.suffix}"
    with mounted(tmp_path / "tiny", "size=4k"):
        (tmp_path / "tiny" / "filled").write_bytes(bytes(4096))
        with refused(capsys, tmp_path, "the disk is full") as decascade:
            decascade("merge", source, "-o", out, "--report", tmp_path / "tiny" / "r.json")


REPORTS = {
    "r.txt": "a report is JSON or a page: give a name that ends in .json or .html",
    "r": "a report is JSON or a page: give a name that ends in .json or .html",
    "there.json": "there.json exists",
    "nowhere/r.json": "there is no folder",
}


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("command", ["inspect", "merge", "verify"])
def test_report_places(
    name: str, command: str, models: Callable[[str], bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there.json").write_text("precious")
    source = tmp_path / "model.onnx"
    source.write_bytes(models(".onnx"))
    more = {"inspect": [], "merge": ["-o", tmp_path / "out.onnx"], "verify": [source]}[command]
    with refused(capsys, tmp_path, REPORTS[name]) as decascade:
        decascade(command, source, *more, "--report", tmp_path / name)


OPTIONS = {
    "--target fpga": "unknown target 'fpga'",
    "--target mac": "did you mean macs?",
    "--policy cheap": "policy = 'cheap': give one of profitable, always",
    "--border wrap": "border = 'wrap': give one of exact, refuse",
    "--max-growth 0.5": "max_growth = 0.5: give a number from 1 on",
    "--max-growth nan": "max_growth = nan: give a number from 1 on",
    "--input-range 1 0": "input range of image: lowest value 1 above highest 0: swap them",
    "--input-range 1 1": "input range 1 1: give two finite numbers, the smaller one first",
    "--input-range 0 inf": "input range of image is not finite: give finite numbers, not inf",
    "--input-range nan 1": "input range of image is not finite: give finite numbers, not nan",
    "--prove-seconds 0": "prove_seconds = 0: give a number of seconds above 0",
    "--input-range 0": "requires 2 arguments",
    "--seed -1": "seed = -1",
    "--seed x": "valid integer",
    "--turbo": "there is no option --turbo; did you mean --tier?",
}


@pytest.mark.parametrize("options", OPTIONS)
def test_options(options: str, models: Callable[[str], bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(models(".onnx"))
    with refused(capsys, tmp_path, OPTIONS[options]) as decascade:
        decascade("merge", source, "-o", tmp_path / "out.onnx", *options.split())


def test_interruption_leaves_nothing(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("decascade.output.os.fsync", interrupted)
    with refused(capsys, tmp_path, "interrupted; nothing was written", 130) as decascade:
        decascade("merge", source, "-o", tmp_path / f"out{source.suffix}")


def test_weights_that_are_not_finite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx: Any = pytest.importorskip("onnx")
    for value in (np.nan, np.inf):
        model = onnx.load(EXAMPLES / "digits.onnx")
        weight = onnx.numpy_helper.to_array(model.graph.initializer[0]).copy()
        weight.flat[5] = value
        model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, model.graph.initializer[0].name))
        onnx.save(model, tmp_path / "model.onnx")
        with refused(capsys, tmp_path, "stem_expand.weight") as decascade:
            decascade("merge", tmp_path / "model.onnx", "-o", tmp_path / "out.onnx")


def test_external_data_outside_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx: Any = pytest.importorskip("onnx")
    (tmp_path / "in").mkdir()
    onnx.save(onnx.load(EXAMPLES / "digits.onnx"), tmp_path / "in" / "m.onnx", save_as_external_data=True, location="w.bin")
    (tmp_path / "in" / "w.bin").rename(tmp_path / "w.bin")
    model = onnx.load(tmp_path / "in" / "m.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../w.bin"
    (tmp_path / "in" / "m.onnx").write_bytes(model.SerializeToString())
    with refused(capsys, tmp_path, "w.bin") as decascade:
        decascade("merge", tmp_path / "in" / "m.onnx", "-o", tmp_path / "in" / "out.onnx")


@pytest.mark.parametrize("extension", [".keras", ".h5"])
def test_lambda_layers_are_never_run(extension: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keras: Any = pytest.importorskip("keras")
    layers = keras.layers
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(2, 3), layers.Lambda(lambda x: x * 2, name="doubled")])
    model.save(tmp_path / f"model{extension}")
    with refused(capsys, tmp_path, "doubled") as decascade:
        decascade("merge", tmp_path / f"model{extension}", "-o", tmp_path / f"out{extension}")


def kinds(*tables: Rows) -> list[Any]:
    return [pytest.param(*row, id=name) for table in tables for name, row in table.items()]


@pytest.fixture
def digits(models: Callable[[str], bytes], tmp_path: Path) -> Path:
    """A good model, beside which something bad is given."""
    path = tmp_path / "given" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(models(".onnx"))
    return path


DATA = ["verify", "merge", "export", "compress"]


def with_data(command: str, model: Path, data: Path) -> list[Any]:
    out = model.parents[1]
    return {
        "verify": ["verify", model, model, "--data", data],
        "merge": ["merge", model, "-o", out / "out.onnx", "--tier", "observed", "--data", data],
        "export": ["export", model, "-o", out / "out.tflite", "--int8", "--data", data],
        "compress": ["compress", model, "-o", out / "out.onnx", "--speedup", "1.1", "--data", data],
    }[command]


@pytest.mark.parametrize("command", DATA)
@pytest.mark.parametrize("extension", [".npy", ".npz"])
@pytest.mark.parametrize(("make", "words"), kinds(PATHS, HEADERS, NUMBERS))
def test_data(
    make: Make, words: str, extension: str, command: str, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = digits.with_name(f"data{extension}")
    make(path)
    if command == "compress":
        words = {"is a folder: give the": "holds no .npz, .npy or image files", "shape (1, 9)": "samples of shape (1, 9)",
                 "is a single number": "samples of shape ()"}.get(words, words)
    with refused(capsys, digits.parent, words) as decascade:
        decascade(*with_data(command, digits, path))


@pytest.mark.parametrize("command", DATA)
@pytest.mark.parametrize(("make", "words"), [(twice, "it holds two arrays x: keep one")])
def test_archives_of_data(
    make: Make, words: str, command: str, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(digits.with_name("data.npz"))
    with refused(capsys, digits.parent, words) as decascade:
        decascade(*with_data(command, digits, digits.with_name("data.npz")))


@pytest.mark.parametrize(("make", "words"), kinds(PATHS, HEADERS))
def test_range_files(
    make: Make, words: str, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "range.npy")
    with refused(capsys, tmp_path, words) as decascade:
        decascade("merge", digits, "-o", tmp_path / "out.onnx", "--input-range-file", tmp_path / "range.npy")


@pytest.mark.parametrize(("make", "words"), kinds(PATHS, TABLES))
def test_tables(make: Make, words: str, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "t.csv")
    with refused(capsys, tmp_path, words) as decascade:
        decascade("inspect", digits, "--target", f"table:{tmp_path / 't.csv'}")


@pytest.mark.parametrize("command", ["report", "verify"])
@pytest.mark.parametrize(("make", "words"), kinds(PATHS, JSON))
def test_reports(
    make: Make, words: str, command: str, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "r.json")
    more = [tmp_path / "r.json"] if command == "report" else [digits, "--certificate", tmp_path / "r.json"]
    with refused(capsys, tmp_path, words) as decascade:
        decascade(command, *more)


@pytest.mark.parametrize(("make", "words"), kinds(PATHS, JSON))
def test_plans(make: Make, words: str, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "p.json")
    np.save(tmp_path / "x.npy", np.zeros((40, 1, 8, 8), np.float32))
    with refused(capsys, tmp_path, words) as decascade:
        decascade(*with_data("compress", digits, tmp_path / "x.npy")[:-4], "--data", tmp_path / "x.npy",
                  "--plan", tmp_path / "p.json")


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize(("make", "words"), kinds(PATHS))
def test_paths_of_models(
    make: Make, words: str, extension: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / f"m{extension}")
    with refused(capsys, tmp_path, words) as decascade:
        decascade("inspect", tmp_path / f"m{extension}")


@pytest.mark.parametrize("command", ["merge", "export"])
def test_output_name_is_too_long(source: Path, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / f"{'o' * 300}{source.suffix if command == 'merge' else '.c'}"
    with refused(capsys, tmp_path, "cannot be written to: File name too long (a name of 30") as decascade:
        decascade(command, source, "-o", out)
    with refused(capsys, tmp_path, "File name too long") as decascade:
        decascade("inspect", source, "--report", tmp_path / f"{'r' * 300}.json")
    with refused(capsys, tmp_path, "File name too long") as decascade:
        decascade("inspect", out.with_suffix(source.suffix))


def test_output_folder_vanishes(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, real = tmp_path.parent / f"{tmp_path.name}-place", merging.find

    def vanishing(*arguments: Any, **named: Any) -> Any:
        shutil.rmtree(place)
        return real(*arguments, **named)

    place.mkdir()
    monkeypatch.setattr(merging, "find", vanishing)
    with refused(capsys, tmp_path, f"{place}: make it first") as decascade:
        decascade("merge", source, "-o", place / f"out{source.suffix}")


NONE = "--time-limit {}: give a time above 0, at most a year: 90s, 20m, 1.5h"
VALUES: list[tuple[list[str], str]] = [
    *((["compress", "--speedup", "2", "--time-limit", text], NONE.format(text)) for text in (
        "nan", "inf", "-3", "0", "0s", "1e400", "3 m", "3m ", "99999999h", "9" * 400, "m", "0x10", "1_000", "٣m")),
    *((["merge", "--input-range", "0", "1", "--prove-seconds", text], "prove_seconds = ") for text in (
        "nan", "inf", "-1", "0", "1e400", "1e30")),
    (["merge", "--prove-seconds", "3 m"], "Invalid value for '--prove-seconds'"),
    *((["merge", "--limit", f"flash={text}"], f"--limit flash={text}: give NAME=SIZE") for text in (
        "nan", "inf", "-3", "1e400", "3 4", "", "20 parsec", "0x10")),
    (["merge", "--limit", f"flash={'9' * 400}"], "limit flash = inf: give a number above 0"),
    (["merge", "--limit", "flash=0"], "limit flash = 0: give a number above 0"),
    *((["merge", "--max-growth", text], "max_growth = ") for text in ("nan", "-1", "0")),
    *((["merge", "--seed", text], f"seed = {text}: give a whole number from 0 on, below 4,294,967,296") for text in (
        "-1", "9" * 30)),
    *((["compress", "--speedup", text], "speedup = ") for text in ("nan", "inf", "-1", "0.5", "1e400")),
    *((["compress", "--budget", text], "budget = ") for text in ("nan", "inf", "-1", "0", "1e400")),
    *((["compress", "--max-drop", text], "max-drop = ") for text in ("nan", "inf", "-1", "101")),
    (["compress", "--speedup", "2", "--span", "0"], "span = 0: give how many layers"),
    (["compress", "--speedup", "2", "--seed", "-1"], "seed = -1: give a whole number"),
    *((["compress", "--speedup", "2", "--scale", text], f"--scale {text}: give a number, or a fraction") for text in (
        "nan", "inf", "1e400", "1/0", "1/255/3")),
]


@pytest.mark.parametrize(("arguments", "words"), VALUES, ids=[" ".join(a)[:60] for a, _ in VALUES])
def test_absurd_values(arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, (command, *options) = tmp_path / "m.onnx", arguments
    shutil.copy(EXAMPLES / "digits.onnx", model)
    np.savez(tmp_path / "d.npz", x=np.zeros((32, 1, 8, 8), np.float32), y=np.zeros(32, int))
    more = ["--data", tmp_path / "d.npz"] if command == "compress" else []
    with refused(capsys, tmp_path, words) as decascade:
        decascade(command, model, "-o", tmp_path / "out.onnx", *more, *options)
