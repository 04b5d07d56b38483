"""A single-entry single-exit run of linear nodes as an algebra program, or the reason why it is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from decascade.algebra.affine import average_pool, pad, scale_shift
from decascade.algebra.conv import Conv, ConvTranspose
from decascade.algebra.program import Flat, LinearOp, Pick, Program, Scale, Stack, Step, Sum
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import (
    Add,
    Affine,
    Concat,
    Dense,
    Flatten,
    GlobalPool,
    Identity,
    Pad,
    Pool,
    Select,
    Slice,
    Upsample,
)


@dataclass(frozen=True)
class Refusal:
    """Why a rewrite was not made: words for the user, the node it concerns, the numbers behind it."""

    reason: str
    node: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict[str, float])


def is_linear(node: Node) -> bool:
    """Whether the node is an affine map of its inputs that the algebra has a form for."""
    op = node.op
    if node.pinned or len(node.outputs) != 1:
        return False
    if isinstance(op, (Pool, GlobalPool)):
        return op.kind == "avg"
    if isinstance(op, Pad):
        return op.value == 0 and op.channels == (0, 0)
    if isinstance(op, Concat):
        return op.axis == 1
    return isinstance(op, (Conv, ConvTranspose, Dense, Affine, Flatten, Add, Select, Slice, Upsample, Identity))


OPEN_MAP = "a map whose size is not known before the model runs (fix it with --input-shape)"


def is_convolution(node: Node) -> bool:
    """Whether a user would call the node a layer of a cascade: it stores a kernel, or averages."""
    return isinstance(node.op, (Conv, ConvTranspose, Dense, Pool, GlobalPool, Upsample))


def lower(graph: Graph, nodes: Sequence[Node], entry: str, exit: str) -> Program | Refusal:  # noqa: A002 - the field's word
    """The program of nodes in topological order between two tensors."""
    last_axis = any(isinstance(n.op, Dense) and len(graph.shape(n.inputs[0]) or ()) != 2 for n in nodes)
    if last_axis and any(not isinstance(n.op, (Dense, Add, Identity)) for n in nodes):
        return Refusal("a dense layer on the last axis of a tensor with more axes mixes with layers on the channel axis")
    for node in nodes:
        if isinstance(node.op, Flatten) and any(not isinstance(n, int) for n in (graph.shape(node.inputs[0]) or ())[2:]):
            return Refusal(f"{node.name} flattens {OPEN_MAP}", node.name)
    channels, size = dict[str, int](), dict[str, tuple[int | None, ...]]()
    for name in dict.fromkeys([entry, *(t for n in nodes for t in n.outputs)]):
        shape = graph.shape(name)
        axis = -1 if last_axis else 1
        if shape is None or len(shape) < 2 or not isinstance(shape[axis], int):
            return Refusal(f"the shape of {name} is not known (an --input-shape may tell)", name)
        channels[name] = int(shape[axis])
        size[name] = () if last_axis else tuple(n if isinstance(n, int) else None for n in shape[2:])
    steps = list[Step]()
    for node in nodes:
        lowered = _lower_node(node, channels, size)
        if isinstance(lowered, Refusal):
            return lowered
        steps += lowered
    return Program(tuple(steps), entry, exit, channels, size)


def _lower_node(
    node: Node, channels: dict[str, int], size: dict[str, tuple[int | None, ...]]
) -> list[Step] | Refusal:
    op, name = node.op, node.inputs[0]
    known = tuple(n for n in size[name] if n is not None)
    if isinstance(op, GlobalPool) or (isinstance(op, Pool) and _hangs_over(op)):
        if len(known) < len(size[name]):
            return Refusal(f"{node.name} averages over {OPEN_MAP}", node.name)
        return _pool(node, op, channels, size, known)
    if isinstance(op, Slice):
        end = size[name][op.axis - 2]
        if end is None:
            return Refusal(f"{node.name} slices {OPEN_MAP}", node.name)
        cut = tuple((-op.start, op.stop - end) if a == op.axis - 2 else (0, 0) for a in range(len(size[name])))
        return [Step(pad(channels[name], cut), node.inputs, node.output)]
    simple = _simple(node, channels[name], len(size[name]))
    if simple is None:
        return Refusal(f"{node.name} has no convolution form here", node.name)
    return [Step(simple, node.inputs, node.output)]


def _simple(node: Node, channels: int, rank: int) -> LinearOp | None:
    op = node.op
    if isinstance(op, Conv):
        return op
    if isinstance(op, Dense):
        return op.layer
    if isinstance(op, Affine):
        return scale_shift(op.scale, op.shift if np.any(op.shift) else None, rank)
    if isinstance(op, Pool):
        return average_pool(channels, op.kernel, op.stride, op.padding, op.dilation)
    if isinstance(op, Flatten):
        return Flat(op.order == "channels_last") if rank else Sum((1,))
    if isinstance(op, Pad):
        return pad(channels, op.pads)
    if isinstance(op, Add):
        return Sum(op.signs or (1,) * len(node.inputs))
    if isinstance(op, Identity):
        return Sum((1,))
    if isinstance(op, Select):
        return Pick(op.indices)
    return Stack() if isinstance(op, Concat) else None


def _hangs_over(op: Pool) -> bool:
    """An average that divides by fewer samples where its window hangs over the edge."""
    return not op.count_padding and any(lo > 0 or hi > 0 for lo, hi in op.padding)


def _pool(
    node: Node, op: Pool | GlobalPool, channels: dict[str, int], size: dict[str, tuple[int | None, ...]],
    known: tuple[int, ...],
) -> list[Step]:
    name, middle = node.inputs[0], f"{node.output}#average"
    channels[middle] = channels[name]
    if isinstance(op, GlobalPool):
        conv = average_pool(channels[name], known, (1,) * len(known), ((0, 0),) * len(known), (1,) * len(known))
        if op.keepdims:
            return [Step(conv, node.inputs, node.output)]
        size[middle] = (1,) * len(known)
        return [Step(conv, node.inputs, middle), Step(Flat(False), (middle,), node.output)]
    conv = average_pool(channels[name], op.kernel, op.stride, op.padding, op.dilation)
    size[middle] = size[node.output]
    factors = tuple(
        _window_share(n, out or 0, axis.taps, axis.stride, axis.step, axis.start)
        for n, out, axis in zip(known, size[node.output], conv.axes, strict=True)
    )
    return [Step(conv, node.inputs, middle), Step(Scale(factors), (middle,), node.output)]


def _window_share(size: int, positions: int, taps: int, stride: int, step: int, start: int) -> np.ndarray[Any, Any]:
    """Per position the window's length over the number of its taps on the map."""
    at = stride * np.arange(positions)[:, None] + start + step * np.arange(taps)[None, :]
    return taps / np.maximum(((at >= 0) & (at < size)).sum(axis=1), 1).astype(np.float64)
