"""Augmentations do what they say, the same with the same generator, and are dropped where the original does not bear them."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest

from decascade.errors import UsageError
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.ops import Activation, Add
from decascade.ir.shapes import infer_graph

torch = pytest.importorskip("torch")
augment = import_module("decascade.compression.distill.augment")
Augment, possible, suited = augment.Augment, augment.possible, augment.suited


def generator(seed: int = 0):
    return torch.Generator().manual_seed(seed)


X = torch.tensor(np.random.default_rng(0).integers(0, 256, (40, 3, 6, 8), dtype=np.uint8))


def test_flips():
    flipped = Augment(flip=True, shift=0)({"x": X}, generator())["x"]
    assert flipped.dtype == torch.uint8
    kinds = [(torch.equal(f, x), torch.equal(f, x.flip(-1))) for f, x in zip(flipped, X, strict=True)]
    assert all(a or b for a, b in kinds)
    assert 8 < sum(b for _, b in kinds) < 32


def reflected(x, dy: int, dx: int):
    padded = torch.nn.functional.pad(x[None].float(), (4, 4, 4, 4), mode="reflect")[0]
    return padded[:, 4 + dy : 4 + dy + x.shape[1], 4 + dx : 4 + dx + x.shape[2]].to(torch.uint8)


def test_shifts_fill_by_reflection():
    moved = Augment(flip=False, shift=0.5)({"x": X}, generator())["x"]
    seen = set()
    for m, x in zip(moved, X, strict=True):
        ways = [(dy, dx) for dy in range(-3, 4) for dx in range(-4, 5) if torch.equal(m, reflected(x, dy, dx))]
        assert len(ways) == 1
        seen.update(ways)
    assert {dy for dy, _ in seen} == set(range(-3, 4))
    assert {dx for _, dx in seen} == set(range(-4, 5))


def test_signals_and_volumes_are_shifted_too():
    for shape in ((5, 2, 16), (5, 2, 8, 8, 8)):
        x = torch.arange(float(np.prod(shape))).view(shape)
        moved = Augment(flip=False, shift=0.25)({"x": x}, generator())["x"]
        assert moved.shape == x.shape
        assert not torch.equal(moved, x)
        assert set(moved[0].flatten().tolist()) <= set(x[0].flatten().tolist())
    flat = torch.rand(4, 7)
    assert Augment()({"x": flat}, generator())["x"] is flat


def test_cutout_covers_a_box_with_the_mean():
    x = torch.rand(50, 2, 12, 12)
    covered = Augment(flip=False, shift=0, cutout=0.5)({"x": x}, generator())["x"]
    hidden = covered != x
    assert torch.equal(hidden[:, 0], hidden[:, 1])
    mean = x.mean((2, 3), keepdim=True).expand_as(x)
    assert torch.equal(covered[hidden], mean[hidden])
    rows, cols = hidden[:, 0].any(2), hidden[:, 0].any(1)
    assert int(rows.sum(1).max()) == int(cols.sum(1).max()) == 6
    assert torch.equal(hidden[:, 0], rows[:, :, None] & cols[:, None, :])
    pixels = Augment(flip=False, shift=0, cutout=0.5)({"x": X}, generator())["x"]
    assert pixels.dtype == torch.uint8


def test_mixup_mixes_the_inputs_of_a_sample_alike():
    a, b = torch.eye(30).view(30, 30, 1), torch.eye(30)
    found = Augment(flip=False, shift=0, mixup=0.5)({"a": a, "b": b}, generator())
    assert torch.equal(found["a"][..., 0], found["b"])
    shares = found["b"]
    assert torch.allclose(shares.sum(1), torch.ones(30))
    mixed = (shares > 0).sum(1) > 1
    assert 5 < int(mixed.sum()) < 25
    assert torch.equal(shares[~mixed], b[~mixed])
    alone = Augment(flip=False, shift=0, mixup=1.0)({"b": b[:1]}, generator())["b"]
    assert torch.equal(alone, b[:1])


def test_the_generator_decides():
    every = Augment(True, 0.25, 0.25, 0.5)
    one, again, other = (every({"x": X}, generator(s))["x"] for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", ["shift", "cutout", "mixup"])
def test_shares_outside_of_their_domain(name):
    with pytest.raises(UsageError) as error:
        Augment(**{name: 1.5})
    assert str(error.value) == f"augmentation {name} = 1.5: give a share from 0 to 1"


def graph_of(*kinds: str) -> Graph:
    names = tuple(f"x{i}" for i in range(len(kinds)))
    tensors = {n: Tensor(n, ("N", 3, 6, 8), kind) for n, kind in zip(names, kinds, strict=True)}
    op = Add() if len(kinds) > 1 else Activation("relu")
    return infer_graph(Graph((Node("it", op, names, ("y",)),), names, ("y",), tensors))


def test_what_inputs_allow():
    every = Augment(True, 0.25, 0.25, 0.5)
    assert possible(graph_of("float32"), every) == every
    assert possible(graph_of("uint8"), every) == every
    assert possible(graph_of("int64"), every) == Augment(False, 0.0, 0.0, 0.0)
    assert possible(graph_of("float32", "float32"), every) == Augment(False, 0.0, 0.0, 0.5)
    assert possible(graph_of("float32", "int32"), every) == Augment(False, 0.0, 0.0, 0.0)


def test_what_the_original_does_not_bear_is_dropped():
    x = {"x": X.float()}
    every = Augment(True, 0.5, 0.9, 0.5)
    assert suited(every, lambda v: torch.zeros(len(v["x"])), x, generator()) == every
    # which half is brighter: mirrored samples are decided the other way round
    halves = suited(every, lambda v: v["x"][..., :4].sum((1, 2, 3)) > v["x"][..., 4:].sum((1, 2, 3)), x, generator())
    assert not halves.flip
    picky = suited(every, lambda v: v["x"][:, 0, 0, 0].round(), x, generator())
    assert (picky.flip, picky.shift, picky.cutout, picky.mixup) == (False, 0.0, 0.0, 0.5)
