"""Chains with a transposed convolution (or a nearest upsampling) in them: folded pair by pair where that is exact.

Border-free pairs only; DESIGN §3 refuses the rest.  With crop the part of a transposed convolution's output that its
padding cuts off:
    ConvT → Conv (stride 1)   nothing is cropped and nothing is added, or the Conv reads no padding
    ConvT → ConvT             nothing is cropped, no bias between
    Conv (stride 1) → ConvT   the Conv gives its full output (padding = reach: every 1×1), no bias between
    Conv → Conv               the second reads no padding, or the first is 1×…×1 without bias
"""

from __future__ import annotations

from collections.abc import Sequence

from decascade.algebra.affine import pad, scale_shift, upsample
from decascade.algebra.compose import as_transpose, compose
from decascade.algebra.conv import Conv, ConvTranspose, Layer
from decascade.errors import AlgebraError
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import Affine, Identity, Pad, Upsample
from decascade.regions.lower import Refusal


def layers_of(graph: Graph, nodes: Sequence[Node]) -> list[Layer] | Refusal:
    """The nodes of a plain chain as layers."""
    found = list[Layer]()
    for node in nodes:
        shape = graph.shape(node.inputs[0])
        if len(node.inputs) != 1 or shape is None or not isinstance(shape[1], int):
            return Refusal(f"{node.name} and a transposed convolution do not make one layer", node.name)
        channels, rank = shape[1], len(shape) - 2
        if isinstance(node.op, (Conv, ConvTranspose)):
            found.append(node.op)
        elif isinstance(node.op, Upsample):
            found.append(upsample(channels, node.op.factor))
        elif isinstance(node.op, Affine):
            found.append(scale_shift(node.op.scale, node.op.shift, rank))
        elif isinstance(node.op, Pad):
            found.append(pad(channels, node.op.pads))
        elif not isinstance(node.op, Identity):
            return Refusal(f"{node.name} and a transposed convolution do not make one layer", node.name)
    return found


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
