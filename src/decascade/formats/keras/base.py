"""What all Keras modules share: the lazily imported framework, arrays without copies, the two memory layouts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from decascade.errors import FormatError
from decascade.frameworks import keep_triton_out, needed
from decascade.ir.graph import Dim, Shape
from decascade.ir.names import Names

AnyArray = NDArray[Any]
Layout = Literal["channels_first", "channels_last"]


def keras() -> Any:
    """The keras package, imported on first use.

    Raises:
        FormatError: it is too old.
        MissingPackageError: it is not installed.
    """
    module = needed("keras", "a Keras model")
    keep_triton_out()  # with its TensorFlow backend, TensorFlow is there now
    if int(str(module.__version__).split(".")[0]) < 3:
        raise FormatError(f"keras {module.__version__} is installed, decascade needs keras 3: pip install 'keras>=3.3'")
    return module


@contextmanager
def quiet() -> Generator[None]:
    """Silences NumPy's remark on the backends' `__array__`, which lacks the `copy` keyword; it is not the user's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
        yield


def to_array(value: Any) -> AnyArray:
    """A backend tensor or variable in NumPy, sharing its memory where the backend allows that; bfloat16 as float32."""
    k = keras()
    with quiet():
        if k.backend.backend() == "tensorflow":
            held = value.value if isinstance(value, k.Variable) else k.ops.convert_to_tensor(value)
            # a variable would copy itself, the tensor that it reads as does not
            array = np.asarray(held.read_value() if hasattr(held, "read_value") else held)
        else:
            array = np.asarray(k.ops.convert_to_numpy(value))
    # bfloat16 is no NumPy type of its own
    return array if array.dtype.kind in "fiubc" else array.astype(np.float32)


def class_of(value: object) -> Any:
    """The class of an untyped framework's object."""
    return type(value)


def is_functional(model: Any) -> bool:
    """Whether a model is a graph of layers made with `keras.Model(inputs, outputs)`, or a class derived from that."""
    return any(c.__name__ == "Functional" and c.__module__.startswith("keras.") for c in type(model).__mro__)


def is_plain_model(model: Any) -> bool:
    """Whether running a model means running its layers: a built Sequential or Functional whose `call` is Keras' own."""
    k = keras()
    if not isinstance(model, k.Model) or not class_of(model).call.__module__.startswith("keras."):
        return False
    return is_functional(model) or (isinstance(model, k.Sequential) and getattr(model, "_functional", None) is not None)


def body(model: Any) -> Any:
    """The Functional that holds the graph: of a Sequential the one inside."""
    return model if is_functional(model) else model._functional


def layer_at(tensor: Any) -> tuple[Any, Any]:
    """The operation that made a KerasTensor, and the record of that call."""
    operation, index, _ = tensor._keras_history
    return operation, operation._inbound_nodes[index]


def output_names(model: Any) -> tuple[str, ...]:
    """One name per flat output: that of the layer that makes it; the same tensor twice has the same name."""
    found, names = dict[int, str](), Names(first=1)
    for tensor in body(model).outputs:
        if id(tensor) not in found:
            found[id(tensor)] = names.fresh(tensor._keras_history[0].name)
    return tuple(found[id(tensor)] for tensor in body(model).outputs)


def channel_axis(rank: int, layout: Layout) -> int:
    """Where the channels of a tensor of this rank are."""
    return 1 if layout == "channels_first" or rank < 3 else rank - 1


def to_first(array: AnyArray, layout: Layout) -> AnyArray:
    """A native array as the graph sees it."""
    return np.moveaxis(array, -1, 1) if layout == "channels_last" and array.ndim > 2 else array


def to_native(array: AnyArray, layout: Layout) -> AnyArray:
    """The graph's array in the model's own layout."""
    return np.moveaxis(array, 1, -1) if layout == "channels_last" and array.ndim > 2 else array


def native_axis(axis: int, rank: int, layout: Layout) -> int:
    """The model's own number of an axis of the graph."""
    if layout == "channels_first" or rank < 3 or axis == 0:
        return axis
    return rank - 1 if axis == 1 else axis - 1


def graph_axis(axis: int, rank: int, layout: Layout) -> int:
    """The graph's number of an axis of the model, which may count from the end."""
    axis = axis % rank
    if layout == "channels_first" or rank < 3 or axis == 0:
        return axis
    return 1 if axis == rank - 1 else axis + 1


def graph_shape(shape: Sequence[Dim], layout: Layout) -> Shape:
    """A native shape as the graph sees it."""
    shape = tuple(shape)
    return (shape[0], shape[-1], *shape[1:-1]) if layout == "channels_last" and len(shape) > 2 else shape


def copies_the_edge(pads: Sequence[tuple[int, int]]) -> bool:
    """Whether a 'same' average reads copies of the edge: under the torch backend Keras pads so where the sides differ."""
    return keras().backend.backend() == "torch" and any(lo != hi for lo, hi in pads)


def same_pads(size: int | None, kernel: int, stride: int, dilation: int) -> tuple[int, int] | None:
    """TensorFlow's SAME: outputs ceil(n / s), the odd pixel at the end.  None where that needs a size not known."""
    reach = (kernel - 1) * dilation + 1
    if stride == 1:
        total = reach - 1
    elif size is None:
        return None if reach > 1 else (0, 0)
    else:
        total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


def applied(function: Callable[[Any], Any], layout: Layout) -> Callable[[Sequence[AnyArray]], list[AnyArray]]:
    """A function of one backend tensor as a function of the graph's array, in float32."""

    def evaluate(arrays: Sequence[AnyArray]) -> list[AnyArray]:
        native = keras().ops.convert_to_tensor(to_native(arrays[0], layout), dtype="float32")
        with quiet():
            return [to_first(np.array(to_array(function(native))), layout)]

    return evaluate
