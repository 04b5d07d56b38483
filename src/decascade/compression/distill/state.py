"""The state of a training: what is stepped, averaged and kept as the best; saved to a file and taken up again exactly."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from zlib import crc32

from decascade.compression.torch_graph.ops import load_torch
from decascade.errors import UsageError

FILE = "distill.checkpoint"
VERSION = 2
DIGEST = 32
"""Bytes of the digest that the file begins with."""
AVERAGED = 0.03
"""The running average of the weights reaches back over about this share of the steps made so far."""


@dataclass(frozen=True)
class Point:
    """One look at a training: `loss` on the batches since the last look, `held` on the held-out samples, and there the share
    of samples on which student and original agree (None without classes)."""

    step: int
    share: float
    seconds: float
    loss: float
    held: float
    agreement: float | None


@dataclass(eq=False)
class State:
    """`average`, `best` and `good` are weights by name: the running average, the best that was seen, and those to go back
    to when the loss is no number any more, with the optimiser's state beside them."""

    module: Any
    optimizer: Any
    step: int = 0
    factor: float = 1.0
    falls: int = 0
    average: dict[str, Any] = field(default_factory=dict[str, Any])
    best: dict[str, Any] = field(default_factory=dict[str, Any])
    good: tuple[dict[str, Any], dict[str, Any], Any] = field(default_factory=lambda: ({}, {}, None))
    history: list[Point] = field(default_factory=list[Point])
    notes: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.average = self.average or self.weights()
        self.best = self.best or self.weights()
        self.keep()

    def weights(self) -> dict[str, Any]:
        """A copy of the trained weights."""
        return {name: p.detach().clone() for name, p in self.module.named_parameters()}

    def take(self, weights: Mapping[str, Any]) -> None:
        """Put weights into the module."""
        with load_torch().no_grad():
            for name, parameter in self.module.named_parameters():
                parameter.copy_(weights[name])

    def follow(self) -> None:
        """Count a step, and move the running average."""
        self.step += 1
        share = max(1 / (1 + AVERAGED * self.step), 0.001)
        torch = load_torch()
        with torch.no_grad():
            now = [p.detach() for _, p in self.module.named_parameters()]
            torch._foreach_lerp_(list(self.average.values()), now, share)

    def keep(self) -> None:
        """Remember this place to go back to."""
        self.good = (self.weights(), _copied(self.average), _copied(self.optimizer.state_dict()))

    def fall_back(self) -> None:
        """Go back to it, with half the learning rate."""
        weights, average, optimizer = self.good
        self.take(weights)
        self.average = _copied(average)
        self.optimizer.load_state_dict(_copied(optimizer))
        self.factor, self.falls = self.factor / 2, self.falls + 1

    def save(self, folder: Path, elapsed: float, fingerprint: str, more: Mapping[str, Any]) -> None:
        """Write all of it to the folder, its SHA-256 before it: the whole file or none.

        Raises:
            OSError: it cannot be written.
        """
        torch = load_torch()
        content = {
            "version": VERSION, "fingerprint": fingerprint, "elapsed": elapsed, "step": self.step, "factor": self.factor,
            "falls": self.falls, "weights": self.weights(), "average": self.average, "best": self.best, "good": self.good,
            "optimizer": self.optimizer.state_dict(), "history": [asdict(p) for p in self.history], "notes": self.notes,
            "more": dict(more),
        }
        held = BytesIO()
        torch.save(content, held)
        part = folder / f"{FILE}.part"
        with part.open("wb") as file:
            file.write(sha256(held.getbuffer()).digest())
            file.write(held.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, folder / FILE)

    def restore(self, content: Mapping[str, Any]) -> None:
        """Take up what `load` read.

        Raises:
            ValueError: it is of other weights.
        """
        held, own = (content["average"], content["best"], content["weights"], *content["good"][:2]), self.weights()
        if any({name: w.shape for name, w in own.items()} != {name: w.shape for name, w in some.items()} for some in held):
            raise ValueError("it holds other weights than the student has")
        self.take(content["weights"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step, self.factor, self.falls = content["step"], content["factor"], content["falls"]
        self.average, self.best, self.good = content["average"], content["best"], content["good"]
        self.history = [Point(**point) for point in content["history"]]
        self.notes = list(content["notes"])


def load(folder: Path, fingerprint: str) -> Mapping[str, Any] | None:
    """The content of a folder's checkpoint; None where there is none.  Nothing but tensors and plain values is loaded.

    Raises:
        UsageError: a file that is no checkpoint, or one of another training.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        stored = path.read_bytes()
        if sha256(memoryview(stored)[DIGEST:]).digest() != stored[:DIGEST]:
            raise ValueError("it was changed or cut short")
        content = load_torch().load(BytesIO(stored[DIGEST:]), weights_only=True)
        version, saved = content["version"], content["fingerprint"]
        _check(content)
    except Exception as error:  # whatever torch's reader raises on a broken file
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise broken(path, words) from None
    if version != VERSION or saved != fingerprint:
        raise UsageError(f"{path} belongs to a training of other models, data or options: resume with those, or delete it")
    return content


def _check(content: Mapping[str, Any]) -> None:
    """That all fields are of their kinds: whoever can write to the folder can also write a digest.

    Raises:
        ValueError: one is not.
    """
    weights: list[Any] = [content["weights"], content["average"], content["best"], *content["good"][:2]]
    tensor, more = load_torch().Tensor, content["more"]
    fit = {
        "weights": len(content["good"]) == 3 and all(isinstance(some, Mapping) for some in weights)
        and all(isinstance(w, tensor) for some in weights[:3] for w in some.values()),
        "numbers": all(isinstance(content[name], int | float) for name in ("elapsed", "factor")) and content["elapsed"] >= 0,
        "counts": all(isinstance(content[name], int) and content[name] >= 0 for name in ("step", "falls")),
        "history": len(content["history"]) > 0 and all(Point(**point).held == point["held"] for point in content["history"]),
        "notes": all(isinstance(note, str) for note in content["notes"]),
        "options": isinstance(more["frames"], dict) and isinstance(more["bfloat16"], bool)
        and isinstance(more["rate"], int | float) and all(isinstance(loss, float) for loss in more["losses"]),
    }
    wrong = [name for name, good in fit.items() if not good]
    if wrong:
        raise ValueError(f"its {wrong[0]} are not of their kind")


def broken(path: Path, words: str) -> UsageError:
    """What to say of a file that training cannot be taken up from."""
    return UsageError(f"{path} is no checkpoint of a distillation ({words}): delete it to start anew")


def fingerprint(*parts: object, **tensors: Mapping[str, Any]) -> str:
    """A short text that differs where options or weights do, not where a fit that was made again rounds otherwise."""
    told = [*map(repr, parts)]
    for name, values in tensors.items():
        told += [f"{name} {key} {tuple(t.shape)} {float(t.detach().double().norm()):.4g}" for key, t in values.items()]
    return f"{crc32(chr(0).join(told).encode()):08x}"


def _copied(value: Any) -> Any:
    """Nested containers with copies of their tensors."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}  # type: ignore[misc]
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)  # type: ignore[misc]
    return value.clone() if hasattr(value, "clone") else value
