"""Interval and backward bounds of every operation on its own, by the tables that its adjoint is tested with."""

from __future__ import annotations

import numpy as np
import pytest

from bounds.test_linear import LINEAR, OTHER
from decascade.bounds.backward import Tracer, neuron_bounds
from decascade.bounds.box import Box
from decascade.bounds.forward import run
from decascade.bounds.interval import propagate
from decascade.ir import ops
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.ops import Activation, Pool
from decascade.ir.shapes import infer_graph

ACTIVATIONS = {
    f"{kind}{params}": (Activation(kind, params), (4, 3, 3))
    for kind, params in [
        ("relu", ()), ("clip", (0.0, 6.0)), ("clip", (-0.3, 0.4)), ("leaky_relu", (0.1,)), ("abs", ()), ("neg", ()),
        ("hard_swish", ()), ("hard_sigmoid", (0.2, 0.5)), ("sigmoid", ()), ("tanh", ()), ("silu", ()), ("gelu", ()),
        ("gelu_tanh", ()), ("softplus", ()), ("softsign", ()), ("elu", (0.5,)), ("selu", ()), ("exp", ()), ("softmax", (1.0,)),
    ]
}  # fmt: skip
CASES = {**LINEAR, **OTHER, **ACTIVATIONS}


def alone(name: str) -> Graph:
    op, *shapes = CASES[name]
    inputs = tuple(f"x{i}" for i in range(len(shapes)))
    tensors = {n: Tensor(n, ("N", *s)) for n, s in zip(inputs, shapes, strict=True)} | {"y": Tensor("y", None)}
    return infer_graph(Graph((Node("op", op, inputs, ("y",), ("op",)),), inputs, ("y",), tensors))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("lo", "hi"), [(-1.5, 1.0), (0.25, 0.75), (-4.0, -2.0)])
def test_bounds_hold(name, lo, hi):
    graph, rng = alone(name), np.random.default_rng(0)
    box = Box.of(graph, dict.fromkeys(graph.inputs, (lo, hi)))
    bounds, samples = propagate(graph, box), {}
    for n in graph.inputs:
        shape = (*graph.shape(n)[1:], 40)
        corners = np.where(rng.random(shape) < rng.random(40), lo, hi)
        samples[n] = np.concatenate([rng.uniform(lo, hi, shape), corners], axis=-1)
    for dtype in (np.float32, np.float64):
        found = {}
        run(graph, {k: v.astype(dtype) for k, v in samples.items()}, found.__setitem__)
        y, own = found["y"].astype(np.float64), bounds["y"]
        assert np.isfinite(own.lo).all()
        assert np.isfinite(own.hi).all()
        assert (y >= own.lo[..., None]).all()
        assert (y <= own.hi[..., None]).all()
        for _ in range(4):
            at = tuple(int(rng.integers(n)) for n in y.shape[1:-1])
            low, high = neuron_bounds(Tracer(graph, bounds), "y", range(len(y)), at)
            here = y[(slice(None), *at)]
            assert (here >= low[:, None]).all()
            assert (here <= high[:, None]).all()
            # no looser than intervals by more than what the trace puts aside for rounding
            width = own.hi[(slice(None), *at)] - own.lo[(slice(None), *at)]
            assert (high - low <= 1.001 * width + 1e-5).all() or isinstance(CASES[name][0], (Activation, Pool))


def test_no_operation_is_left_out():
    """Every operation of the graph but those that nothing is known of."""
    known = {type(op) for op, *_ in CASES.values()}
    every = {v for v in vars(ops).values() if isinstance(v, type) and v.__module__ == ops.__name__}
    assert {v.__name__ for v in every - known} <= {"Foreign"}
