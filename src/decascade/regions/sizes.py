"""Numbers for sizes that are only known when the model runs, for costs alone."""

from __future__ import annotations

from dataclasses import replace

from decascade.errors import GraphError
from decascade.ir.graph import Graph
from decascade.ir.shapes import infer_graph

NOMINAL = 64
"""The height and width that unknown sizes are costed at."""


def sized(graph: Graph) -> Graph:
    """The graph with a number for every size that the operations let one infer; for costs alone."""
    tensors = dict(graph.tensors)
    for name in graph.inputs:
        shape = tensors[name].shape
        if shape is not None:
            known = tuple(NOMINAL if i > 1 and isinstance(n, str) else n for i, n in enumerate(shape))
            tensors[name] = replace(tensors[name], shape=known)
    try:
        return infer_graph(replace(graph, tensors=tensors))
    except GraphError:  # an operation with a size of its own that the nominal one does not fit
        return graph
