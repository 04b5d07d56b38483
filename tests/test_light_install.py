"""Where a package of an extra is missing, every command says in one line which extra brings it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from decascade.frameworks import EXTRAS
from formats.onnx_cases import N, model

WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from decascade.cli import main
sys.argv = ["decascade", *{arguments!r}]
sys.exit(main())
"""
LIGHT = tuple(name for name in EXTRAS if name != "onnx")
"""What a plain `pip install decascade` does not bring."""


def without(blocked: tuple[str, ...], *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, where some modules cannot be imported."""
    code = WITHOUT.format(blocked=blocked, arguments=[str(a) for a in arguments])
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of each format that is good as far as it is read before its package is missed."""
    folder = tmp_path_factory.mktemp("light")
    (folder / "m.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(600))
    with zipfile.ZipFile(folder / "m.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", (folder / "m.h5").read_bytes())
    with zipfile.ZipFile(folder / "m.pt2", "w") as archive:
        archive.writestr("m/archive_format", "pt2")
        archive.writestr("m/models/model.json", "{}")
    (folder / "m.onnx").write_bytes(model([N("Relu", ["x"], ["y"])], [1, 3, 8, 8]).SerializeToString())
    (folder / "images").mkdir()
    (folder / "images" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    np.savez(folder / "d.npz", x=np.zeros((64, 3, 8, 8), np.float32))
    return folder


COMMANDS = {
    "inspect": ("inspect", "{}"),
    "merge": ("merge", "{}", "-o", "out{suffix}"),
    "verify": ("verify", "{}", "{}"),
    "compress": ("compress", "{}", "-o", "out{suffix}", "--data", "d.npz", "--speedup", "2"),
    "export": ("export", "{}", "-o", "out.tflite"),
    "bench": ("bench", "{}", "--target", "macs"),
}
FORMATS = {".keras": ("h5py|Keras", "keras"), ".h5": ("h5py|Keras", "keras"), ".pt2": ("PyTorch", "torch")}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("command", COMMANDS)
def test_formats(command: str, suffix: str, files: Path, tmp_path: Path) -> None:
    places = {"{}": files / f"m{suffix}", "d.npz": files / "d.npz", "out{suffix}": tmp_path / f"out{suffix}"}
    done = without(LIGHT, *(places.get(a, tmp_path / a if a.startswith("out") else a) for a in COMMANDS[command]))
    package, extra = FORMATS[suffix]
    check(done, package, extra)
    assert not list(tmp_path.iterdir())


TOOLS = {
    "onnxruntime": (("bench", "m.onnx", "--target", "onnxruntime"), "run"),
    "tensorflow": (("bench", "m.onnx", "--target", "litert"), "keras"),
    "ai_edge_litert": (("bench", "m.onnx", "--target", "litert:float"), "device"),
    "tflite_micro": (("bench", "m.onnx", "--target", "tflm"), "device"),
    "emx_onnx_cgen": (("bench", "m.onnx", "--target", "cortex-m"), "device"),
    "plotly": (("bench", "m.onnx", "--target", "macs", "--plot", "out.html"), "device"),
    "torch": (("compress", "m.onnx", "-o", "out.onnx", "--data", "d.npz", "--speedup", "2"), "torch"),
    "PIL": (("compress", "m.onnx", "-o", "out.onnx", "--data", "images", "--speedup", "2"), "torch"),
}


@pytest.mark.parametrize("missing", TOOLS)
def test_tools(missing: str, files: Path, tmp_path: Path) -> None:
    command, extra = TOOLS[missing]
    done = without((missing,), *((tmp_path if a.startswith("out") else files) / a if (files / a).exists() or a.startswith("out")
                                 else a for a in command))
    check(done, EXTRAS[missing][0], extra)
    assert not list(tmp_path.iterdir())


def check(done: subprocess.CompletedProcess[str], package: str, extra: str) -> None:
    """Exit code 2, and one line that names the package and the extra."""
    words = " ".join(done.stderr.split())
    assert done.returncode == 2, words
    assert any(f" needs {name}, which cannot be imported (" in words for name in package.split("|")), words
    assert f'pip install "decascade[{extra}]"' in words
    assert "internal error" not in words
    assert "Traceback" not in words
