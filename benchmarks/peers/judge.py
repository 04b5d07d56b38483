"""Results beside the original: what they cost, what they say, how fast they run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from decascade.api.common import read_model
from decascade.checking.models import Subject
from decascade.compression.pipeline import closeness
from decascade.cost.folding import folded
from decascade.deploy.onnx.model import onnx_of
from decascade.ir.graph import Graph
from decascade.regions.merge import sized
from peers.task import Task
from support.measure import interleaved, ratios

SECONDS = 12.0
ORIGINAL = "original"


def judged(task: Task, graph: Graph) -> dict[str, Any]:
    """MACs; agreement and divergence on held-out training images that nothing was chosen by; accuracy on the test images."""
    outputs = task.job.work.outputs
    held = closeness(task.exact, graph, task.judged, outputs)
    test = closeness(task.exact, graph, task.test, outputs, task.test.targets(np.arange(task.test.count)))
    assert test.accuracy is not None
    assert test.original_accuracy is not None
    macs = task.macs(graph)
    return {
        "macs": macs, "fewer_macs": task.job.work.before / macs, "agreement": held.agreement, "divergence": held.divergence,
        "held_out": held.samples, "accuracy": test.accuracy, "original_accuracy": test.original_accuracy,
        "became_right": test.changed[0], "became_wrong": test.changed[1], "test_images": test.samples,
    }


def keep(graph: Graph, path: Path) -> None:
    """The graph as an ONNX file with an open batch."""
    path.write_bytes(onnx_of(folded(sized(graph)), batch=None).proto().SerializeToString())


def kept(path: Path) -> Graph:
    return Subject(*read_model(path)).graph


def latencies(files: Mapping[str, Path], original: Graph, seconds: float = SECONDS) -> dict[str, float]:
    """How many times faster each file runs than the original, in onnxruntime on one thread, one image at a time: the median
    over rounds in which all run in turn, in processor time."""
    sample = {name: _image(original, name) for name in original.inputs}
    calls: dict[str, Any] = {ORIGINAL: _call(onnx_of(folded(sized(original)), batch=None).proto().SerializeToString(), sample)}
    calls.update({name: _call(path.read_bytes(), sample) for name, path in files.items()})
    found = ratios(interleaved(calls, seconds, least=40, run=0.01), ORIGINAL)
    return {name: 1 / found[name] for name in files}


def _image(graph: Graph, name: str) -> Any:
    shape = (1, *(graph.shape(name) or ())[1:])
    return np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)


def _call(model: bytes, sample: Mapping[str, Any]) -> Any:
    from support.peers import session

    run = session(model)
    return lambda: run.run(None, sample)
