"""A graph as compact, stable text: one line per node, for golden tests and for reading.

    model (x: float32 [N, 3, 8, 8])
    a = Conv(8x3x3x3 rms 0.192, bias rms 0.1, pad 1) x : [N, 8, 8, 8]
    y = Activation(relu) a : [N, 8, 8, 8]
    return y

Weights show as their shape and root mean square in three digits: enough to see that a kernel changed, and the same on
every machine.  Fields at their default are left out.  `@name` follows where the node is not called as its output.
"""

from __future__ import annotations

from decascade.ir.graph import Graph, Node, Shape
from decascade.ir.ops import Op, definition_of


def to_text(graph: Graph) -> str:
    """The graph in lines: name and inputs, one line per node, the outputs.  Ends without a newline."""
    heads = [f"{n}: {graph.tensors[n].dtype} {_shape(graph.shape(n))}" for n in graph.inputs]
    lines = [f"{graph.name} ({', '.join(heads)})"]
    lines += [node_text(node, graph) for node in graph.nodes]
    return "\n".join([*lines, f"return {', '.join(graph.outputs)}"])


def node_text(node: Node, graph: Graph) -> str:
    """outputs = Op(fields) inputs : shapes"""
    shapes = ", ".join(_shape(graph.shape(n)) for n in node.outputs)
    notes = [f"@{node.name}"] if node.outputs != (node.name,) else []
    notes += [f"pinned: {node.pinned}"] if node.pinned else []
    tail = "".join(f"  {note}" for note in notes)
    return f"{', '.join(node.outputs)} = {op_text(node.op)} {', '.join(node.inputs)} : {shapes}{tail}"


def op_text(op: Op) -> str:
    """Conv(16x8x3x3 rms 0.1, stride 2, pad 1): the operation and its fields that are not at their default."""
    return f"{type(op).__name__}({', '.join(definition_of(op).text(op))})"


def _shape(shape: Shape | None) -> str:
    return "?" if shape is None else f"[{', '.join(map(str, shape))}]"
