"""Whether the data are scaled as the model expects, seen from its activations.

A trained layer's biases are of the size of what the data contribute to it: over eight published networks the deviation of
a layer's output between samples was 0.6 to 17 times its biases' root mean square in the first layer, 0.7 to 9 in the
median layer.  Data 255 times too small or too large move that ratio as many times.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv, ConvTranspose
from decascade.compression.data.batches import Dataset
from decascade.compression.torch_graph.graph import Lowered
from decascade.compression.torch_graph.ops import load_torch
from decascade.errors import DataWarning
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import Activation, Affine, Dense
from decascade.ir.ops.traits import layer_of

SAMPLES = 256
ROOM = 2**28
"""Bytes that the activations watched may take."""
SMALL, LARGE = 0.1, 60.0
"""Ratios outside of which data are not scaled as the model expects."""
SATURATED = 0.3
"""Share of a clipped activation's values at its upper end from which it is seen as saturated."""


def warn_of_range(graph: Graph, data: Dataset) -> tuple[str, ...]:
    """Issue what `range_warnings` finds as `DataWarning`, before any long work; the lines, for the report."""
    found = tuple(range_warnings(graph, data))
    for line in found:
        warnings.warn(line, DataWarning, stacklevel=4)
    return found


def range_warnings(graph: Graph, data: Dataset) -> list[str]:
    """One line where the data seem not to be scaled as in training, one where the labels seem to be of other classes.

    What depends on an operation without a meaning in NumPy is not watched.
    """
    if data.count < 2:
        return []
    lowered = Lowered(graph)
    torch = load_torch()
    with torch.no_grad():
        values = _values(lowered, data.first(SAMPLES))
    found = list[str]()
    scale = _scale_warning(graph, data, values)
    if scale:
        found.append(scale)
    labels = _label_warning(graph, data.first(SAMPLES), values)
    return [*found, labels] if labels else found


def _values(lowered: Lowered, data: Dataset) -> Mapping[str, Any]:
    graph = lowered.graph
    watched = [n.output for n in graph.nodes if isinstance(n.op, Conv | ConvTranspose | Dense | Affine | Activation)]
    wanted = [name for name in dict.fromkeys([*graph.inputs, *watched, *graph.outputs]) if lowered.computable(name)]
    one = lowered.run(data.tensors(np.arange(1)), wanted)
    width = sum(4 * value.numel() for value in one.values())
    return lowered.run(data.tensors(np.arange(max(2, min(data.count, ROOM // width)))), wanted)


def _scale_warning(graph: Graph, data: Dataset, values: Mapping[str, Any]) -> str:
    ratios = list(_ratios(graph, values))
    if not ratios:
        return _flat_warning(graph, values)
    first, median = ratios[0], float(np.median(ratios))
    low, high = _extent(graph, values)
    told = f"what they contribute is {first:.2g} times the biases in the first layer, {median:.2g} times in the median one"
    if first < SMALL and median < SMALL:
        return f"the data ({low:.4g} to {high:.4g}) look too small for this model: {told}; {_repair(low, high, small=True)}"
    if first > LARGE and (median > LARGE / 4 or _saturation(graph, values) > SATURATED):
        return f"the data ({low:.4g} to {high:.4g}) look too large for this model: {told}; {_repair(low, high, small=False)}"
    return ""


def _repair(low: float, high: float, small: bool) -> str:
    if small and low >= -1 and high <= 1.01:
        return "if it was trained on pixels from 0 to 255, give those"
    if not small and low >= 0 and 1.01 < high <= 255:
        return "if it was trained on pixels scaled to 0–1 or normalised, scale them so"
    return "scale them as they were in training"


def _extent(graph: Graph, values: Mapping[str, Any]) -> tuple[float, float]:
    inputs = [values[name].float() for name in graph.inputs]
    return min(float(x.min()) for x in inputs), max(float(x.max()) for x in inputs)


def _ratios(graph: Graph, values: Mapping[str, Any]) -> Iterator[float]:
    """Per layer with biases, in order: deviation between samples over the root mean square of the biases."""
    torch = load_torch()
    for node in graph.nodes:
        bias = _bias(graph, node)
        if bias is None or node.output not in values:
            continue
        size = sqrt(float(np.mean(np.square(bias))))
        deviation = float(torch.sqrt(values[node.output].float().var(0, correction=0).mean()))
        if size > 0 and np.isfinite(deviation):
            yield deviation / size


def _bias(graph: Graph, node: Node) -> NDArray[np.float64] | None:
    """What a layer and the normalisation behind it add; None for what has none or is counted with its normalisation."""
    layer = layer_of(node.op)
    if layer is not None:
        behind = graph.consumers[node.output]
        scaled = len(behind) == 1 and isinstance(behind[0].op, Affine)
        return None if scaled or layer.bias is None else layer.bias64
    if not isinstance(node.op, Affine):
        return None
    before = graph.producer.get(node.inputs[0])
    inner = None if before is None else layer_of(before.op)
    if inner is None or len(inner.bias64) != len(node.op.scale):
        return node.op.shift.astype(np.float64)
    return node.op.scale * inner.bias64 + node.op.shift


def _saturation(graph: Graph, values: Mapping[str, Any]) -> float:
    """The largest share of values at the upper end of a clipped activation."""
    acts = {n.output: n.op for n in graph.nodes if isinstance(n.op, Activation) and n.output in values}
    clips = {name: op.params[1] for name, op in acts.items() if op.kind == "clip"}
    return max((float((values[name] >= high).float().mean()) for name, high in clips.items()), default=0.0)


def _flat_warning(graph: Graph, values: Mapping[str, Any]) -> str:
    """Without biases only the output tells: class probabilities that are the same for every sample."""
    for name in graph.outputs:
        maker = graph.producer.get(name)
        softmax = maker is not None and isinstance(maker.op, Activation) and maker.op.kind == "softmax"
        if softmax and name in values and values[name].ndim == 2:
            p = values[name].double().clamp_min(1e-30)
            told = float(_entropy(p.mean(0)) - _entropy(p).mean())
            if told < 1e-3:
                low, high = _extent(graph, values)
                return f"the model says the same of all samples ({low:.4g} to {high:.4g}): {_repair(low, high, small=True)}"
    return ""


def _entropy(p: Any) -> Any:
    return -(p * p.log()).sum(-1)


def _label_warning(graph: Graph, data: Dataset, values: Mapping[str, Any]) -> str:
    scores = values.get(graph.outputs[0])
    if data.labels is None or len(graph.outputs) > 1 or scores is None or scores.ndim != 2 or scores.shape[1] < 2:
        return ""
    labels = data.targets(np.arange(len(scores)))
    right = float((scores.argmax(1) == load_torch().as_tensor(labels)).float().mean())
    chance = 1 / scores.shape[1]
    # three standard errors of guessing
    if len(scores) < 32 or right > chance + 3 * sqrt(chance * (1 - chance) / len(scores)):
        return ""
    told = f"the model gets {100 * right:.1f} % of the labels right, guessing gets {100 * chance:.1f} %"
    return f"{told}: check the labels and how the data are scaled"
