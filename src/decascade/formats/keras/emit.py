"""New nodes as plain Keras layers.

Chosen so that they are stored in .keras and in HDF5, load without decascade, and convert with the TFLite converter:
- a scale and shift per channel: a depthwise 1×1 convolution (1-D, 2-D), else `Rescaling` with the numbers as lists;
- a bias map, and padding with another constant than zero: `Rescaling` with the map as its offset;
- constant channels: a 1×1 convolution with a zero kernel, its bias the constant, concatenated;
- picked channels: cropped where they are neighbours, else a 1×1 convolution with a one per row;
- kernels over a stride with a dilation, which Keras refuses, and transposed ones with a dilation, which TFLite
  refuses: spread out with zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from decascade.algebra.conv import Conv, ConvTranspose
from decascade.errors import GraphError
from decascade.formats.keras import emit_conv as conv
from decascade.formats.keras import emit_moves as moves
from decascade.formats.keras.activations import write_layer
from decascade.formats.keras.base import keras, native_axis
from decascade.formats.keras.emitter import Emitter
from decascade.ir.graph import Node
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
    Pad,
    Pool,
    Product,
    Select,
    Slice,
    Upsample,
)
from decascade.ir.ops.table import Table

Rule = Callable[[Emitter, Any, Sequence[Any]], Any]


def emit(to: Emitter, node: Node, given: Sequence[Any], function: Any = None) -> Any:
    """The tensor that the node writes; `function` is the user's own activation function behind it.

    Raises:
        GraphError: the node has no form in Keras.
    """
    if function is not None and isinstance(node.op, (Activation, Foreign)):
        if isinstance(function, keras().layers.Layer) and function.weights:
            raise GraphError(f"{node.name}: its activation {function.name} has weights, it cannot be moved")
        return to.put("Activation", given[0], activation=function)
    rule = RULES.get(node.op)
    if rule is None:
        raise GraphError(f"{node.name}: a new {type(node.op).__name__} cannot be written in Keras")
    return rule(to, node.op, given)


def _on_one(make: Callable[[Emitter, Any, Any], Any]) -> Rule:
    return lambda to, op, given: make(to, op, given[0])


def _add(to: Emitter, op: Add, given: Sequence[Any]) -> Any:
    signs = op.signs or (1,) * len(given)
    if tuple(signs) == (1, -1):
        return to.put("Subtract", list(given))
    terms = [x if s > 0 else to.put("Rescaling", x, name="minus", scale=-1.0) for x, s in zip(given, signs, strict=True)]
    return to.put("Add", terms) if len(terms) > 1 else terms[0]


def _activation(to: Emitter, op: Activation, x: Any) -> Any:
    layer = write_layer(op, len(x.shape), to.layout, {"name": to.unique(), **to.policy()})
    result = to.level.call(layer, x)
    if op.slope is not None:
        layer.set_weights([op.slope.reshape(layer.alpha.shape)])
    return result


def _dense(to: Emitter, op: Dense, x: Any) -> Any:
    return conv.dense(to, op.layer, x)


def _bias_map(to: Emitter, op: BiasMap, x: Any) -> Any:
    return to.shift(to.floating(x), op.values)


def _product(to: Emitter, _: Product, given: Sequence[Any]) -> Any:
    return to.put("Multiply", list(given))


def _concat(to: Emitter, op: Concat, given: Sequence[Any]) -> Any:
    return to.put("Concatenate", list(given), axis=native_axis(op.axis, len(given[0].shape), to.layout))


def _identity(_: Emitter, __: Identity, x: Any) -> Any:
    return x


def _global_pool(to: Emitter, op: GlobalPool, x: Any) -> Any:
    kind = "Average" if op.kind == "avg" else "Max"
    return to.put(f"Global{kind}Pooling{len(x.shape) - 2}D", x, keepdims=op.keepdims, ordered=True)


def _select(to: Emitter, op: Select, x: Any) -> Any:
    return moves.select(to, op.indices, x)


def _upsample(to: Emitter, op: Upsample, x: Any) -> Any:
    return moves.repeat(to, op.factor, x)


RULES: Table[Rule] = Table(
    "new Keras layers",
    {
        Conv: _on_one(conv.convolution), ConvTranspose: _on_one(conv.transposed), Dense: _on_one(_dense),
        Affine: _on_one(conv.affine), BiasMap: _on_one(_bias_map), Add: _add, Product: _product, Concat: _concat,
        Activation: _on_one(_activation), Identity: _on_one(_identity), Pool: _on_one(moves.pool),
        GlobalPool: _on_one(_global_pool), Flatten: _on_one(moves.flatten), Pad: _on_one(moves.pad), Select: _on_one(_select),
        Slice: _on_one(moves.cut), Upsample: _on_one(_upsample),
    },
    {Foreign: "never made anew: the model's own layers are kept"},
)
