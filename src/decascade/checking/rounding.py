"""How far rounding alone can move a result: bounds and noise from the arithmetic, no fixed tolerances.

A stored or computed float has relative error at most u, half its dtype's spacing (2⁻²⁴ for float32).  An inner
product of n terms computed in any order is off by about λ·√n·u·Σ|w||x| with high probability (Higham & Mary 2019,
"A new approach to probabilistic rounding error analysis"; λ = 2 here), and by at most γ_n·Σ|w||x|, γ_n = n·u/(1−n·u).
Σ|w||x| is what the *magnitude* of an operation computes from the absolute values of its inputs.

Below the smallest normal number the error of a result is bounded by a constant η instead (`algebra.floats.FloatType.underflow`): for
a sum of n terms by u·Σ|w||x| + η at each, so by λ·√n·(u·Σ|w||x| + η) in all.  With the floor f = η/u that is
λ·√n·u·(Σ|w||x| + f), and a stored weight is off by at most u·max(|w|, f).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod, sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv, ConvTranspose, Layer
from decascade.algebra.floats import float_type
from decascade.errors import CannotInterpret
from decascade.ir.graph import Graph, Node
from decascade.ir.interpret import evaluate
from decascade.ir.ops import (
    Activation,
    Add,
    Affine,
    BiasMap,
    Dense,
    Foreign,
    GlobalPool,
    Op,
    Pad,
    Pool,
    Product,
    definition_of,
)
from decascade.ir.ops.activation import activate

Errs = Literal["number", "channel", "stored"]
DRAWS: tuple[Errs, ...] = ("number", "channel", "stored", "stored")
LAMBDA = 2.0
U64 = 2.0**-53
STEEPEST = {"relu": 1.0, "clip": 1.0, "abs": 1.0, "neg": 1.0, "softsign": 1.0, "tanh": 1.0, "sigmoid": 0.25, "softplus": 1.0,
            "gelu": 1.13, "gelu_tanh": 1.13, "silu": 1.1, "hard_swish": 1.5, "selu": 1.76}
"""Largest slope of the activations that have one, rounded up; those with numbers of their own are in `_slope`."""
PIECEWISE = frozenset({"relu", "clip", "abs", "neg", "leaky_relu", "prelu"})


def unit(dtype: str) -> float:
    """u of a dtype: half the spacing at 1; 0 for one that does not round."""
    kind = float_type(dtype)
    return 0.0 if kind is None else kind.u


def floor(dtype: str) -> float:
    """The size below which errors are those of numbers of that size: where subnormal numbers are rounded or flushed."""
    kind = float_type(dtype)
    return 0.0 if kind is None else kind.floor


def terms(op: Op, size: int) -> int:
    """Length of the sums in `op`; `size`: spatial positions of its input."""
    match op:
        case Conv():
            return op.weight[0].size + 1
        case ConvTranspose():
            return op.in_channels // op.groups * prod(op.kernel) + 1
        case Dense():
            return op.layer.weight.shape[1] + 1
        case Pool(kind="avg"):
            return prod(op.kernel)
        case GlobalPool(kind="avg"):
            return size
        case Affine() | BiasMap() | Add() | Activation():
            return 2
        case _:
            return 0


def magnitude(op: Op) -> Op:
    """The operation that maps bounds on |x| to bounds on the sums of absolute values in `op`, and errors to errors.

    Raises:
        CannotInterpret: an operation that has no largest slope (an exponential, something foreign).
    """
    match op:
        case Conv() | ConvTranspose():
            return _absolute(op)
        case Dense():
            layer = _absolute(op.layer)
            assert isinstance(layer, Conv)
            return Dense(layer)
        case Affine():
            return Affine(np.abs(op.scale), np.abs(op.shift))
        case BiasMap():
            return BiasMap(np.abs(op.values))
        case Pad():
            return replace(op, value=abs(op.value))
        case Add():
            return Add()
        case Foreign():
            raise CannotInterpret(f"{op.kind} has no known largest slope")
        case Product():
            raise CannotInterpret("a product has no largest slope")
        case _:
            return op


def _absolute(layer: Layer) -> Layer:
    bias = None if layer.bias is None else np.abs(layer.bias)
    return type(layer)(np.abs(layer.weight), bias, layer.stride, layer.dilation, layer.padding, layer.groups)


def _slope(op: Activation) -> float:
    match op.kind:
        case "leaky_relu" | "elu":
            return max(1.0, abs(op.params[0]))
        case "hard_sigmoid":
            return abs(op.params[0])
        case "prelu" if op.slope is not None:
            return max(1.0, float(np.abs(op.slope).max()))
        case _ if op.kind in STEEPEST:
            return STEEPEST[op.kind]
        case _:
            raise CannotInterpret(f"{op.kind} has no largest slope")


def magnitudes(op: Op, arrays: list[NDArray[Any]]) -> NDArray[np.float64]:
    """Bounds on the sums of absolute values in `op`, from bounds on the absolute values of its inputs."""
    if isinstance(op, Activation):
        at_zero = np.abs(activate(op, np.zeros((1, arrays[0].shape[1], *(1,) * (arrays[0].ndim - 2)))))
        return _slope(op) * arrays[0] + at_zero
    return evaluate(magnitude(op), arrays)[0]


def spread(nodes: Iterable[Node], entry: str, exit_: str, x: NDArray[Any]) -> tuple[NDArray[np.float64], int]:
    """Σ|w||x| through a segment, as an array of the shape of its output, and the number of its terms in series.

    Raises:
        CannotInterpret: an operation in it has no largest slope.
    """
    values: dict[str, NDArray[Any]] = {entry: np.abs(x)}
    count = 0
    for node in nodes:
        arrays = [values[name] for name in node.inputs]
        count += terms(node.op, prod(arrays[0].shape[2:]))
        values[node.output] = magnitudes(node.op, arrays)
    return values[exit_], count


@dataclass(frozen=True, eq=False)
class Rounded:
    """A model's outputs in float64, and how far each can be moved: by float arithmetic, and by rounding of weights alone."""

    outputs: dict[str, NDArray[Any]]
    computed: dict[str, float]
    stored: dict[str, float]


def run_rounded(graph: Graph, inputs: Mapping[str, NDArray[Any]], rng: np.random.Generator) -> Rounded:
    """The graph in float64, beside runs in which every operation is off by what rounding in its own dtype can do to it.

    The signs of the errors are random.  Errors of sums are drawn once per number and once per channel; errors of stored
    weights, which err the same way everywhere, per channel.  Twice the largest effect that a draw has on an output counts.

    Raises:
        CannotInterpret: an operation without a meaning in NumPy.
    """
    first = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in inputs.items()}
    values: dict[str, list[NDArray[Any]]] = {k: [v] * (1 + len(DRAWS)) for k, v in first.items()}
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    for node in graph.nodes:
        _run_node(graph, node, values, rng)
        uses.subtract(node.inputs)
        for name in node.inputs:
            if not uses[name] and name not in graph.outputs:
                values.pop(name, None)
    computed, stored = dict[str, float](), dict[str, float]()
    for name in graph.outputs:
        clean, *others = values[name]
        effects = [2 * largest(other - clean) if clean.dtype.kind == "f" else 0.0 for other in others]
        stored[name] = max(e for e, draw in zip(effects, DRAWS, strict=True) if draw == "stored")
        computed[name] = max(*effects, least_of(graph, name, clean))
    return Rounded({name: values[name][0] for name in graph.outputs}, computed, stored)


def largest(values: NDArray[Any]) -> float:
    """The largest absolute value that is finite."""
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def _run_node(graph: Graph, node: Node, values: dict[str, list[NDArray[Any]]], rng: np.random.Generator) -> None:
    read = [values[name] for name in node.inputs]
    clean = [arrays[0] for arrays in read]
    results = evaluate(node.op, clean)
    same = all(array is arrays[0] for arrays in read for array in arrays)
    others = [results if same else evaluate(node.op, [arrays[i] for arrays in read]) for i in range(1, 1 + len(DRAWS))]
    for k, (name, result) in enumerate(zip(node.outputs, results, strict=True)):
        values[name] = [result, *(other[k] for other in others)]
        u = unit_of(graph, name)
        if u and result.dtype.kind == "f":
            noise = _noise(node.op, clean, result, floor(graph.tensors[name].dtype))
            for i, draw in enumerate(DRAWS, start=1):
                if noise[draw] is not None:
                    values[name][i] = values[name][i] + u * noise[draw] * _signs(result.shape, draw, rng)


def unit_of(graph: Graph, name: str) -> float:
    return unit(graph.tensors[name].dtype)


def least_of(graph: Graph, name: str, value: NDArray[Any]) -> float:
    """What rounding of the output alone does to it."""
    dtype = graph.tensors[name].dtype
    return LAMBDA * unit(dtype) * (largest(value) + floor(dtype))


def _signs(shape: tuple[int, ...], draw: Errs, rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.choice((-1.0, 1.0), shape if draw == "number" else (1, *shape[1:2], *(1,) * (len(shape) - 2))[: len(shape)])


def _noise(op: Op, arrays: list[NDArray[Any]], result: NDArray[Any], least: float) -> dict[Errs, Any]:
    """The size of the errors in units of u, for each kind of draw; None for none.  `least`: the floor of the type."""
    length = terms(op, prod(arrays[0].shape[2:]) if arrays and arrays[0].ndim > 2 else 1)
    if isinstance(op, Foreign | Product) or (isinstance(op, Activation) and op.kind not in PIECEWISE):
        # exponentials and the like are good to a few units in the last place of 1, whatever the implementation
        size: NDArray[Any] = LAMBDA * (np.abs(result) + (not isinstance(op, Foreign | Product)))
    elif not length or isinstance(op, Activation):
        return dict.fromkeys(DRAWS, None)
    else:
        size = LAMBDA * magnitudes(op, [np.abs(a) for a in arrays])
    size = np.where(np.isfinite(size), size, 0.0)
    many = sqrt(max(length, 1)) * (size + LAMBDA * least)
    return {"number": many, "channel": many, "stored": _stored(op, arrays, least)}


def _stored(op: Op, arrays: list[NDArray[Any]], least: float) -> NDArray[Any] | None:
    """λ·Σ max(|w|, floor)·|x|: what errors of stored weights are in units of u; None where none are stored."""
    if not isinstance(op, (Conv, ConvTranspose, Dense, Affine, BiasMap)):
        return None
    size = LAMBDA * magnitudes(at_least(op, least), [np.abs(a) for a in arrays])
    return np.where(np.isfinite(size), size, 0.0)


def at_least(op: Op, least: float) -> Op:
    """An operation with the sizes of its weights, none of them below `least`: bounds on what their rounding is relative to."""
    definition = definition_of(op)
    return definition.with_weights(op, {k: np.maximum(np.abs(w), least) for k, w in definition.weights(op).items()})
