"""The rules of `onnx_emit`: one function per operation, in the forms of the model's own opset."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from decascade.algebra.conv import Conv, ConvTranspose, Pads
from decascade.errors import FormatError
from decascade.formats.onnx.emit import Emitter, Writer
from decascade.ir.graph import Node, Tensor
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


def emit(emitter: Emitter, node: Node, tensors: Mapping[str, Tensor]) -> list[Any]:
    """The ONNX nodes of one node of the graph, in order; their initializers are left with the emitter.

    Raises:
        FormatError: no form of this operation in the model's opset, or weights that leave the range of its element type.
    """
    start = len(emitter.nodes)
    rule = RULES.get(node.op)
    if rule is None:
        raise FormatError(f"{node.name}: no ONNX form of a new {type(node.op).__name__}")
    rule(Writer(emitter, node, tensors), node.op)
    return emitter.nodes[start:]


def _flat(pads: Pads) -> list[int]:
    return [*(lo for lo, _ in pads), *(hi for _, hi in pads)]


def _conv(w: Writer, op: Conv) -> None:
    if not op.rank:
        _dense(w, Dense(op))
        return
    pads = op.padding
    if any(min(p) < 0 for p in pads):
        w.pad([(0, 0), *((min(lo, 0), min(hi, 0)) for lo, hi in pads)], 0.0, last=False)
        pads = tuple((max(lo, 0), max(hi, 0)) for lo, hi in pads)
    names = [w.constant("weight", op.weight)]
    if op.bias is not None:
        names.append(w.constant("bias", op.bias))
    fields: dict[str, Any] = {"dilations": op.dilation, "kernel_shape": op.kernel, "pads": _flat(pads)}
    fields |= {"strides": op.stride}
    w.step("Conv", *names, group=op.groups, **fields)


def _conv_transpose(w: Writer, op: ConvTranspose) -> None:
    """A crop below zero is output_padding where ONNX allows it, else padding with zeros before the bias."""
    fields = zip(op.padding, op.stride, op.dilation, strict=True)
    simple = all(lo >= 0 and (hi >= 0 or -hi < max(s, d)) for (lo, hi), s, d in fields)
    cropped = [(max(lo, 0), max(hi, 0)) for lo, hi in op.padding]
    attributes: dict[str, Any] = {"dilations": op.dilation, "kernel_shape": op.kernel, "strides": op.stride}
    attributes |= {"group": op.groups, "pads": _flat(tuple(cropped))}
    weight = w.constant("weight", op.weight)
    bias = () if op.bias is None else (w.constant("bias", op.bias if simple else w.column(op.bias, op.rank + 2)),)
    if simple:
        extra = [max(-hi, 0) for _, hi in op.padding]
        w.step("ConvTranspose", weight, *bias, output_padding=extra if any(extra) else None, **attributes)
        return
    w.step("ConvTranspose", weight, last=False, **attributes)
    w.pad([(0, 0), *((max(-lo, 0), max(-hi, 0)) for lo, hi in op.padding)], 0.0, last=not bias)
    if bias:
        w.step("Add", *bias)


def _dense(w: Writer, op: Dense) -> None:
    layer = op.layer
    if layer.groups > 1:
        raise FormatError(f"{w.node.name}: a dense layer of {layer.groups} groups has no ONNX form")
    if w.rank == 2:
        bias = layer.bias if layer.bias is not None or w.emitter.opset >= 11 else np.zeros(layer.out_channels)
        names = [w.constant("weight", layer.weight)] + ([] if bias is None else [w.constant("bias", bias)])
        w.step("Gemm", *names, transB=1)
        return
    w.step("MatMul", w.constant("weight", layer.weight.T), last=layer.bias is None)
    if layer.bias is not None:
        w.step("Add", w.constant("bias", layer.bias))


def _affine(w: Writer, op: Affine) -> None:
    scaled, shifted = bool(np.any(op.scale != 1)), bool(np.any(op.shift))
    if scaled and shifted:
        ones, zeros = np.ones(len(op.scale)), np.zeros(len(op.scale))
        parts = {"scale": op.scale, "shift": op.shift, "mean": zeros, "var": ones}
        w.step("BatchNormalization", *(w.constant(what, array) for what, array in parts.items()), epsilon=0.0)
    elif scaled:
        w.step("Mul", w.constant("scale", w.column(op.scale, w.rank)))
    elif shifted:
        w.step("Add", w.constant("shift", w.column(op.shift, w.rank)))
    else:
        w.step("Identity")


def _pool(w: Writer, op: Pool) -> None:
    opset, pads = w.emitter.opset, op.padding
    if any(min(p) < 0 for p in pads):
        w.pad([(0, 0), *((min(lo, 0), min(hi, 0)) for lo, hi in pads)], 0.0, last=False)
        pads = tuple((max(lo, 0), max(hi, 0)) for lo, hi in pads)
    dilated = any(d != 1 for d in op.dilation)
    needed = 19 if op.kind == "avg" else 10
    if dilated and opset < needed:
        what = f"{op.kind} pool with dilation {op.dilation}"
        raise FormatError(f"{w.node.name}: opset {opset} has no {what}: convert to opset {needed} or later")
    fields: dict[str, Any] = {"kernel_shape": op.kernel, "pads": _flat(pads), "strides": op.stride}
    fields |= {"dilations": op.dilation if dilated else None}
    if op.kind == "max":
        w.step("MaxPool", **fields)
    else:
        w.step("AveragePool", count_include_pad=int(op.count_padding), **fields)


def _global_pool(w: Writer, op: GlobalPool) -> None:
    w.step("GlobalAveragePool" if op.kind == "avg" else "GlobalMaxPool", last=op.keepdims)
    if not op.keepdims:
        w.step("Flatten", axis=1)


def _flatten(w: Writer, op: Flatten) -> None:
    if op.order == "channels_last" and w.rank > 2:
        w.step("Transpose", last=False, perm=(0, *range(2, w.rank), 1))
    w.step("Flatten", axis=1)


def _pad(w: Writer, op: Pad) -> None:
    w.pad((op.channels, *op.pads), op.value, last=True)


def _add(w: Writer, op: Add) -> None:
    """The terms with a plus first, those with a minus taken off one by one."""
    signs = op.signs or (1,) * len(w.node.inputs)
    plus = [n for n, s in zip(w.node.inputs, signs, strict=True) if s > 0]
    minus = [n for n, s in zip(w.node.inputs, signs, strict=True) if s < 0]
    if plus:
        w.value = plus[0]
    else:
        w.value = minus.pop(0)
        w.step("Neg", last=not minus)
    if len(plus) > 1:
        w.step("Add" if len(plus) == 2 else "Sum", *plus[1:], last=not minus)
    for k, name in enumerate(minus, start=1):
        w.step("Sub", name, last=k == len(minus))


def _product(w: Writer, _: Product) -> None:
    others = w.node.inputs[1:]
    for k, name in enumerate(others, start=1):
        w.step("Mul", name, last=k == len(others))


def _concat(w: Writer, op: Concat) -> None:
    w.step("Concat", *w.node.inputs[1:], axis=op.axis)


def _select(w: Writer, op: Select) -> None:
    first, last = int(op.indices[0]), int(op.indices[-1])
    if np.array_equal(op.indices, np.arange(first, last + 1)):
        w.slice([1], [first], [last + 1])
    else:
        w.step("Gather", w.integers("indices", op.indices.tolist()), axis=1)


def _slice(w: Writer, op: Slice) -> None:
    w.slice([op.axis], [op.start], [op.stop])


def _identity(w: Writer, op: Identity) -> None:
    w.step("Identity")


def _bias_map(w: Writer, op: BiasMap) -> None:
    w.step("Add", w.constant("map", op.values))


def _upsample(w: Writer, op: Upsample) -> None:
    scales = np.array((1, 1, *op.factor), np.float32)
    opset, name = w.emitter.opset, f"{w.node.name}_scales"
    if opset < 9:
        w.step("Upsample", mode="nearest", scales=scales.tolist())
    elif opset < 11:
        w.step("Upsample" if opset == 9 else "Resize", w.emitter.constant(name, scales), mode="nearest")
    else:
        regions = "" if opset >= 13 else w.emitter.constant(f"{w.node.name}_roi", np.zeros(0, np.float32))
        fields: dict[str, Any] = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        w.step("Resize", regions, w.emitter.constant(name, scales), mode="nearest", **fields)


_PLAIN = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "softplus": "Softplus",
    "softsign": "Softsign",
    "exp": "Exp",
    "abs": "Abs",
    "neg": "Neg",
    "sqrt": "Sqrt",
    "selu": "Selu",
}


def _activation(w: Writer, op: Activation) -> None:
    kind, opset = op.kind, w.emitter.opset
    if kind in _PLAIN:
        w.step(_PLAIN[kind])
    elif kind == "clip":
        _clip(w, *op.params)
    elif kind in ("leaky_relu", "elu"):
        w.step("LeakyRelu" if kind == "leaky_relu" else "Elu", alpha=op.params[0])
    elif kind == "prelu" and op.slope is not None:
        w.step("PRelu", w.constant("slope", w.column(op.slope, w.rank)))
    elif kind == "hard_sigmoid":
        w.step("HardSigmoid", alpha=op.params[0], beta=op.params[1])
    elif kind in ("silu", "hard_swish"):
        source = w.value
        w.step("Sigmoid" if kind == "silu" else "HardSigmoid", last=False, alpha=None if kind == "silu" else 1 / 6)
        w.step("Mul", source)
    elif kind in ("gelu", "gelu_tanh"):
        _gelu(w, kind == "gelu_tanh")
    elif kind == "softmax":
        _softmax(w, int(op.params[0]), opset)
    else:
        raise FormatError(f"{w.node.name}: no ONNX form of a new {kind}")


def _clip(w: Writer, low: float, high: float) -> None:
    if w.emitter.opset < 11:
        w.step("Clip", min=low if np.isfinite(low) else None, max=high if np.isfinite(high) else None)
        return
    names = [w.constant(n, np.array(v)) if np.isfinite(v) else "" for n, v in (("min", low), ("max", high))]
    w.step("Clip", *(names if names[1] else names[:1]))


def _gelu(w: Writer, tanh: bool) -> None:
    if w.emitter.opset >= 20:
        w.step("Gelu", approximate="tanh" if tanh else "none")
        return
    source = w.value
    if tanh:
        w.step("Mul", source, last=False)
        w.step("Mul", w.constant("cubic", np.array(0.044715)), last=False)
        w.step("Add", w.constant("linear", np.array(1.0)), last=False)
        w.step("Mul", source, last=False)
        w.step("Mul", w.constant("inner", np.array(np.sqrt(2 / np.pi))), last=False)
        w.step("Tanh", last=False)
    elif w.emitter.opset < 9:
        raise FormatError(f"{w.node.name}: opset {w.emitter.opset} has no Erf for a new gelu: convert to opset 9 or later")
    else:
        w.step("Mul", w.constant("inner", np.array(np.sqrt(0.5))), last=False)
        w.step("Erf", last=False)
    w.step("Add", w.constant("one", np.array(1.0)), last=False)
    w.step("Mul", source, last=False)
    w.step("Mul", w.constant("half", np.array(0.5)))


def _softmax(w: Writer, axis: int, opset: int) -> None:
    axis %= w.rank
    if opset < 13 and axis != w.rank - 1:
        raise FormatError(f"{w.node.name}: opset {opset} has no softmax over axis {axis} alone: convert to opset 13 or later")
    w.step("Softmax", axis=axis)


RULES: Table[Callable[[Writer, Any], None]] = Table("new ONNX nodes", {
    Conv: _conv,
    ConvTranspose: _conv_transpose,
    Dense: _dense,
    Affine: _affine,
    Pool: _pool,
    GlobalPool: _global_pool,
    Flatten: _flatten,
    Pad: _pad,
    Add: _add,
    Product: _product,
    Concat: _concat,
    Select: _select,
    Slice: _slice,
    Identity: _identity,
    BiasMap: _bias_map,
    Upsample: _upsample,
    Activation: _activation,
}, {Foreign: "never made anew: the file's own nodes are kept"})
