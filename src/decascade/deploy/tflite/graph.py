"""A model as a TensorFlow function of fixed sizes: Keras models by themselves, all others through the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from decascade.algebra.conv import Conv
from decascade.deploy.tflite.carried import Lower
from decascade.deploy.tflite.conv import pixel_convolution
from decascade.deploy.tflite.layout import to_first
from decascade.deploy.tflite.ops import TENSORFLOW, lower_op
from decascade.deploy.tools import module
from decascade.errors import DecascadeError, UsageError
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import Dense, Flatten
from decascade.ir.shapes import show

USE = "export to TFLite"


@dataclass(frozen=True, eq=False)
class Traced:
    """A concrete TensorFlow function: inputs and outputs in the graph's order, channels-last, float32.

    `shapes`: those of its inputs, the batch first (None where it was left open).
    """

    function: Any
    shapes: tuple[tuple[int | None, ...], ...]


def trace_graph(graph: Graph, batch: int | None = 1, foreign: Lower | None = None, pixels: bool = False) -> Traced:
    """The graph with its weights as constants.

    `foreign`: what to do with nodes that the graph does not understand.  Outputs that one of them writes keep the graph's
    own layout (see `plain_outputs`).  `pixels`: dense layers become convolutions of one pixel.

    Raises:
        UsageError: TensorFlow is not installed; an open size; an operation that TFLite has no form for, named.
    """
    tf = module("tensorflow", USE)
    graph = with_channels_last_flattens(graph)
    specs = [tf.TensorSpec(_input_shape(graph, name, batch), tf.float32) for name in graph.inputs]
    traced = tf.function(_caller(tf, graph, foreign, pixels), input_signature=specs, autograph=False).get_concrete_function()
    return Traced(traced, tuple(tuple(spec.shape) for spec in specs))


def trace_keras(model: Any, inputs: Sequence[str], batch: int | None = 1) -> Traced:
    """A Keras model (TensorFlow backend) called as it is, in inference, its variables frozen.

    Raises:
        UsageError: an open size; another backend than TensorFlow.
    """
    tf = module("tensorflow", USE)
    keras = module("keras", USE)
    if keras.backend.backend() != "tensorflow":
        raise UsageError(f"Keras runs on {keras.backend.backend()} here: export needs its TensorFlow backend")
    specs = list[Any]()
    for name, given in zip(inputs, model.inputs, strict=True):
        sizes = tuple(given.shape[1:])
        if None in sizes:
            raise UsageError(f"input {name} has an open size, {given.shape}: a device file needs sizes that are fixed")
        specs.append(tf.TensorSpec((batch, *sizes), given.dtype))

    def call(*arrays: Any) -> Any:
        structure = keras.tree.pack_sequence_as(model._inputs_struct, list(arrays))
        return tuple(keras.tree.flatten(model(structure, training=False)))

    traced = tf.function(call, input_signature=specs, autograph=False).get_concrete_function()
    freeze: Any = _freezer()
    return Traced(freeze(traced), tuple(tuple(spec.shape) for spec in specs))


def _freezer() -> Callable[[Any], Any]:
    from importlib import import_module

    return import_module("tensorflow.python.framework.convert_to_constants").convert_variables_to_constants_v2


def _caller(tf: Any, graph: Graph, foreign: Lower | None, pixels: bool) -> Callable[..., Any]:
    plain = plain_outputs(graph)

    def call(*arrays: Any) -> Any:
        values = dict(zip(graph.inputs, arrays, strict=True))
        for node in graph.nodes:
            values[node.output] = _lowered(tf, node, [values[name] for name in node.inputs], foreign, pixels)
        return tuple(to_first(tf, values[name]) if name in plain else values[name] for name in graph.outputs)

    return call


def plain_outputs(graph: Graph) -> frozenset[str]:
    """Outputs that are no maps of channels for all that is known: what writes them is not understood."""
    return frozenset(n for n in graph.outputs if n in graph.producer and graph.producer[n].op not in TENSORFLOW)


def _lowered(tf: Any, node: Node, xs: Sequence[Any], foreign: Lower | None, pixels: bool) -> Any:
    try:
        if foreign is not None and node.op not in TENSORFLOW:
            return foreign(tf, node, xs)
        if pixels and isinstance(node.op, Dense):
            return pixel_convolution(tf, node.op.layer, xs[0])
        return lower_op(tf, node.op, xs)
    except DecascadeError as error:
        raise UsageError(f"{node.name}: {error}") from None


def _input_shape(graph: Graph, name: str, batch: int | None) -> tuple[int | None, ...]:
    shape = graph.shape(name)
    if shape is None or not all(isinstance(n, int) for n in shape[1:]):
        raise UsageError(
            f"input {name} has shape {show(shape)}: a device file needs sizes that are fixed; give the model a stated shape"
        )
    sizes = [n for n in shape[1:] if isinstance(n, int)]
    return (batch, *sizes[1:], sizes[0]) if len(sizes) > 1 else (batch, *sizes)


def with_channels_last_flattens(graph: Graph) -> Graph:
    """The same function, a flatten before dense layers running channels-last: their columns move instead of the data."""
    readers = {name: [n for n in graph.nodes if name in n.inputs] for name in graph.tensors}
    moved = dict[str, Node]()
    for node in graph.nodes:
        shape = graph.shape(node.inputs[0])
        if not isinstance(node.op, Flatten) or node.op.order != "channels_first" or shape is None or len(shape) < 3:
            continue
        behind = readers[node.output]
        if node.output in graph.outputs or not behind or not all(isinstance(n.op, Dense) for n in behind):
            continue
        moved[node.name] = replace(node, op=Flatten("channels_last"))
        moved.update({n.name: replace(n, op=_columns_moved(n.op, shape[1])) for n in behind if isinstance(n.op, Dense)})
    return replace(graph, nodes=tuple(moved.get(node.name, node) for node in graph.nodes)) if moved else graph


def _columns_moved(op: Dense, channels: object) -> Dense:
    layer = op.layer
    if layer.groups > 1 or not isinstance(channels, int):
        raise UsageError("a grouped dense layer behind a flatten cannot be exported")
    weight = layer.weight.reshape(layer.out_channels, channels, -1).swapaxes(1, 2).reshape(layer.out_channels, -1)
    return Dense(Conv(weight, layer.bias))
