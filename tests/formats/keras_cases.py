"""What the Keras tests share: models with random weights, and the comparison with the interpreter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from decascade.formats.base import Document
from decascade.formats.keras.base import output_names
from decascade.formats.keras.format import FORMAT
from decascade.ir.check import check
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.interpret import run
from decascade.ir.ops import Foreign, Op
from decascade.ir.shapes import infer_graph

keras: Any = pytest.importorskip("keras")
L: Any = keras.layers

Arrays = dict[str, np.ndarray[Any, Any]]


def randomized(model: Any, seed: int = 0) -> Any:
    """Small random weights; variances positive."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        values = rng.normal(0, 0.5, tuple(weight.shape))
        if str(weight.dtype).startswith(("float", "bfloat")):
            weight.assign(np.abs(values) + 0.5 if "variance" in weight.path else values)
    return model


def chain(shape: Sequence[int | None], *layers: Any, dtype: str = "float32") -> Any:
    """A functional model of layers in a row, with random weights."""
    x = y = keras.Input(tuple(shape), name="x", dtype=dtype)
    for layer in layers:
        y = layer(y)
    return randomized(keras.Model(x, y))


def sample(document: Document, sizes: Mapping[int, int] | None = None, batch: int = 2, seed: int = 1) -> Arrays:
    """Random native inputs; unknown sizes (by axis) from `sizes`, else 7."""
    rng = np.random.default_rng(seed)
    found: Arrays = {}
    for tensor in document.native.inputs:
        shape = [batch, *((sizes or {}).get(i, 7) if n is None else n for i, n in enumerate(tensor.shape[1:], 1))]
        values = rng.normal(0, 1, shape) if "float" in tensor.dtype else rng.integers(0, 9, shape)
        found[tensor._keras_history[0].name] = values.astype(tensor.dtype)
    return found


def by_interpreter(document: Document, graph: Graph, inputs: Arrays) -> Arrays:
    return run(graph, {n: FORMAT.to_graph(document, n, a) for n, a in inputs.items()})


def close(document: Document, native: Arrays, graph: Arrays, tolerance: float) -> None:
    assert list(dict.fromkeys(native)) == list(graph)
    for name, array in graph.items():
        ours = FORMAT.to_graph(document, name, native[name])
        assert ours.shape == array.shape
        np.testing.assert_allclose(ours, array, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(array).max())))


def agrees(model: Any, sizes: Mapping[int, int] | None = None, tolerance: float = 2e-6) -> Document:
    """The graph of a model means what Keras computes, and written without a change the model is the same."""
    document = FORMAT.read(model)
    check(document.graph)
    inputs = sample(document, sizes)
    results = FORMAT.run(model, inputs)
    close(document, results, by_interpreter(document, document.graph, inputs), tolerance)
    written = FORMAT.write(document, document.graph)
    assert output_names(written) == output_names(model)
    again = FORMAT.run(written, inputs)
    for name, array in results.items():
        np.testing.assert_array_equal(again[name], array)
    return document


def op(document: Document, name: str) -> Any:
    return next(n.op for n in document.graph.nodes if n.name == name)


def swapped(graph: Graph, gone: Sequence[str], *new: tuple[str, Op, Sequence[str], str], dtype: str = "float32") -> Graph:
    """The graph without some nodes, with new ones (name, op, inputs, output); shapes may change after them."""
    assert set(gone) <= {n.name for n in graph.nodes}
    made = [Node(name, op, tuple(reads), (writes,)) for name, op, reads, writes in new]
    tensors = {w: Tensor(w, None, dtype) for _, _, _, w in new if w not in graph.tensors}
    nodes = [n for n in graph.nodes if n.name not in gone]
    graph = graph.with_nodes([*nodes, *made], tensors)
    free = {w for n in graph.nodes if not isinstance(n.op, Foreign) for w in n.outputs}
    known = {n: replace(t, shape=None) if n in free else t for n, t in graph.tensors.items()}
    return infer_graph(replace(graph, tensors=known))


def writes(document: Document, graph: Graph, tolerance: float = 2e-6, sizes: Mapping[int, int] | None = None) -> Any:
    """The model written for a changed graph: computes what the graph means, its outputs named as they were."""
    check(graph)
    model = FORMAT.write(document, graph)
    assert output_names(model) == output_names(document.native)
    assert all(type(layer).__module__.startswith("keras.") for layer in model._flatten_layers())
    inputs = sample(document, sizes)
    close(document, FORMAT.run(model, inputs), by_interpreter(document, graph, inputs), tolerance)
    return model
