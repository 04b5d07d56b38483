"""An ONNX graph as the reader looks at it: nodes with their attributes, constants, who reads what, types and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.errors import FormatError
from decascade.formats.onnx_model import OnnxModel, small_array
from decascade.ir.graph import Dim, Shape

AnyArray = NDArray[Any]
STANDARD = ("", "ai.onnx")
"""The two spellings of ONNX's own operator domain."""
LEAST_OPSET = 7

# Cheap, deterministic, of one meaning in every opset; evaluated where every input is constant.
_FOLDABLE = frozenset(
    {"Abs", "Add", "Cast", "Concat", "Div", "Expand", "Floor", "Gather", "Mul", "Neg", "Range", "Reciprocal", "Reshape"}
    | {"Slice", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze"}
)
# A scalar infinity there is a bound that is open, not a broken weight.
_BOUNDED = frozenset(("Clip", "Pad", "Max", "Min", "Where"))


@dataclass(frozen=True, eq=False)
class Native:
    """A node of the file.  `name` is its own, or one made up where it has none or not alone.

    `captured`: tensors of the outer graph that its subgraphs read.
    """

    index: int
    name: str
    kind: str
    standard: bool
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    proto: Any = field(repr=False)
    captured: tuple[str, ...] = ()

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        """Attribute values: numbers, lists of numbers, strings, tensors."""
        value: Any = import_module("onnx.helper").get_attribute_value
        return {a.name: _text(value(a)) for a in self.proto.attribute if not a.ref_attr_name}

    def get(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    def input(self, k: int) -> str:
        """The k-th input, "" where it is left out."""
        return self.inputs[k] if k < len(self.inputs) else ""

    @property
    def reads(self) -> tuple[str, ...]:
        """All tensors that it needs."""
        return (*(name for name in self.inputs if name), *self.captured)

    @property
    def writes(self) -> tuple[str, ...]:
        return tuple(name for name in self.outputs if name)


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


@dataclass(frozen=True, eq=False)
class View:
    """What the reader knows of a model.  `constants` holds initializers, Constant nodes and what folds to a constant.

    `folded`: the nodes that only make constants.  `shapes` and `dtypes` are of every tensor that something is known of.
    """

    model: OnnxModel
    opset: int
    opsets: Mapping[str, int]
    natives: tuple[Native, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, AnyArray]
    folded: frozenset[int]
    shapes: dict[str, Shape]
    dtypes: dict[str, str]

    @cached_property
    def users(self) -> Mapping[str, tuple[Native, ...]]:
        """The nodes that read a tensor, in order."""
        found: dict[str, list[Native]] = {}
        for native in self.natives:
            for name in dict.fromkeys(native.reads):
                found.setdefault(name, []).append(native)
        return {name: tuple(natives) for name, natives in found.items()}

    @cached_property
    def producer(self) -> Mapping[str, Native]:
        return {name: native for native in self.natives for name in native.writes}

    def only_user(self, name: str) -> Native | None:
        """The one node that reads a tensor which is no output of the model; None if there is not just one."""
        users = self.users.get(name, ())
        return users[0] if len(users) == 1 and name not in self.outputs else None

    def constant(self, name: str) -> AnyArray | None:
        return self.constants.get(name) if name else None

    def floating(self, name: str) -> bool:
        return self.dtypes.get(name) in ("float16", "float32", "float64")


def view_of(model: OnnxModel) -> View:
    """Look at a model.

    Raises:
        FormatError: no opset, one below 7, or weights that are NaN or infinite.
    """
    graph = model.shell.graph
    opsets = {("" if o.domain in STANDARD else o.domain): int(o.version) for o in model.shell.opset_import}
    opset = opsets.get("", 0)
    if opset < LEAST_OPSET and (opset or not opsets):
        told = f"opset {opset}" if opset else "no opset"
        raise FormatError(f"the model states {told}: convert it to opset {LEAST_OPSET} or later (onnx.version_converter)")
    natives = _natives(graph)
    initializers = {t.name for t in graph.initializer}
    shapes, dtypes = _types(model)
    inputs = tuple(i.name for i in graph.input if i.name not in initializers)
    outputs = tuple(o.name for o in graph.output)
    constants = {t.name: _initializer(model, t) for t in graph.initializer}
    folded = _fold(natives, constants, shapes, opset)
    dtypes = {**dtypes, **{name: str(array.dtype) for name, array in constants.items()}}
    view = View(model, opset, opsets, natives, inputs, outputs, constants, folded, shapes, dtypes)
    _check_finite(view, initializers)
    return view


def _natives(graph: Any) -> tuple[Native, ...]:
    taken = {node.name for node in graph.node}
    seen: set[str] = set()
    found: list[Native] = []
    for index, node in enumerate(graph.node):
        name = node.name
        if not name or name in seen:
            name = _unused(name or f"{node.op_type}_{index}", taken)
            taken.add(name)
        seen.add(name)
        captured = _captured(node) if any(a.type in (5, 10) for a in node.attribute) else ()
        standard = node.domain in STANDARD
        found.append(Native(index, name, node.op_type, standard, tuple(node.input), tuple(node.output), node, captured))
    return tuple(found)


def _unused(stem: str, taken: set[str]) -> str:
    name, k = stem, 1
    while name in taken:
        name, k = f"{stem}_{k}", k + 1
    return name


def _captured(node: Any) -> tuple[str, ...]:
    """What the subgraphs of a node read from outside of them."""
    found: dict[str, None] = {}
    for attribute in node.attribute:
        for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
            inside = {i.name for i in graph.input} | {t.name for t in graph.initializer}
            for inner in graph.node:
                found.update(dict.fromkeys(n for n in (*inner.input, *_captured(inner)) if n and n not in inside))
                inside.update(inner.output)
            found.update(dict.fromkeys(o.name for o in graph.output if o.name and o.name not in inside))
    return tuple(found)


def _initializer(model: OnnxModel, tensor: Any) -> AnyArray:
    array = model.weights.get(tensor.name)
    return small_array(tensor) if array is None else array


def _types(model: OnnxModel) -> tuple[dict[str, Shape], dict[str, str]]:
    """Shapes and element types from the file and from ONNX's own inference, run once, on the model without weights."""
    inference: Any = import_module("onnx.shape_inference")
    try:
        graph = inference.infer_shapes(model.shell, data_prop=True).graph
    except Exception:  # inference is an aid: whatever it stumbles over, the file's own statements remain
        graph = model.shell.graph
    element: Any = import_module("onnx.helper").tensor_dtype_to_np_dtype
    symbols = {d.dim_param for i in model.shell.graph.input for d in i.type.tensor_type.shape.dim if d.dim_param}
    inputs = {i.name for i in model.shell.graph.input}
    shapes: dict[str, Shape] = {}
    dtypes: dict[str, str] = {}
    for info in (*graph.input, *graph.value_info, *graph.output):
        if not info.type.HasField("tensor_type"):
            continue
        tensor = info.type.tensor_type
        if tensor.elem_type:
            dtypes[info.name] = np.dtype(element(tensor.elem_type)).name
        if tensor.HasField("shape"):
            known = info.name in inputs
            dims = (_dim(d, symbols, f"{info.name}_{k}" if known else "?") for k, d in enumerate(tensor.shape.dim))
            shapes[info.name] = tuple(dims)
    return shapes, dtypes


def _dim(dim: Any, symbols: set[str], unnamed: str) -> Dim:
    """A size; a name only where an input has it too, for names in the middle of a file are often serial numbers."""
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        return int(dim.dim_value)
    return str(dim.dim_param) if dim.dim_param in symbols else unnamed


def _fold(natives: Sequence[Native], constants: dict[str, AnyArray], shapes: Mapping[str, Shape], opset: int) -> frozenset[int]:
    folded: set[int] = set()
    for native in natives:
        if not native.standard or len(native.writes) != 1 or native.captured:
            continue
        value = _constant_value(native, constants, shapes, opset)
        if value is not None:
            constants[native.writes[0]] = value
            folded.add(native.index)
    return frozenset(folded)


def _constant_value(
    native: Native, constants: Mapping[str, AnyArray], shapes: Mapping[str, Shape], opset: int
) -> AnyArray | None:
    if native.kind == "Constant":
        return _constant_node(native)
    if native.kind == "Shape":
        shape = shapes.get(native.inputs[0], ("?",))
        if any(isinstance(d, str) for d in shape):
            return None
        return np.array(shape, np.int64)[slice(native.get("start", 0), native.get("end"))]
    if native.kind == "Identity":
        return constants.get(native.inputs[0])
    if native.kind not in _FOLDABLE or not native.reads or any(name not in constants for name in native.reads):
        return None
    reference: Any = import_module("onnx.reference")
    try:
        evaluator = reference.ReferenceEvaluator(native.proto, opsets={"": opset})
        return np.asarray(evaluator.run(None, {name: constants[name] for name in native.reads})[0])
    except Exception:  # not understood is not folded
        return None


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


def _check_finite(view: View, initializers: set[str]) -> None:
    made = {view.natives[k].writes[0] for k in view.folded if view.natives[k].kind == "Constant"}
    for name, array in view.constants.items():
        if name not in initializers and name not in made:
            continue
        if not array.size or array.dtype.kind != "f":
            continue
        extremes = array.min(), array.max()
        if np.isfinite(extremes).all():
            continue
        bound = array.size == 1 and not np.isnan(array).any()
        if bound and all(user.kind in _BOUNDED for user in view.users.get(name, ())):
            continue
        what = "initializer" if name in initializers else "constant"
        raise FormatError(f"{what} {name} has NaN or infinite values: repair the model, nothing can be promised of it")
