"""Long runs: python tests/fuzz/run.py TARGET --seconds N [--seed S] [--out DIR] [--atheris].

Runs in a process of its own, which is started again after a crash.  Each new kind of finding is written to DIR (default
fuzz-findings/TARGET), one line of the log each; the last line counts executions and findings.  With --atheris libFuzzer
chooses the inputs by the coverage of decascade; without, they are mutations of the corpus in the order of the seed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic

HERE = Path(__file__).resolve().parent
# the folder of this script must not come before packages of the same names as modules in it
sys.path[:] = [str(HERE.parent), *(p for p in sys.path if Path(p or ".").resolve() != HERE)]


def main() -> int:
    options = _options()
    if options.worker:
        return (_guided if options.atheris else _worker)(options)
    out = options.out or Path("fuzz-findings") / options.target
    out.mkdir(parents=True, exist_ok=True)
    executions, places, seed, end = 0, dict[str, str](), options.seed, monotonic() + options.seconds
    stopped = False
    while not stopped:
        left = max(end - monotonic(), 1)
        code, lines, current = _worker_run(options, seed, left, options.inputs - executions if options.inputs else 0)
        count = max((line["count"] for line in lines), default=0)
        for line in lines:
            if "place" in line and places.setdefault(line["place"], line["digest"]) == line["digest"]:
                (out / f"{line['digest']}.bin").write_bytes(bytes.fromhex(line["data"]))
                print(f"finding {line['digest']}: {line['place']}: {line['words']}", flush=True)
        if code:
            place = f"process ended with {code}"
            name = f"crash-{len(places)}.bin"
            (out / name).write_bytes(current)
            places[f"{place} #{len(places)}"] = name
            print(f"finding {name}: {place}", flush=True)
        executions += count
        seed += 1
        stopped = not code or monotonic() >= end or bool(options.inputs and executions >= options.inputs)
    print(f"{options.target}: {executions} executions, {len(places)} findings", flush=True)
    return 1 if places else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--inputs", type=int, default=0, help="stop after so many inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--atheris", action="store_true")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _worker_run(options: argparse.Namespace, seed: int, seconds: float, inputs: int) -> tuple[int, list[dict], bytes]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, options.target, "--seconds", str(seconds), "--seed", str(seed)]
        command += ["--inputs", str(inputs), "--worker", folder, *(["--atheris"] if options.atheris else [])]
        with (Path(folder) / "errors").open("w") as errors:
            code = subprocess.run(command, stderr=errors, stdout=errors, check=False).returncode
        log, current = Path(folder) / "log", Path(folder) / "current"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        if not lines:
            raise SystemExit((Path(folder) / "errors").read_text()[-3000:])
        return code, lines, current.read_bytes() if current.exists() else b""


class _Log:
    """One JSON line for a finding, one for every thousand inputs and the last; the input under way in a file."""

    def __init__(self, folder: Path) -> None:
        self.log = (folder / "log").open("a", buffering=1)
        self.current = folder / "current"

    def say(self, count: int, **facts: str) -> None:
        self.log.write(json.dumps({"count": count, **facts}) + "\n")

    def note(self, count: int, found: object, data: bytes) -> None:
        if found is None:
            self.current.write_bytes(data)
            if count % 100 == 0:
                self.say(count)
        else:
            self.say(count, place=found.place, words=found.words, digest=found.digest, data=data.hex())


def _worker(options: argparse.Namespace) -> int:
    from fuzz.harness import campaign, target

    log, end = _Log(options.worker), monotonic() + options.seconds
    log.say(0)
    done = campaign(
        target(options.target),
        options.seed,
        lambda count: monotonic() > end or bool(options.inputs and count >= options.inputs),
        log.note,
    )
    log.say(done)
    return 0


def _guided(options: argparse.Namespace) -> int:
    import random

    import atheris

    with atheris.instrument_imports(include=["decascade"]):
        from fuzz.harness import attempt, limit_memory, mutated, target

        subject = target(options.target)
    log, seeds, counts = _Log(options.worker), subject.seeds(), [0]
    corpus, scratch = options.worker / "corpus", options.worker / "scratch"
    for folder in (corpus, scratch):
        folder.mkdir()
    for k, seed in enumerate(seeds):
        (corpus / str(k)).write_bytes(seed)
    attempt(subject, seeds[0], scratch)
    limit_memory()

    def once(data: bytes) -> None:
        log.note(counts[0], None, data)
        found = attempt(subject, data, scratch)
        if found is not None:
            log.note(counts[0], found, data)
        counts[0] += 1

    def change(data: bytes, most: int, seed: int) -> bytes:
        return mutated(subject, data, seeds, random.Random(seed))[:most]

    flags = [f"-max_total_time={int(options.seconds)}", f"-seed={options.seed + 1}", "-timeout=60", "-rss_limit_mb=0"]
    flags += ["-max_len=1048576", *([f"-runs={options.inputs}"] if options.inputs else [])]
    atheris.Setup([sys.argv[0], str(corpus), *flags], once, custom_mutator=change)
    log.say(0)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
