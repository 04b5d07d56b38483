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

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from decascade.algebra.conv import Conv, ConvTranspose, Pads
from decascade.errors import GraphError
from decascade.formats.keras import emit_conv as conv
from decascade.formats.keras import emit_moves as moves
from decascade.formats.keras.activations import write_layer
from decascade.formats.keras.base import AnyArray, Layout, channel_axis, keras, native_axis, to_native
from decascade.ir.graph import Node
from decascade.ir.names import Names
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


class Recorder(Protocol):
    """Where the calls of new layers are made and remembered."""

    names: set[str]
    promised: set[str]
    """Names of the model's outputs, for the layers that make them."""

    def call(self, layer: Any, *args: Any, **kwargs: Any) -> Any: ...


@dataclass(eq=False)
class Emitter:
    """Makes the layers of one node.  `name`: what the last of them shall be called."""

    level: Recorder
    layout: Layout
    dtype: Any
    name: str
    made: list[str] = field(default_factory=list[str])

    def emit(self, node: Node, given: Sequence[Any], function: Any = None) -> Any:
        """The tensor that the node writes; `function` is the user's own activation function behind it.

        Raises:
            GraphError: the node has no form in Keras.
        """
        if function is not None and isinstance(node.op, (Activation, Foreign)):
            if isinstance(function, keras().layers.Layer) and function.weights:
                raise GraphError(f"{node.name}: its activation {function.name} has weights, it cannot be moved")
            return self.put("Activation", given[0], activation=function)
        rule = RULES.get(node.op)
        if rule is None:
            raise GraphError(f"{node.name}: a new {type(node.op).__name__} cannot be written in Keras")
        return rule(self, node.op, given)

    def put(
        self, kind: str, x: Any, weights: Sequence[AnyArray] = (), name: str = "", ordered: bool = False, **options: Any
    ) -> Any:
        """Calls a new layer of this class.  `ordered`: it takes a data_format; `name` marks a helper of the node's."""
        if ordered:
            options = {"data_format": self.layout, **options}
        layer = getattr(keras().layers, kind)(name=self.unique(name), **self.policy(), **options)
        result = self.level.call(layer, x)
        if weights:
            layer.set_weights(list(weights))
        return result

    def policy(self) -> dict[str, Any]:
        return {} if self.dtype is None else {"dtype": self.dtype}

    def unique(self, part: str = "") -> str:
        """A layer name that TensorFlow's name scopes take, not in use in this model."""
        base = re.sub(r"[^A-Za-z0-9_.-]+", "_", f"{self.name}_{part}" if part else self.name).lstrip("_.-") or "layer"
        others = self.level.promised - {self.name} if not part else self.level.promised
        name = Names(self.level.names | others, first=1).fresh(base)
        self.level.names.add(name)
        return name

    def size(self, x: Any) -> tuple[int | None, ...]:
        """The spatial size of a symbolic tensor."""
        shape = tuple(x.shape)
        return shape[1:-1] if self.layout == "channels_last" and len(shape) > 2 else shape[2:]

    def channels(self, x: Any) -> int:
        return int(x.shape[channel_axis(len(x.shape), self.layout)])

    def floating(self, x: Any) -> Any:
        """Pixels may come as integers, which a convolution does not take."""
        return x if "float" in str(x.dtype) else self.put("Rescaling", x, name="cast", scale=1.0)

    def shift(self, x: Any, values: AnyArray, name: str = "") -> Any:
        """x + values, which has no batch axis and is in the graph's layout."""
        native = to_native(values[None], self.layout)[0]
        return self.put("Rescaling", x, name=name, scale=1.0, offset=native.astype(np.float64).tolist())

    def spread(self, values: AnyArray, rank: int) -> list[Any]:
        """Numbers per channel as a nested list that broadcasts against a tensor of this rank."""
        shape = [1] * max(rank - 1, 3 if rank > 2 else 1)
        shape[channel_axis(rank, self.layout) - rank] = -1
        return values.astype(np.float64).reshape(shape).tolist()

    def zeros(self, x: Any, pads: Pads, name: str) -> Any:
        """Crops, then pads with zeros."""
        rank = len(pads)
        ordered = rank > 1
        crops = [(max(-lo, 0), max(-hi, 0)) for lo, hi in pads]
        frame = [(max(lo, 0), max(hi, 0)) for lo, hi in pads]
        if rank == 1 and self.layout == "channels_first":
            # the 1-D layers know channels-last alone
            return moves.along_one_axis(self, x, crops[0], frame[0], name)
        helper = name if any(lo or hi for lo, hi in frame) else ""
        if any(lo or hi for lo, hi in crops):
            last = name if not any(lo or hi for lo, hi in frame) else f"{name}_crop" if name else "crop"
            x = self.put(f"Cropping{rank}D", x, name=last, cropping=crops[0] if rank == 1 else crops, ordered=ordered)
        if any(lo or hi for lo, hi in frame):
            x = self.put(f"ZeroPadding{rank}D", x, name=helper, padding=frame[0] if rank == 1 else frame, ordered=ordered)
        return x

    def add(self, op: Add, given: Sequence[Any]) -> Any:
        signs = op.signs or (1,) * len(given)
        if tuple(signs) == (1, -1):
            return self.put("Subtract", list(given))
        terms = [x if s > 0 else self.put("Rescaling", x, name="minus", scale=-1.0) for x, s in zip(given, signs, strict=True)]
        return self.put("Add", terms) if len(terms) > 1 else terms[0]

    def activation(self, op: Activation, given: Sequence[Any]) -> Any:
        x = given[0]
        layer = write_layer(op, len(x.shape), self.layout, {"name": self.unique(), **self.policy()})
        result = self.level.call(layer, x)
        if op.slope is not None:
            layer.set_weights([op.slope.reshape(layer.alpha.shape)])
        return result


Rule = Callable[[Emitter, Any, Sequence[Any]], Any]


def _on_one(make: Callable[[Emitter, Any, Any], Any]) -> Rule:
    return lambda to, op, given: make(to, op, given[0])


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
        Affine: _on_one(conv.affine), BiasMap: _on_one(_bias_map), Add: Emitter.add, Product: _product, Concat: _concat,
        Activation: Emitter.activation, Identity: _on_one(_identity), Pool: _on_one(moves.pool),
        GlobalPool: _on_one(_global_pool), Flatten: _on_one(moves.flatten), Pad: _on_one(moves.pad), Select: _on_one(_select),
        Slice: _on_one(moves.cut), Upsample: _on_one(_upsample),
    },
    {Foreign: "never made anew: the model's own layers are kept"},
)
