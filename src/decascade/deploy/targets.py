"""Every target by its name: the counted ones of `cost`, the measured ones, tables, and sums of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path

from decascade.cost import TARGETS, Target
from decascade.cost.cache import Cache
from decascade.cost.flash import Flash
from decascade.cost.measured import Measured, Meter, add_up, highest
from decascade.cost.table import Table
from decascade.cost.weighted import Weighted
from decascade.errors import UsageError

Told = Callable[[str], None]


def _ort(cache: Cache) -> Meter:
    from decascade.deploy.meters.ort import OrtMeter

    return OrtMeter(cache)


def _litert(cache: Cache, int8: bool) -> Meter:
    from decascade.deploy.meters.tflite import LiteRTMeter

    return LiteRTMeter(int8, cache)


def _arena(int8: bool) -> Meter:
    from decascade.deploy.meters.tflite import ArenaMeter

    return ArenaMeter(int8)


def _chip(machine: str) -> Meter:
    from decascade.deploy.meters.chip import ChipMeter

    return ChipMeter(machine)


METERS: Mapping[str, Callable[[Cache], Meter]] = {
    "onnxruntime": _ort,
    "litert": lambda cache: _litert(cache, True),
    "litert:float": lambda cache: _litert(cache, False),
    "tflm": lambda _: _arena(True),
    "tflm:float": lambda _: _arena(False),
    "cortex-m": lambda _: _chip("cortex-m4"),
    "cortex-m7": lambda _: _chip("cortex-m7"),
}
PEAKS = ("tflm", "tflm:float")
"""Whose costs are peaks, not sums."""
NAMES = (*TARGETS, "flash", "flash:float", *METERS, "table:FILE.csv")


def target_of(name: str, told: Told | None = None, cache: Cache | None = None) -> Target:
    """The target that a user names: one of `NAMES`, or a sum such as `1*litert + 0.001*flash`.

    `told` hears of every measurement before it is made.

    Raises:
        UsageError: no such target (the nearest is named), a tool that is missing, a table that cannot be read.
    """
    terms = [_term(text.strip()) for text in name.split("+")] if "*" in name else []
    if not terms:
        return _single(name.strip(), told, cache)
    return Weighted([(weight, _single(single, told, cache)) for weight, single in terms])


def _term(text: str) -> tuple[float, str]:
    found = re.fullmatch(r"([0-9.eE-]+)\s*\*\s*(.+)", text)
    try:
        weight = float(found.group(1)) if found else 0.0
    except ValueError:
        weight = 0.0
    if found is None or not weight > 0:
        raise UsageError(f"target term {text!r}: give WEIGHT*NAME with a weight above 0, as in 1*litert + 0.001*flash")
    return weight, found.group(2).strip()


def _single(name: str, told: Told | None, cache: Cache | None) -> Target:
    if name in TARGETS:
        return TARGETS[name]()
    if name in ("flash", "flash:float"):
        return Flash(name == "flash")
    if name.startswith("table:"):
        return Table(Path(name.removeprefix("table:")))
    if name in METERS:
        held = cache or Cache()
        return Measured(METERS[name](held), highest if name in PEAKS else add_up, held, told)
    near = get_close_matches(name, NAMES, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UsageError(f"unknown target {name!r}{hint} (targets: {', '.join(NAMES)}, and sums: 1*litert + 0.001*flash)")
