"""The certificate in a model's metadata: text and back, where several hold together, and texts that are none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decascade.bounds import Box
from decascade.checking.seals import Seal, derived, digest, from_text, intersection, to_text
from decascade.errors import FormatError, UsageError
from decascade.ir.graph import Graph, Tensor
from decascade.regions.linearise import Claim

CLAIM = Claim("relu_1", ("block/relu",), "relu", "proven", ("inactive", "active"), (0, 2), (1, 0))
SEAL = Seal("net.onnx", "ab" * 32, {"x": {"lo": 0.0, "hi": 1.0}}, (CLAIM,))
GRAPH = Graph((), ("x",), (), {"x": Tensor("x", ("N", 2, 12, 13))})


def box(lo: Any, hi: Any) -> dict[str, Any]:
    return Box.of(GRAPH, (lo, hi)).facts()


def test_text_and_back() -> None:
    rng = np.random.default_rng(0)
    seals = [
        SEAL, replace(SEAL, model="", digest="", guard="outside_input_range"),
        replace(SEAL, box=box([0, 1], [2, 3])), replace(SEAL, box=box(rng.random((2, 12, 13)), 2.0)),
        replace(SEAL, box={}, claims=(replace(CLAIM, tier="observed"),), samples=500),
    ]
    assert from_text(to_text(seals), "m") == tuple(seals)
    assert from_text("", "m") == ()


def test_large_arrays_are_stored_in_few_characters() -> None:
    full = replace(SEAL, box=box(np.zeros((2, 12, 13)), np.eye(12, 13) + np.full((2, 12, 13), 1 / 3)))
    assert len(json.dumps(full.box)) > 5000
    assert len(to_text([full])) < 1000


def test_tier_and_bound() -> None:
    assert (SEAL.tier, SEAL.bound) == ("proven", None)
    mixed = replace(SEAL, claims=(CLAIM, replace(CLAIM, tier="observed")), samples=300)
    assert (mixed.tier, mixed.bound) == ("observed", 0.01)


def spoiled(change: Any) -> str:
    found = json.loads(to_text([replace(SEAL, box=box(np.random.default_rng(0).random((2, 12, 13)), 2.0))]))
    change(found)
    return json.dumps(found)


BAD: dict[str, Any] = {
    "no JSON": lambda: "hello",
    "a list": lambda: "[]",
    "no claims": lambda: spoiled(lambda d: d["certificates"][0].pop("claims")),
    "claims of another kind": lambda: spoiled(lambda d: d["certificates"][0].update(claims=[3])),
    "a box without an end": lambda: spoiled(lambda d: d["certificates"][0]["box"]["x"].pop("hi")),
    "words for numbers": lambda: spoiled(lambda d: d["certificates"][0]["box"]["x"].update(hi="one")),
    "an array cut short": lambda: spoiled(lambda d: d["certificates"][0]["box"]["x"]["lo"].update(float64="eJwDAAAAAAE=")),
    "no base64": lambda: spoiled(lambda d: d["certificates"][0]["box"]["x"]["lo"].update(float64="?")),
    "a bomb": lambda: spoiled(lambda d: d["certificates"][0]["box"]["x"]["lo"].update(shape=[1 << 20, 1 << 20])),
    "a negative size": lambda: spoiled(lambda d: d["certificates"][0]["box"]["x"]["lo"].update(shape=[-1, 2])),
}


@pytest.mark.parametrize("name", BAD)
def test_damaged_texts(name: str) -> None:
    with pytest.raises(FormatError, match=r"^net.onnx: its certificate is damaged \(.*\): merge the model again$"):
        from_text(BAD[name](), "net.onnx")


def test_a_newer_text() -> None:
    with pytest.raises(FormatError, match=r"net.onnx: its certificate is of schema 2, not 1: update decascade"):
        from_text('{"schema": 2, "certificates": []}', "net.onnx")


def test_what_is_derived_from_what() -> None:
    other = replace(SEAL, model="other")
    assert derived([], [SEAL]) == ((), (SEAL,))
    assert derived([SEAL], [SEAL, other]) == ((), (other,))
    assert derived([SEAL, other], [SEAL]) == ((other,), ())
    assert derived([SEAL], [other]) == ((SEAL,), (other,))


def test_where_several_hold() -> None:
    wide, narrow = replace(SEAL, box=box(-1, [0.5, 2])), replace(SEAL, box=box(0, 1))
    found = intersection(GRAPH, [wide, narrow])
    assert found is not None
    assert found.facts() == {"x": {"lo": 0.0, "hi": [0.5, 1.0]}}
    assert intersection(GRAPH, [replace(SEAL, box={})]) is None
    assert intersection(GRAPH, []) is None
    with pytest.raises(UsageError, match="the ranges for input x do not meet: the models are equal for none of them"):
        intersection(GRAPH, [wide, replace(SEAL, box=box(3, 4))])


def test_inputs_of_another_name_are_taken_by_order() -> None:
    renamed = replace(SEAL, box={"image": {"lo": 0.0, "hi": 1.0}})
    found = intersection(GRAPH, [renamed])
    assert found is not None
    assert found.facts() == SEAL.box


def test_digest(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"abc")
    assert digest(tmp_path / "m") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest(None) == ""
