"""The options of a compress run, kept in its folder so that it can go on.  What is read back decides nothing that is written:
the places of results are OUT of OUT.run, or are given again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from decascade.errors import UsageError

COMMAND, SUFFIX = "command.json", ".run"
TEXT, NUMBER, TEXTS = (str,), (int, float), (list,)
KINDS: Mapping[str, tuple[type, ...]] = {
    "model": TEXT, "output": TEXT, "data": TEXTS, "speedup": NUMBER, "budget": NUMBER, "max_drop": NUMBER, "plan": TEXT,
    "target": TEXT, "time_limit": TEXT, "scale": TEXT, "mean": TEXT, "std": TEXT, "loss": TEXT, "span": (int,),
    "distil": (bool,), "sweep": (bool,), "report": TEXT, "seed": (int,), "force": (bool,), "input_range": (str, list),
    "input_shape": TEXTS, "limit": TEXTS,
}
MUST = ("model", "output", "data", "target", "scale", "mean", "std", "loss", "span", "distil", "sweep", "seed")
"""Options that a command always has; the others may be null."""


def as_text(asked: Mapping[str, Any]) -> str:
    """The options as JSON, paths absolute, so that the run can go on from anywhere."""
    def plain(item: object) -> object:
        return str(item.absolute()) if isinstance(item, Path) else item

    found = {name: plain(item) for name, item in asked.items()}
    found |= {"model": plain(Path(asked["model"])), "data": [plain(Path(path)) for path in asked["data"]]}
    return json.dumps(found, indent=1)


def remembered(folder: Path, output: Path | None, report: Path | None, force: bool) -> dict[str, Any]:
    """The options of the run in a folder, those that say what is written as they are given now.

    Raises:
        UsageError: there is no run, its options were damaged, or the run's results would go elsewhere than its folder's name
            says.
    """
    from decascade.api.runs import read_json

    found: Any = read_json(folder / COMMAND, f"--resume {folder}: there is no run there that could go on")
    problem = _problem(found)
    if problem:
        raise UsageError(f"--resume {folder}: there is no run there that could go on ({COMMAND} is broken: {problem})")
    options = cast("dict[str, Any]", found)
    place = output or _own_place(folder, Path(options["output"]))
    listed = report or _beside(folder, place, options.get("report"))
    held = options.get("input_range")
    box = tuple(cast("list[float]", held)) if isinstance(held, list) else held
    return {**options, "input_range": box, "output": place, "report": listed, "force": force}


def again(folder: Path, output: Path, report: Path | None, force: bool) -> str:
    """The command that goes on with a run."""
    words = ["decascade compress --resume", str(folder)]
    if folder.absolute() != Path(f"{output.absolute()}{SUFFIX}"):
        words += ["-o", str(output)]
    if report is not None and report.absolute().parent != output.absolute().parent:
        words += ["--report", str(report)]
    return " ".join([*words, *(["--force"] if force else [])])


def _own_place(folder: Path, told: Path) -> Path:
    """OUT of OUT.run."""
    own = folder.absolute().with_name(folder.absolute().name.removesuffix(SUFFIX))
    if own == folder.absolute() or own.name != told.name:
        raise UsageError(f"--resume {folder}: its command wrote to {told}, which a run folder of this name may not decide:"
                         f" give -o {told} again")
    return own


def _beside(folder: Path, place: Path, told: str | None) -> Path | None:
    if told is None:
        return None
    if Path(told).parent != place.absolute().parent:
        raise UsageError(f"--resume {folder}: its command wrote a report to {told}, which a run folder may not decide:"
                         f" give --report {told} again")
    return Path(told)


def _problem(found: object) -> str:
    """What is wrong with options that were read, in a few words."""
    if not isinstance(found, dict):
        return "no options"
    options = cast("dict[str, Any]", found)
    for name in (*MUST, *options):
        if name not in KINDS:
            return f"{name[:40]} is no option"
        if not _fits(options.get(name), KINDS[name], name in MUST):
            return f"{name} = {str(options.get(name))[:40]}"
    return ""


def _fits(value: object, kinds: tuple[type, ...], must: bool) -> bool:
    if value is None:
        return not must
    if isinstance(value, list):
        inner = (str,) if kinds == TEXTS else NUMBER
        items = cast("list[Any]", value)
        return list in kinds and all(isinstance(item, inner) and not isinstance(item, bool) for item in items)
    return isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)
