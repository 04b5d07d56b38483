"""Shape inference: what each operation does to the sizes of its inputs, symbolic sizes included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from decascade.errors import GraphError
from decascade.ir import dims
from decascade.ir.dims import show
from decascade.ir.graph import Graph, Node, Shape, Tensor
from decascade.ir.ops import Foreign, Op, definition_of
from decascade.ir.ops.sums import multiplies

__all__ = ["compatible", "infer", "infer_graph", "infer_node", "multiplies", "show"]


def infer(op: Op, shapes: Sequence[Shape | None]) -> tuple[Shape | None, ...]:
    """The shapes of the outputs of `op` on inputs of these shapes.

    None where not even the rank is known; so for every `Foreign`, whose caller keeps what the format knows of it.

    Raises:
        GraphError: wrong number of inputs, or ranks, channels or sizes that do not fit the operation.
    """
    definition = definition_of(op)
    (least, most), count = definition.inputs, len(shapes)
    if count < least or (most is not None and count > most):
        wanted = f"{least}" if least == most else f"{least} or more"
        raise GraphError(f"{type(op).__name__} takes {wanted} inputs, it has {count}")
    return (definition.shape(op, shapes),)


def infer_graph(graph: Graph) -> Graph:
    """The graph with every shape that can be inferred filled in.  Symbols give way to numbers.

    Tensors without an entry get one, of the element type of the node's first input.

    Raises:
        GraphError: an operation does not fit its inputs, or a stated shape not the inferred one; names node and shapes.
    """
    tensors: dict[str, Tensor] = dict(graph.tensors)
    for node in graph.nodes:
        for name, shape in zip(node.outputs, infer_node(node, tensors), strict=True):
            dtype = tensors[node.inputs[0]].dtype if node.inputs else "float32"
            known = tensors.get(name, Tensor(name, None, dtype))
            tensors[name] = replace(known, shape=_reconciled(node, name, known.shape, shape))
    return replace(graph, tensors=tensors)


def infer_node(node: Node, tensors: Mapping[str, Tensor]) -> tuple[Shape | None, ...]:
    """`infer` on a node, one entry per output; its errors name the node.

    Raises:
        GraphError: as `infer`, or an input without an entry, or a wrong number of outputs.
    """
    missing = [name for name in node.inputs if name not in tensors]
    if missing:
        raise GraphError(f"{node.name} reads {missing[0]}, which has no tensor entry")
    if not isinstance(node.op, Foreign) and len(node.outputs) != 1:
        raise GraphError(f"{node.name}: {type(node.op).__name__} has one output, the node writes {len(node.outputs)}")
    try:
        found = infer(node.op, [tensors[name].shape for name in node.inputs])
    except GraphError as error:
        raise GraphError(f"{node.name}: {error}") from None
    return (None,) * len(node.outputs) if isinstance(node.op, Foreign) else found


def _reconciled(node: Node, name: str, stated: Shape | None, found: Shape | None) -> Shape | None:
    if stated is None or found is None:
        return found if stated is None else stated
    # the inferred symbol first: it is derived from the graph's inputs, a stated one is often a serial number
    both = dims.joined(found, stated)
    if both is None:
        raise GraphError(f"{node.name}: writes {name} of shape {show(found)}, stated as {show(stated)}")
    return both


def compatible(a: Shape | None, b: Shape | None) -> bool:
    """Whether two shapes may be the same: equal ranks and no two numbers that differ."""
    return a is None or b is None or dims.joined(a, b) is not None
