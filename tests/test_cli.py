"""The command line in-process and as a program: exit codes, what goes where, help."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import decascade
from decascade import api
from decascade.api import merging
from decascade.cli import app, run
from decascade.cli.show import progress_bar
from decascade.errors import VerificationError

ONNX = str(Path(__file__).resolve().parents[1] / "examples" / "digits.onnx")


def test_inspect_prints_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", ONNX]) == 0
    out, err = capsys.readouterr()
    assert not err
    assert "to merge" in out
    assert "Left alone" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("name", ["yunet_n_320_320.onnx", "FastestDet.onnx", "st_mobilenet_v2_0.35_128.onnx"])
def test_published_models_fit_eighty_columns(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = Path(__file__).resolve().parents[1].parent / "shared" / "models" / name
    if not model.exists():
        pytest.skip(f"{name} is not at hand")
    assert run(["inspect", str(model)]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "Next: decascade compress" in " ".join(out.split()), "nothing of these pays: it says what does"


def test_merge_then_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "small.onnx")
    assert run(["merge", ONNX, "-o", out, "--report", str(tmp_path / "r.json"), "--input-range", "0", "1"]) == 0
    text = capsys.readouterr().out
    assert "Verified: same function up to rounding" in text
    assert "Written to" in text
    assert json.loads((tmp_path / "r.json").read_text())["output"] == out
    assert run(["verify", ONNX, out, "--report", str(tmp_path / "v.json")]) == 0
    assert "digits.onnx" in capsys.readouterr().out
    assert json.loads((tmp_path / "v.json").read_text())["same"] is True


def test_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "small.onnx")
    for command in (["inspect", ONNX], ["merge", ONNX, "-o", out], ["verify", ONNX, out]):
        assert run([*command, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_nothing_worth_merging_still_writes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    assert run(["merge", ONNX, "-o", str(first), "-q"]) == 0
    assert run(["merge", str(first), "-o", str(second), "-q"]) == 0
    assert second.exists()


def test_promise_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_args: object) -> None:
        raise VerificationError("the merged model is off by 1")

    monkeypatch.setattr(merging, "_check_model", fails)
    assert run(["merge", ONNX, "-o", str(tmp_path / "x.onnx"), "--report", str(tmp_path / "r.json")]) == 3
    out, err = capsys.readouterr()
    assert not out
    assert err == "decascade: the merged model is off by 1; nothing was written\n"
    assert not list(tmp_path.iterdir())


def test_bug_is_named_and_its_traceback_is_at_hand(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_args: object, **_more: object) -> None:
        raise IndexError("list index\nout of range")

    monkeypatch.setattr(api, "inspect", fails)
    assert run(["inspect", ONNX]) == 1
    err = capsys.readouterr().err
    assert err == (
        "decascade: internal error, a bug in decascade: IndexError: list index out of range (--debug shows the traceback)\n"
    )
    assert run(["inspect", ONNX, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_end_of_file_inside_is_no_interruption(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_args: object, **_more: object) -> None:
        raise EOFError("short read")

    monkeypatch.setattr(api, "inspect", fails)
    assert run(["inspect", ONNX]) == 1
    assert "EOFError: short read" in capsys.readouterr().err


COMMANDS = sorted(c.callback.__name__ for c in app.registered_commands if c.callback is not None)


@pytest.mark.parametrize("command", [[], *([c] for c in COMMANDS)], ids=lambda c: " ".join(c) or "decascade")
def test_help_fits_and_has_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--help", "-h"):
        assert run([*command, option]) == 0
        out = capsys.readouterr().out
        assert "Usage: decascade" in out
        assert max(map(len, out.splitlines())) <= 80
        example = f"decascade {command[0]}" if command else "decascade inspect model.onnx"
        assert example in out.split("Usage:")[1].split("\n", 1)[1]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"decascade {decascade.__version__}\n"


def test_as_a_program(tmp_path: Path) -> None:
    """One line on standard error, whatever native code wants to add to it."""
    for start in ([sys.executable, "-m", "decascade"], [str(Path(sys.executable).with_name("decascade"))]):
        done = subprocess.run([*start, "inspect", str(tmp_path / "no.onnx")], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert not done.stdout
        assert done.stderr == f"decascade: {tmp_path / 'no.onnx'} does not exist: check the name\n"


@pytest.mark.parametrize(("words", "out", "err"), [(["--json"], "ours\n", ""), (["--debug"], "native\nours\n", "native\n")])
def test_what_native_code_prints_does_not_mix_with_the_answer(words: list[str], out: str, err: str) -> None:
    """The solver of mixed-integer programs does, now and then, on standard output."""
    script = """import os, decascade.cli.shell as shell
def run(words):
    os.write(1, b"native\\n")
    os.write(2, b"native\\n")
    print("ours")
    return 0
shell.run = run
"""
    start = [sys.executable, "-c", f"{script}shell.main({words!r})"]
    done = subprocess.run(start, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (out, err)


def test_closed_pipe_is_no_error() -> None:
    close = "import os, sys, decascade.cli; r, w = os.pipe(); os.close(r); os.dup2(w, 1)"
    script = f"{close}; sys.exit(decascade.cli.run(['inspect', {ONNX!r}]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert not done.stderr


def test_progress_is_a_bar_on_terminals_and_lines_in_logs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress_bar(quiet=True) as told:
        assert told is None
    times = iter([0.0, 29.0, 31.0, 31.0, 40.0, 62.0, 62.0])
    monkeypatch.setattr("decascade.cli.show.monotonic", lambda: next(times))
    with progress_bar(quiet=False) as told:
        assert told is not None
        for share in (0.1, 0.2, 0.3, 0.4):
            told("distilling", share)
    assert capsys.readouterr().err == "distilling: 20%\ndistilling: 40%\n"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress_bar(quiet=False) as told:
        assert told is not None
        told("verifying", 0.5)
        told("verifying", 1.0)
    assert "verifying" in capsys.readouterr().err


def test_json_instead_of_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON document on standard output and nothing else: what --report would write."""
    out, report = str(tmp_path / "small.onnx"), tmp_path / "r.json"
    for command in (["inspect", ONNX], ["merge", ONNX, "-o", out], ["verify", ONNX, out], ["inspect", ONNX, "--quiet"]):
        assert run([*command, "--json", "--report", str(report), "--force"]) == 0
        printed, written = (json.loads(text) for text in (capsys.readouterr().out, report.read_text(encoding="utf-8")))
        if "--quiet" not in command:
            assert printed == written
        assert isinstance(printed, dict)


@pytest.mark.parametrize(("command", "words"), [
    (["mrge", ONNX], "Did you mean 'merge'?"),
    (["inspect", ONNX, "--tagret", "macs"], "no option --tagret; did you mean --target? Try decascade inspect --help."),
    (["merge", ONNX, "--qqqq=1"], "there is no option --qqqq. Try decascade merge --help."),
    (["inspect", ONNX, "--target", "litertt"], "did you mean litert?"),
    (["inspect", ONNX, "--tier", "proved"], "give one of exact, proven, observed; did you mean proven?"),
    (["merge", ONNX, "-o", "x.onnx", "--border", "refus"], "did you mean refuse?"),
    (["merge", ONNX], "Missing option '--output' / '-o'. Try decascade merge --help."),
    (["inspect", ONNX, "--input-range", "0"], "requires 2 arguments"),
    (["inspect", ONNX, "--policy", "allways"], "give one of profitable, always; did you mean always?"),
    (["inspect", ONNX, "--target", "mac"], "did you mean macs?"),
    (["inspect", str(Path(ONNX).parent / "digts.onnx")], "does not exist: check the name; did you mean digits.onnx?"),
])
def test_errors_name_the_nearest(command: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


def test_shells_complete_commands_and_options() -> None:
    """What a shell asks for when the user presses Tab: commands, options, and files for a model."""
    def completed(*words: str) -> str:
        line = " ".join(("decascade", *words))
        asked = {"_DECASCADE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}
        code = "from decascade.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, check=True
        )
        return done.stdout

    assert completed("me").split() == ["merge"]
    assert "--policy" in completed("merge", "--po")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_every_shell_is_shown(shell: str) -> None:
    """The two options by which typer installs and shows it; shellingham looks at the parent process, so the shell is named."""
    asked = {"_DECASCADE_COMPLETE": f"source_{shell}", "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    code = "from decascade.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, check=True
    )
    assert "_DECASCADE_COMPLETE=complete_" in done.stdout


def test_completion_is_offered(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    told = capsys.readouterr().out
    assert "--install-completion" in told
    assert "--show-completion" in told


def test_colour_only_on_terminals() -> None:
    """Through a pipe there is not one escape sequence, whatever the terminal around can do."""
    environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    environment |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": "200"}
    for words in (["inspect", ONNX, "--input-range", "0", "1"], ["--help"], ["merge", "--help"], ["merge"]):
        start = [sys.executable, "-m", "decascade", *words]
        done = subprocess.run(start, env=environment, capture_output=True, text=True, check=False)
        assert "\x1b" not in done.stdout + done.stderr
        assert done.stdout or done.stderr
