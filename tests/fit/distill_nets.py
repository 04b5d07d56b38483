"""What the distillation tests share: small nets, cheaper ones of the same function's shape, data of known statistics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from decascade.algebra.conv import Conv
from decascade.compression.data.batches import Dataset, load_dataset
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.ops import Activation, Add, Dense, Flatten, Foreign, GlobalPool, Op
from decascade.ir.shapes import infer_graph

RELU = Activation("relu")


def kernel(rng: np.random.Generator, out: int, into: int, size: int = 3) -> Conv:
    weight = rng.standard_normal((out, into, size, size)) * np.sqrt(2 / (into * size * size))
    return Conv(weight.astype(np.float32), (0.1 * rng.standard_normal(out)).astype(np.float32), padding=size // 2)


def net(hidden: int = 8, seed: int = 0, middle: Op | None = None, softmax: bool = True, size: int = 8) -> Graph:
    """x (N, 3, size, size) → conv → relu → [conv → relu → conv] + skip → relu → pool → dense → softmax.

    `middle` stands between the block and the head.
    """
    rng = np.random.default_rng(seed)
    ends = kernel(rng, 6, 3), kernel(rng, 4, 6, 1)
    nodes = [
        Node("stem", ends[0], ("x",), ("a",)),
        Node("relu1", RELU, ("a",), ("b",)),
        Node("one", kernel(rng, hidden, 6), ("b",), ("c",)),
        Node("relu2", RELU, ("c",), ("d",)),
        Node("two", kernel(rng, 6, hidden), ("d",), ("e",)),
        Node("add", Add(), ("b", "e"), ("f",)),
        Node("relu3", RELU, ("f",), ("g",)),
        *([] if middle is None else [Node("middle", middle, ("g",), ("g2",))]),
        Node("pool", GlobalPool("avg"), ("g" if middle is None else "g2",), ("h",)),
        Node("flat", Flatten(), ("h",), ("i",)),
        Node("head", Dense(Conv(2 * rng.standard_normal((4, 6)), rng.standard_normal(4))), ("i",), ("z",)),
    ]
    nodes += [Node("soft", Activation("softmax", (1,)), ("z",), ("y",))] if softmax else []
    tensors = {"x": Tensor("x", ("N", 3, size, size))}
    if isinstance(middle, Foreign):
        tensors["g2"] = Tensor("g2", ("N", 6, size, size))
    return infer_graph(Graph(tuple(nodes), ("x",), ("y" if softmax else "z",), tensors))


def cheaper(graph: Graph, keep: int = 4) -> Graph:
    """The net with its first hidden channels alone."""
    nodes = {node.name: node for node in graph.nodes}
    one, two = nodes["one"].op, nodes["two"].op
    assert isinstance(one, Conv)
    assert isinstance(two, Conv)
    assert one.bias is not None
    fewer = replace(one, weight=one.weight[:keep], bias=one.bias[:keep])
    new = {"one": fewer, "two": replace(two, weight=two.weight[:, :keep])}
    tensors = {n: replace(t, shape=None) if n in ("c", "d") else t for n, t in graph.tensors.items()}
    changed = tuple(replace(n, op=new.get(n.name, n.op)) for n in graph.nodes)
    return infer_graph(replace(graph, nodes=changed, tensors=tensors))


def pictures(count: int = 192, size: int = 8, seed: int = 1) -> np.ndarray[Any, Any]:
    """Smooth random uint8 pictures (N, 3, size, size)."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((count, 3, size // 2, size // 2))
    fine = np.repeat(np.repeat(coarse, 2, 2), 2, 3) + 0.2 * rng.random((count, 3, size, size))
    return (255 * fine / fine.max()).astype(np.uint8)


def samples(graph: Graph, count: int = 192) -> Dataset:
    """Pictures in [0, 1]."""
    return load_dataset((pictures(count) / 255).astype(np.float32), graph)
