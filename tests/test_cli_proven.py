"""The proven tier at the command line: the project's first question, certificates, bad ranges, interruption."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import decascade
from decascade.api import finding
from decascade.cli import run
from decascade.formats.registry import format_of
from proven_models import saved
from test_bad_input import refused

SCHEMA: dict[str, Any] = json.loads((Path(decascade.__file__).parent / "report" / "schema.json").read_text())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return saved("seed_case", ".onnx", tmp_path)


def report(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text())
    jsonschema.validate(found, SCHEMA, cls=jsonschema.Draft202012Validator)
    return found


def test_the_first_question_in_keras(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Conv(same, ReLU) → Conv(same, ReLU), the first layer non-negative: one on [0, 1], two on [-1, 1], with witnesses."""
    path, out, told = str(saved("seed_case", ".keras", tmp_path)), str(tmp_path / "one.keras"), tmp_path / "r.json"
    assert run(["merge", path, "-o", out, "--input-range", "0", "1", "--report", str(told)]) == 0
    text = capsys.readouterr().out
    assert "conv_0 → relu_1 → conv_2" in text
    assert "relu_1 (relu)  ████████████ " in text
    assert "Valid only for image in [0, 1]:" in text
    assert max(map(len, text.splitlines())) <= 80
    found = report(told)
    assert (found["layers"]["before"], found["layers"]["after"]) == (2, 1)
    assert found["validity"]["proven"] == ["relu_1"]
    assert [(c["decision"], c["tier"], c["border"]) for c in found["cascades"]] == [("merged", "proven", "ring")]
    layers = [n.op.kind for n in format_of(out).read(Path(out)).graph.nodes if hasattr(n.op, "kind")]
    assert layers.count("relu") == 1
    assert run(["verify", out, "-q"]) == 0

    assert run(["merge", path, "-o", out, "--input-range", "-1", "1", "--report", str(told), "--force"]) == 0
    text = capsys.readouterr().out
    assert "relu_1 (relu)  xxxxxxxxxxxx " in text
    assert "Nothing was merged by proof: valid for every input." in text
    found = report(told)
    assert (found["layers"]["before"], found["layers"]["after"]) == (2, 2)
    assert found["validity"] is None
    first, second = found["certificates"][0]["activations"]
    for activation, channels in ((first, 12), (second, 3)):
        assert activation["channels"] == {"witnessed": channels}
        assert [w["channel"] for w in activation["witnesses"]] == list(range(channels))
        assert all(min(w["values"]) < 0 < max(w["values"]) for w in activation["witnesses"])


def test_inspect_shows_every_activation(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(source), "--input-range", "0", "1", "--report", str(tmp_path / "i.json")]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    for words in ("Activations for image in [0, 1]", "12 proven-active", "█ 12 linear, proved", "Would be valid only for"):
        assert words in text
    assert max(map(len, text.splitlines())) <= 80
    assert report(tmp_path / "i.json")["certificates"][0]["activations"][0]["margin"] > 0
    assert run(["verify", str(source), "--certificate", str(tmp_path / "i.json")]) == 0
    assert "Certificate checked again: holds for image in [0, 1]" in capsys.readouterr().out


def test_a_certificate_that_does_not_hold_is_exit_code_three(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", str(source), "--input-range", "0", "1", "-q", "--report", str(tmp_path / "i.json")]) == 0
    again = ["verify", str(source), "--certificate", str(tmp_path / "i.json"), "--report", str(tmp_path / "v.json")]
    assert run([*again, "--input-range", "-1", "1"]) == 3
    out, err = capsys.readouterr()
    assert "does NOT hold for image in [-1, 1]" in out
    told = "12 of 12 channels of relu_1 are not confirmed: channel 0 takes -"
    assert err.startswith(f"decascade: the certificate does not hold: {told}")
    proofs = {**SCHEMA["$defs"]["proofs"], "$defs": SCHEMA["$defs"]}
    jsonschema.validate(json.loads((tmp_path / "v.json").read_text()), proofs, cls=jsonschema.Draft202012Validator)


def test_verify_of_a_merged_model(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "small.onnx"
    assert run(["merge", str(source), "-o", str(out), "--input-range", "0", "1", "-q", "--guard"]) == 0
    assert run(["verify", str(out), "--report", str(tmp_path / "v.json")]) == 0
    text = capsys.readouterr().out
    assert "Verified: same function up to rounding" in text
    assert "relu_1  proven  12 of 12 channels proved again" in text
    facts = json.loads((tmp_path / "v.json").read_text())
    verification = {**SCHEMA["$defs"]["verification"], "$defs": SCHEMA["$defs"]}
    jsonschema.validate(facts, verification, cls=jsonschema.Draft202012Validator)
    assert facts["proofs"]["held"] is True
    assert run(["verify", str(source), str(out), "--input-range", "-1", "1"]) == 3
    assert "are not the same function: off by" in capsys.readouterr().err


def test_the_observed_tier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = saved("half_stable", ".onnx", tmp_path), tmp_path / "seen.onnx"
    x = np.random.default_rng(0).uniform(0, 0.04, (300, 2, 8, 8)).astype(np.float32)
    x[:, 1] = x[:, 0]
    np.savez(tmp_path / "d.npz", x=x)
    command = ["merge", str(path), "-o", str(out), "--tier", "observed", "--data", str(tmp_path / "d.npz")]
    assert run([*command, "--report", str(tmp_path / "r.json")]) == 0
    words = " ".join(capsys.readouterr().out.split())
    for told in ("Activations on 300 samples", "Valid only for inputs like the data:",
                 "and on what 300 samples show, unproved, of relu_1",
                 "; 95 % sure that at most 0.01 of such inputs break any one of them",
                 "Verified: same function up to rounding, 300", "Beside the data, on", "it is off by up to"):
        assert told in words
    assert "proven" not in words
    found = report(tmp_path / "r.json")
    assert (found["validity"]["tier"], found["validity"]["bound"]) == ("observed", 0.01)
    assert found["outside"]["same"] is False
    assert run(["verify", str(path), str(out), "--data", str(tmp_path / "d.npz"), "-q"]) == 0


BOXES: dict[str, tuple[dict[str, Any], str]] = {
    "lo above hi": ({"lo": [0, 2], "hi": [1, 1]}, "input range of image channel 1: lowest value 2 above highest 1: swap them"),
    "not a number": ({"lo": [0, np.nan], "hi": 1}, "is not finite: give finite numbers (1 of 2 values are not)"),
    "three channels": ({"lo": [0, 0, 0], "hi": 1}, "input range of shape (3,) for input image of shape (2, 10, 11): give one"),
    "another size": ({"lo": np.zeros((2, 9, 11)), "hi": 1}, "input range of shape (2, 9, 11) for input image: give one number"),
    "no hi": ({"lo": 0}, "arrays lo: it needs lo and hi"),
    "words": ({"lo": "a", "hi": "b"}, "input range of image: values of type <U1: give numbers"),
    "a pickle": ({"lo": np.array([{}], dtype=object), "hi": 1}, "it holds Python objects, which are never loaded"),
}


@pytest.mark.parametrize("name", BOXES)
@pytest.mark.parametrize("command", ["inspect", "merge", "verify"])
def test_bad_boxes(name: str, command: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays, words = BOXES[name]
    np.savez(tmp_path / "box.npz", allow_pickle=True, **arrays)
    more = {"inspect": [], "merge": ["-o", tmp_path / "out.onnx"], "verify": [source]}[command]
    with refused(capsys, tmp_path, words) as decascade:
        decascade(command, source, *more, "--input-range-file", tmp_path / "box.npz")


def test_other_bad_usage(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, box = ["-o", tmp_path / "out.onnx"], tmp_path / "box.npz"
    np.savez(box, lo=0, hi=1)
    np.savez(tmp_path / "d.npz", x=np.full((3, 2, 10, 11), 2.0, np.float32))
    (tmp_path / "r.json").write_text("{}")
    rows: list[tuple[list[Any], str]] = [
        (["merge", source, *out, "--input-range-file", tmp_path / "no.npz"], "no.npz does not exist: check the name"),
        (["merge", source, *out, "--input-range-file", source], "cannot be read: File is not a zip file"),
        (["merge", source, *out, "--input-range", 0, 1, "--input-range-file", box], "two ways to give one thing"),
        (["merge", source, *out, "--guard"], "a guard needs an input range"),
        (["merge", source, *out, "--tier", "observed"], "tier observed needs data"),
        (["merge", source, *out, "--tier", "proven"], "tier proven needs an input range"),
        (["merge", source, *out, "--tier", "sure"], "tier = 'sure': give one of exact, proven, observed"),
        (["merge", source, *out, "--input-range", 0, 1, "--data", tmp_path / "d.npz"], "has the value 2 in input image"),
        (["inspect", source, "--witnesses", tmp_path / "w.npz"], "witnesses are looked for within an input range"),
        (["inspect", source, "--witnesses", box, "--input-range", 0, 1], "box.npz exists"),
        (["verify", source], "one model alone can only be checked where it is a file that carries a certificate"),
        (["verify", source, source, "--certificate", tmp_path / "r.json"], "is about one model: leave the second out"),
        (["verify", source, "--certificate", tmp_path / "none.json"], "none.json does not exist"),
        (["verify", source, "--certificate", tmp_path / "r.json"], "r.json is not a report of decascade"),
        (["verify", source, "--certificate", source], "it is not UTF-8 text"),
        (["verify", source, source, "--prove-seconds", -1], "prove_seconds = -1: give a number of seconds above 0"),
    ]
    for arguments, words in rows:
        with refused(capsys, tmp_path, words) as decascade:
            decascade(*arguments)


def test_interrupted_while_proving(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real signal, sent once the proof has begun: one line, the shell's code, no file."""
    right = finding.prove

    def interrupted(graph: Any, box: Any, seconds: Any, data: Any, _progress: Any, seed: Any, **more: Any) -> Any:
        return right(graph, box, seconds, data, lambda _stage, _share: os.kill(os.getpid(), signal.SIGINT), seed, **more)

    monkeypatch.setattr(finding, "prove", interrupted)
    out = ["-o", tmp_path / "out.onnx", "--report", tmp_path / "r.json"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process of a parallel test run ignores it
    try:
        with refused(capsys, tmp_path, "interrupted; nothing was written", 130) as decascade:
            decascade("merge", source, *out, "--input-range", 0, 1)
    finally:
        signal.signal(signal.SIGINT, before)


def test_little_time_leaves_activations_open_and_the_result_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = saved("half_stable", ".onnx", tmp_path), tmp_path / "out.onnx"
    assert run(["merge", str(path), "-o", str(out), "--input-range", "0", "1", "--prove-seconds", "1e-9"]) == 0
    text = capsys.readouterr().out
    assert "not decided" in text
    assert "Verified: same function up to rounding" in text
