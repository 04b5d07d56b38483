"""The methods by name."""

from __future__ import annotations

from collections.abc import Callable

from peers import dropped, folding, merged, ours, pruned, scratch
from peers.task import Made, Meter, Task

Method = Callable[[Task, float, Meter], Made]
OURS = "decascade"
LATENCY = "decascade, for onnxruntime"
SAME = "decascade's architecture, from scratch"

METHODS: dict[str, Method] = {
    OURS: ours.compressed,
    LATENCY: ours.compressed_for_latency,
    "torch-pruning, magnitude": pruned.by_magnitude,
    "torch-pruning, Taylor": pruned.by_taylor,
    "uniformly narrower, from scratch": scratch.uniform,
    "blocks dropped": dropped.dropped,
    "Layer Folding": folding.folded_layers,
    "LayerMerge's selection": merged.selected,
}
ORDER = (*list(METHODS)[:6], SAME, *list(METHODS)[6:])
"""In which they are made: the architecture that decascade ends with is known by then."""
