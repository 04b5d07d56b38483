"""An ONNX graph as the reader looks at it: nodes with their attributes, constants, who reads what, types and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.errors import FormatError
from decascade.formats.onnx.fold import Folded, fold
from decascade.formats.onnx.model import OnnxModel
from decascade.formats.onnx.nodes import Native, natives_of
from decascade.formats.onnx.stated import check_elements, check_stated, opsets_of
from decascade.formats.onnx.tensors import array_of
from decascade.ir.graph import Dim, Shape

AnyArray = NDArray[Any]

# A scalar infinity there is a bound that is open, not a broken weight.
_BOUNDED = frozenset(("Clip", "Pad", "Max", "Min", "Where"))


@dataclass(frozen=True, eq=False)
class View:
    """What the reader knows of a model.  `constants` holds initializers, Constant nodes and what folds to a constant.

    `folded`: the nodes that only make constants or sizes.  `shapes` and `dtypes` are of every tensor that one is known of.
    """

    model: OnnxModel
    opset: int
    opsets: Mapping[str, int]
    natives: tuple[Native, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, AnyArray]
    folded: Folded
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
        FormatError: no opset, one below 7 or unknown, sizes that no tensor has, or weights that are NaN or infinite.
        LimitExceededError: more than the elements that `LIMITS` allows a tensor.
    """
    graph = model.shell.graph
    opsets = opsets_of(model.shell)
    check_stated(graph)
    natives = natives_of(graph)
    initializers = {t.name for t in graph.initializer}
    _check_wiring(graph, natives, initializers)
    constants = {t.name: _initializer(model, t) for t in graph.initializer}
    shapes, dtypes = _types(model)
    for name, shape in shapes.items():
        check_elements(f"tensor {name}", shape)
    inputs = tuple(i.name for i in graph.input if i.name not in initializers)
    outputs = tuple(o.name for o in graph.output)
    folded = fold(natives, constants, shapes, opsets.get("", 0))
    dtypes = {**dtypes, **{name: str(array.dtype) for name, array in constants.items()}}
    view = View(model, opsets.get("", 0), opsets, natives, inputs, outputs, constants, folded, shapes, dtypes)
    _check_finite(view, initializers)
    return view


def _initializer(model: OnnxModel, tensor: Any) -> AnyArray:
    array = model.weights.get(tensor.name)
    return array_of(tensor, f"initializer {tensor.name}") if array is None else array


def _check_wiring(graph: Any, natives: Sequence[Native], initializers: set[str]) -> None:
    """That every tensor is there before it is read."""
    written = {native_output: native for native in natives for native_output in native.writes}
    there = {*initializers, *(i.name for i in graph.input)}
    for native in natives:
        for name in native.reads:
            if name not in there:
                later = f"before {written[name].name} writes it" if name in written else "which nothing writes"
                raise FormatError(f"node {native.name} reads {name}, {later}: the file is damaged, or its nodes are not sorted")
        there.update(native.writes)
    missing = [o.name for o in graph.output if o.name not in there]
    if missing:
        raise FormatError(f"output {missing[0]} is written by no node: the file is damaged")


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
            try:
                dtypes[info.name] = np.dtype(element(tensor.elem_type)).name
            except KeyError:  # a type that this version of onnx does not know
                continue
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


def _check_finite(view: View, initializers: set[str]) -> None:
    made = {view.natives[k].writes[0] for k in view.folded.constant if view.natives[k].kind == "Constant"}
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
