"""Small graphs to export, and what stands for the tools that are not installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.ops import Activation, Add, Affine, Dense, Flatten, GlobalPool, Op
from decascade.ir.shapes import infer_graph

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
MODELS = SHARED / "models"


def graph_of(nodes: Sequence[Node], shape: tuple[int | str, ...], output: str = "y") -> Graph:
    """Nodes from the input x to the output."""
    names = {"x", *(name for node in nodes for name in (*node.inputs, *node.outputs))}
    tensors = {name: Tensor(name, shape if name == "x" else None) for name in names}
    return infer_graph(Graph(tuple(nodes), ("x",), (output,), tensors))


def one(op: Op, shape: tuple[int, ...], inputs: int = 1) -> Graph:
    """A single operation on samples of that shape."""
    return graph_of([Node("op", op, ("x",) * inputs, ("y",))], ("N", *shape))


def net(rng: np.random.Generator, channels: int = 8, size: int = 10) -> Graph:
    """conv → scale → relu → conv → + → global average → dense: every kind of thing that a small classifier has."""
    def weight(*shape: int) -> NDArray[np.float32]:
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    c = channels
    nodes = [
        Node("c1", Conv(weight(c, 3, 3, 3), weight(c, 1)[:, 0], 1, 1, 1), ("x",), ("t1",)),
        Node("bn", Affine(1 + 0.1 * weight(c, 1)[:, 0], weight(c, 1)[:, 0]), ("t1",), ("t2",)),
        Node("r1", Activation("relu"), ("t2",), ("t3",)),
        Node("c2", Conv(weight(c, c, 3, 3), None, 1, 1, 1), ("t3",), ("t4",)),
        Node("add", Add(), ("t3", "t4"), ("t5",)),
        Node("r2", Activation("relu"), ("t5",), ("t6",)),
        Node("pool", GlobalPool("avg"), ("t6",), ("t7",)),
        Node("flat", Flatten(), ("t7",), ("t8",)),
        Node("fc", Dense(Conv(weight(4, c), weight(4, 1)[:, 0])), ("t8",), ("y",)),
    ]
    return graph_of(nodes, ("N", 3, size, size))
