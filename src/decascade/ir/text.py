"""A graph as compact, stable text: one line per node, for golden tests and for reading.

    model (x: float32 [N, 3, 8, 8])
    a = Conv(8x3x3x3 rms 0.192, bias rms 0.1, pad 1) x : [N, 8, 8, 8]
    y = Activation(relu) a : [N, 8, 8, 8]
    return y

Weights show as their shape and root mean square in three digits: enough to see that a kernel changed, and the same on
every machine.  Fields at their default are left out.  `@name` follows where the node is not called as its output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv, ConvTranspose, Pads
from decascade.ir.graph import Graph, Node, Shape
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
    Op,
    Pad,
    Pool,
    Select,
    Slice,
    Upsample,
)


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
    if isinstance(op, Dense):
        return f"Dense({', '.join(_layer(op.layer))})"
    return f"{type(op).__name__}({', '.join(_fields(op))})"


def _fields(op: Op) -> list[str]:
    match op:
        case Conv() | ConvTranspose():
            return _layer(op)
        case Affine():
            return [f"{op.scale.size} scale rms {_rms(op.scale)}", f"shift rms {_rms(op.shift)}"]
        case Pool():
            geometry = _geometry(op.stride, op.dilation, op.padding)
            return [op.kind, _times(op.kernel), *geometry, *(["count padding"] if op.count_padding else [])]
        case GlobalPool():
            return [op.kind, *([] if op.keepdims else ["no keepdims"])]
        case Flatten():
            return [] if op.order == "channels_first" else [op.order]
        case Pad():
            value = [f"value {op.value:g}"] if op.value else []
            return [_pads(op.pads), *([f"channels {_pads((op.channels,))}"] if any(op.channels) else []), *value]
        case Add():
            return ["".join("+" if s > 0 else "-" for s in op.signs)] if any(s < 0 for s in op.signs) else []
        case Concat():
            return [f"axis {op.axis}"]
        case Select():
            return [_indices(op.indices)]
        case Slice():
            return [f"axis {op.axis}", f"{op.start}:{op.stop}"]
        case Upsample():
            return [_times(op.factor)]
        case BiasMap():
            return [_array(op.values)]
        case Activation():
            numbers = [f"{p:g}" for p in op.params]
            return [" ".join([op.kind, *numbers]), *([f"slope {_array(op.slope)}"] if op.slope is not None else [])]
        case Foreign():
            return [op.kind, *([] if op.evaluate else ["no meaning"])]
        case _:
            return []


def _layer(layer: Conv | ConvTranspose) -> list[str]:
    bias = [] if layer.bias is None else [f"bias rms {_rms(layer.bias)}"]
    groups = [f"groups {layer.groups}"] if layer.groups > 1 else []
    return [_array(layer.weight), *bias, *_geometry(layer.stride, layer.dilation, layer.padding), *groups]


def _geometry(stride: Sequence[int], dilation: Sequence[int], padding: Pads) -> list[str]:
    shown = [f"{name} {_same(v)}" for name, v in (("stride", stride), ("dilation", dilation)) if any(n != 1 for n in v)]
    return [*shown, *([f"pad {_pads(padding)}"] if any(map(any, padding)) else [])]


def _same(values: Sequence[int]) -> str:
    """2 where all axes agree, else 2x1."""
    return str(values[0]) if len(set(values)) == 1 else _times(values)


def _pads(pads: Pads) -> str:
    """1 where all sides agree; 0:1 where all axes do; else 0:1x1:2."""
    axes = [str(lo) if lo == hi else f"{lo}:{hi}" for lo, hi in pads]
    return axes[0] if len(set(axes)) == 1 else "x".join(axes)


def _times(values: Sequence[int]) -> str:
    return "x".join(map(str, values))


def _array(values: NDArray[Any]) -> str:
    return f"{_times(values.shape)} rms {_rms(values)}"


def _rms(values: NDArray[Any]) -> str:
    # 0.0 stays 0; three digits are the same on every machine but for values that lie on a rounding edge
    return f"{float(np.sqrt(np.mean(np.square(values.astype(np.float64))))):.3g}"


def _indices(indices: NDArray[np.int64]) -> str:
    """3:7 for a run, else the list, its middle left out where it is long."""
    values = [int(i) for i in indices]
    if values == list(range(values[0], values[0] + len(values))):
        return f"{values[0]}:{values[0] + len(values)}"
    listed = [str(v) for v in values]
    return " ".join(listed if len(listed) <= 12 else [*listed[:10], "...", listed[-1], f"({len(listed)})"])


def _shape(shape: Shape | None) -> str:
    return "?" if shape is None else f"[{', '.join(map(str, shape))}]"
