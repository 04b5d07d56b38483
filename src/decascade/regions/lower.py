"""A single-entry single-exit run of linear nodes as an algebra program, or the reason why it is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from decascade.algebra.affine import average_pool, pad, scale_shift
from decascade.algebra.conv import Conv, ConvTranspose
from decascade.algebra.program import Flat, LinearOp, Pick, Program, Scale, Stack, Step, Sum
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
    traits,
)
from decascade.ir.ops.table import Table


@dataclass(frozen=True)
class Refusal:
    """Why a rewrite was not made: words for the user, the node it concerns, the numbers behind it."""

    reason: str
    node: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict[str, float])


def is_linear(node: Node) -> bool:
    """Whether the node is an affine map of its inputs that the algebra has a form for."""
    op = node.op
    form = None if node.pinned or len(node.outputs) != 1 or not traits.is_linear(op) else FORMS.get(op)
    return form is not None and form.fits(op)


OPEN_MAP = "a map whose size is not known before the model runs (fix it with --input-shape)"


def is_convolution(node: Node) -> bool:
    """Whether a user would call the node a layer of a cascade: it stores a kernel, or averages."""
    return traits.is_layer(node.op)


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


Channels = dict[str, int]
Sizes = dict[str, tuple[int | None, ...]]


def _lower_node(node: Node, channels: Channels, size: Sizes) -> list[Step] | Refusal:
    form = FORMS.get(node.op)
    if form is None:
        return Refusal(f"{node.name} has no convolution form here", node.name)
    made = form.lower(node, node.op, channels, size)
    return made if isinstance(made, (list, Refusal)) else [Step(made, node.inputs, node.output)]


def _always(_: Any) -> bool:
    return True


@dataclass(frozen=True)
class Form:
    """How an operation becomes steps of a program (one, where it is a single operation of the algebra), or why it does not;
    `fits`: whether its fields allow a form at all."""

    lower: Callable[[Node, Any, Channels, Sizes], LinearOp | list[Step] | Refusal]
    fits: Callable[[Any], bool] = _always


def _conv(_: Node, op: Conv, __: Channels, ___: Sizes) -> LinearOp:
    return op


def _dense(_: Node, op: Dense, __: Channels, ___: Sizes) -> LinearOp:
    return op.layer


def _affine(node: Node, op: Affine, _: Channels, size: Sizes) -> LinearOp:
    return scale_shift(op.scale, op.shift if np.any(op.shift) else None, len(size[node.inputs[0]]))


def _flatten(node: Node, op: Flatten, _: Channels, size: Sizes) -> LinearOp:
    return Flat(op.order == "channels_last") if size[node.inputs[0]] else Sum((1,))


def _pad(node: Node, op: Pad, channels: Channels, _: Sizes) -> LinearOp:
    return pad(channels[node.inputs[0]], op.pads)


def _pads_with_zeros(op: Pad) -> bool:
    return op.value == 0 and op.channels == (0, 0)


def _add(node: Node, op: Add, _: Channels, __: Sizes) -> LinearOp:
    return Sum(op.signs or (1,) * len(node.inputs))


def _identity(_: Node, __: Identity, ___: Channels, ____: Sizes) -> LinearOp:
    return Sum((1,))


def _select(_: Node, op: Select, __: Channels, ___: Sizes) -> LinearOp:
    return Pick(op.indices)


def _concat(_: Node, __: Concat, ___: Channels, ____: Sizes) -> LinearOp:
    return Stack()


def _of_channels(op: Concat) -> bool:
    return op.axis == 1


def _slice(node: Node, op: Slice, channels: Channels, size: Sizes) -> LinearOp | Refusal:
    name = node.inputs[0]
    end = size[name][op.axis - 2]
    if end is None:
        return Refusal(f"{node.name} slices {OPEN_MAP}", node.name)
    cut = tuple((-op.start, op.stop - end) if a == op.axis - 2 else (0, 0) for a in range(len(size[name])))
    return pad(channels[name], cut)


def _in_pairs_only(node: Node, _: Any, __: Channels, ___: Sizes) -> Refusal:
    """`transposed` folds it with its neighbours where that is exact; a program has no step for it."""
    return Refusal(f"{node.name} has no convolution form here", node.name)


def _average(node: Node, op: Pool | GlobalPool, channels: Channels, size: Sizes) -> LinearOp | list[Step] | Refusal:
    name = node.inputs[0]
    if isinstance(op, Pool) and not _hangs_over(op):
        return average_pool(channels[name], op.kernel, op.stride, op.padding, op.dilation)
    known = tuple(n for n in size[name] if n is not None)
    if len(known) < len(size[name]):
        return Refusal(f"{node.name} averages over {OPEN_MAP}", node.name)
    return _pool(node, op, channels, size, known)


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


FORMS: Table[Form] = Table(
    "the regions",
    {
        Conv: Form(_conv), Dense: Form(_dense), Affine: Form(_affine), Pool: Form(_average), GlobalPool: Form(_average),
        Flatten: Form(_flatten), Pad: Form(_pad, _pads_with_zeros), Add: Form(_add), Concat: Form(_concat, _of_channels),
        Select: Form(_select), Slice: Form(_slice), Identity: Form(_identity),
        **dict.fromkeys((ConvTranspose, Upsample), Form(_in_pairs_only)),
    },
    {
        BiasMap: "a constant that differs from position to position is no convolution",
        **dict.fromkeys((Product, Activation), "not linear"), Foreign: "nothing is known of it",
    },
)
"""What has no form ends a cascade."""
