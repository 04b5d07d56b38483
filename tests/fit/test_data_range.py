"""Data that are not scaled as in training are told from the activations; data that are, are left in peace."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from decascade.algebra.conv import Conv
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.ops import Activation, Affine, Dense, Flatten, Foreign
from decascade.ir.shapes import infer_graph

torch = pytest.importorskip("torch")
load = import_module("decascade.compression.data.batches").load_dataset
range_warnings = import_module("decascade.compression.data.scaling").range_warnings
SHARED = Path(__file__).resolve().parents[2].parent / "shared"

MEAN, STD = np.array([0.485, 0.456, 0.406]).reshape(3, 1, 1), np.array([0.229, 0.224, 0.225]).reshape(3, 1, 1)


def graph_of(name: str) -> Graph:
    kind = "onnx" if name.endswith("onnx") else "keras"
    pytest.importorskip("onnxruntime" if kind == "onnx" else "keras")
    path = SHARED / "models" / name
    if not path.exists():
        pytest.skip(f"{name} is not there")
    return import_module(f"decascade.formats.{kind}.format").FORMAT.read(path).graph


def pixels(file: str, count: int = 128) -> np.ndarray:
    path = SHARED / "data" / file
    if not path.exists():
        pytest.skip(f"{file} is not there")
    with np.load(path) as arrays:
        x = arrays["x"][:count].astype(np.float32)
    return np.moveaxis(x, -1, 1) if x.ndim == 4 else x[:, None]


CASES = {
    "mlperf_tiny_resnet8_cifar10.h5": ("cifar10_test_first500.npz", lambda x: x, 1 / 255),
    "layerfolding_resnet20.onnx": ("cifar10_test_first500.npz", lambda x: (x / 255 - MEAN) / STD, 255),
    "mlperf_tiny_vww_mobilenetv1_96.h5": (
        "cifar10_test_first500.npz", lambda x: np.repeat(np.repeat(x, 3, 2), 3, 3) / 255, 255
    ),
    "tinymaix_mnist_valid.h5": ("mnist_test.npz", lambda x: x / 255, 255),
    "tinymaix_mnist_same.h5": ("mnist_test.npz", lambda x: x / 255, 255),
}


@pytest.mark.parametrize("name", CASES)
def test_published_models(name: str) -> None:
    file, right, wrong = CASES[name]
    graph, x = graph_of(name), right(pixels(file)).astype(np.float32)
    assert range_warnings(graph, load(x, graph)) == []
    (words,) = range_warnings(graph, load(x * np.float32(wrong), graph))
    size = "small" if wrong < 1 else "large"
    assert f"look too {size} for this model: what they contribute is" in words
    assert "\n" not in words


def chain(first: float, bias: float, *, affine: bool = False, top: float = np.inf) -> Graph:
    """x (N, 4) → dense → (affine) → clip → dense → softmax, weights scaled by `first`, biases of size `bias`."""
    rng = np.random.default_rng(0)
    nodes = [
        Node("flat", Flatten(), ("x",), ("f",)),
        Node("one", Dense(Conv(first * rng.standard_normal((16, 4)), bias * rng.standard_normal(16))), ("f",), ("a",)),
        Node("bn", Affine(np.ones(16), np.zeros(16)), ("a",), ("b",)),
        Node("clip", Activation("clip", (0.0, top)), ("b",), ("c",)),
        Node("two", Dense(Conv(rng.standard_normal((3, 16)), bias * rng.standard_normal(3))), ("c",), ("z",)),
        Node("soft", Activation("softmax", (1,)), ("z",), ("y",)),
    ]
    return infer_graph(Graph(tuple(nodes), ("x",), ("y",), {"x": Tensor("x", ("N", 4, 1))}))


X = np.random.default_rng(1).random((64, 4, 1)).astype(np.float32)


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (1 / 255, r"^the data \(2\.284e-05 to 0\.003918\) look too small .*; if it was .* pixels from 0 to 255, give those$"),
        (255, r"look too large .*; if it was trained on pixels scaled to 0–1 or normalised, scale them so$"),
        (1e4, r"look too large .*; scale them as they were in training$"),
        (-1e4, r"look too large .*; scale them as they were in training$"),
    ],
)
def test_repairs(factor: float, words: str) -> None:
    import re

    graph = chain(1, 0.5)
    assert range_warnings(graph, load(X, graph)) == []
    (found,) = range_warnings(graph, load(X * np.float32(factor), graph))
    assert re.search(words, found)


def test_a_clip_that_is_always_at_its_end_counts_where_the_median_does_not() -> None:
    graph = chain(1, 1.0, top=1.0)
    (found,) = range_warnings(graph, load(X * 255, graph))
    assert "look too large" in found


def test_without_biases_the_flat_output_tells() -> None:
    graph = chain(1, 0.0)
    assert range_warnings(graph, load(X, graph)) == []
    (found,) = range_warnings(graph, load(X / 255, graph))
    assert found.startswith("the model says the same of all samples (")
    assert found.endswith("): if it was trained on pixels from 0 to 255, give those")


def test_labels_of_other_classes() -> None:
    graph = chain(1, 0.5)
    run = import_module("decascade.ir.interpret").run
    right = run(graph, {"x": X})["y"].argmax(1)
    assert range_warnings(graph, load((X, right), graph)) == []
    (found,) = range_warnings(graph, load((X, (right + 1) % 3), graph))
    assert found == (
        "the model gets 0.0 % of the labels right, guessing gets 33.3 %: check the labels and how the data are scaled"
    )
    # too few to say
    assert range_warnings(graph, load((X[:8], (right[:8] + 1) % 3), graph)) == []


def test_what_cannot_be_computed_is_not_watched() -> None:
    whole = chain(1, 0.5)
    nodes = [Node(n.name, Foreign("Mystery"), n.inputs, n.outputs) if n.name == "clip" else n for n in whole.nodes]
    graph = Graph(tuple(nodes), whole.inputs, whole.outputs, whole.tensors)
    assert range_warnings(graph, load((X, np.zeros(64, int)), graph)) == []
    (found,) = range_warnings(graph, load(X / 255, graph))
    assert "look too small" in found


def test_one_sample_says_nothing() -> None:
    graph = chain(1, 0.5)
    assert range_warnings(graph, load(X[:1], graph)) == []
