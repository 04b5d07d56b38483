"""One suite that every format passes: random cascades written natively, read back, merged and run by the framework.

A new format is a row of `ROWS`: a native model that hands its one input on, for a channels-first shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, cast

import numpy as np
import pytest

from cascades import random_cascade, random_input
from decascade.algebra.conv import Conv
from decascade.cost import target_named
from decascade.formats.base import Document, Format
from decascade.ir.graph import Graph
from decascade.ir.interpret import run
from decascade.ir.ops import Affine, Dense, Op
from decascade.regions.merge import Options, merge_graph

Shape = tuple[Any, ...]
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


@dataclass(frozen=True)
class Row:
    """A format: its module, the framework it needs, and a native identity model for an input shape (batch first)."""

    module: str
    framework: str
    identity: Callable[[Shape], Any]

    def load(self) -> Format:
        pytest.importorskip(self.framework)
        return import_module(self.module).FORMAT


def _onnx(shape: Shape) -> Any:
    helper: Any = import_module("onnx").helper
    x = helper.make_tensor_value_info("x", 1, shape)
    y = helper.make_tensor_value_info("y", 1, None)
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"], "carrier")], "carrier", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _keras(shape: Shape) -> Any:
    keras: Any = import_module("keras")
    last = (*shape[2:], shape[1]) if keras.config.image_data_format() == "channels_last" else shape[1:]
    x = keras.Input(last, name="x")
    return keras.Model(x, keras.layers.Identity(name="carrier")(x))


def _torch(shape: Shape) -> Any:
    torch: Any = import_module("torch")

    class Carrier(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.clone(x)

    return Carrier().eval()


ROWS: Mapping[str, Row] = {
    "onnx": Row("decascade.formats.onnx.format", "onnxruntime", _onnx),
    "keras": Row("decascade.formats.keras.format", "keras", _keras),
    "torch": Row("decascade.formats.torch.format", "torch", _torch),
}


def _read(form: Format, native: Any, shape: Shape) -> Document:
    reader: Any = form.read
    return reader(native, input_shape=shape) if form.name == "torch" else reader(native)


def _native(form: Format, row: Row, graph: Graph) -> tuple[Any, Document]:
    """The graph as a native model: its nodes, as new ones, in the place of the carrier's only layer."""
    shape = tuple(graph.shape("x") or ())
    carrier = _read(form, row.identity(shape), shape)
    (x,), (y,) = carrier.graph.inputs, carrier.graph.outputs
    names = {"x": x, "y": y}

    def renamed(tensors: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(names.get(name, name) for name in tensors)

    nodes = [replace(n, inputs=renamed(n.inputs), outputs=renamed(n.outputs), origin=()) for n in graph.nodes]
    tensors = {names.get(n, n): replace(t, name=names.get(n, n)) for n, t in graph.tensors.items()}
    native = form.write(carrier, Graph(tuple(nodes), (x,), (y,), tensors))
    return native, _read(form, native, shape)


def _run(form: Format, document: Document, native: Any, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The framework's own result in the graph's layout, for an input in that layout."""
    (entry,), (exit_,) = document.graph.inputs, document.graph.outputs
    layouts = (x, np.moveaxis(x, 1, -1))
    given = next(a for a in layouts if np.array_equal(form.to_graph(document, entry, a), x))
    return form.to_graph(document, exit_, form.run(native, {entry: given})[exit_])


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("name", ROWS)
def test_random_cascade(name: str, seed: int) -> None:
    row = ROWS[name]
    form, rng = row.load(), np.random.default_rng(seed)
    graph = random_cascade(rng)
    x = random_input(graph, rng)["x"]
    exact = run(graph, {"x": x})["y"]
    native, document = _native(form, row, graph)
    scale = max(1.0, float(np.abs(exact).max()))
    found = run(document.graph, {document.graph.inputs[0]: x})[document.graph.outputs[0]]
    np.testing.assert_allclose(found, exact, atol=1e-5 * scale)
    merged, cascades = merge_graph(document.graph, Options(target=target_named("macs"), policy="always"))
    assert all(cascade.reason for cascade in cascades)
    new = form.write(document, merged)
    before, after = _run(form, document, native, x), _run(form, document, new, x)
    np.testing.assert_allclose(before, exact, atol=1e-4 * scale)
    np.testing.assert_allclose(after, exact, atol=1e-4 * scale)


def _trained(op: Op) -> Op:
    """The operation with other weights, as training leaves them: in float64."""
    match op:
        case Conv():
            bias = None if op.bias is None else op.bias.astype(np.float64) - 0.25
            return replace(op, weight=-1.5 * op.weight.astype(np.float64), bias=bias)
        case Dense():
            return Dense(cast(Conv, _trained(op.layer)))
        case Affine():
            return Affine(op.scale.astype(np.float64) + 0.5, op.shift.astype(np.float64) - 0.5)
        case _:
            return op


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", ROWS)
def test_trained_weights_are_written(name: str, seed: int) -> None:
    """One node has other weights under the same name, then all have: each is emitted anew, the others are replayed."""
    row = ROWS[name]
    form, rng = row.load(), np.random.default_rng(seed)
    graph = random_cascade(rng)
    x = random_input(graph, rng)["x"]
    _, document = _native(form, row, graph)
    old = document.graph
    kernels = [n.name for n in old.nodes if isinstance(n.op, Conv | Dense)]
    for changed in ([kernels[seed % len(kernels)]], [n.name for n in old.nodes]):
        nodes = tuple(replace(n, op=_trained(n.op)) if n.name in changed else n for n in old.nodes)
        new = replace(old, nodes=nodes)
        native = form.write(document, new)
        exact = run(new, {new.inputs[0]: x})[new.outputs[0]]
        assert np.abs(exact - run(old, {old.inputs[0]: x})[old.outputs[0]]).max() > 1e-3
        np.testing.assert_allclose(_run(form, document, native, x), exact, atol=1e-4 * max(1.0, float(np.abs(exact).max())))
        again = _read(form, native, tuple(graph.shape("x") or ()))
        assert set(kernels) <= {n.name for n in again.graph.nodes}
        stored = [n.op for n in again.graph.nodes if n.name in kernels]
        assert all((op.layer if isinstance(op, Dense) else cast(Conv, op)).weight.dtype == np.float32 for op in stored)


@pytest.mark.parametrize("name", ROWS)
def test_wrong_kernel_is_noticed(name: str) -> None:
    row = ROWS[name]
    form, rng = row.load(), np.random.default_rng(1)
    graph = random_cascade(rng)
    x = random_input(graph, rng)["x"]
    other = {"x": x + np.float32(0.01)}
    native, document = _native(form, row, graph)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(_run(form, document, native, x), run(graph, other)["y"], atol=1e-4)
