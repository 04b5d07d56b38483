"""Models with weights in a file beside them: nothing that is there is lost, and a kill at any moment leaves a whole model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import decascade as dc
from decascade.cli import run
from decascade.errors import OutputError
from decascade.output import Item, side_name, write_all
from formats.onnx_cases import model, numbers

DYING = """
import os, sys
from decascade.cli import run
left = [int(sys.argv[1])]
def dying(call):
    def made(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            os._exit(77)
        return call(*args, **kwargs)
    return made
for name in ("replace", "rename", "unlink", "remove", "rmdir"):
    setattr(os, name, dying(getattr(os, name)))
sys.exit(run(["merge", "in.onnx", "-o", "out.onnx", "--force", "--quiet"]))
"""


def external(folder: Path, name: str, scale: float = 1.0) -> Path:
    """A model whose weights lie in NAME.data."""
    layers = (("Conv", ["x", "w1"], "t"), ("Conv", ["t", "w2", "b2"], "u"), ("Relu", ["u"], "v"), ("Conv", ["v", "w3"], "y"))
    nodes = [onnx.helper.make_node(kind, inputs, [output]) for kind, inputs, output in layers]
    arrays = {"w1": numbers(80, 3, 3, 3), "w2": numbers(32, 80, 1, 1), "b2": numbers(32), "w3": numbers(64, 32, 3, 3)}
    proto = model(nodes, ("N", 3, 6, 6), {name: np.float32(scale) * array for name, array in arrays.items()})
    onnx.save(proto, folder / name, save_as_external_data=True, location=f"{name}.data", size_threshold=0)
    return folder / name


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_a_data_file_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    """Neither somebody else's, nor the input's own, with --force or without."""
    source = external(tmp_path, "in.onnx")
    (tmp_path / "out.onnx.data").write_bytes(b"mine")
    before = contents(tmp_path)
    for force in ([], ["--force"]):
        assert run(["merge", str(source), "-o", str(tmp_path / "out.onnx"), "--quiet", *force]) == 0
        after = contents(tmp_path)
        assert {name: after[name] for name in before} == before
    shutil.copy(source, tmp_path / "copy.onnx")  # reads in.onnx.data too, and so may not lose it
    assert run(["merge", str(tmp_path / "copy.onnx"), "-o", str(source), "--force", "--quiet"]) == 0
    assert contents(tmp_path)["in.onnx.data"] == before["in.onnx.data"]
    assert dc.verify(tmp_path / "copy.onnx", source).same


@pytest.mark.parametrize("name", ["in.ONNX", "in.onnx"])
def test_data_of_an_earlier_result_stays_for_whoever_reads_it(name: str, tmp_path: Path) -> None:
    """Another model, of whatever name, may read it: the input itself, say."""
    out = tmp_path / "out.onnx"
    dc.merge(external(tmp_path, "a.onnx")).save(out)
    (old,) = tmp_path.glob("out.onnx.*.data")
    shutil.copy(out, tmp_path / name)
    dc.merge(external(tmp_path, "b.onnx", 2.0)).save(out, force=True)
    assert old in set(tmp_path.glob("out.onnx.*.data"))
    assert weights(tmp_path / name)


def test_an_interrupt_after_the_rename_leaves_a_whole_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, out, replace = dc.merge(external(tmp_path, "a.onnx")), tmp_path / "out.onnx", os.replace

    def interrupted(source: str, target: Path) -> None:
        replace(source, target)
        if Path(target).name == out.name:
            raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        result.save(out)
    assert weights(out)


def test_another_file_in_the_way_is_refused(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"model")
        path.with_name(side_name(path.name, "0" * 64)).write_bytes(b"weights")

    place = tmp_path / side_name("out.onnx", "0" * 64)
    place.write_bytes(b"other")
    with pytest.raises(OutputError, match=r"out\.onnx\.0000000000000000\.data is in the way, and is not what would be written"):
        write_all([Item(tmp_path / "out.onnx", write)])
    assert contents(tmp_path) == {place.name: b"other"}


@pytest.mark.parametrize("older", [True, False])
def test_a_kill_at_any_call_leaves_the_old_model_or_the_new_one(older: bool, tmp_path: Path) -> None:
    source = external(tmp_path, "in.onnx")
    dc.merge(source).save(tmp_path / "new.onnx")
    if older:
        dc.merge(external(tmp_path, "old_in.onnx", 3.0)).save(tmp_path / "older.onnx")
    new = weights(tmp_path / "new.onnx")
    old = weights(tmp_path / "older.onnx") if older else None
    for calls in range(12):
        folder = tmp_path / f"after_{calls}"
        folder.mkdir()
        for name in ("in.onnx", "in.onnx.data"):
            shutil.copy(tmp_path / name, folder)
        if older:
            dc.merge(tmp_path / "old_in.onnx").save(folder / "out.onnx")
        code = subprocess.run([sys.executable, "-c", DYING, str(calls)], cwd=folder, check=False).returncode
        assert code in (0, 77)
        assert (folder / "in.onnx.data").read_bytes() == (tmp_path / "in.onnx.data").read_bytes()
        found = weights(folder / "out.onnx") if (folder / "out.onnx").exists() else None
        assert found in (new, old), f"killed at call {calls}"
        if code == 0:
            assert found == new
            return
    raise AssertionError("the command did not come to its end")


def weights(path: Path) -> dict[str, bytes]:
    """All weights of a model, those beside it too; fails if one is missing."""
    return {t.name: onnx.numpy_helper.to_array(t).tobytes() for t in onnx.load(path).graph.initializer}
