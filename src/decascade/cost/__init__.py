"""Targets: what a replacement costs on a device."""

from __future__ import annotations

from difflib import get_close_matches

from decascade.cost.base import Cost, Target
from decascade.cost.macs import Macs
from decascade.cost.memory import Memory
from decascade.errors import UsageError

TARGETS: dict[str, type[Macs | Memory]] = {"macs": Macs, "memory": Memory}

__all__ = ["TARGETS", "Cost", "Target", "target_named"]


def target_named(name: str) -> Target:
    """The target of that name.

    Raises:
        UsageError: there is none; the message names the nearest and lists all.
    """
    if name not in TARGETS:
        near = get_close_matches(name, TARGETS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"unknown target {name!r}{hint} (targets: {', '.join(TARGETS)})")
    return TARGETS[name]()
