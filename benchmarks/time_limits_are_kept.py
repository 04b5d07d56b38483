"""Limits of time by the clock on the wall: aim, 10 % + 5 s over at most, on a machine that is busy with other things, too.

`compress --time-limit` (with and without distillation) is a limit on the whole command, from its start to its end.
`--prove-seconds` of `merge` and `inspect` is one on the proofs: what the same command takes with `--tier exact` is counted
apart, with a limit of cost, too, under which the model is merged several times.

    python benchmarks/time_limits_are_kept.py [--seconds 60] [--quick]
"""

from __future__ import annotations

import support.setup  # noqa: F401  threads and paths, before all else

# isort: split
import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from support.results import write_results
from support.setup import ROOT

NAME = "time_limits_are_kept"
SHARED = ROOT.parent / "shared"
MODELS = {
    "ResNet-8": (SHARED / "models" / "mlperf_tiny_resnet8_cifar10.h5", SHARED / "data" / "cifar10_train_part0.npz", "255"),
    "TinyMaix MNIST": (SHARED / "models" / "tinymaix_mnist_same.h5", SHARED / "data" / "mnist_test.npz", "1"),
}
BUSY = 3
SHARE, MORE = 0.1, 5.0


@contextmanager
def busy(loops: int) -> Generator[None]:
    """So many processes that do nothing but count."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def timed(command: Sequence[object]) -> tuple[float, int, str]:
    """Seconds, exit code and the last line of errors of a command line."""
    start = perf_counter()
    done = subprocess.run([sys.executable, "-m", "decascade", *map(str, command)], capture_output=True, text=True, check=False)
    return perf_counter() - start, done.returncode, (done.stderr.splitlines() or [""])[-1]


def samples(model: str, folder: Path) -> Path:
    """5,000 samples as the model takes them."""
    path, found = folder / f"{model}.npz", np.load(MODELS[model][1])["x"][:5000]
    np.savez(path, x=found if found.ndim == 4 else (found[..., None] / np.float32(255)).astype(np.float32))
    return path


def compressed(model: str, seconds: float, folder: Path) -> Generator[dict[str, Any]]:
    for more in ((), ("--no-distil",)):
        out = folder / "small.h5"
        command = ["compress", MODELS[model][0], "-o", out, "--data", samples(model, folder), "--speedup", 1.3, "-q", "--force",
                   "--time-limit", f"{seconds:g}s", *more]
        took, code, words = timed(command)
        label = " ".join(("compress", *more))
        yield {"command": label, "limit": seconds, "apart": 0.0, "took": took, "code": code, "words": words}


def proved(model: str, seconds: float, folder: Path) -> Generator[dict[str, Any]]:
    path, _, most = MODELS[model]
    for name, more in (("inspect", ()), ("merge", ()), ("merge", ("--limit", "macs=1"))):
        place = ["-o", folder / "merged.h5", "--force"] if name == "merge" else []
        command = [name, path, *place, "-q", "--input-range", 0, most, *more]
        apart = timed([*command, "--tier", "exact"])[0]
        took, code, words = timed([*command, "--prove-seconds", seconds])
        label = " ".join((name, "--prove-seconds", *more))
        yield {"command": label, "limit": seconds, "apart": apart, "took": took, "code": code, "words": words}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--quick", action="store_true", help="30 seconds")
    asked = parser.parse_args()
    seconds, rows = 30.0 if asked.quick else asked.seconds, list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        for loops in (0, BUSY):
            for model in MODELS:
                with busy(loops):
                    for row in (*compressed(model, seconds, Path(folder)), *proved(model, seconds / 3, Path(folder))):
                        over = row["took"] - row["apart"] - row["limit"]
                        kept = over <= SHARE * row["limit"] + MORE
                        rows.append({"model": model, "busy": loops, **row, "over": over, "kept": kept})
                        print(rows[-1], flush=True)
                report(rows)


def report(rows: Sequence[dict[str, Any]], more: Sequence[str] = ()) -> None:
    """Written after every model, so that a run that is ended early has its results."""
    header = ("model", "command", "busy loops beside", "limit s", "without proofs s", "took s", "over s", "kept", "exit code")
    table = [(r["model"], r["command"], str(r["busy"]), f"{r['limit']:g}", f"{r['apart']:.1f}", f"{r['took']:.1f}",
              f"{r['over']:.1f}", "yes" if r["kept"] else "**no**", str(r["code"])) for r in rows]
    held = sum(r["kept"] for r in rows)
    cores = len(os.sched_getaffinity(0))
    notes = [f"{held} of {len(rows)} kept to {SHARE:.0%} + {MORE:g} s. Seconds by the wall clock on {cores} cores, which others"
             " used as well while this was measured: no row is of an idle machine. Exit code 3: no result keeps the limit of"
             " cost, on purpose, so that every attempt is made."]
    write_results(NAME, {"rows": rows, "kept": held}, [("Limits of time", header, table)], [*notes, *more])


if __name__ == "__main__":
    main()
