"""Nets whose segments offer every family of students, and a fit on given arrays in float64."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from math import inf
from typing import Any

import numpy as np
import pytest

from decascade.ir.graph import Graph
from decascade.ir.ops import Activation, BiasMap, Concat, Flatten, GlobalPool, Pad, Pool, Slice, Upsample
from laws import Net

torch = pytest.importorskip("torch")
lowered = import_module("decascade.compression.torch_graph.graph")
moments = import_module("decascade.compression.students.moments")
sizes_of = import_module("decascade.compression.plan.candidates").sizes_of


def runner(graph: Graph, dtype: str = "float64") -> Any:
    """As `collect` wants it."""
    return import_module("decascade.compression.plan.assemble").runner(lowered.Lowered(graph, dtype))


def batches(x: np.ndarray, size: int = 5, dtype: Any = None) -> list[dict[str, Any]]:
    """Batches of the graph input "x"; the last one may be short."""
    return [{"x": torch.tensor(x[i : i + size], dtype=dtype or torch.float64)} for i in range(0, len(x), size)]


def gathered(graph: Graph, x: np.ndarray, requests: Iterable[Any], rows: float = inf, seed: int = 0) -> Any:
    """Moments in float64, on all positions unless told otherwise."""
    return moments.collect(runner(graph), batches(x), requests, sizes_of(graph), len(x), seed, rows=rows)


def held(count: int) -> np.ndarray:
    """Which samples are held out."""
    return np.arange(count) % moments.HELD == moments.HELD - 1


def unexplained(y: np.ndarray, found: np.ndarray) -> float:
    """Σ|y − ŷ|² / Σ|y − ȳ|², ȳ per channel."""
    axes = (0, *range(2, y.ndim))
    return float(((y - found) ** 2).sum() / ((y - y.mean(axes, keepdims=True)) ** 2).sum())


def chain_2d() -> Graph:
    """Strides, an asymmetric padding, prelu, batch norm, a depthwise convolution, pools, flatten, dense layers."""
    net = Net((3, 9, 8))
    x = net.conv("x", 4, 3, pad=((1, 1), (0, 2)), stride=(2, 1))
    x = net.affine(x)
    x = net.emit(Activation("prelu", (), np.linspace(0.1, 0.9, 4)), x)
    x = net.conv(x, 4, (2, 3), pad=((1, 0), (1, 1)), groups=4)
    x = net.conv(x, 5, 1)
    x = net.relu(x)
    x = net.average(x, 2)
    x = net.conv(x, 4, 2, bias=False)
    x = net.emit(Activation("leaky_relu", (0.2,)), x)
    x = net.emit(Flatten("channels_last"), x)
    x = net.dense(x, 6)
    x = net.relu(x)
    return net.graph(net.dense(x, 3))


def residual_2d() -> Graph:
    """A residual block, one with a stride and a projection, a maximum in between, a global average and a dense layer."""
    net = Net((4, 8, 8))
    inner = net.affine(net.conv(net.relu(net.affine(net.conv("x", 4, 3, pad=1))), 4, 3, pad=1))
    x = net.relu(net.add("x", inner))
    inner = net.conv(net.relu(net.conv(x, 6, 3, pad=((0, 1), (0, 1)), stride=2)), 6, 3, pad=1)
    x = net.relu(net.add(inner, net.conv(x, 6, 1, stride=2)))
    x = net.emit(Pool("max", (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), x)
    x = net.conv(x, 4, 1)
    x = net.emit(GlobalPool("avg", keepdims=False), net.relu(x))
    return net.graph(net.dense(x, 3))


def sequence_1d() -> Graph:
    """A residual block of one axis, a concatenation, a stride with an even kernel."""
    net = Net((3, 17))
    x = net.relu(net.conv("x", 4, 5, pad=2))
    x = net.add(x, net.conv(net.relu(net.conv(x, 5, 3, pad=1)), 4, 3, pad=1))
    x = net.emit(Concat(1), net.conv(net.relu(x), 2, 3, pad=1), net.conv(net.relu(x), 3, 1))
    x = net.conv(net.relu(x), 4, 4, stride=3, pad=((2, 1),))
    return net.graph(net.affine(x))


def moves_2d() -> Graph:
    """What only moves or shifts values between two layers: a bias map, a padding, a slice, an upsampling; a softmax."""
    net = Net((2, 6, 7))
    x = net.emit(BiasMap(net.weights(4, 6, 7)), net.conv("x", 4, 3, pad=1))
    x = net.emit(Pad(((1, 0), (0, 2)), 0.5), net.relu(x))
    x = net.emit(Upsample((1, 2)), net.emit(Slice(3, 1, 8), x))
    x = net.emit(Activation("softmax", (1.0,)), net.conv(x, 4, (2, 3), stride=(1, 2)))
    return net.graph(net.conv(x, 3, 1))


def volume_3d() -> Graph:
    net = Net((2, 5, 4, 5))
    x = net.relu(net.conv("x", 3, (2, 1, 3), pad=((1, 0), (0, 0), (1, 1))))
    return net.graph(net.conv(x, 2, 2, pad=((0, 1),) * 3, stride=(1, 2, 1)))


def vectors() -> Graph:
    """Dense layers, one of them with a skip."""
    net = Net((6,))
    x = net.relu(net.dense("x", 8))
    x = net.add(x, net.dense(net.emit(Activation("tanh"), net.dense(x, 5)), 8))
    return net.graph(net.dense(net.relu(x), 4))


NETS: Mapping[str, Any] = {f.__name__: f for f in (chain_2d, residual_2d, moves_2d, sequence_1d, volume_3d, vectors)}


def samples_for(graph: Graph, count: int, seed: int = 0) -> np.ndarray:
    """Inputs whose neighbours and channels go together, as in pictures; not centred."""
    rng = np.random.default_rng(seed)
    shape: Sequence[Any] = graph.shape("x") or ()
    x = rng.standard_normal((count, *shape[1:]))
    for axis in range(1, x.ndim):
        x = x + 0.7 * np.roll(x, 1, axis)
    return x + 0.5
