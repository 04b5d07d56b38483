"""Random cascades through ONNX and back, and merged: written, read and run they stay the function they were."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from cascades import Options as Choices
from cascades import random_cascade
from decascade.cost import target_named
from decascade.formats.onnx.format import FORMAT
from decascade.ir.graph import Graph
from decascade.ir.interpret import run
from decascade.ir.shapes import infer_graph
from decascade.regions.merge import Options, merge_graph
from formats.onnx_cases import N, close, model, onnxruntime_outputs


def as_onnx(graph: Graph, opset: int) -> Any:
    """The graph as an ONNX model: written in the place of another one's only node."""
    proto = model([N("Identity", ["x"], ["y"])], tuple(graph.shape("x") or ()), opset=opset)
    rank = len(graph.shape("y") or ())
    ends = onnx.helper.make_tensor_value_info("y", 1, [None] * rank)
    proto.graph.output[0].CopyFrom(ends)
    document = FORMAT.read(proto)
    made = FORMAT.write(document, replace(graph, inputs=("x",), outputs=("y",)))
    onnx.checker.check_model(made, full_check=True)
    return made


def batch(graph: Graph, rng: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
    return {"x": rng.standard_normal([n if isinstance(n, int) else 2 for n in graph.shape("x") or ()]).astype(np.float32)}


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 18])
@pytest.mark.parametrize("seed", range(12))
def test_random_cascades(seed: int, opset: int) -> None:
    rng = np.random.default_rng([seed, opset])
    graph = random_cascade(rng, Choices())
    proto = as_onnx(graph, opset)
    feeds = batch(graph, rng)
    exact = run(graph, feeds)["y"]
    document = FORMAT.read(proto)
    close(run(document.graph, feeds)["y"], exact, 1e-6)
    close(onnxruntime_outputs(proto, feeds)["y"], exact, 1e-4)
    merged, _ = merge_graph(document.graph, Options(target_named("macs"), policy="always"))
    made = FORMAT.write(document, merged)
    onnx.checker.check_model(made, full_check=True)
    close(onnxruntime_outputs(made, feeds)["y"], exact, 1e-4)
    again = FORMAT.read(made).graph
    close(run(again, feeds)["y"], exact, 1e-5)
    assert infer_graph(merged).shape("y") == again.shape("y")
