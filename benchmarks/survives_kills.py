"""Kills at random moments over merge, compress and export: nothing half-written, no file that nobody explains, always a result.

Every command is killed (SIGKILL) at a moment drawn between its start and its usual end. What must then hold: OUT is not there,
or whole; beside it there are only the run's folder and scratch folders, which the next command sweeps; the next command
(`compress --resume`, or the same again) ends well; its result is verified against the model; nothing else is left.

    python benchmarks/survives_kills.py [--kills 50] [--seed 0]
"""

from __future__ import annotations

import support.setup  # noqa: F401  threads and paths, before all else

# isort: split
import argparse
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from shutil import copy
from time import monotonic, sleep
from typing import Any

import numpy as np

from decascade.scratch import NAME as SCRATCH
from support.results import write_results
from support.setup import ROOT

NAME = "survives_kills"
MODEL = "digits.onnx"
GIVEN = {MODEL, "d.npz"}
KINDS = ("merge", "compress", "compress, trained", "export")


def command(kind: str) -> list[str]:
    """The command line of a kind, in a folder with model and data."""
    if kind == "merge":
        return ["merge", MODEL, "-o", "out.onnx", "--report", "r.json", "-q"]
    if kind == "export":
        return ["export", MODEL, "-o", "out.c", "-q"]
    more = ["--time-limit", "12s"] if "trained" in kind else ["--no-distil", "--span", "2"]
    return ["compress", MODEL, "-o", "out.onnx", "--data", "d.npz", "--speedup", "1.2", "-q", *more]


def start(folder: Path, words: Sequence[str]) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "decascade", *words]
    return subprocess.Popen(line, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def finished(folder: Path, words: Sequence[str]) -> tuple[int, str]:
    with start(folder, words) as process:
        told = process.communicate()[1]
    return process.returncode, " ".join(told.split())


def unexplained(folder: Path, kind: str) -> list[str]:
    """Names beside the given files that are neither results, nor the run's folder, nor scratch."""
    results = {"out.c", "out.h", "out_test.c"} if kind == "export" else {"out.onnx", "r.json", "out.onnx.run"}
    return [p.name for p in folder.iterdir() if p.name not in GIVEN | results and not SCRATCH.fullmatch(p.name)]


def whole(folder: Path, kind: str) -> bool:
    """Whether OUT is missing, or is what it should be."""
    out = folder / ("out.c" if kind == "export" else "out.onnx")
    if not out.exists() or kind == "export":
        return not out.exists() or out.read_text().rstrip().endswith("}")
    words = ["verify", MODEL, "out.onnx", "-q"] if kind == "merge" else ["inspect", "out.onnx", "-q"]
    return finished(folder, words)[0] == 0


def survived(folder: Path, kind: str, wait: float) -> dict[str, Any]:
    """Kill one command after so many seconds, look, go on, look again."""
    with start(folder, command(kind)) as process:
        sleep(wait)
        killed = process.poll() is None
        process.send_signal(signal.SIGKILL)
    strange, good = unexplained(folder, kind), whole(folder, kind)
    run, left = folder / "out.onnx.run", sorted(p.name for p in folder.iterdir())
    words = command(kind) if not (run / "command.json").exists() else ["compress", "--resume", "out.onnx.run", "-q"]
    code, told = finished(folder, [*words, "--force"])
    ends = whole(folder, kind) and (folder / ("out.c" if kind == "export" else "out.onnx")).exists()
    after = [p.name for p in folder.iterdir() if SCRATCH.fullmatch(p.name) or p.name == run.name] + unexplained(folder, kind)
    fine = not strange and good and code == 0 and ends and not after
    return {"kind": kind, "after_s": round(wait, 3), "killed": killed, "left": left, "strange": strange, "whole": good,
            "went_on_by": words[0] if words[:1] != ["compress"] else " ".join(words[:2]), "code": code, "told": told,
            "result": ends, "left_after": after, "fine": fine}


def usual(folder: Path, kind: str) -> float:
    """Seconds that the command takes where nobody kills it."""
    begin = monotonic()
    finished(folder, [*command(kind), "--force"])
    return monotonic() - begin


def prepared(folder: Path) -> Path:
    copy(ROOT / "examples" / MODEL, folder / MODEL)
    rng = np.random.default_rng(0)
    np.savez_compressed(folder / "d.npz", x=rng.random((128, 1, 8, 8)).astype(np.float32))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng, rows, times = np.random.default_rng(asked.seed), list[dict[str, Any]](), dict[str, float]()
    for number in range(asked.kills):
        kind = KINDS[number % len(KINDS)]
        with tempfile.TemporaryDirectory() as place:
            folder = prepared(Path(place))
            if kind not in times:
                times[kind] = usual(folder, kind)
                for made in set(folder.iterdir()) - {folder / name for name in GIVEN}:
                    made.unlink()
            rows.append(survived(folder, kind, float(rng.uniform(0.05, 1.0)) * times[kind]))
            print(number, rows[-1], flush=True)
            report(rows, times)


def report(rows: Sequence[dict[str, Any]], times: dict[str, float], more: Sequence[str] = ()) -> None:
    """Written after every kill, so that a run that is ended early has its results."""
    header = ("command", "usually takes s", "kills", "killed in time", "OUT there", "scratch or run left", "went on, fine")
    table = list[tuple[str, ...]]()
    for kind in KINDS:
        some = [r for r in rows if r["kind"] == kind]
        there = sum("out.onnx" in r["left"] or "out.c" in r["left"] for r in some)
        dirty = sum(any(n == "out.onnx.run" or SCRATCH.fullmatch(n) for n in r["left"]) for r in some)
        killed = sum(r["killed"] for r in some)
        table.append((kind, f"{times[kind]:.1f}" if kind in times else "–", str(len(some)), str(killed), str(there), str(dirty),
                      f"{sum(r['fine'] for r in some)} of {len(some)}"))
    notes = [f"{sum(r['fine'] for r in rows)} of {len(rows)}: nothing half-written, nothing strange beside it, the next command"
             " swept what was left and ended with a result that verifies (of compress: that can be read)."]
    write_results(NAME, {"rows": rows}, [("Kills at random moments", header, table)], [*notes, *more])


if __name__ == "__main__":
    main()
