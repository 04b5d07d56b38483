"""The magnitudes and noise that tolerances are made of."""

from __future__ import annotations

import numpy as np
import pytest

from cascades import random_cascade
from decascade.algebra.conv import Conv
from decascade.checking.rounding import run_rounded, spread, terms, unit
from decascade.errors import CannotInterpret
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.interpret import run
from decascade.ir.ops import Activation, Dense, Foreign, GlobalPool, Pool


def test_unit_roundoff() -> None:
    assert unit("float32") == 2**-24
    assert unit("float16") == 2**-11
    assert unit("bfloat16") == 2**-8
    assert unit("int64") == 0


def test_terms() -> None:
    conv = Conv(np.ones((4, 3, 5, 5)), groups=2)
    assert terms(conv, 99) == 76
    assert terms(Dense(Conv(np.ones((4, 7)))), 1) == 8
    assert terms(Pool("avg", (2, 3), (1, 1), ((0, 0), (0, 0)), (1, 1)), 99) == 6
    assert terms(Pool("max", (2, 3), (1, 1), ((0, 0), (0, 0)), (1, 1)), 99) == 0
    assert terms(GlobalPool("avg"), 99) == 99


@pytest.mark.parametrize("seed", range(20))
def test_spread_bounds_the_values(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = random_cascade(rng)
    x = rng.standard_normal((2, *graph.shape("x")[1:]))
    bound, count = spread(graph.nodes, "x", "y", x)
    value = run(graph, {"x": x})["y"]
    assert (np.abs(value) <= bound * (1 + 1e-12)).all()
    assert count > 0


def test_spread_stops_at_an_exponential() -> None:
    with pytest.raises(CannotInterpret, match="exp has no largest slope"):
        spread([Node("e", Activation("exp"), ("x",), ("y",))], "x", "y", np.ones((1, 2, 3)))


def test_allowance_covers_float32_in_another_order(rng: np.random.Generator) -> None:
    """A product summed in float32, first term to last, stays within what is allowed, and that is no blank cheque."""
    weight = rng.standard_normal((6, 200))
    x = rng.standard_normal((50, 200)).astype("f4")
    tensors = {"x": Tensor("x", ("N", 200)), "y": Tensor("y", ("N", 6))}
    graph = Graph((Node("d", Dense(Conv(weight)), ("x",), ("y",)),), ("x",), ("y",), tensors)
    found = run_rounded(graph, {"x": x}, rng)
    exact, stored = found.outputs["y"], weight.astype("f4")
    assert np.array_equal(exact, run(graph, {"x": x})["y"])
    total = np.zeros((50, 6), "f4")
    for i in range(200):
        total += x[:, i : i + 1] * stored[:, i]
    error = np.abs(total - exact).max()
    assert 0 < error < found.computed["y"] < 1000 * error
    rounded = np.abs(x @ stored.T.astype("f8") - exact).max()
    assert 0 < rounded < found.stored["y"] < 1000 * rounded
    assert found.stored["y"] < found.computed["y"] / 5


def test_whole_numbers_pass_through(rng: np.random.Generator) -> None:
    tensors = {"x": Tensor("x", ("N", 2), "int64"), "y": Tensor("y", ("N", 2), "int64")}
    op = Foreign("Halve", lambda arrays: [arrays[0] // 2])
    found = run_rounded(Graph((Node("f", op, ("x",), ("y",)),), ("x",), ("y",), tensors), {"x": np.array([[3, 4]])}, rng)
    assert found.outputs["y"].dtype == np.int64
    assert found.outputs["y"].tolist() == [[1, 2]]
    assert found.computed == {"y": 0.0}
