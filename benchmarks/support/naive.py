"""The merge as it is done by hand: kernels and biases composed, paddings added up, the border left to chance.

W = W2 * W1, b = b2 + Σ W2·b1, P = p1 + s1·p2: what "one kernel, zero padding" means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import Add, Affine, Concat, Flatten, Identity, Pad, Pool

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Kernel:
    """weight (O, I, *K), bias (O,), stride and padding in front, per axis; no groups, no dilation."""

    weight: F64
    bias: F64
    stride: tuple[int, ...]
    front: tuple[int, ...]

    @property
    def size(self) -> tuple[int, ...]:
        return self.weight.shape[2:]


def naive_merge(graph: Graph) -> tuple[Kernel, str]:
    """One kernel from the graph's input to the last tensor before a flatten (or to its output), and that tensor.

    Raises:
        ValueError: an operation that nobody merges by hand, or branches of different strides.
    """
    _, channels, *size = graph.shape(graph.inputs[0]) or ()
    assert isinstance(channels, int)
    known = {graph.inputs[0]: _delta(channels, len(size))}
    last = graph.inputs[0]
    for node in graph.nodes:
        if isinstance(node.op, Flatten):
            break
        known[node.output] = _step(node, [known[n] for n in node.inputs])
        last = node.output
    return known[last], last


def run_naive(kernel: Kernel, x: NDArray[Any], size: Sequence[int]) -> F64:
    """The kernel on x (N, C, *S); padding behind as the output size asks for."""
    pads = [
        (lo, (n - 1) * s + k - m - lo)
        for n, m, s, k, lo in zip(size, x.shape[2:], kernel.stride, kernel.size, kernel.front, strict=True)
    ]
    return Conv(kernel.weight, kernel.bias, kernel.stride, 1, pads)(x)


def naive_conv(kernel: Kernel, size_in: Sequence[int], size_out: Sequence[int]) -> Conv:
    """The same as a layer."""
    pads = [
        (lo, (n - 1) * s + k - m - lo)
        for n, m, s, k, lo in zip(size_out, size_in, kernel.stride, kernel.size, kernel.front, strict=True)
    ]
    return Conv(kernel.weight, kernel.bias, kernel.stride, 1, pads)


def _step(node: Node, inputs: list[Kernel]) -> Kernel:
    op, x = node.op, inputs[0]
    match op:
        case Conv():
            return compose(x, _plain(op))
        case Affine():
            scale = op.scale.astype(np.float64)
            weight = x.weight * scale.reshape(-1, *(1,) * (x.weight.ndim - 1))
            return replace(x, weight=weight, bias=x.bias * scale + op.shift)
        case Pool(kind="avg"):
            channels = x.weight.shape[0]
            mean = np.full((channels, 1, *op.kernel), 1 / np.prod(op.kernel))
            return compose(x, _plain(Conv(mean, None, op.stride, op.dilation, op.padding, channels)))
        case Pad(value=0.0, channels=(0, 0)):
            delta = _delta(x.weight.shape[0], len(op.pads))
            return compose(x, replace(delta, front=tuple(lo for lo, _ in op.pads)))
        case Identity():
            return x
        case Add():
            signs = op.signs or (1,) * len(inputs)
            parts = _aligned(inputs)
            weight, bias = (reduce(np.add, (s * a for s, a in zip(signs, arrays, strict=True)))
                            for arrays in ([k.weight for k in parts], [k.bias for k in parts]))
            return replace(parts[0], weight=weight, bias=bias)
        case Concat(axis=1):
            parts = _aligned(inputs)
            return replace(parts[0], weight=np.concatenate([k.weight for k in parts]),
                           bias=np.concatenate([k.bias for k in parts]))
        case _:
            raise ValueError(f"{node.name}: {type(op).__name__} is not merged by hand")


def compose(first: Kernel, second: Kernel) -> Kernel:
    size = [(k2 - 1) * s + k1 for k2, s, k1 in zip(second.size, first.stride, first.size, strict=True)]
    weight = np.zeros((second.weight.shape[0], first.weight.shape[1], *size))
    for tap in product(*map(range, second.size)):
        place = tuple(slice(a * s, a * s + k) for a, s, k in zip(tap, first.stride, first.size, strict=True))
        weight[(..., *place)] += np.tensordot(second.weight[(..., *tap)], first.weight, (1, 0))
    bias = second.bias + second.weight.sum(tuple(range(2, second.weight.ndim))) @ first.bias
    stride = tuple(a * b for a, b in zip(first.stride, second.stride, strict=True))
    front = tuple(p + s * q for p, s, q in zip(first.front, first.stride, second.front, strict=True))
    return Kernel(weight, bias, stride, front)


def _delta(channels: int, rank: int) -> Kernel:
    weight = np.eye(channels).reshape(channels, channels, *(1,) * rank)
    return Kernel(weight, np.zeros(channels), (1,) * rank, (0,) * rank)


def _plain(conv: Conv) -> Kernel:
    """Groups written out as zeros between the blocks, dilation as zeros between the taps."""
    size = [(k - 1) * d + 1 for k, d in zip(conv.kernel, conv.dilation, strict=True)]
    weight = np.zeros((conv.out_channels, conv.in_channels, *size))
    taps = tuple(slice(None, None, d) for d in conv.dilation)
    rows, columns = conv.out_channels // conv.groups, conv.weight.shape[1]
    for g in range(conv.groups):
        r, c = slice(g * rows, (g + 1) * rows), slice(g * columns, (g + 1) * columns)
        weight[(r, c, *taps)] = conv.weight[r]
    return Kernel(weight, conv.bias64, conv.stride, tuple(lo for lo, _ in conv.padding))


def _aligned(parts: Sequence[Kernel]) -> list[Kernel]:
    """The kernels of parallel branches on one window, zeros where one does not reach."""
    if len({k.stride for k in parts}) > 1:
        raise ValueError("branches of different strides")
    front = [max(axis) for axis in zip(*(k.front for k in parts), strict=True)]
    back = [max(axis) for axis in zip(*([n - p for n, p in zip(k.size, k.front, strict=True)] for k in parts), strict=True)]
    out = []
    for k in parts:
        grow = [(f - p, b - n + p) for f, b, n, p in zip(front, back, k.size, k.front, strict=True)]
        out.append(replace(k, weight=np.pad(k.weight, [(0, 0), (0, 0), *grow]), front=tuple(front)))
    return out
