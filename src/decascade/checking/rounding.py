"""How far rounding alone can move a result: bounds and noise from the arithmetic, no fixed tolerances.

A stored or computed float has relative error at most u, half its dtype's spacing (2⁻²⁴ for float32).  An inner
product of n terms computed in any order is off by about λ·√n·u·Σ|w||x| with high probability (Higham & Mary 2019,
"A new approach to probabilistic rounding error analysis"; λ = 2 here), and by at most γ_n·Σ|w||x|, γ_n = n·u/(1−n·u).
Σ|w||x| is what the *magnitude* of an operation computes from the absolute values of its inputs.

Below the smallest normal number the error of a result is bounded by a constant η instead
(`algebra.floats.FloatType.underflow`): for a sum of n terms by u·Σ|w||x| + η at each, so by λ·√n·(u·Σ|w||x| + η) in all.
With the floor f = η/u that is λ·√n·u·(Σ|w||x| + f), and a stored weight is off by at most u·max(|w|, f).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod, sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv, ConvTranspose
from decascade.algebra.floats import float_type
from decascade.errors import CannotInterpret
from decascade.ir.graph import Graph, Node
from decascade.ir.interpret import evaluate
from decascade.ir.ops import Activation, Add, Affine, BiasMap, Dense, Foreign, GlobalPool, Op, Pad, Pool, Product
from decascade.ir.ops.activation import activate, kind_of
from decascade.ir.ops.table import Table
from decascade.ir.ops.traits import activation_kind, is_linear, layer_of, moves_values, weights, with_weights, words

Errs = Literal["number", "channel", "stored"]
DRAWS: tuple[Errs, ...] = ("number", "channel", "stored", "stored")
LAMBDA = 2.0
U64 = 2.0**-53


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
    rule = SUMS.get(op)
    return 0 if rule is None else rule.terms(op, size)


def magnitudes(op: Op, arrays: list[NDArray[Any]]) -> NDArray[np.float64]:
    """Bounds on the sums of absolute values in `op`, from bounds on the absolute values of its inputs; on errors likewise.

    Raises:
        CannotInterpret: an operation that has no largest slope (an exponential, something foreign).
    """
    rule = SUMS.get(op)
    if rule is None:
        raise CannotInterpret(f"{words(op)} has no known largest slope")
    return rule.magnitudes(op, arrays)


@dataclass(frozen=True)
class Sums:
    """Of one class of operations: the length of its sums, from the positions of its input, and `magnitudes`."""

    terms: Callable[[Any, int], int]
    magnitudes: Callable[[Any, list[NDArray[Any]]], NDArray[np.float64]]


def _none(_: Op, __: int) -> int:
    return 0


def _two(_: Op, __: int) -> int:
    return 2


def _layer_terms(op: Conv | ConvTranspose | Dense, _: int) -> int:
    layer = layer_of(op)
    assert layer is not None
    inputs = layer.in_channels // layer.groups if isinstance(layer, ConvTranspose) else layer.weight.shape[1]
    return inputs * prod(layer.kernel) + 1


def _pool_terms(op: Pool, _: int) -> int:
    return prod(op.kernel) if op.kind == "avg" else 0


def _global_pool_terms(op: GlobalPool, size: int) -> int:
    return size if op.kind == "avg" else 0


def _by_itself(op: Op, arrays: list[NDArray[Any]]) -> NDArray[np.float64]:
    return evaluate(op, arrays)[0]


def _by_absolute_weights(op: Op, arrays: list[NDArray[Any]]) -> NDArray[np.float64]:
    return evaluate(with_weights(op, {name: np.abs(array) for name, array in weights(op).items()}), arrays)[0]


def _pad(op: Pad, arrays: list[NDArray[Any]]) -> NDArray[np.float64]:
    return evaluate(replace(op, value=abs(op.value)), arrays)[0]


def _add(_: Add, arrays: list[NDArray[Any]]) -> NDArray[np.float64]:
    return evaluate(Add(), arrays)[0]


def _activation(op: Activation, arrays: list[NDArray[Any]]) -> NDArray[np.float64]:
    at_zero = np.abs(activate(op, np.zeros((1, arrays[0].shape[1], *(1,) * (arrays[0].ndim - 2)))))
    return _slope(op) * arrays[0] + at_zero


def _slope(op: Activation) -> float:
    steepest = kind_of(op).steepest
    if steepest is None:
        raise CannotInterpret(f"{op.kind} has no largest slope")
    return steepest(op) if callable(steepest) else steepest


_MOVED = Sums(_none, _by_itself)


def _by_traits(op: Op) -> Sums | None:
    return _MOVED if moves_values(op) else None


SUMS: Table[Sums] = Table(
    "the rounding of results",
    {
        **dict.fromkeys((Conv, ConvTranspose, Dense), Sums(_layer_terms, _by_absolute_weights)),
        **dict.fromkeys((Affine, BiasMap), Sums(_two, _by_absolute_weights)),
        Pool: Sums(_pool_terms, _by_itself), GlobalPool: Sums(_global_pool_terms, _by_itself), Pad: Sums(_none, _pad),
        Add: Sums(_two, _add), Activation: Sums(_two, _activation),
    },
    {Product: "a product has no largest slope", Foreign: "nothing is known of it"},
    _by_traits,
)
"""What has no rule is good to a few units in the last place of its result, and its magnitude is not known."""


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
    function = activation_kind(op)
    if op not in SUMS or (function is not None and not function.piecewise):
        # exponentials and the like are good to a few units in the last place of 1, whatever the implementation
        size: NDArray[Any] = LAMBDA * (np.abs(result) + (function is not None))
    elif not length or function is not None:
        return dict.fromkeys(DRAWS, None)
    else:
        size = LAMBDA * magnitudes(op, [np.abs(a) for a in arrays])
    size = np.where(np.isfinite(size), size, 0.0)
    many = sqrt(max(length, 1)) * (size + LAMBDA * least)
    return {"number": many, "channel": many, "stored": _of_weights(op, arrays, least)}


def _of_weights(op: Op, arrays: list[NDArray[Any]], least: float) -> NDArray[Any] | None:
    """λ·Σ max(|w|, floor)·|x|: what errors of stored weights are in units of u; None where none are stored, or where
    no rule says how they are added up."""
    if op not in SUMS or not is_linear(op) or not weights(op):
        return None
    size = LAMBDA * magnitudes(at_least(op, least), [np.abs(a) for a in arrays])
    return np.where(np.isfinite(size), size, 0.0)


def at_least(op: Op, least: float) -> Op:
    """A linear operation with the sizes of its weights, none below `least`: bounds on what their rounding is relative to.

    Other operations stay as they are.
    """
    if not is_linear(op):
        return op
    return with_weights(op, {name: np.maximum(np.abs(array), least) for name, array in weights(op).items()})
