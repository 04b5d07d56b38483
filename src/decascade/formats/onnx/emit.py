"""New ONNX nodes and initializers: what the rules of `onnx_emit_ops` build with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.errors import FormatError
from decascade.formats.onnx.model import INLINE_BYTES
from decascade.ir.graph import Node, Tensor
from decascade.ir.names import Names

AnyArray = NDArray[Any]
_TO_END = 2**31 - 1


class Emitter:
    """Collects the new nodes and initializers of one graph.

    `taken`: names of tensors and nodes in use.
    """

    def __init__(self, opset: int, taken: Iterable[str]) -> None:
        self.opset = opset
        self.names = Names(taken, first=1)
        self.nodes: list[Any] = []
        self.headers: list[Any] = []
        self.weights: dict[str, AnyArray] = {}
        self._helper: Any = import_module("onnx.helper")

    def fresh(self, stem: str) -> str:
        """A name that nothing has yet."""
        return self.names.fresh(stem)

    def constant(self, stem: str, array: AnyArray) -> str:
        """A new initializer; its data stays an array where it is large.

        Raises:
            FormatError: a value is not finite in the model's element type.
        """
        return self.store(self.fresh(stem), array)

    def store(self, name: str, array: AnyArray) -> str:
        """`constant` under a name that is already taken for it."""
        kind = self._helper.np_dtype_to_tensor_dtype(array.dtype)
        if array.dtype.kind == "f" and array.size and not np.isfinite([array.min(), array.max()]).all():
            raise FormatError(f"new weight {name} leaves the range of {array.dtype}: keep the model in a wider type")
        if array.nbytes < INLINE_BYTES:
            little = array.dtype.newbyteorder("<")
            tensor = self._helper.make_tensor(name, kind, array.shape, array.astype(little).tobytes(), raw=True)
        else:
            tensor = import_module("onnx").TensorProto(name=name, data_type=kind, dims=array.shape)
            self.weights[name] = array
        self.headers.append(tensor)
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, name: str, **attributes: Any) -> str:
        """A new node; its output's name."""
        given = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(self._helper.make_node(kind, list(inputs), [output], self.fresh(name), **given))
        return output


class Writer:
    """One node on its way: its names, its element type, and a chain of what stands between its input and output."""

    def __init__(self, emitter: Emitter, node: Node, tensors: Mapping[str, Tensor]) -> None:
        self.emitter = emitter
        self.node = node
        self.shape = tensors[node.inputs[0]].shape
        self.dtype = np.dtype(tensors[node.output].dtype)
        self.value = node.inputs[0]

    def step(self, kind: str, *others: str, last: bool = True, **attributes: Any) -> None:
        """One ONNX node on the current value, which its output becomes; the last one writes the node's output."""
        output = self.node.output if last else self.emitter.fresh(f"{self.node.output}_{kind.lower()}")
        name = self.node.name if last else f"{self.node.name}_{kind.lower()}"
        self.value = self.emitter.node(kind, (self.value, *others), output, name, **attributes)

    def constant(self, what: str, array: AnyArray) -> str:
        with np.errstate(over="ignore"):  # `store` says so in words
            values = np.asarray(array, self.dtype, order="C")
        return self.emitter.constant(f"{self.node.name}_{what}", values)

    def integers(self, what: str, values: Sequence[int]) -> str:
        return self.emitter.constant(f"{self.node.name}_{what}", np.array(values, np.int64))

    @property
    def rank(self) -> int:
        if self.shape is None:
            raise FormatError(f"{self.node.name}: its input {self.node.inputs[0]} has no known rank")
        return len(self.shape)

    def column(self, values: AnyArray, rank: int) -> AnyArray:
        return np.reshape(values, (-1, *(1,) * (rank - 2)))

    def pad(self, pads: Sequence[tuple[int, int]], value: float, last: bool) -> None:
        """Pad and crop all axes from the channels on; what is cropped is cut off after the padding."""
        grown = [(max(lo, 0), max(hi, 0)) for lo, hi in pads]
        cut = [(k + 1, max(-lo, 0), max(-hi, 0)) for k, (lo, hi) in enumerate(pads) if min(lo, hi) < 0]
        if any(map(any, grown)):
            flat = [0, *(lo for lo, _ in grown), 0, *(hi for _, hi in grown)]
            self._pad_node(flat, value, last and not cut)
        if cut:
            axes, starts, ends = [a for a, _, _ in cut], [lo for _, lo, _ in cut], [-hi or _TO_END for _, _, hi in cut]
            self.slice(axes, starts, ends, last)
        if last and not cut and not any(map(any, grown)):
            self.step("Identity")

    def _pad_node(self, flat: Sequence[int], value: float, last: bool) -> None:
        if self.emitter.opset < 11:
            self.step("Pad", last=last, mode="constant", pads=flat, value=float(value))
            return
        amounts = self.integers("pads", flat)
        others = (amounts, self.constant("value", np.array(value))) if value else (amounts,)
        self.step("Pad", *others, last=last, mode="constant")

    def slice(self, axes: Sequence[int], starts: Sequence[int], ends: Sequence[int], last: bool = True) -> None:
        if self.emitter.opset < 10:
            self.step("Slice", last=last, axes=axes, starts=starts, ends=ends)
            return
        names = [self.integers(n, v) for n, v in (("starts", starts), ("ends", ends), ("axes", axes))]
        self.step("Slice", *names, last=last)
