"""What every command takes: the model and the options, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from decascade.cost import Target
from decascade.deploy.targets import target_of
from decascade.errors import UsageError, nearest
from decascade.formats.base import Document, Format
from decascade.formats.registry import format_of
from decascade.regions.merge import Options

Progress = Callable[[str, float], None]
Policy = Literal["profitable", "always"]
Border = Literal["exact", "refuse"]
InputShape = Sequence[int | str | None] | Mapping[str, Sequence[int | str | None]]
InputRange = Sequence[Any] | str | Path | Mapping[str, Any]
"""The lowest and the highest value: two numbers, two arrays (one number per channel, or per entry in the model's own layout),
an .npz file with `lo` and `hi`; or a mapping from input names to these."""


def merge_options(
    target: str | Target, policy: str, border: str, max_growth: float, progress: Progress | None = None
) -> Options:
    choice("policy", policy, ("profitable", "always"))
    choice("border", border, ("exact", "refuse"))
    if not max_growth >= 1:
        raise UsageError(f"max_growth = {max_growth:g}: give a number from 1 on (how much the parameters may grow)")
    return Options(resolved(target, progress), policy=policy, border=border, max_growth=max_growth)  # type: ignore[arg-type]


def resolved(target: str | Target, progress: Progress | None = None) -> Target:
    """The target of a name (see `deploy.targets.NAMES`), or the one that was given; measurements are told as they are made."""
    if not isinstance(target, str):
        return target
    return target_of(target, None if progress is None else lambda stage: progress(stage, 0.0))


def choice(name: str, value: str, valid: Sequence[str]) -> None:
    if value not in valid:
        raise UsageError(f"{name} = {value!r}: give one of {', '.join(valid)}{nearest(value, valid)}")


SEEDS = 2**32
"""Random generators of all libraries take seeds below."""
LONGEST = 365 * 24 * 3600.0
"""Seconds that any limit of time may say."""


def check_seed(seed: int) -> None:
    if not 0 <= seed < SEEDS:
        raise UsageError(f"seed = {seed}: give a whole number from 0 on, below {SEEDS:,}")


def check_seconds(name: str, value: float) -> None:
    """That a time is one.

    Raises:
        UsageError: it is not above 0, no number, or longer than a year.
    """
    if not 0 < value <= LONGEST:
        raise UsageError(f"{name} = {value:g}: give a number of seconds above 0, at most {LONGEST:.0f} (a year)")


def read_model(model: object, input_shape: InputShape | None = None) -> tuple[Format, Document]:
    form = format_of(model)
    source = Path(model) if isinstance(model, str) else model
    if input_shape is None:
        return form, form.read(source)
    if "input_shape" not in signature(form.read).parameters:
        raise UsageError(f"a {form.name} model states the sizes of its inputs itself: leave the input shape out, "
                         "or build the model with these sizes")
    shaped: Any = form
    return form, shaped.read(source, input_shape=input_shape)
