"""Layers by what decides their cost, shapes and options but no weights: their names, and models made of them alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv, ConvTranspose
from decascade.cost.count import sizes
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.ops import Activation, Affine, BiasMap, Dense, Foreign, Op, Select
from decascade.ir.ops.traits import is_view, layer_of, weights, with_weights


def layer_text(node: Node, tensors: Mapping[str, Tensor]) -> str:
    """One layer in words, what is usual left out: `conv 3x32x32 -> 16x16x16 kernel 3x3 stride 2x2 padding 1,1;1,1`.

    A bias is left out too: it costs next to nothing, and every layer that is measured is given one.
    """
    source = " + ".join(_size(tensors[name]) for name in node.inputs)
    target = " + ".join(_size(tensors[name]) for name in node.outputs)
    return " ".join([_kind(node.op), source, "->", target, *_options(node.op)])


def _kind(op: Op) -> str:
    if isinstance(op, Activation):
        return op.kind
    if isinstance(op, Foreign):
        return f"foreign:{op.kind}"
    return type(op).__name__.lower()


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, sizes(tensor))) or "1"


def _options(op: Op) -> list[str]:
    match op:
        case Conv() | ConvTranspose():
            return _convolution(op)
        case Dense():
            return _there((f"groups {op.layer.groups}", op.layer.groups > 1))
        case Affine():
            return _there(("scale", bool(np.any(op.scale != 1))), ("shift", bool(np.any(op.shift))))
        case Select():
            return [_picked(op.indices)]
        case Activation():
            return [_plain(p) for p in op.params]
        case Foreign() | BiasMap():
            return []
        case _:
            named = [(f.name, getattr(op, f.name)) for f in fields(op)] if is_dataclass(op) else []
            return [f"{name} {_plain(value)}" for name, value in named if value]


def _convolution(op: Conv | ConvTranspose) -> list[str]:
    pads = ";".join(f"{lo},{hi}" for lo, hi in op.padding)
    return _there(
        (f"kernel {_by(op.kernel)}", True), (f"stride {_by(op.stride)}", any(s != 1 for s in op.stride)),
        (f"dilation {_by(op.dilation)}", any(d != 1 for d in op.dilation)), (f"padding {pads}", any(map(any, op.padding))),
        (f"groups {op.groups}", op.groups > 1),
    )


def _there(*options: tuple[str, bool]) -> list[str]:
    return [text for text, there in options if there]


def _by(values: Sequence[int]) -> str:
    return "x".join(map(str, values)) or "none"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "")


def _picked(indices: NDArray[np.int64]) -> str:
    """A run of channels, or every one of them."""
    first, last = int(indices[0]), int(indices[-1])
    straight = np.array_equal(indices, np.arange(first, last + 1))
    return f"channels {first}:{last + 1}" if straight else f"channels {','.join(map(str, indices.tolist()))}"


def signature(nodes: Sequence[Node], tensors: Mapping[str, Tensor]) -> str:
    """A run of layers in words, one a line, with who reads whom: equal for runs that cost the same, whatever their names."""
    number = dict[str, int]()
    lines = list[str]()
    for node in nodes:
        read = ",".join(str(number.setdefault(name, len(number))) for name in node.inputs)
        written = ",".join(str(number.setdefault(name, len(number))) for name in node.outputs)
        lines.append(f"{read}>{written} {layer_text(node, tensors)}")
    return "\n".join(lines)


def is_free(nodes: Sequence[Node]) -> bool:
    """Views alone, which no runtime computes."""
    return all(is_view(node.op) for node in nodes)


def standalone(nodes: Sequence[Node], tensors: Mapping[str, Tensor], seed: int = 0) -> Graph:
    """The run as a model of its own, batch 1 and every size known, its weights random: given ones may be placeholders.

    What is not understood is left out, and what reads it reads an input instead.
    """
    rng = np.random.default_rng(seed)
    known = tuple(replace(n, op=_weighted(n.op, rng), origin=(), pinned="") for n in nodes if not isinstance(n.op, Foreign))
    written = dict.fromkeys(name for node in known for name in node.outputs)
    read = dict.fromkeys(name for node in known for name in node.inputs)
    inputs = tuple(name for name in read if name not in written)
    outputs = tuple(name for name in written if name not in read)
    used = {name: replace(tensors[name], shape=(1, *sizes(tensors[name])), dtype="float32") for name in (*read, *written)}
    return Graph(known, inputs, outputs, used, "layer")


def _weighted(op: Op, rng: np.random.Generator) -> Op:
    """Random weights, every layer with a bias; the ones of a scale and the zeros of a shift stay what they are."""
    layer = layer_of(op)
    if layer is not None:
        fan = max(int(np.prod(layer.weight.shape[1:])), 1)
        bias = _normal(rng, (layer.out_channels,), 0.1)
        weight = _normal(rng, layer.weight.shape, fan**-0.5)
        return with_weights(op, {"weight": weight, "bias": bias})
    if isinstance(op, Affine):
        scale = 1 + _normal(rng, op.scale.shape, 0.1) if np.any(op.scale != 1) else op.scale
        return Affine(scale, _normal(rng, op.shift.shape, 0.1) if np.any(op.shift) else op.shift)
    return with_weights(op, {name: _normal(rng, array.shape, 0.1) for name, array in weights(op).items()})


def _normal(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> NDArray[np.float32]:
    return (rng.standard_normal(shape, np.float32) * np.float32(scale)).astype(np.float32)
