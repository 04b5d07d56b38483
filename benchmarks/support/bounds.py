"""How far float32 can take a linear graph from its value in real arithmetic: γ_n·Σ|w||x| (Higham, ch. 3), per output.

Own code: the project's verification is not asked.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv, ConvTranspose
from decascade.ir.graph import Graph
from decascade.ir.interpret import evaluate
from decascade.ir.ops import Add, Affine, BiasMap, Dense, GlobalPool, Op, Pad, Pool

U32 = 2.0**-24
U64 = 2.0**-53

F64 = NDArray[np.float64]


def gamma(n: int, u: float) -> float:
    """n·u/(1 − n·u): the relative error of n rounded operations in a row, at most."""
    return n * u / (1 - n * u)


def magnitude_and_depth(
    graph: Graph, inputs: dict[str, NDArray[Any]], keep: tuple[str, ...] = ()
) -> tuple[dict[str, F64], int]:
    """Σ|w||x| at the outputs and at `keep`, and the longest row of rounded operations on any path."""
    values: dict[str, Any] = {n: np.abs(x.astype(np.float64)) for n, x in inputs.items()}
    depth = dict.fromkeys(inputs, 0)
    for node in graph.nodes:
        arrays = [values[n] for n in node.inputs]
        values[node.output] = evaluate(_absolute(node.op), arrays)[0]
        # + 1: what is stored was rounded once
        depth[node.output] = max(depth[n] for n in node.inputs) + _terms(node.op, arrays[0].shape) + 1
    return {n: values[n] for n in (*graph.outputs, *keep)}, max(depth.values())


def allowed(before: tuple[F64, int], after: tuple[F64, int]) -> F64:
    """|merged in float32 − original in real arithmetic|, at most, elementwise.

    The merged graph rounds its stored weights once and every sum in any order: γ of its own depth.  The weights were
    composed in float64: γ of both depths at 2⁻⁵³ (and the oracle itself runs in float64: once more).
    """
    (s, n), (t, m) = before, after
    return gamma(m, U32) * t + 2 * gamma(n + m, U64) * (s + t)


def _terms(op: Op, shape: tuple[int, ...]) -> int:
    match op:
        case Conv():
            return op.weight[0].size + 1
        case ConvTranspose():
            return op.weight.shape[0] // op.groups * prod(op.kernel) + 1
        case Dense():
            return op.layer.weight.shape[1] + 1
        case Pool():
            return prod(op.kernel) + 1
        case GlobalPool():
            return prod(shape[2:]) + 1
        case Affine():
            return 6  # (x − mean)·scale/√(var + ε) + shift
        case Add() | BiasMap():
            return 3
        case _:
            return 0


def _absolute(op: Op) -> Op:
    match op:
        case Conv() | ConvTranspose():
            return _layer(op)
        case Dense():
            return Dense(_layer(op.layer))
        case Affine():
            return Affine(np.abs(op.scale), np.abs(op.shift))
        case BiasMap():
            return BiasMap(np.abs(op.values))
        case Pad():
            return Pad(op.pads, abs(op.value), op.channels)
        case Add():
            return Add()
        case _:
            return op


def _layer(layer: Any) -> Any:
    bias = None if layer.bias is None else np.abs(layer.bias)
    return type(layer)(np.abs(layer.weight), bias, layer.stride, layer.dilation, layer.padding, layer.groups)
