"""One set of models: linear blocks as they are trained, the demo's net, and published models. All are `.onnx` files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from decascade.algebra.conv import Conv
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.ops import Activation, Add, Affine, Dense, Flatten, GlobalPool, Op, Pool
from decascade.ir.shapes import infer_graph
from support.exporter import export
from support.setup import MODELS, PARTIAL, ROOT


class Net:
    """Grows a network of random weights from "x"."""

    def __init__(self, shape: tuple[int, ...], seed: int = 0) -> None:
        self.shape, self.rng = shape, np.random.default_rng(seed)
        self.nodes: list[Node] = []
        self.last = "x"

    def add(self, op: Op, *inputs: str) -> str:
        self.last = f"{type(op).__name__.lower()}{len(self.nodes)}"
        self.nodes.append(Node(self.last, op, inputs, (self.last,), (self.last,)))
        return self.last

    def conv(self, x: str, i: int, o: int, k: int, *, groups: int = 1, bias: bool = True, rank: int = 2) -> str:
        """Stride 1, and padding that keeps the size."""
        shape = (o, i // groups, *(k,) * rank)
        weight = self.rng.standard_normal(shape) * prod(shape[1:]) ** -0.5
        shift = 0.1 * self.rng.standard_normal(o) if bias else None
        layer = Conv(weight.astype(np.float32), None if shift is None else shift.astype(np.float32), 1, 1, k // 2, groups)
        return self.add(layer, x)

    def bn(self, x: str, channels: int) -> str:
        scale, shift = 1 + 0.2 * self.rng.standard_normal(channels), 0.1 * self.rng.standard_normal(channels)
        return self.add(Affine(scale.astype(np.float32), shift.astype(np.float32)), x)

    def dense(self, x: str, i: int, o: int) -> str:
        weight, bias = self.rng.standard_normal((o, i)) * i**-0.5, 0.1 * self.rng.standard_normal(o)
        return self.add(Dense(Conv(weight.astype(np.float32), bias.astype(np.float32))), x)

    def relu(self, x: str) -> str:
        return self.add(Activation("relu"), x)

    def graph(self) -> Graph:
        return infer_graph(Graph(tuple(self.nodes), ("x",), (self.last,), {"x": Tensor("x", (1, *self.shape))}, "block"))


Block = Callable[[Net, str], str]


def stacked(shape: tuple[int, ...], block: Block, count: int = 2) -> Graph:
    """The block `count` times, a ReLU after each."""
    net, x = Net(shape), "x"
    for _ in range(count):
        x = net.relu(block(net, x))
    return net.graph()


def _sesr(net: Net, x: str) -> str:
    return net.add(Add(), net.conv(net.conv(x, 16, 256, 5, bias=False), 256, 16, 1), x)


def _expandnet(net: Net, x: str, bias: bool) -> str:
    wide = net.conv(net.conv(x, 16, 64, 1, bias=bias), 64, 64, 3, bias=bias)
    return net.conv(wide, 64, 16, 1)


def _wide(net: Net, x: str) -> str:
    return net.conv(net.conv(x, 32, 128, 3), 128, 32, 1)


def _equal(net: Net, x: str) -> str:
    return net.conv(net.conv(x, 32, 32, 3), 32, 32, 3)


def _expanded(net: Net, x: str) -> str:
    return net.conv(net.conv(x, 16, 64, 3), 64, 16, 3)


def _residual(net: Net, x: str) -> str:
    return net.add(Add(), x, net.bn(net.conv(net.bn(net.conv(x, 16, 96, 3), 96), 96, 16, 3), 16))


def _branches(net: Net, x: str) -> str:
    """RepVGG's block."""
    sides = net.bn(net.conv(x, 32, 32, 3, bias=False), 32), net.bn(net.conv(x, 32, 32, 1, bias=False), 32), net.bn(x, 32)
    return net.add(Add(), net.add(Add(), *sides[:2]), sides[2])


def _pooled(net: Net, x: str) -> str:
    return net.add(Pool("avg", (2, 2), (2, 2), ((0, 0),) * 2, (1, 1)), net.conv(x, 32, 32, 3))


def _mbconv(net: Net, x: str) -> str:
    """MobileNetV2's block with its activations gone: t = 6."""
    x = net.bn(net.conv(x, 24, 144, 1, bias=False), 144)
    x = net.bn(net.conv(x, 144, 144, 3, groups=144, bias=False), 144)
    return net.bn(net.conv(x, 144, 24, 1, bias=False), 24)


def _separable(net: Net, x: str) -> str:
    return net.conv(net.conv(x, 32, 32, 3, groups=32), 32, 32, 1)


def _depthwise(net: Net, x: str) -> str:
    return net.conv(net.conv(x, 64, 64, 3, groups=64, bias=False), 64, 64, 3, groups=64)


def _one_dimension(net: Net, x: str) -> str:
    return net.conv(net.conv(x, 16, 128, 9, rank=1), 128, 16, 1, rank=1)


def _tail() -> Graph:
    net = Net((32, 8, 8))
    x = net.relu(net.conv("x", 32, 32, 3))
    x = net.add(Flatten(), x)
    net.dense(net.dense(net.dense(x, 2048, 512), 512, 256), 256, 10)
    return net.graph()


def _pooled_tail() -> Graph:
    net = Net((32, 16, 16))
    x = net.add(GlobalPool("avg"), net.relu(net.conv("x", 32, 64, 3)))
    net.dense(net.dense(net.add(Flatten(), x), 64, 256), 256, 10)
    return net.graph()


BLOCKS: dict[str, Callable[[], Graph]] = {
    "SESR block 5x5 16-256-16": partial(stacked, (16, 32, 32), _sesr),
    "ExpandNet 1x1-3x3-1x1 16-64": partial(stacked, (16, 32, 32), partial(_expandnet, bias=False)),
    "the same with biases": partial(stacked, (16, 32, 32), partial(_expandnet, bias=True)),
    "3x3 wide, 1x1: 32-128-32": partial(stacked, (32, 32, 32), _wide),
    "3x3, 3x3 equal width 32": partial(stacked, (32, 32, 32), _equal),
    "3x3, 3x3 wide: 16-64-16": partial(stacked, (16, 32, 32), _expanded),
    "linear residual 16-96-16": partial(stacked, (16, 32, 32), _residual),
    "parallel 3x3, 1x1, skip, BN": partial(stacked, (32, 32, 32), _branches),
    "3x3, average pool 2": partial(stacked, (32, 32, 32), _pooled),
    "MBConv linear, t = 6": partial(stacked, (24, 28, 28), _mbconv),
    "depthwise 3x3, 1x1": partial(stacked, (32, 32, 32), _separable),
    "depthwise 3x3 twice": partial(stacked, (64, 32, 32), _depthwise),
    "1-D: 9, 1: 16-128-16": partial(stacked, (16, 1024), _one_dimension),
    "dense tail 2048-512-256-10": _tail,
    "pool, dense 64-256-10": _pooled_tail,
}


def corpus() -> dict[str, Path]:
    """Files by name; those of the blocks are made here, with a batch of one."""
    folder = PARTIAL / "corpus"
    folder.mkdir(parents=True, exist_ok=True)
    found = dict[str, Path]()
    for i, (name, build) in enumerate(BLOCKS.items()):
        found[name] = folder / f"block{i:02}.onnx"
        onnx.save(export(build()), str(found[name]))
    demo = ROOT / "examples" / "digits.onnx"
    for path in [*([demo] if demo.exists() else []), *sorted(MODELS.glob("*.onnx"))]:
        found[path.name] = folder / path.name
        onnx.save(with_batch_of_one(onnx.load(str(path))), str(found[path.name]))
    return found


def with_batch_of_one(model: Any) -> Any:
    """Open sizes of the inputs set to 1, stale shapes taken out."""
    weights = {w.name for w in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in weights:
            for dim in value.type.tensor_type.shape.dim:
                if not dim.HasField("dim_value") or dim.dim_value < 1:
                    dim.dim_value = 1
    opened = {v.name: v for v in (*model.graph.output, *model.graph.value_info)}
    for value in opened.values():
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.ClearField("dim_param")
    return model
