"""ONNX operations that the graph carries through as they are, in TensorFlow: those that only move values.

They are stated on ONNX's own layout, so each is done there; the converter drops transpositions that undo each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from decascade.deploy.tflite.layout import to_first, to_last
from decascade.errors import UsageError
from decascade.formats.base import Document
from decascade.ir.graph import Node

Lower = Callable[[Any, Node, Sequence[Any]], Any]
"""The output of a node that the graph does not understand, from its inputs in the layout of `tf_layout`."""


def lower_onnx(document: Document) -> Lower:
    """Rules for the foreign nodes of an ONNX document."""
    graph, view = document.graph, document.state.view

    def lowered(tf: Any, node: Node, xs: Sequence[Any]) -> Any:
        indices = list[int](node.native or ())
        if len(indices) != 1 or len(node.inputs) != 1:
            raise UsageError(f"{getattr(node.op, 'kind', '')} is not understood, so it cannot be exported to TFLite from here")
        native = view.natives[indices[0]]
        rule = RULES.get(native.kind) if native.standard else None
        shape = graph.shape(node.output)
        if rule is None or shape is None or not all(isinstance(n, int) for n in shape[1:]):
            raise UsageError(f"{native.kind} is not understood, so it cannot be exported to TFLite from here")
        return to_last(tf, rule(tf, native.attributes, to_first(tf, xs[0]), shape[1:]))

    return lowered


def _transpose(tf: Any, attributes: Mapping[str, Any], x: Any, shape: Sequence[int]) -> Any:
    order = list(attributes.get("perm") or range(len(x.shape) - 1, -1, -1))
    if order[0] != 0:
        raise UsageError(f"a Transpose by {order} moves the batch: it cannot be exported to TFLite from here")
    return tf.transpose(x, list(order))


def _reshape(tf: Any, attributes: Mapping[str, Any], x: Any, shape: Sequence[int]) -> Any:
    return tf.reshape(x, (x.shape[0], *shape))


def _depth_to_space(tf: Any, attributes: Mapping[str, Any], x: Any, shape: Sequence[int]) -> Any:
    block, (n, channels, height, width) = int(attributes["blocksize"]), x.shape
    kept = channels // block**2
    if attributes.get("mode", "DCR") == "DCR":
        parts = tf.transpose(tf.reshape(x, (n, block, block, kept, height, width)), (0, 3, 4, 1, 5, 2))
    else:
        parts = tf.transpose(tf.reshape(x, (n, kept, block, block, height, width)), (0, 1, 4, 2, 5, 3))
    return tf.reshape(parts, (n, *shape))


RULES: Mapping[str, Callable[..., Any]] = {
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "DepthToSpace": _depth_to_space,
}
"""In all of them the batch stays first."""
