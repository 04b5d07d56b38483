"""Chains with a transposed convolution (or a nearest upsampling) in them: folded pair by pair where that is exact.

Border-free pairs only; DESIGN §3 refuses the rest.  With crop the part of a transposed convolution's output that its
padding cuts off:
    ConvT → Conv (stride 1)   nothing is cropped and nothing is added, or the Conv reads no padding
    ConvT → ConvT             nothing is cropped, no bias between
    Conv (stride 1) → ConvT   the Conv gives its full output (padding = reach: every 1×1), no bias between
    Conv → Conv               the second reads no padding, or the first is 1×…×1 without bias
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from decascade.algebra.affine import pad, scale_shift, upsample
from decascade.algebra.compose import as_transpose, compose
from decascade.algebra.conv import Conv, ConvTranspose, Layer
from decascade.errors import AlgebraError
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import (
    Activation,
    Add,
    Affine,
    BiasMap,
    Concat,
    Dense,
    Flatten,
    Foreign,
    GlobalPool,
    Identity,
    Pad,
    Pool,
    Product,
    Select,
    Slice,
    Upsample,
)
from decascade.ir.ops.table import Table
from decascade.regions.lower import Refusal


def layers_of(graph: Graph, nodes: Sequence[Node]) -> list[Layer] | Refusal:
    """The nodes of a plain chain as layers."""
    found = list[Layer]()
    for node in nodes:
        shape = graph.shape(node.inputs[0])
        if len(node.inputs) != 1 or shape is None or not isinstance(shape[1], int):
            return Refusal(f"{node.name} and a transposed convolution do not make one layer", node.name)
        channels, rank = shape[1], len(shape) - 2
        made = LAYERS.get(node.op)
        if made is None:
            return Refusal(f"{node.name} and a transposed convolution do not make one layer", node.name)
        layer = made(node.op, channels, rank)
        found += [] if layer is None else [layer]
    return found


def spreads(node: Node) -> bool:
    """Whether a chain with this node is folded here, and not as a program."""
    return isinstance(node.op, (ConvTranspose, Upsample))


def _itself(op: Layer, _: int, __: int) -> Layer:
    return op


def _nothing(_: Identity, __: int, ___: int) -> None:
    return None


def _upsample(op: Upsample, channels: int, _: int) -> Layer:
    return upsample(channels, op.factor)


def _affine(op: Affine, _: int, rank: int) -> Layer:
    return scale_shift(op.scale, op.shift, rank)


def _pad(op: Pad, channels: int, _: int) -> Layer:
    return pad(channels, op.pads)


LAYERS: Table[Callable[[Any, int, int], Layer | None]] = Table(
    "chains with a transposed convolution",
    {Conv: _itself, ConvTranspose: _itself, Upsample: _upsample, Affine: _affine, Pad: _pad, Identity: _nothing},
    {
        **dict.fromkeys((Dense, Flatten, Select, Slice, Concat, Add, Pool, GlobalPool), "does not fold into one layer here"),
        **dict.fromkeys((BiasMap, Product, Activation, Foreign), "in no cascade"),
    },
)
"""A node as a layer, from its operation, its channels and its spatial axes; None for one that does nothing."""


def fold(layers: Sequence[Layer]) -> Layer | Refusal:
    """One layer for the chain, or why there is none."""
    total, *rest = layers
    for layer in rest:
        why = _why_not(layer, total)
        if why:
            return Refusal(why)
        try:
            total = compose(layer, total)
        except AlgebraError:
            return Refusal("a strided convolution beside a transposed one is neither a convolution nor a transposed one")
    return total


def _why_not(second: Layer, first: Layer) -> str:
    """Why a pair is not exactly one layer; empty if it is."""
    pads = isinstance(second, Conv) and any(lo > 0 or hi > 0 for lo, hi in second.padding)
    if isinstance(first, Conv) and isinstance(second, Conv):
        point = all(k == 1 for k in first.kernel) and not any(lo > 0 or hi > 0 for lo, hi in first.padding)
        exact = not pads or (point and not first.has_bias)
        return "" if exact else "zero padding between layers beside a transposed convolution"
    if isinstance(second, Conv) and not pads:
        return ""
    if isinstance(first, Conv) and any(s != 1 for s in first.stride):
        return "a strided convolution before a transposed one"
    if any(lo > 0 or hi > 0 for lo, hi in as_transpose(first).padding):
        return "the padding of the first layer cuts off values that the merged layer would use"
    return "the bias of the first layer reaches the output unevenly" if first.has_bias else ""
