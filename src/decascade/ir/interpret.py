"""The oracle: a graph run in NumPy in float64, each operation straight from its definition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.errors import CannotInterpret, GraphError, UsageError
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import Foreign, Op, definition_of
from decascade.ir.shapes import infer, show

AnyArray = NDArray[Any]


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
    definition = definition_of(op)
    if definition.moves:
        return [definition.meaning(op, arrays)]
    kind: Any = np.complex128 if any(np.iscomplexobj(array) for array in arrays) else np.float64
    return [definition.meaning(op, [np.asarray(array, dtype=kind) for array in arrays])]


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
