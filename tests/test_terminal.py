"""What reaches the terminal: no control sequence from files, JSON as it is; streams that are closed, full or of few letters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from decascade.cli import run
from decascade.printable import HIDDEN, encodable, printable, printable_facts, printable_json

HOSTILE = "a\x1b]0;owned\x07\x1b[2Jb\u202egpj.exe\u2066\x9b31m\nfake: 1 cascade\r\u2028\u200d\x00\x7f"
PATHS = HOSTILE.replace("\x00", "")
"""Names of files hold no zero byte."""


def shown(text: str) -> None:
    """Only text, and lines that were meant."""
    assert not [c for c in text if c != "\n" and unicodedata.category(c) in HIDDEN]
    assert "\nfake" not in text


def hostile_net(path: Path, name: str = HOSTILE.replace("\x00", "")) -> Path:
    """Two convolutions and an activation, every name and every text hostile."""
    rng = np.random.default_rng(0)
    weights = {f"{name}w{i}": rng.standard_normal(s).astype("f4") * 0.2 for i, s in enumerate([(8, 3, 1, 1), (4, 8, 3, 3)])}
    first, second = weights
    nodes = [
        helper.make_node("Conv", [f"{name}x", first], [f"{name}t"], f"{name}conv1", kernel_shape=[1, 1]),
        helper.make_node("Conv", [f"{name}t", second], [f"{name}u"], f"{name}conv2", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", [f"{name}u"], [f"{name}y"], f"{name}relu"),
    ]
    ends = [helper.make_tensor_value_info(f"{name}{n}", TensorProto.FLOAT, ["N", c, 8, 8]) for n, c in (("x", 3), ("y", 4))]
    graph = helper.make_graph(nodes, name, ends[:1], ends[1:], [numpy_helper.from_array(a, n) for n, a in weights.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name=name)
    onnx.save(model, path)
    return path


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return hostile_net(tmp_path / f"{PATHS.replace('/', '')}.onnx")


COMMANDS: dict[str, list[str]] = {
    "inspect": ["inspect", "NET"],
    "inspect on a range": ["inspect", "NET", "--input-range", "0", "1", "--prove-seconds", "2"],
    "merge": ["merge", "NET", "-o", "OUT", "--policy", "always", "--input-range", "0", "1", "--prove-seconds", "2", "--guard"],
    "verify": ["verify", "NET", "NET"],
    "bench": ["bench", "NET", "--target", "macs,memory,flash"],
    "export": ["export", "NET", "-o", "OUT"],
    "a missing model": ["inspect", "NETx"],
    "a missing report": ["report", "NETx"],
    "no such option": ["inspect", "NET", PATHS],
    "no such target": ["inspect", "NET", "--target", PATHS],
    "a limit of no such name": ["merge", "NET", "-o", "OUT", "--limit", f"{PATHS}=3"],
    "data that is missing": ["verify", "NET", "NET", "--data", "NETx"],
    "a budget out of reach": ["compress", "NET", "-o", "OUT", "--data", "DATA", "--speedup", "999"],
    "compress": ["compress", "NET", "-o", "OUT", "--data", "DATA", "--speedup", "1.01", "--no-distil"],
    "table": ["table", "NET", "--template", "FOLDER"],
}


@pytest.mark.filterwarnings("ignore::decascade.errors.DataWarning")
@pytest.mark.parametrize("row", COMMANDS)
def test_no_control_sequence_reaches_the_terminal(row: str, net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = net.with_name("d.npz"), net.with_name(f"{PATHS.replace('/', '')}out.onnx")
    np.savez(data, x=np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype("f4"))
    places = {"NET": str(net), "OUT": str(out), "DATA": str(data), "NETx": f"{net}x", "FOLDER": str(net.with_name(PATHS))}
    code = run([places.get(word, word) for word in COMMANDS[row]])
    captured = capsys.readouterr()
    assert "internal error" not in captured.err, captured.err
    assert code in (0, 2)
    for text in captured:
        shown(text)
    assert "\\x" in captured.out + captured.err or row == "a budget out of reach"
    assert captured.err.count("\n") == (code != 0)


def test_a_report_that_is_drawn_again_is_clean(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = net.with_name("r.json")
    assert run(["inspect", str(net), "--report", str(report), "--quiet"]) == 0
    assert run(["report", str(report)]) == 0
    out = capsys.readouterr().out
    shown(out)
    assert "\\x1b" in out


def test_json_is_exact(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(net), "--policy", "always", "--json"]) == 0
    out = capsys.readouterr().out
    shown(out)
    found = json.loads(out)
    assert any("\u202e" in layer and "\x1b" in layer for c in found["cascades"] for layer in c["layers"])


def test_the_python_report_is_clean(net: Path) -> None:
    import decascade as dc

    shown(str(dc.inspect(str(net))))


def test_printable() -> None:
    assert printable("conv1 → Größe µ 日本 é") == "conv1 → Größe µ 日本 é"
    assert printable("\x1b\x9b\u202e\U000e0001\n\ud800") == "\\x1b\\x9b\\u202e\\U000e0001\\n\\ud800"
    assert printable_facts({"a\x1b": ["\x1b", ("b", 1, None)]}) == {"a\\x1b": ["\\x1b", ("b", 1, None)]}
    for c in map(chr, [*range(0x250), *range(0x2000, 0x2070), 0xFEFF, 0xE000]):
        assert (printable(c) == c) == (unicodedata.category(c) not in HIDDEN)
    text = json.dumps({"k": HOSTILE + "\U0001f600\U000e0001é"}, ensure_ascii=False)
    for encoding in ("utf-8", "ascii", "latin-1"):
        safe = encodable(printable_json(text), encoding, json=True)
        safe.encode(encoding)
        assert json.loads(safe) == json.loads(text)
    assert encodable("→é", "latin-1") == "\\u2192é"
    assert encodable("→", "no-such-encoding") == "\\u2192"


# -- streams; each in a process of its own


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A bash command line in which $D is decascade; its exit code is that of the first part of a pipe."""
    place = f"cd {folder}; D='{sys.executable} -m decascade'; set -o pipefail; {command}"
    told, encoding = {**os.environ, **environment}, environment.get("PYTHONIOENCODING", "utf-8")
    return subprocess.run(["bash", "-c", place], capture_output=True, encoding=encoding, env=told, check=False)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    hostile_net(tmp_path / "net.onnx", "n")
    return tmp_path


FULL = "standard output cannot be written (No space left on device); files that were asked for are written"
STREAMS: dict[str, tuple[str, int, str]] = {
    "closed": ("$D merge net.onnx -o out.onnx >&-", 0, ""),
    "all closed": ("$D merge net.onnx -o out.onnx <&- >&- 2>&-", 0, ""),
    "full": ("$D merge net.onnx -o out.onnx > /dev/full", 2, FULL),
    "both full": ("$D merge net.onnx -o out.onnx > /dev/full 2> /dev/full", 2, ""),
    "json full": ("$D merge net.onnx -o out.onnx --json > /dev/full", 2, FULL),
    "a reader that went": ("$D merge net.onnx -o out.onnx | true", 0, ""),
    "head": ("$D merge net.onnx -o out.onnx | head -1", 0, ""),
}


@pytest.mark.parametrize("row", STREAMS)
def test_streams(row: str, plain: Path) -> None:
    command, code, words = STREAMS[row]
    done = shell(command, plain)
    assert done.returncode == code, done.stderr
    assert "internal error" not in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert words in done.stderr
    assert done.stderr.count("\n") == bool(words)
    onnx.checker.check_model(str(plain / "out.onnx"))
    assert not [p.name for p in plain.iterdir() if p.name not in ("net.onnx", "out.onnx")]


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
def test_an_encoding_of_few_letters(encoding: str, plain: Path) -> None:
    done = shell("$D merge net.onnx -o out.onnx --policy always", plain, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert "\\u2192" in done.stdout
    assert (plain / "out.onnx").exists()
    done = shell("$D inspect net.onnx --json", plain, PYTHONIOENCODING=encoding)
    assert json.loads(done.stdout)["action"] == "inspect"


def test_errors_where_standard_error_is_gone(plain: Path) -> None:
    for streams in ("2>&-", "2> /dev/full", ">&- 2>&-"):
        assert shell(f"$D inspect nothing.onnx {streams}", plain).returncode == 2


def test_other_commands_and_readers_that_went(plain: Path) -> None:
    commands = (
        "inspect net.onnx", "inspect net.onnx --json", "--help", "merge --help", "--version", "verify net.onnx net.onnx",
    )
    for command in commands:
        done = shell(f"$D {command} | true", plain)
        assert done.returncode == 0, (command, done.stderr)
        assert not done.stderr, (command, done.stderr)
    done = shell("$D verify net.onnx other.onnx > /dev/full", plain)
    assert done.returncode == 2


def test_a_promise_that_was_not_kept_is_said_even_where_nobody_reads(plain: Path) -> None:
    other = onnx.load(plain / "net.onnx")
    stored = other.graph.initializer[0]
    stored.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(stored), stored.name))
    onnx.save(other, plain / "other.onnx")
    for streams in ("| true", "> /dev/full", ">&-"):
        assert shell(f"$D verify net.onnx other.onnx {streams}", plain).returncode == 3


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_requests_to_end_are_alike(name: str, plain: Path) -> None:
    """Sent while the proofs go on."""
    code = f"""
import os, signal, decascade.api as api
from decascade.cli import main
def wait(*_, **__):
    os.kill(os.getpid(), signal.{name})
    signal.pause()
api.inspect = wait
main(["inspect", "net.onnx"])
"""
    done: Any = subprocess.run([sys.executable, "-c", code], cwd=plain, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert done.stderr == "decascade: interrupted; nothing was written\n"


def test_an_ignored_hangup_stays_ignored(plain: Path) -> None:
    code = """
import os, signal
from decascade.cli import shell
signal.signal(signal.SIGHUP, signal.SIG_IGN)
shell._heed_endings()
os.kill(os.getpid(), signal.SIGHUP)
assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
print("alive")
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=plain, capture_output=True, text=True).stdout == "alive\n"
