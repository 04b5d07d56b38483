"""Forward and adjoint of every operation against the interpreter; the adjoint identity ⟨a, f(x)⟩ = ⟨fᵀa, x⟩ + constant."""

from __future__ import annotations

import numpy as np
import pytest

from decascade.algebra.conv import Conv, ConvTranspose
from decascade.bounds.adjoint import PULL, Form, pull
from decascade.bounds.forward import apply
from decascade.errors import CannotInterpret
from decascade.ir.interpret import evaluate
from decascade.ir.ops import (
    Activation,
    Add,
    Affine,
    BiasMap,
    Concat,
    Dense,
    Flatten,
    GlobalPool,
    Identity,
    Pad,
    Pool,
    Product,
    Select,
    Slice,
    Upsample,
)
from decascade.ir.ops.traits import moves_values

RNG = np.random.default_rng(3)


def normal(*shape):
    return RNG.normal(size=shape)


LINEAR = {
    "conv": (Conv(normal(5, 4, 3, 2), normal(5), 1, 1, ((1, 0), (0, 2))), (4, 7, 6)),
    "conv cropped": (Conv(normal(5, 4, 3, 3), normal(5), 1, 1, ((-1, 2), (1, -2))), (4, 7, 6)),
    "conv dilated": (Conv(normal(5, 4, 3, 3), None, 1, (2, 1), 2), (4, 7, 6)),
    "conv strided": (Conv(normal(6, 4, 3, 3), normal(6), (2, 3), 1, ((1, 1), (0, 1))), (4, 9, 8)),
    "conv grouped": (Conv(normal(6, 2, 3, 3), normal(6), (2, 1), (1, 2), 1, 2), (4, 9, 8)),
    "depthwise": (Conv(normal(4, 1, 3, 3), normal(4), 1, 1, 1, 4), (4, 6, 5)),
    "depthwise multiplier": (Conv(normal(8, 1, 3, 3), None, 2, 1, 1, 4), (4, 6, 5)),
    "conv 1-D": (Conv(normal(3, 2, 4), normal(3), 2, 1, 1), (2, 11)),
    "conv 3-D": (Conv(normal(3, 2, 2, 3, 2), normal(3), 1, 1, 1), (2, 4, 5, 3)),
    "transposed": (ConvTranspose(normal(4, 3, 3, 3), normal(3), 2, 1, 1), (4, 4, 5)),
    "transposed grouped": (ConvTranspose(normal(4, 3, 2, 3), normal(6), (2, 1), (1, 2), ((0, 1), (-1, 1)), 2), (4, 4, 5)),
    "dense": (Dense(Conv(normal(5, 7), normal(5))), (7,)),
    "dense on the last axis": (Dense(Conv(normal(5, 7), normal(5))), (3, 4, 7)),
    "affine": (Affine(normal(4), normal(4)), (4, 3, 3)),
    "average": (Pool("avg", (3, 2), (2, 1), ((1, 1), (0, 1)), (1, 1)), (4, 7, 6)),
    "average with padding": (Pool("avg", (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), count_padding=True), (4, 7, 6)),
    "global average": (GlobalPool("avg"), (4, 3, 5)),
    "global average, flat": (GlobalPool("avg", keepdims=False), (4, 3, 5)),
    "flatten": (Flatten(), (3, 4, 2)),
    "flatten channels last": (Flatten("channels_last"), (3, 4, 2)),
    "pad": (Pad(((1, 2), (0, 3)), 0.7), (3, 4, 5)),
    "crop": (Pad(((-1, 2), (-2, 0)), -1.5), (3, 4, 5)),
    "pad channels": (Pad(((0, 1), (0, 0)), 1.0, (1, 2)), (3, 4, 5)),
    "cut channels": (Pad(((0, 1), (0, 0)), 1.0, (-1, 2)), (3, 4, 5)),
    "add": (Add((1, -1, 1)), (3, 4, 5), (3, 4, 5), (3, 4, 5)),
    "concat": (Concat(), (3, 4, 5), (2, 4, 5)),
    "concat rows": (Concat(2), (3, 4, 5), (3, 2, 5)),
    "select": (Select(np.array([2, 0, 0])), (3, 4, 5)),
    "slice": (Slice(3, 1, 4), (3, 4, 5)),
    "upsample": (Upsample((2, 3)), (3, 4, 3)),
    "identity": (Identity(), (3, 4)),
    "bias map": (BiasMap(normal(3, 4, 5)), (3, 4, 5)),
}
OTHER = {
    "max pool": (Pool("max", (3, 2), (2, 1), ((1, 1), (0, 1)), (1, 1)), (4, 7, 6)),
    "global max": (GlobalPool("max"), (4, 3, 5)),
    "product": (Product(), (4, 3, 5), (4, 1, 1), (1, 3, 5)),
    "relu": (Activation("relu"), (4, 3)),
    "clip": (Activation("clip", (-0.5, 0.7)), (4, 3, 3)),
    "prelu": (Activation("prelu", (), normal(4)), (4, 3, 3)),
    "hard_swish": (Activation("hard_swish"), (4, 3, 3)),
    "softmax": (Activation("softmax", (1.0,)), (4, 3, 3)),
}


@pytest.mark.parametrize("name", [*LINEAR, *OTHER])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_forward_is_what_the_interpreter_says(name, dtype):
    op, *shapes = {**LINEAR, **OTHER}[name]
    arrays = [RNG.normal(size=(2, *s)) for s in shapes]
    (found,) = apply(op, [np.moveaxis(a, 0, -1).astype(dtype) for a in arrays])
    wanted = evaluate(op, arrays)[0]
    assert found.dtype == dtype
    assert np.abs(np.moveaxis(found, -1, 0) - wanted).max() <= (1e-5 if dtype == np.float32 else 1e-13)


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("whole", [True, False])
def test_adjoint_is_the_transpose(name, whole):
    op, *shapes = LINEAR[name]
    arrays = [RNG.normal(size=(1, *s)) for s in shapes]
    y = evaluate(op, arrays)[0][0]
    whole = whole or (name == "dense on the last axis")
    for _ in range(6):
        window = tuple((0, n) if whole else tuple(sorted(RNG.choice(n + 1, 2, replace=False))) for n in y.shape[1:])
        if name == "flatten" or name.startswith("flatten"):
            window = ()
        a = RNG.normal(size=(y.shape[0], *(q - p for p, q in window), 2))
        form = Form(a, window)
        back, constant = pull(op, form, list(shapes))
        left = np.tensordot(y[form.where], a, y.ndim)
        right = constant + sum(
            np.tensordot(x[0][f.where], f.coefficients, x.ndim - 1) for x, f in zip(arrays, back, strict=True)
        )
        assert np.abs(left - right).max() <= 1e-11


@pytest.mark.parametrize("name", [n for n, (op, *_) in LINEAR.items() if moves_values(op)])
@pytest.mark.parametrize("whole", [True, False])
def test_what_only_moves_values_needs_no_rule(name, whole, monkeypatch):
    """Its adjoint follows from its meaning, as do its bounds."""
    monkeypatch.delitem(PULL.rules, type(LINEAR[name][0]))
    test_adjoint_is_the_transpose(name, whole)



def test_a_maximum_is_not_linear():
    with pytest.raises(CannotInterpret, match="a maximum is not linear"):
        pull(Pool("max", (2,), (2,), ((0, 0),), (1,)), Form(np.ones((1, 1, 1)), ((0, 1),)), [(1, 4)])
