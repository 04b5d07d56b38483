"""Random small networks over all operations that bounds know, for soundness tests."""

from __future__ import annotations

import numpy as np

from decascade.algebra.conv import Conv, ConvTranspose
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.ops import (
    Activation,
    Add,
    Affine,
    BiasMap,
    Concat,
    Dense,
    Flatten,
    GlobalPool,
    Pad,
    Pool,
    Select,
    Slice,
    Upsample,
)
from decascade.ir.shapes import infer_graph

PIECEWISE = (
    Activation("relu"),
    Activation("clip", (0.0, 1.0)),
    Activation("clip", (-0.5, np.inf)),
    Activation("leaky_relu", (0.2,)),
    Activation("leaky_relu", (1.5,)),
    Activation("hard_swish"),
    Activation("hard_sigmoid", (0.2, 0.5)),
    Activation("abs"),
)
SMOOTH = (
    *(Activation(k) for k in ("sigmoid", "tanh", "silu", "gelu", "gelu_tanh", "softplus", "softsign", "selu")),
    Activation("elu", (0.7,)), Activation("neg"), Activation("softmax", (1.0,)),
)  # fmt: skip


class Builder:
    """Appends operations to a graph whose last tensor is `at`."""

    def __init__(self, *shape: int) -> None:
        self.nodes: list[Node] = []
        self.tensors = {"x": Tensor("x", ("N", *shape))}
        self.at = "x"

    def add(self, op, *inputs: str) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes.append(Node(name, op, inputs or (self.at,), (f"{name}:0",), (name,)))
        self.tensors[f"{name}:0"] = Tensor(f"{name}:0", None)
        self.tensors = dict(self.graph().tensors)
        self.at = f"{name}:0"
        return self.at

    def graph(self) -> Graph:
        outputs = (self.nodes[-1].outputs[0],) if self.nodes else ("x",)
        return infer_graph(Graph(tuple(self.nodes), ("x",), outputs, self.tensors))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self.tensors[self.at].shape[1:])


def chain(*ops, shape=(2, 8, 8)) -> Graph:
    """Operations one after the other."""
    made = Builder(*shape)
    for op in ops:
        made.add(op)
    return made.graph()


def conv(rng: np.random.Generator, channels: int, out: int, kernel: int = 3, **options) -> Conv:
    weight = rng.normal(size=(out, channels // options.get("groups", 1), kernel, kernel)) / kernel
    return Conv(
        weight.astype(np.float32), (0.3 * rng.normal(size=out)).astype(np.float32), **{"padding": kernel // 2, **options}
    )


def random_net(rng: np.random.Generator, depth: int = 6, smooth: bool = True) -> Graph:
    """A network of about `depth` layers on a small picture, with branches, pools and every kind of activation."""
    made = Builder(2, int(rng.integers(5, 9)), int(rng.integers(5, 9)))
    for _ in range(depth):
        _layer(made, rng)
        kinds = PIECEWISE + (SMOOTH if smooth else ())
        op = kinds[rng.integers(len(kinds))]
        if rng.random() < 0.15:
            op = Activation("prelu", (), rng.normal(size=made.shape[0]).astype(np.float32))
        made.add(op)
    if rng.random() < 0.5:
        made.add(GlobalPool(str(rng.choice(["avg", "max"])), keepdims=False))
    else:
        made.add(Flatten())
    made.add(Dense(Conv((rng.normal(size=(3, made.shape[0])) / 3).astype(np.float32), rng.normal(size=3).astype(np.float32))))
    made.add(Activation("relu"))
    return made.graph()


def _layer(made: Builder, rng: np.random.Generator) -> None:
    c, h, w = made.shape
    match rng.integers(12):
        case 0:
            made.add(conv(rng, c, c, groups=c))
        case _ if min(h, w) < 3:
            made.add(conv(rng, c, 3, 1))
        case 1:
            made.add(conv(rng, c, 4, stride=2, padding=((0, 1), (1, 1))))
        case 2:
            kind = str(rng.choice(["avg", "max"]))
            made.add(Pool(kind, (2, 2), (1, 2), ((0, 1), (1, 0)), (1, 1)))  # type: ignore[arg-type]
        case 3:
            made.add(Affine(rng.normal(size=c).astype(np.float32), rng.normal(size=c).astype(np.float32)))
        case 4:
            first = made.at
            second = made.add(conv(rng, c, c))
            made.add(Add((1, -1)), first, second)
        case 5:
            first = made.at
            second = made.add(conv(rng, c, 2, 1))
            made.add(Concat(), first, second)
        case 6:
            made.add(Pad(((1, 0), (0, 2)), float(rng.normal())))
        case 7 if h * w < 100:
            made.add(Upsample((1, 2)))
        case 8 if h > 3:
            made.add(Slice(2, 1, h - 1))
        case 9:
            made.add(Select(rng.permutation(c)))
        case 10 if h * w < 100:
            made.add(ConvTranspose(rng.normal(size=(c, 2, 2, 2)).astype(np.float32) / 2, None, (2, 1)))
        case 11:
            made.add(BiasMap(rng.normal(size=(c, h, w)).astype(np.float32)))
        case _:
            made.add(conv(rng, c, 4, dilation=int(rng.integers(1, 3)), padding=2))
