"""The certificate that a merged model carries in its metadata: of which model it is equal to, within which box, and what
that rests on; as text and back, and checked again from nothing.

A model that was merged several times carries several, the oldest first: it is equal to the first model where all hold.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from decascade.bounds import Box
from decascade.errors import FormatError, UsageError
from decascade.ir.graph import Graph
from decascade.regions.linearise import Claim
from decascade.version import __version__

SCHEMA = 1
PLAIN = 64
"""Arrays of more entries are packed."""
MOST = 1 << 26
"""Entries of the largest array that is unpacked."""


@dataclass(frozen=True)
class Seal:
    """One certificate.

    `model`, `digest`: file name and SHA-256 of the model that was merged; "" for a live one.  `box`: where it holds, per
    input of the graph, channels first; empty where it rests on data alone.  `samples`: of the data that observed claims rest
    on.  `guard`: the output that tells whether inputs lie outside of the box; "" for none.
    """

    model: str
    digest: str
    box: Mapping[str, Any]
    claims: tuple[Claim, ...]
    samples: int = 0
    guard: str = ""
    version: str = field(default=__version__)

    @property
    def tier(self) -> str:
        return "observed" if any(c.tier == "observed" for c in self.claims) else "proven"

    @property
    def bound(self) -> float | None:
        """The 95 % bound on the share of inputs like the samples that break one of the observed claims."""
        return 3 / self.samples if self.samples else None


def derived(a: Sequence[Seal], b: Sequence[Seal]) -> tuple[tuple[Seal, ...], tuple[Seal, ...]]:
    """The certificates that each of two models has beyond those that they share from the first on."""
    shared = 0
    while shared < min(len(a), len(b)) and a[shared] == b[shared]:
        shared += 1
    return tuple(a[shared:]), tuple(b[shared:])


def digest(path: Path | None) -> str:
    """SHA-256 of a file; "" for none."""
    return "" if path is None else sha256(path.read_bytes()).hexdigest()


def to_text(seals: Sequence[Seal]) -> str:
    """The certificates as JSON."""
    return json.dumps({"schema": SCHEMA, "certificates": [_plain(s) for s in seals]}, allow_nan=False)


def from_text(text: str, what: str) -> tuple[Seal, ...]:
    """The certificates in a model's metadata; none where there is no text.

    Raises:
        FormatError: a text that is none, or of a newer kind; names the model `what`.
    """
    if not text:
        return ()
    try:
        found = json.loads(text)
        if found["schema"] != SCHEMA:
            raise FormatError(f"{what}: its certificate is of schema {found['schema']}, not {SCHEMA}: update decascade")
        return tuple(_seal(entry) for entry in found["certificates"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, zlib.error) as error:
        words = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise FormatError(f"{what}: its certificate is damaged ({words}): merge the model again") from None


def intersection(graph: Graph, seals: Sequence[Seal], box: Box | None = None) -> Box | None:
    """Where all certificates hold, and within `box`; None for everywhere.

    Raises:
        UsageError: nowhere.
    """
    boxes = [*([] if box is None else [box]), *(Box.of(graph, _named(graph, s.box)) for s in seals if s.box)]
    if not boxes:
        return None
    lo = {n: np.maximum.reduce(np.broadcast_arrays(*(b.intervals[n].lo for b in boxes))) for n in graph.inputs}
    hi = {n: np.minimum.reduce(np.broadcast_arrays(*(b.intervals[n].hi for b in boxes))) for n in graph.inputs}
    for name in graph.inputs:
        if np.any(lo[name] > hi[name]):
            raise UsageError(f"the ranges for input {name} do not meet: the models are equal for none of them")
    return Box.of(graph, {n: (lo[n], hi[n]) for n in graph.inputs})


def _named(graph: Graph, box: Mapping[str, Any]) -> Mapping[str, Any]:
    """The box under the names of the graph's inputs: as they are, else by order."""
    alike = set(box) == set(graph.inputs) or len(box) != len(graph.inputs)
    return box if alike else dict(zip(graph.inputs, box.values(), strict=True))


def _plain(seal: Seal) -> dict[str, Any]:
    claims = [
        {"node": c.node, "layers": list(c.layers), "kind": c.kind, "tier": c.tier, "regimes": list(c.names),
         "channels": list(c.channels), "regime": list(c.regime)}
        for c in seal.claims
    ]
    box = {name: {end: _packed(value) for end, value in ends.items()} for name, ends in seal.box.items()}
    return {"model": seal.model, "sha256": seal.digest, "box": box, "tier": seal.tier, "samples": seal.samples,
            "guard": seal.guard, "decascade": seal.version, "claims": claims}


def _seal(entry: Mapping[str, Any]) -> Seal:
    claims = tuple(
        Claim(str(c["node"]), tuple(map(str, c["layers"])), str(c["kind"]), "observed" if c["tier"] == "observed" else "proven",
              tuple(map(str, c["regimes"])), tuple(map(int, c["channels"])), tuple(map(int, c["regime"])))
        for c in entry["claims"]
    )
    box = {str(name): {end: _unpacked(ends[end]) for end in ("lo", "hi")} for name, ends in entry["box"].items()}
    return Seal(str(entry["model"]), str(entry["sha256"]), box, claims, int(entry["samples"]), str(entry["guard"]),
                str(entry["decascade"]))


def _packed(value: Any) -> Any:
    """A large array as its shape and its compressed bytes."""
    array = np.asarray(value, np.float64)
    if array.size <= PLAIN:
        return value
    data = base64.b64encode(zlib.compress(array.astype("<f8").tobytes())).decode("ascii")
    return {"shape": list(array.shape), "float64": data}


def _unpacked(value: Any) -> Any:
    if not isinstance(value, dict):
        return np.asarray(value, np.float64).tolist()
    table = cast("dict[str, Any]", value)
    shape = tuple(int(n) for n in table["shape"])
    if min(shape, default=1) < 0 or prod(shape) > MOST:
        raise ValueError(f"an array of shape {shape}")
    try:
        unpacker = zlib.decompressobj()
        raw = unpacker.decompress(base64.b64decode(table["float64"], validate=True), 8 * prod(shape) + 1)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
    array: NDArray[np.float64] = np.frombuffer(raw, "<f8").reshape(shape)
    return array.tolist()
