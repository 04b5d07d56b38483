"""The oracle: a graph run in NumPy in float64, each operation straight from its definition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import reduce
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv, ConvTranspose, crop_or_pad
from decascade.errors import CannotInterpret, GraphError, UsageError
from decascade.ir.activations import activate
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import (
    Activation,
    Add,
    Affine,
    BiasMap,
    Concat,
    Dense,
    Flatten,
    Foreign,
    GlobalPool,
    Identity,
    Op,
    Pad,
    Pool,
    Product,
    Select,
    Slice,
    Upsample,
)
from decascade.ir.shapes import infer, show

AnyArray = NDArray[Any]
F64 = NDArray[np.float64]


def run(graph: Graph, inputs: Mapping[str, AnyArray], keep: Iterable[str] = ()) -> dict[str, AnyArray]:
    """The graph's outputs, and the tensors named in `keep`, by name; floating values in float64.

    Only nodes that these need are run.  A tensor in the middle of the graph may be given in `inputs` too: it is then
    taken as given, so that a part of the graph can be run alone.  Intermediate results are freed after their last use.

    Raises:
        UsageError: an input is missing, unknown, or not of its stated shape (the batch is free); `keep` has an unknown name.
        CannotInterpret: a needed node is `Foreign` and has no meaning in NumPy.
        GraphError: an operation does not fit its inputs; names the node.
    """
    wanted = dict.fromkeys((*graph.outputs, *keep))
    _check_names(graph, inputs, wanted)
    nodes = needed_nodes(graph, inputs.keys(), wanted)
    values: dict[str, AnyArray] = {name: _floats(array) for name, array in inputs.items()}
    uses = Counter(name for node in nodes for name in node.inputs)
    for node in nodes:
        values.update(zip(node.outputs, _evaluate_node(node, [values[n] for n in node.inputs]), strict=True))
        uses.subtract(node.inputs)
        for name in {*node.inputs, *node.outputs}:
            if not uses[name] and name not in wanted:
                values.pop(name, None)
    return {name: values[name] for name in wanted}


def evaluate(op: Op, arrays: Sequence[AnyArray]) -> list[AnyArray]:
    """The outputs of one operation in float64; those that only move values keep the type of what they move.

    Raises:
        GraphError: the arrays do not fit the operation.
        CannotInterpret: a `Foreign` without a meaning in NumPy.
    """
    infer(op, [array.shape for array in arrays])
    if isinstance(op, Foreign):
        if op.evaluate is None:
            raise CannotInterpret(f"{op.kind} has no meaning in NumPy: this model cannot be run by the interpreter")
        return [_floats(np.asarray(array)) for array in op.evaluate(arrays)]
    moved = _move(op, arrays)
    if moved is not None:
        return [moved]
    kind: Any = np.complex128 if any(np.iscomplexobj(array) for array in arrays) else np.float64
    return [_compute(op, [np.asarray(array, dtype=kind) for array in arrays])]


def _floats(array: AnyArray) -> AnyArray:
    array = np.asarray(array)
    return array.astype(np.float64, copy=False) if np.issubdtype(array.dtype, np.floating) else array


def _check_names(graph: Graph, inputs: Mapping[str, AnyArray], wanted: Iterable[str]) -> None:
    for name in wanted:
        if name not in graph.tensors:
            raise UsageError(f"no tensor {name} in the graph to keep")
    for name, array in inputs.items():
        if name not in graph.tensors:
            raise UsageError(f"no tensor {name} in the graph: its inputs are {', '.join(graph.inputs)}")
        shape = graph.shape(name)
        given = np.shape(array)
        fits = shape is None or (
            len(shape) == len(given)
            and all(isinstance(d, str) or d == n for d, n in zip(shape[1:], given[1:], strict=True))
        )
        if not fits:
            raise UsageError(f"input {name} of shape {given} does not fit its stated shape {show(shape)}")


def needed_nodes(graph: Graph, given: Set[str], wanted: Iterable[str]) -> list[Node]:
    """The nodes that lead from the tensors `given` to those `wanted`, in order.

    Raises:
        UsageError: a graph input is needed and not given.
    """
    needed = set(wanted) - given
    nodes: list[Node] = []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            nodes.append(node)
            needed.difference_update(node.outputs)
            needed.update(name for name in node.inputs if name not in given)
    if needed:
        raise UsageError(f"input {min(needed)} is missing: give an array for it")
    return nodes[::-1]


def _evaluate_node(node: Node, arrays: Sequence[AnyArray]) -> list[AnyArray]:
    try:
        results = evaluate(node.op, arrays)
    except (GraphError, CannotInterpret) as error:
        raise type(error)(f"{node.name}: {error}") from None
    if len(results) != len(node.outputs):
        raise GraphError(f"{node.name}: {len(results)} results for {len(node.outputs)} outputs")
    return results


def flatten(x: AnyArray, op: Flatten) -> AnyArray:
    """(N, C, *S) → (N, C·ΠS)."""
    ordered = x if op.order == "channels_first" else np.moveaxis(x, 1, -1)
    return ordered.reshape(x.shape[0], prod(x.shape[1:]))


def _move(op: Op, arrays: Sequence[AnyArray]) -> AnyArray | None:
    """Operations that only move values; None for all others."""
    x = arrays[0]
    match op:
        case Identity():
            return x
        case Flatten():
            return flatten(x, op)
        case Concat():
            return np.concatenate(arrays, axis=op.axis)
        case Select():
            return x[:, op.indices]
        case Slice():
            return x[(*(slice(None),) * op.axis, slice(op.start, op.stop))]
        case Upsample():
            for axis, factor in enumerate(op.factor, start=2):
                x = np.repeat(x, factor, axis)
            return x
        case _:
            return None


def _compute(op: Op, arrays: Sequence[F64]) -> F64:
    x = arrays[0]
    match op:
        case Conv() | ConvTranspose():
            return op(x)
        case Dense():
            flat = op.layer(x.reshape(-1, x.shape[-1]))
            return flat.reshape(*x.shape[:-1], op.layer.out_channels)
        case Affine():
            return _column(op.scale, x.ndim) * x + _column(op.shift, x.ndim)
        case Pool():
            return _pool(op, x)
        case GlobalPool():
            axes = tuple(range(2, x.ndim))
            return x.mean(axes, keepdims=op.keepdims) if op.kind == "avg" else x.max(axes, keepdims=op.keepdims)
        case Pad():
            return crop_or_pad(x, (op.channels, *op.pads), op.value)
        case Add():
            signs = op.signs or (1,) * len(arrays)
            return reduce(np.add, (a if s > 0 else -a for a, s in zip(arrays, signs, strict=True)))
        case Product():
            return reduce(np.multiply, arrays)
        case BiasMap():
            return x + op.values.astype(np.float64)
        case Activation():
            return activate(op, x)
        case _:
            raise CannotInterpret(f"no rule for {type(op).__name__}")


def _column(values: AnyArray, rank: int) -> F64:
    return values.astype(np.float64).reshape(-1, *(1,) * (rank - 2))


def _pool(op: Pool, x: F64) -> F64:
    """Sum, maximum and count of a window are those of its axes, one after the other."""
    if op.kind == "max":
        return _sweep(op, crop_or_pad(x, op.padding, -np.inf), np.maximum)
    summed = _sweep(op, crop_or_pad(x, op.padding), np.add)
    if op.count_padding:
        return summed / prod(op.kernel)
    inside = crop_or_pad(np.ones((1, 1, *x.shape[2:])), op.padding)
    # a window that lies wholly in the padding averages nothing: 0
    return summed / np.maximum(_sweep(op, inside, np.add), 1)


def _sweep(op: Pool, x: F64, join: Callable[[F64, F64], F64]) -> F64:
    for axis, (k, s, d) in enumerate(zip(op.kernel, op.stride, op.dilation, strict=True), start=2):
        count = (x.shape[axis] - (k - 1) * d - 1) // s + 1
        lead = (slice(None),) * axis
        parts = [x[(*lead, slice(t * d, t * d + (count - 1) * s + 1, s))] for t in range(k)]
        x = reduce(join, parts)
    return x
