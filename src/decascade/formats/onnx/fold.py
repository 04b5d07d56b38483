"""What a file computes that does not depend on its input's values: constants, and sizes of tensors.

Exporters write x.view(x.size(0), -1) as Shape, Gather, Unsqueeze, Concat, Reshape; the numbers in between are either known
now or the size of some axis of some tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.formats.onnx.nodes import Native
from decascade.formats.onnx.reference import run_node
from decascade.ir.graph import Shape

AnyArray = NDArray[Any]
Size = int | tuple[str, int]
"""A number, or the size of an axis of a tensor."""

# Cheap, deterministic, of one meaning in every opset; evaluated where every input is constant.
_FOLDABLE = frozenset(
    {"Abs", "Add", "Cast", "Concat", "ConstantOfShape", "Div", "Floor", "Gather", "Mul", "Neg", "Reciprocal", "Reshape"}
    | {"Slice", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze"}
)
# What only moves numbers, so that it can move names of sizes as well.
_MOVING = frozenset({"Gather", "Slice", "Squeeze", "Unsqueeze", "Reshape"})


@dataclass(frozen=True)
class Folded:
    """Indices of the nodes that make constants, and of those that make sizes; the sizes by tensor."""

    constant: frozenset[int]
    sizing: frozenset[int]
    sizes: Mapping[str, tuple[Size, ...]]

    def __contains__(self, index: int) -> bool:
        return index in self.constant or index in self.sizing


def fold(natives: Sequence[Native], constants: dict[str, AnyArray], shapes: Mapping[str, Shape], opset: int) -> Folded:
    """Find them all; what is constant is added to `constants`."""
    folding = _Folding(constants, shapes, opset)
    for native in natives:
        if native.standard and len(native.writes) == 1 and not native.captured:
            folding.visit(native)
    sizes = {name: tuple(folding.meaning(int(code)) for code in array.reshape(-1)) for name, array in folding.coded.items()}
    return Folded(frozenset(folding.constant), frozenset(folding.sizing), sizes)


class _Folding:
    """Sizes that are not known are carried as codes, numbers far below any size, through the operations themselves."""

    def __init__(self, constants: dict[str, AnyArray], shapes: Mapping[str, Shape], opset: int) -> None:
        self.constants, self.shapes, self.opset = constants, shapes, opset
        self.coded: dict[str, AnyArray] = {}
        self.codes: list[tuple[str, int]] = []
        self.constant: set[int] = set()
        self.sizing: set[int] = set()

    def meaning(self, code: int) -> Size:
        return self.codes[_FIRST - code] if 0 <= _FIRST - code < len(self.codes) else code

    def visit(self, native: Native) -> None:
        try:
            value = self._value(native)
        except (LookupError, TypeError, ValueError):  # a damaged node: carried through, and onnxruntime says what is wrong
            value = None
        if value is None:
            return
        name = native.writes[0]
        derived = native.kind == "Shape" or any(n in self.coded for n in native.reads)
        if derived and np.any(value <= _FIRST):
            self.coded[name] = value
            self.sizing.add(native.index)
        else:
            self.constants[name] = value
            self.constant.add(native.index)

    def _value(self, native: Native) -> AnyArray | None:
        if native.kind == "Constant":
            return _constant_node(native)
        if native.kind == "Shape":
            return self._shape(native)
        if native.kind == "Identity":
            return self.constants.get(native.inputs[0], self.coded.get(native.inputs[0]))
        if native.kind not in _FOLDABLE or not native.reads:
            return None
        feeds = {name: self.constants.get(name, self.coded.get(name)) for name in native.reads}
        coded = [name for name in native.reads if name in self.coded]
        known = {name: value for name, value in feeds.items() if value is not None}
        if len(known) < len(feeds) or (coded and not _moves(native, coded)) or _grows(native, known):
            return None
        try:
            return run_node(native, {"": self.opset}, known)[0]
        except Exception:  # not understood is not folded
            return None

    def _shape(self, native: Native) -> AnyArray | None:
        source = native.inputs[0]
        shape = self.shapes.get(source)
        if shape is None:
            return None
        coded = [n if isinstance(n, int) else self._code(source, axis) for axis, n in enumerate(shape)]
        return np.array(coded, np.int64)[slice(native.get("start", 0), native.get("end"))]

    def _code(self, name: str, axis: int) -> int:
        self.codes.append((name, axis))
        return _FIRST - len(self.codes) + 1


_FIRST = -(2**40)
_MOST_FILLED = 2**24
"""Numbers that a file may ask for with a shape alone."""


def _moves(native: Native, coded: Sequence[str]) -> bool:
    """Whether a node only moves the codes that it reads, and none of them says where to."""
    if native.kind == "Cast":
        return native.get("to") == import_module("onnx").TensorProto.INT64
    return native.kind == "Concat" or (native.kind in _MOVING and coded == [native.inputs[0]])


def _grows(native: Native, feeds: Mapping[str, AnyArray]) -> bool:
    """Whether filling or broadcasting would make much more of the constants than the file holds."""
    if native.kind == "ConstantOfShape":
        return prod(int(n) for n in feeds[native.inputs[0]].reshape(-1)) > _MOST_FILLED
    if native.kind not in ("Add", "Sub", "Mul", "Div"):
        return False
    shapes = [array.shape for array in feeds.values()]
    return prod(np.broadcast_shapes(*shapes)) > 4 * max(prod(shape) for shape in shapes) + 1024


def _constant_node(native: Native) -> AnyArray | None:
    helper: Any = import_module("onnx.numpy_helper")
    for name, value in native.attributes.items():
        if name == "value":
            return np.asarray(helper.to_array(value))
        if name in ("value_float", "value_floats"):
            return np.array(value, np.float32)
        if name in ("value_int", "value_ints"):
            return np.array(value, np.int64)
    return None
