"""What the parts of the PyTorch format share: the traced model, its errors, tensors in and out of NumPy."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.errors import FormatError
from decascade.formats.base import NOTE
from decascade.frameworks import keep_triton_out, needed
from decascade.ir.graph import Shape

WAY_ROUND = 'or export it with torch.onnx.export(model, example, "model.onnx", dynamo=True) and pass that file'
"""The end of every message about a model that cannot be taken as a PyTorch graph."""

META = "decascade"
"""The key in a written GraphModule's `meta` under which its inputs stand: name → (shape, element type)."""
FIXED = f"{META}_fixed"
"""The key under which it stands whether the model is right at those sizes only."""
NOTE_KEY = f"{NOTE}_note"
"""Where an fx.GraphModule's `meta` holds decascade's text, and the attribute of an exported program that does."""


def note_of(native: Any) -> str:
    """The text that a module or program carries; "" where it carries none."""
    return str(getattr(native, "meta", {}).get(NOTE_KEY, "") or getattr(native, NOTE_KEY, ""))


@cache
def load() -> Any:
    """The torch module.

    Raises:
        MissingPackageError: torch is not installed.
    """
    keep_triton_out()
    return needed("torch", "a PyTorch model")


def loaded() -> Any | None:
    """The torch module if somebody has imported it, else None: whether an object is of torch needs no import."""
    return sys.modules.get("torch")


@dataclass(frozen=True)
class InputSpec:
    """A model input: the name it is called by, the shape that is known of it and its element type.

    `noted`: the shape that the model itself carries, since decascade wrote it; it runs on other sizes too.
    """

    name: str
    shape: Shape | None
    dtype: str
    noted: Shape | None = None


@dataclass(eq=False)
class Traced:
    """A model as an fx graph module whose operations are all pure, beside the module that owns the parameters.

    `module` shares its tensors with the user's model and is in eval mode.  `original` is where parameters and
    submodules are taken from when a new model is built; nothing in it is ever changed.  `pinned` says of a submodule
    path why it is kept whole.  `symbols` gives the graph's names for torch.export's names of sizes.
    """

    module: Any
    original: Any
    inputs: tuple[InputSpec, ...]
    exported: bool = False
    notes: list[str] = field(default_factory=list[str])
    pinned: dict[str, str] = field(default_factory=dict[str, str])
    symbols: dict[str, str] = field(default_factory=dict[str, str])


def eval_copy(module: Any) -> Any:
    """A copy of the module's structure in eval mode that shares every tensor with the module itself.

    Raises:
        FormatError: the module cannot be copied.
    """
    memo: dict[int, Any] = {}
    for tensor in _all_tensors(module):
        memo[id(tensor)] = tensor
    try:
        return deepcopy(module, memo).eval()
    except Exception as error:
        what = f"{type(module).__name__} cannot be copied ({one_line(error)})"
        raise FormatError(f"{what}: make it work with copy.deepcopy") from None


def _all_tensors(module: Any) -> Iterator[Any]:
    torch = load()
    for part in module.modules():
        yield from part._parameters.values()
        yield from part._buffers.values()
        yield from (value for value in part.__dict__.values() if isinstance(value, torch.Tensor))


def in_eval(module: Any) -> Any:
    """The module itself if every part of it is in eval mode, else a copy that is, sharing all tensors."""
    return eval_copy(module) if any(part.training for part in module.modules()) else module


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


def one_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def place(error: BaseException) -> str:
    """Where in the user's code an error came from: "net.py:12 in forward", or "" where no user frame is known."""
    inside = str(Path(load().__file__).parent)
    own = str(Path(__file__).parents[1])
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((inside, own, "<")):
            return f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"
    return ""


def dtype_name(dtype: Any) -> str:
    """torch.float32 → "float32"."""
    return str(dtype).removeprefix("torch.")


def to_numpy(tensor: Any) -> NDArray[Any]:
    """A tensor's values; shares memory where it can.  bfloat16 and float8, which NumPy lacks, become float32."""
    torch = load()
    data = tensor.detach().cpu()
    if data.is_floating_point() and data.dtype not in (torch.float16, torch.float32, torch.float64):
        data = data.float()
    return np.asarray(data.numpy())


def floating_dtype(module: Any) -> Any:
    """The element type of the model's weights: that of its first floating parameter or buffer; float32 without any."""
    torch = load()
    for tensor in _all_tensors(module):
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
            return tensor.dtype
    return torch.float32


def check_finite(named: Mapping[str, Any]) -> None:
    """Every floating tensor is finite.

    Raises:
        FormatError: one is not; names it and says how many values.
    """
    torch = load()
    for name, tensor in named.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise FormatError(f"{name} has {bad} of {tensor.numel()} values that are NaN or infinite: repair or retrain it")
