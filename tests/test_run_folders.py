"""The folder of a compress run: what fails leaves nothing, what is there is not believed, only what a run made is removed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import decascade as dc
from decascade.api import attempts
from decascade.cli import run
from decascade.cli.remembering import again
from decascade.errors import OutputError, UsageError
from test_bad_input import refused, snapshot
from test_compress import onnx_net

QUIET = ("--quiet", "--no-distil")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model and data for it."""
    onnx.save(onnx_net(), tmp_path / "net.onnx")
    np.savez_compressed(tmp_path / "d.npz", x=np.random.default_rng(0).standard_normal((64, 3, 12, 12)).astype("f4"))
    return tmp_path


def asked(folder: Path, *more: object, speedup: float = 1.3) -> list[str]:
    words = ["compress", folder / "net.onnx", "-o", folder / "out.onnx", "--data", folder / "d.npz", "--speedup", speedup]
    return [str(word) for word in (*words, *QUIET, *more)]


def interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch, *more: object) -> None:
    """A run that stops once its plan is made."""
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("decascade.compression.pipeline.assemble", stop)
        assert run(asked(folder, *more)) == 130


# -- what fails leaves nothing behind


def bad_data(folder: Path) -> list[str]:
    np.savez(folder / "d.npz", x=np.zeros((64, 5, 12, 12), "f4"))
    return asked(folder)


def planned(folder: Path) -> list[str]:
    (folder / "p.json").write_text("{}")
    return [word for word in asked(folder, "--plan", folder / "p.json") if word not in ("--speedup", "1.3")]


FAILS: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "data of another shape": (bad_data, "samples of shape (5, 12, 12)"),
    "too few samples": (
        lambda f: (np.savez(f / "d.npz", x=np.zeros((8, 3, 12, 12), "f4")), asked(f))[1], "8 samples are too few"),
    "data that is missing": (lambda f: ((f / "d.npz").unlink(), asked(f))[1], "d.npz"),
    "unknown target": (lambda f: asked(f, "--target", "mcs"), "unknown target 'mcs'; did you mean macs?"),
    "speedup out of reach": (lambda f: asked(f, speedup=1e6), "is out of reach"),
    "speedup without an end": (lambda f: asked(f, speedup=float("inf")), "speedup = inf: give how many times cheaper"),
    "a plan that is none": (planned, "is no plan of decascade"),
    "a model that is none": (lambda f: ((f / "net.onnx").write_bytes(b"x" * 99), asked(f))[1], "model"),
    "a limit out of reach": (lambda f: asked(f, "--limit", "memory=1"), "memory"),
}


@pytest.mark.parametrize("row", FAILS)
@pytest.mark.filterwarnings("ignore::decascade.errors.DataWarning")
def test_a_failed_run_leaves_no_folder(row: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, words = FAILS[row]
    command = make(folder)
    with refused(capsys, folder, words, 3 if "limit" in row else 2) as decascade:
        decascade(*command)


@pytest.mark.filterwarnings("ignore::decascade.errors.DataWarning")
def test_the_mended_command_runs(folder: Path) -> None:
    assert run(asked(folder, speedup=1e6)) == 2
    assert run(asked(folder)) == 0
    assert (folder / "out.onnx").exists()


@pytest.mark.filterwarnings("ignore::decascade.errors.DataWarning")
def test_a_folder_that_was_there_stays_and_so_does_all_that_the_run_did_not_make(folder: Path) -> None:
    own = folder / "mine"
    own.mkdir()
    words = asked(folder, "--run", own, "--report", own / "r.json")
    words[words.index(str(folder / "out.onnx"))] = str(own / "out.onnx")
    assert run(words) == 0
    assert sorted(p.name for p in own.iterdir()) == ["out.onnx", "r.json"]
    onnx.checker.check_model(str(own / "out.onnx"))
    assert run(asked(folder, "--run", folder / "new", "--force")) == 0
    assert not (folder / "new").exists()
    empty = folder / "empty"
    empty.mkdir()
    assert run(asked(folder, "--run", empty, "--force")) == 0
    assert empty.is_dir()
    assert not list(empty.iterdir())


@pytest.mark.filterwarnings("ignore::decascade.errors.DataWarning")
def test_what_others_put_into_it_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(folder, monkeypatch)
    own = folder / "out.onnx.run"
    kept = [own / "notes.txt", own / "data" / "notes.txt", own / "training.txt"]
    for path in kept:
        path.write_text("dear")
    assert run(["compress", "--resume", str(own), "--quiet"]) == 0
    assert [p.read_text() for p in kept] == ["dear"] * 3
    assert sorted(str(p.relative_to(own)) for p in own.rglob("*")) == ["data", "data/notes.txt", "notes.txt", "training.txt"]


@pytest.mark.parametrize("name", ["plan.json", "asked.json", "command.json"])
def test_the_report_is_not_put_over_a_file_of_the_run(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = folder / "out.onnx.run"
    own.mkdir()
    words = f"{own / name} is a file that the run keeps in {own} itself: choose another name"
    with refused(capsys, folder, words) as decascade:
        decascade(*asked(folder, "--report", own / name))


def test_a_run_folder_below_nothing_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with refused(capsys, folder, f"there is no folder {folder / 'a'}: make it first") as decascade:
        decascade(*asked(folder, "--run", folder / "a" / "b"))


# -- a run goes on with what it began with


def other_data(folder: Path) -> None:
    np.savez_compressed(folder / "d.npz", x=np.random.default_rng(1).standard_normal((64, 3, 12, 12)).astype("f4"))


def other_model(folder: Path) -> None:
    model = onnx_net()
    first = model.graph.initializer[0]
    first.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(first), first.name))
    onnx.save(model, folder / "net.onnx")


@pytest.mark.filterwarnings("ignore::decascade.errors.DataWarning")
@pytest.mark.parametrize("what", ["data", "model"])
def test_a_resume_with_another_model_or_data_is_refused(
    what: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change, words = other_data if what == "data" else other_model, f"the {what} has other content"
    interrupted(folder, monkeypatch)
    capsys.readouterr()
    change(folder)
    with refused(capsys, folder, words) as decascade:
        decascade("compress", "--resume", folder / "out.onnx.run")
    with refused(capsys, folder, words) as decascade:
        decascade(*asked(folder))


def test_digests_tell_models_and_data_apart(folder: Path) -> None:
    from decascade.api.digests import data_digest, option_digest

    x = np.zeros((4, 3), "f4")
    different = [x, x + 1, x.T, {"a": x}, {"b": x}, (x, x), x.astype("f8"), folder / "d.npz", folder / "net.onnx", folder]
    assert len({data_digest(one) for one in different}) == len(different)
    assert data_digest(iter([x])) is None
    assert data_digest(lambda: [x]) is None
    assert data_digest([folder / "d.npz"]) == data_digest([str(folder / "d.npz")])
    assert option_digest(None) is None
    assert len({option_digest(o) for o in ((0.0, 1.0), (0.0, 2.0), (x, x + 1), {"x": (x, x)}, str(folder / "d.npz"))}) == 5


# -- a folder that was tampered with


def damaged(change: Callable[[bytes], bytes | None]) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        content = change(path.read_bytes())
        if content is not None:
            path.write_bytes(content)
    return act


def linked(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replaced_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], None]] = {
    "truncated": damaged(lambda b: b[: len(b) // 2]), "empty": damaged(lambda _: b""),
    "no UTF-8": damaged(lambda b: b + b"\xff\xfe"),
    "a list": damaged(lambda _: b"[]"), "a number": damaged(lambda _: b"3"), "null": damaged(lambda _: b"null"),
    "deep": damaged(lambda _: b"[" * 100_000), "other fields": damaged(lambda _: b'{"version": 1, "x": 2}'),
    "a link": linked, "a pipe": piped, "a folder": replaced_by_folder,
}


@pytest.mark.filterwarnings("ignore::decascade.errors.DataWarning")
@pytest.mark.parametrize("name", ["asked.json", "command.json", "plan.json"])
def test_a_folder_that_was_tampered_with_is_refused(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(folder, monkeypatch)
    capsys.readouterr()
    own = folder / "out.onnx.run"
    held = folder.parent / f"{folder.name}-held"
    shutil.copytree(own, held)
    for damage in DAMAGE.values():
        damage(own / name)
        before = sorted(p.name for p in folder.rglob("*"))
        assert run(["compress", "--resume", str(own)]) == 2
        out, err = capsys.readouterr()
        assert not out
        assert err.count("\n") == 1, err
        assert "internal error" not in err
        assert sorted(p.name for p in folder.rglob("*")) == before
        for path in (own, folder / "elsewhere"):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        shutil.copytree(held, own)
    assert run(["compress", "--resume", str(own), "--quiet"]) == 0


EDITS: dict[str, tuple[dict[str, Any], str]] = {
    "an option that is none": ({"shell": "rm"}, "shell is no option"),
    "text for a number": ({"speedup": "fast"}, "speedup = fast"),
    "a number for text": ({"target": 3}, "target = 3"),
    "a list for text": ({"model": ["net.onnx"]}, "model = ['net.onnx']"),
    "numbers among names": ({"data": [1]}, "data = [1]"),
    "a bool for a number": ({"seed": True}, "seed = True"),
    "null": ({"model": None}, "model = None"),
}


@pytest.mark.filterwarnings("ignore::decascade.errors.DataWarning")
def test_options_are_read_as_data(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(folder, monkeypatch)
    capsys.readouterr()
    file = folder / "out.onnx.run" / "command.json"
    good = json.loads(file.read_text())
    for edit, words in EDITS.values():
        file.write_text(json.dumps({**good, **edit}))
        with refused(capsys, folder, f"there is no run there that could go on (command.json is broken: {words}") as decascade:
            decascade("compress", "--resume", folder / "out.onnx.run")


@pytest.mark.filterwarnings("ignore::decascade.errors.DataWarning")
def test_a_run_folder_overwrites_nothing_and_writes_nowhere_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(folder, monkeypatch)
    capsys.readouterr()
    own, other = folder / "out.onnx.run", folder / "other"
    other.mkdir()
    (other / "dear.onnx").write_text("dear")
    (folder / "dear.json").write_text("dear")
    file = own / "command.json"
    good = json.loads(file.read_text())

    def edited(words: str, **edit: Any) -> None:
        file.write_text(json.dumps({**good, **edit}))
        with refused(capsys, folder, words) as decascade:
            decascade("compress", "--resume", own)

    edited("which a run folder of this name may not decide: give -o", output=str(other / "dear.onnx"), force=True)
    edited("which a run folder of this name may not decide: give -o", output=str(other / "new.onnx"))
    edited("may not decide: give --report", report=str(other / "new.json"))
    edited("dear.json exists: choose another name", report=str(folder / "dear.json"), force=True)
    (folder / "out.onnx").write_text("dear")
    edited("out.onnx exists: choose another name", force=True)
    file.write_text(json.dumps({**good, "output": str(other / "dear.onnx")}))
    assert run(["compress", "--resume", str(own), "--quiet", "-o", str(folder / "given.onnx")]) == 0
    assert (folder / "given.onnx").exists()
    assert (other / "dear.onnx").read_text() == "dear"


def test_how_to_go_on_is_said_whole() -> None:
    here = Path("a.onnx")
    assert again(Path("a.onnx.run"), here, None, False) == "decascade compress --resume a.onnx.run"
    assert again(Path("b"), here, Path("a.json"), True) == "decascade compress --resume b -o a.onnx --force"
    words = "decascade compress --resume a.onnx.run --report c/a.json"
    assert again(Path("a.onnx.run"), here, Path("c/a.json"), False) == words


@pytest.mark.filterwarnings("ignore::decascade.errors.DataWarning")
def test_where_the_result_cannot_be_put_the_run_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """OUT's folder vanishes while the run goes on, elsewhere."""
    place = folder / "place"
    place.mkdir()
    words = asked(folder, "--run", folder / "kept")
    words[words.index(str(folder / "out.onnx"))] = str(place / "out.onnx")
    real = attempts.attempt

    def vanishing(*arguments: Any, **named: Any) -> Any:
        shutil.rmtree(place, ignore_errors=True)
        return real(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr("decascade.api.compressing.attempt", vanishing)
        assert run(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    again_words = f"once that is mended go on with: decascade compress --resume {folder / 'kept'} -o {place / 'out.onnx'}"
    assert again_words in err
    place.mkdir()
    assert run(["compress", "--resume", str(folder / "kept"), "-o", str(place / "out.onnx"), "--quiet"]) == 0
    assert (place / "out.onnx").exists()
    assert not (folder / "kept").exists()


def test_a_run_that_was_killed_as_it_began_begins_anew(folder: Path) -> None:
    from decascade.api.runs import RunFolder

    own = folder / "run"
    own.mkdir()
    (own / "command.json").write_text("{")
    (own / "asked.json.part").write_text("{")
    (own / "data").mkdir()
    found = RunFolder.open(own, {"speedup": 2}, {"command.json": "{}"})
    assert found.new
    assert not found.made
    assert (own / "command.json").read_text() == "{}"
    assert not RunFolder.open(own, {"speedup": 2}).new
    with pytest.raises(UsageError, match=r"is of another run \(speedup = 2 there, 3 here\): give the same, or another folder"):
        RunFolder.open(own, {"speedup": 3})
    before = snapshot(own)
    (own / "data").symlink_to(folder)
    with pytest.raises(UsageError, match=r"was changed \(data is a link\): remove it"):
        RunFolder.open(own, {"speedup": 2})
    (own / "data").unlink()
    assert snapshot(own) == before
    (folder / "linked").symlink_to(own)
    with pytest.raises(UsageError, match="is no folder, or a link to one: give another name"):
        RunFolder.open(folder / "linked", {"speedup": 2})
    with pytest.raises(OutputError, match="cannot be used: File name too long"):
        RunFolder.open(folder / ("r" * 300), {"speedup": 2})


@pytest.mark.filterwarnings("ignore::decascade.errors.DataWarning")
def test_a_checkpoint_that_was_changed_is_refused(folder: Path) -> None:
    x = np.load(folder / "d.npz")["x"]
    quick = dc.DistillOptions(epochs=1, precision="float32")

    def go() -> None:
        dc.compress(folder / "net.onnx", x, speedup=1.3, training=quick, run=folder / "run")

    go()
    file = folder / "run" / "training" / "distill.checkpoint"
    good = file.read_bytes()
    for content in (good[:-100], good[:40], b"", good[:1000] + bytes([good[1000] ^ 1]) + good[1001:], b"x" * 5000):
        file.write_bytes(content)
        with pytest.raises(UsageError, match="is no checkpoint of a distillation"):
            go()
    file.write_bytes(good)
    go()
